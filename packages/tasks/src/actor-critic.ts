/**
 * Advantage actor-critic (A2C; Mnih et al. 2016, synchronous) for agents that remember: many environments side by side,
 * one row of the batch each, whose memory is carried through the episode and forgotten when it ends.
 *
 * The agent is a plain decoder. It reads observations as tokens; of its logits after the last token of an observation,
 * those of the actions are the policy and one more is the value. The world's steps are read one by one with cached keys
 * and values (`decode`), and then once more as a block for the gradients.
 *
 * An update reads `rollout` steps of each row, through which it backpropagates: memory from before is a constant. A row
 * whose episode ends on the way is idle until the next update, so that a block never holds two episodes and memories
 * are forgotten between blocks, where they can be for any method.
 */
import {
  breathe,
  ConfigError,
  type DecodeMemory,
  type Decoder,
  type Memory,
  Random,
  registerGradients,
} from '@lethe/core'
import { dispose, type Tensor, tensor1d, tensor2d } from '@tensorflow/tfjs-core'
import { lossOf, type Turn } from './actor-critic-loss'
import type { Environment, EnvironmentTask } from './task'

/** What updates the decoder's parameters: `Optimizer` of @lethe/trainer is one. */
export interface GradientOptimizer {
  /** @returns the norm of the gradients, which the caller disposes of, as it does of the gradients */
  update(gradients: Readonly<Record<string, Tensor>>, learningRate: number): Tensor
}

export interface ActorCriticOptions {
  readonly task: EnvironmentTask
  /** Trained in place; its vocabulary is `agentVocabulary(task)`. It remains the caller's to dispose of. */
  readonly decoder: Decoder
  readonly optimizer: GradientOptimizer
  /** A number, or what it is at an update (counted from 1). */
  readonly learningRate: number | ((update: number) => number)
  readonly updates: number
  /** Environments side by side: default 16. */
  readonly batch?: number
  /** Steps of the world per update, the length of backpropagation (BPTT): default 100. */
  readonly rollout?: number
  /** Cuts a rollout into this many blocks for the gradients, through the memory between them: default 1. */
  readonly unroll?: number
  /** Of rewards per step: default 0.99. */
  readonly discount?: number
  /** Weight of the policy's entropy, in nats: default 5e-4. */
  readonly entropyCost?: number
  /** Weight of the value's squared error: default 0.5. */
  readonly valueCost?: number
  /** Of environments, actions and dropout: default 0. */
  readonly seed?: number
  /** Ends the run after the update at hand. */
  readonly signal?: AbortSignal | undefined
}

/** What happened in one update. */
export interface UpdateEvent {
  readonly type: 'update'
  readonly update: number
  /** Steps of the world since the first update, all rows together. */
  readonly steps: number
  /** Episodes that ended in this update, how many of them well, and the mean of their undiscounted returns (NaN for none). */
  readonly episodes: number
  readonly solved: number
  readonly meanReturn: number
  /** Loss of policy, value and entropy together, without the method's penalty. */
  readonly loss: number
  readonly penalty: number
  /** Mean entropy of the policy, in nats. */
  readonly entropy: number
  /** Global norm before clipping. */
  readonly gradientNorm: number
  /** Part of the positions of the block in which a row was idle. */
  readonly idle: number
  readonly slots: number
  readonly memoryBytes: number
}

/** The vocabulary of an agent's decoder: observations, then actions, then the value. */
export const agentVocabulary = ({ observations, actions }: EnvironmentTask): number =>
  observations + actions.length + 1

const defaults = {
  batch: 16,
  rollout: 100,
  unroll: 1,
  discount: 0.99,
  entropyCost: 5e-4,
  valueCost: 0.5,
  seed: 0,
} as const satisfies Partial<ActorCriticOptions>

type Settings = ActorCriticOptions & Required<Pick<ActorCriticOptions, keyof typeof defaults>>

