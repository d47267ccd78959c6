/** What an actor-critic's update makes smaller: the loss of a rollout over the logits of its decoder. */
import { logSoftmax } from '@lethe/core'
import {
  add,
  exp,
  mul,
  type Scalar,
  slice,
  square,
  sub,
  sum,
  type Tensor3D,
  tensor3d,
} from '@tensorflow/tfjs-core'
import type { EnvironmentTask, Outcome } from './task'

/** What one agent did at one step of the world, and what came of it. */
export interface Turn {
  readonly row: number
  readonly action: number
  readonly value: number
  /** Of the policy, in nats. */
  readonly entropy: number
  readonly outcome: Outcome
}

/** As the options of `actorCriticSource`, with the shape of its stream. */
export interface LossSettings {
  readonly task: Pick<EnvironmentTask, 'observations' | 'observationLength' | 'actions'>
  readonly batch: number
  readonly rollout: number
  readonly discount: number
  readonly entropyCost: number
  readonly valueCost: number
}

/**
 * The loss of a rollout, a mean over the turns: - advantage * log policy(action) + valueCost * (return - value)^2
 * - entropyCost * entropy, with the discounted return (from the value ahead where the episode goes on) and the
 * advantage over the value as constants. Where it is called, it leaves its tensors to the scope around it.
 */
export function lossOf(
  { task, batch, rollout, discount, entropyCost, valueCost }: LossSettings,
  turns: readonly (readonly (Turn | undefined)[])[],
  ahead: readonly number[],
): (logits: Tensor3D) => Scalar {
  const { observations, observationLength, actions } = task
  const length = rollout * observationLength
  const count = turns.flat().filter(Boolean).length
  const advantages = new Float32Array(batch * length * actions.length)
  const returns = new Float32Array(batch * length)
  const shares = new Float32Array(batch * length)
  for (let row = 0; row < batch; row++) {
    let following = ahead[row]!
    for (let step = turns.length - 1; step >= 0; step--) {
      const turn = turns[step]![row]
      if (!turn) continue
      following = turn.outcome.reward + (turn.outcome.done ? 0 : discount * following)
      // An action is chosen after the last token of an observation.
      const at = row * length + (step + 1) * observationLength - 1
      advantages[at * actions.length + turn.action] = (following - turn.value) / count
      returns[at] = following
      shares[at] = 1 / count
    }
  }
  return (logits) => {
    const gain = tensor3d(advantages, [batch, length, actions.length])
    const goal = tensor3d(returns, [batch, length, 1])
    const share = tensor3d(shares, [batch, length, 1])
    const logPolicy = logSoftmax(slice(logits, [0, 0, observations], [batch, length, actions.length]))
    const value = slice(logits, [0, 0, observations + actions.length], [batch, length, 1])
    const policyGain = sum(mul(gain, logPolicy))
    const valueError = sum(mul(share, square(sub(goal, value))))
    const negativeEntropy = sum(mul(share, mul(exp(logPolicy), logPolicy)))
    return sub(add(mul(valueError, valueCost), mul(negativeEntropy, entropyCost)), policyGain)
  }
}