/** Trains until the updates are done or the signal is aborted. Leaving the `for await` early frees everything. */
export async function* trainActorCritic(
  options: ActorCriticOptions,
): AsyncGenerator<UpdateEvent, void, undefined> {
  const settings = check({ ...defaults, ...withoutUndefined(options) })
  const { task, decoder, optimizer, learningRate, batch, rollout, unroll, seed, signal } = settings
  registerGradients()
  // What shapes depend on is read before the first memory is made.
  await decoder.afterUpdate()
  const random = new Random(seed)
  const agents = Array.from({ length: batch }, (_, row) => ({ world: task.start(seed, row), return: 0 }))
  let memory = decoder.initialMemory(batch)
  let steps = 0
  try {
    for (let update = 1; update <= settings.updates && !signal?.aborted; update++) {
      const { observed, turns, ahead } = await play(settings, agents, memory, random)
      const inputs = tensor2d(observed, [batch, rollout * task.observationLength], 'int32')
      const loss = lossOf(settings, turns, ahead)
      const result = decoder.gradientsOf(inputs, memory, loss.of, { random, unroll })
      memory = result.memory
      const rate = typeof learningRate === 'number' ? learningRate : learningRate(update)
      const norm = optimizer.update(result.gradients, rate)
      dispose([inputs, loss.constants, result.gradients])
      const read = [result.loss, result.penalty, norm]
      const [value, penalty, gradientNorm] = await Promise.all(
        read.map(async (scalar) => (await scalar.data())[0]!),
      )
      dispose(read)
      await decoder.afterUpdate()
      memory = await decoder.compact(memory)

      const acted = turns.flat().filter((turn) => turn !== undefined)
      const ended = acted.filter(({ outcome }) => outcome.done)
      const rows = ended.map(({ row }) => row)
      const returns = rows.map((row) => agents[row]!.return)
      if (rows.length > 0) memory = memory.reset(rows)
      for (const row of rows) {
        agents[row]!.world.reset()
        agents[row]!.return = 0
      }
      steps += acted.length
      await breathe()
      yield {
        type: 'update',
        update,
        steps,
        episodes: ended.length,
        solved: ended.filter(({ outcome }) => outcome.solved).length,
        meanReturn: mean(returns),
        loss: value!,
        penalty: penalty!,
        entropy: mean(acted.map(({ entropy }) => entropy)),
        gradientNorm: gradientNorm!,
        idle: 1 - acted.length / (batch * rollout),
        slots: memory.slots,
        memoryBytes: memory.bytes,
      }
    }
  } finally {
    memory.dispose()
  }
}

export interface PolicyEvaluationOptions {
  readonly task: EnvironmentTask
  readonly decoder: Decoder
  /** Episodes, of different worlds: default 64. */
  readonly episodes?: number
  /** Of the worlds and actions: one that was not trained on. */
  readonly seed: number
  /** True (default): always the most probable action. False: actions drawn from the policy. */
  readonly greedy?: boolean
}

export interface PolicyEvaluation {
  readonly episodes: number
  /** Part of the episodes that ended well. */
  readonly solved: number
  readonly meanReturn: number
  /** Mean steps of an episode. */
  readonly meanSteps: number
  /** Slots alive after a step, mean over layers, episodes and their steps. */
  readonly slots: number
}

/** Plays each episode to its end, from an empty memory on. */
export async function evaluatePolicy(options: PolicyEvaluationOptions): Promise<PolicyEvaluation> {
  const { task, decoder, episodes = 64, seed, greedy = true } = options
  checkCount('episodes', episodes)
  checkVocabulary(task, decoder)
  const random = new Random(seed)
  const agents = Array.from({ length: episodes }, (_, row) => ({
    ...{ world: task.start(seed, row), return: 0, steps: 0 },
    ...{ done: false, solved: false },
  }))
  let memory = decoder.startDecoding(decoder.initialMemory(episodes))
  let slots = 0
  try {
    while (agents.some(({ done }) => !done)) {
      const { views, memory: next } = await look(task, decoder, agents, memory)
      memory = next
      const alive = await memory.countSlotsByRow()
      for (const [row, agent] of agents.entries()) {
        if (agent.done) continue
        slots += alive[row]!
        const { policy } = views[row]!
        const action = greedy ? policy.indexOf(Math.max(...policy)) : drawn(policy, random)
        const { reward, done, solved } = agent.world.step(action)
        Object.assign(agent, { return: agent.return + reward, steps: agent.steps + 1, done, solved })
      }
      await breathe()
    }
  } finally {
    memory.dispose()
  }
  return {
    episodes,
    solved: mean(agents.map(({ solved }) => Number(solved))),
    meanReturn: mean(agents.map((agent) => agent.return)),
    meanSteps: mean(agents.map(({ steps }) => steps)),
    slots: slots / agents.reduce((total, { steps }) => total + steps, 0),
  }
}

interface Agent {
  readonly world: Environment
  /** Rewards of the episode so far. */
  return: number
}

/** What an agent thinks of what it sees. */
interface View {
  /** Probabilities of the actions. */
  readonly policy: readonly number[]
  readonly value: number
}

/** Tokens after which the memory gives back the places of slots that died. */
const compactEvery = 64

/** Reads what all agents see now. Consumes `memory`. */
async function look(
  { observations, observationLength, actions }: EnvironmentTask,
  decoder: Decoder,
  agents: readonly Agent[],
  memory: DecodeMemory,
): Promise<{ observed: readonly (readonly number[])[]; views: View[]; memory: DecodeMemory }> {
  const observed = agents.map(({ world }) => world.observe())
  let logits: Tensor | undefined
  for (let at = 0; at < observationLength; at++) {
    logits?.dispose()
    const tokens = tensor1d(
      observed.map((observation) => observation[at]!),
      'int32',
    )
    const result = decoder.decode(tokens, memory)
    tokens.dispose()
    logits = result.logits
    memory = result.memory
    if (memory.step % compactEvery === 0) memory = await decoder.compactDecoding(memory)
  }
  const values = await logits!.data()
  logits!.dispose()
  const views = agents.map((_, row) => {
    const first = row * decoder.config.vocabulary + observations
    const own = Array.from(values.subarray(first, first + actions.length))
    return { policy: softmax(own), value: values[first + actions.length]! }
  })
  return { observed, views, memory }
}

/**
 * Plays one rollout. `memory` stays as it is.
 * @returns what was observed, [batch, rollout * observationLength]; the turns of each step by row, undefined where a row
 *   is idle; per row the value of what comes after, 0 after the end of an episode
 */
async function play(settings: Settings, agents: readonly Agent[], memory: Memory, random: Random) {
  const { task, decoder, batch, rollout } = settings
  const { observationLength } = task
  const observed = new Int32Array(batch * rollout * observationLength)
  const turns: (Turn | undefined)[][] = []
  const idle = new Array<boolean>(batch).fill(false)
  let decoding = decoder.startDecoding(memory.clone())
  let ahead: number[]
  try {
    while (turns.length < rollout && idle.includes(false)) {
      const { views, observed: seen, memory: next } = await look(task, decoder, agents, decoding)
      decoding = next
      const turn = agents.map((agent, row) => {
        observed.set(seen[row]!, (row * rollout + turns.length) * observationLength)
        if (idle[row]) return undefined
        const { policy, value } = views[row]!
        const action = drawn(policy, random)
        const outcome = agent.world.step(action)
        agent.return += outcome.reward
        idle[row] = outcome.done
        return { row, action, value, entropy: entropyOf(policy), outcome }
      })
      turns.push(turn)
    }
    if (idle.includes(false)) {
      const { views, memory: next } = await look(task, decoder, agents, decoding)
      decoding = next
      ahead = views.map(({ value }, row) => (idle[row] ? 0 : value))
    } else ahead = new Array<number>(batch).fill(0)
  } finally {
    decoding.dispose()
  }
  return { observed, turns, ahead }
}

function softmax(logits: readonly number[]): number[] {
  const largest = Math.max(...logits)
  const powers = logits.map((logit) => Math.exp(logit - largest))
  const total = powers.reduce((a, b) => a + b, 0)
  return powers.map((power) => power / total)
}

function drawn(probabilities: readonly number[], random: Random): number {
  let left = random.uniform()
  const found = probabilities.findIndex((probability) => {
    left -= probability
    return left < 0
  })
  return found < 0 ? probabilities.length - 1 : found
}

const entropyOf = (policy: readonly number[]) =>
  -policy.reduce(
    (total, probability) => total + (probability > 0 ? probability * Math.log(probability) : 0),
    0,
  )

const mean = (list: readonly number[]) => list.reduce((a, b) => a + b, 0) / list.length

function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T
}

function check(settings: Settings): Settings {
  const { task, decoder, rollout, unroll, discount } = settings
  for (const name of ['updates', 'batch', 'rollout', 'unroll'] as const) checkCount(name, settings[name])
  for (const name of ['entropyCost', 'valueCost'] as const)
    if (!(settings[name] >= 0 && Number.isFinite(settings[name])))
      throw new ConfigError(`${name} must be a number from 0 up, not ${settings[name]}`, {
        [name]: settings[name],
      })
  if (!(discount >= 0 && discount <= 1))
    throw new ConfigError(`discount must lie in [0, 1], not ${discount}`, { discount })
  if (rollout % unroll !== 0)
    throw new ConfigError(`unroll must divide the rollout of ${rollout} steps, not ${unroll}`, {
      unroll,
      rollout,
    })
  checkVocabulary(task, decoder)
  return settings
}

function checkCount(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1)
    throw new ConfigError(`${name} must be a whole number from 1 up, not ${value}`, { [name]: value })
}

function checkVocabulary(task: EnvironmentTask, decoder: Decoder): void {
  const needed = agentVocabulary(task)
  const { vocabulary } = decoder.config
  if (vocabulary !== needed)
    throw new ConfigError(
      `the decoder of an agent in ${task.name} needs vocabulary ${needed} (${task.observations} observations, ${task.actions.length} actions, the value), not ${vocabulary}: make it with agentVocabulary(task)`,
      { vocabulary, needed },
    )
}
