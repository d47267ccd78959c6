/**
 * Advantage actor-critic (A2C; Mnih et al. 2016, synchronous) for agents that remember: many environments side by side,
 * one row of the batch each, whose memory is carried through the episode and forgotten when it ends.
 *
 * The agent is a plain decoder. It reads observations as tokens; of its logits after the last token of an observation,
 * those of the actions are the policy and one more is the value. The world's steps are read one by one with cached keys
 * and values (`decode`), and then once more as a block for the gradients.
 *
 * An update learns from a rollout of so many steps of each row, through which it backpropagates: memory from before is a
 * constant. A row whose episode ends on the way is idle until the next update, so that a block never holds two episodes
 * and memories are forgotten between blocks, where they can be for any method.
 */
import { breathe, ConfigError, type DecodeMemory, type Decoder, type Memory, Random } from '@lethe/core'
import { type Scalar, type Tensor, type Tensor3D, tensor1d } from '@tensorflow/tfjs-core'
import { lossOf, type Turn } from './actor-critic-loss'
import { randomOf } from './options'
import type { Environment, EnvironmentTask, StreamState } from './task'

export interface ActorCriticOptions {
  /** Of the worlds: take another one for validation than for training. Default 0. */
  readonly seed?: number
  /** Of rewards per step: default 0.99. */
  readonly discount?: number
  /** Weight of the policy's entropy, in nats: default 5e-4. */
  readonly entropyCost?: number
  /** Weight of the value's squared error: default 0.5. */
  readonly valueCost?: number
  /** Of evaluations: the most probable action always. False (default): actions drawn from the policy, as in training. */
  readonly greedy?: boolean
}

/** One rollout of all rows: what `train` of @lethe/trainer learns from (its `Rollout`). */
export interface AgentRollout {
  /** Row-major [batch, steps * observationLength]; what an idle row still sees means nothing. */
  readonly inputs: Int32Array
  /** Rows in which an episode begins here. */
  readonly resets: readonly number[]
  /** Of the logits [batch, steps * observationLength, vocabulary]: policy, value and entropy together. */
  readonly loss: (logits: Tensor3D) => Scalar
  /** Tokens of observations that were acted on. */
  readonly tokens: number
  /** Sums over rows: actions taken, steps in which a row was idle, episodes that ended, how many of them well, … */
  readonly played: {
    readonly actions: number
    readonly idle: number
    /** Of the policies, in nats. */
    readonly entropy: number
    readonly episodes: number
    readonly solved: number
    /** Undiscounted. */
    readonly returns: number
  }
}

/** Agents in a batch of worlds, for loops of your own. */
export interface AgentStream {
  /** Worlds, episodes and their random numbers, as JSON: `stream` of the source goes on from it. */
  readonly position: readonly StreamState[]
  /**
   * Plays one rollout.
   * @param learner.memory as the last rollout's gradients left it; stays as it is
   * @param learner.random draws the actions
   */
  play(learner: {
    readonly decoder: Decoder
    readonly memory: Memory
    readonly random: Random
  }): Promise<AgentRollout>
}

/** Worlds and an actor-critic's loss as `train` of @lethe/trainer takes them (its `RolloutSource`). */
export interface ActorCriticSource {
  readonly vocabulary: number
  readonly identity: string
  readonly task: EnvironmentTask
  /** @param shape.block steps of the world in a rollout, the length of backpropagation (BPTT) */
  stream(shape: { readonly batch: number; readonly block: number }, position?: unknown): AgentStream
  evaluate(
    options: Pick<PolicyEvaluationOptions, 'decoder' | 'episodes' | 'signal' | 'onStep'>,
  ): Promise<PolicyEvaluation>
}

/** The vocabulary of an agent's decoder: observations, then actions, then the value. */
export const agentVocabulary = ({ observations, actions }: EnvironmentTask): number =>
  observations + actions.length + 1

/**
 * An agent that learns in the worlds of a seed, and is evaluated in those of the same seed that come first.
 * @throws ConfigError for options out of their range
 */
export function actorCriticSource(
  task: EnvironmentTask,
  { seed = 0, discount = 0.99, entropyCost = 5e-4, valueCost = 0.5, greedy = false }: ActorCriticOptions = {},
): ActorCriticSource {
  for (const [name, value] of Object.entries({ entropyCost, valueCost }))
    if (!(value >= 0 && Number.isFinite(value)))
      throw new ConfigError(`${name} must be a number from 0 up, not ${value}`, { [name]: value })
  if (!(discount >= 0 && discount <= 1))
    throw new ConfigError(`discount must lie in [0, 1], not ${discount}`, { discount })
  randomOf(seed, 0)
  const costs = { discount, entropyCost, valueCost }
  return {
    task,
    vocabulary: agentVocabulary(task),
    identity: `${task.name} ${JSON.stringify(task.options)}, seed ${seed}, actor-critic ${JSON.stringify(costs)}`,
    stream: ({ batch, block }, position) =>
      new Agents({ task, batch, rollout: block, ...costs }, seed, position as readonly StreamState[]),
    evaluate: (options) => evaluatePolicy({ ...options, task, seed, greedy }),
  }
}

interface Settings {
  readonly task: EnvironmentTask
  readonly batch: number
  readonly rollout: number
  readonly discount: number
  readonly entropyCost: number
  readonly valueCost: number
}

interface Agent {
  readonly world: Environment
  /** Rewards of the episode so far. */
  return: number
  /** The episode is over: another one begins with the next rollout. */
  ended: boolean
}

class Agents implements AgentStream {
  private readonly agents: readonly Agent[]

  constructor(
    private readonly settings: Settings,
    seed: number,
    position: readonly StreamState[] | undefined,
  ) {
    const { task, batch, rollout } = settings
    checkCount('batch', batch)
    checkCount('block', rollout)
    if (position && position.length !== batch)
      throw new ConfigError(
        `the position is that of ${position.length} worlds, not of ${batch}: go on with the same batch`,
        { position: position.length, batch },
      )
    this.agents = Array.from({ length: batch }, (_, row) => {
      if (!position) return { world: task.start(seed, row), return: 0, ended: false }
      const { world, ...rest } = position[row] as unknown as AgentState
      return { world: task.resume(world), ...rest }
    })
  }

  get position(): readonly StreamState[] {
    return this.agents.map(({ world, ...rest }): AgentState & StreamState => ({
      world: world.state,
      ...rest,
    }))
  }

  async play({ decoder, memory, random }: Parameters<AgentStream['play']>[0]): Promise<AgentRollout> {
    const { settings, agents } = this
    const { task, batch, rollout } = settings
    checkVocabulary(task, decoder)
    const resets = [...agents.keys()].filter((row) => agents[row]!.ended)
    for (const row of resets) {
      agents[row]!.world.reset()
      Object.assign(agents[row]!, { return: 0, ended: false })
    }
    const { inputs, turns, ahead } = await act(settings, agents, decoder, resets, memory, random)
    const taken = turns.flat().filter((turn) => turn !== undefined)
    const ended = agents.filter((agent) => agent.ended)
    return {
      inputs,
      resets,
      loss: lossOf(settings, turns, ahead),
      tokens: taken.length * task.observationLength,
      played: {
        actions: taken.length,
        idle: batch * rollout - taken.length,
        entropy: sum(taken.map(({ entropy }) => entropy)),
        episodes: ended.length,
        solved: taken.filter(({ outcome }) => outcome.solved).length,
        returns: sum(ended.map((agent) => agent.return)),
      },
    }
  }
}

interface AgentState extends Omit<Agent, 'world'> {
  readonly world: StreamState
}

export interface PolicyEvaluationOptions {
  readonly task: EnvironmentTask
  readonly decoder: Decoder
  /** Episodes, of different worlds, side by side: default 64. */
  readonly episodes?: number
  /** Of the worlds and actions: one that was not trained on. */
  readonly seed: number
  /** True (default): always the most probable action. False: actions drawn from the policy. */
  readonly greedy?: boolean
  /** Stops by throwing the signal's reason. */
  readonly signal?: AbortSignal | undefined
  /** Told after every step. */
  readonly onStep?: ((step: EvaluatedStep) => void) | undefined
}

/** One step of an evaluation. */
export interface EvaluatedStep {
  /** From 1. */
  readonly step: number
  /** Episodes that took it. */
  readonly episodes: number
  /** Slots alive after it, mean over layers and those episodes. */
  readonly slots: number
}

export interface PolicyEvaluation {
  readonly episodes: number
  /** Part of the episodes that ended well. */
  readonly solved: number
  /** The same of guessing (the task's chance), and of the task's oracle in these episodes. */
  readonly chance: number
  readonly oracle: number
  /** Undiscounted. */
  readonly meanReturn: number
  readonly oracleReturn: number
  /** Mean steps of an episode. */
  readonly meanSteps: number
  /** Slots alive after a step, mean over layers, episodes and their steps. */
  readonly slots: number
  /** Whether it was always the most probable action. */
  readonly greedy: boolean
}

/** Plays each episode to its end, from an empty memory on. */
export async function evaluatePolicy(options: PolicyEvaluationOptions): Promise<PolicyEvaluation> {
  const { task, decoder, episodes = 64, seed, greedy = true, signal, onStep } = options
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
    for (let step = 1; agents.some(({ done }) => !done); step++) {
      signal?.throwIfAborted()
      const { views, memory: next } = await look(task, decoder, agents, memory)
      memory = next
      const alive = await memory.countSlotsByRow()
      const playing = [...agents.keys()].filter((row) => !agents[row]!.done)
      const held = sum(playing.map((row) => alive[row]!))
      slots += held
      for (const row of playing) {
        const agent = agents[row]!
        const { policy } = views[row]!
        const action = greedy ? policy.indexOf(Math.max(...policy)) : drawn(policy, random)
        const { reward, done, solved } = agent.world.step(action)
        Object.assign(agent, { return: agent.return + reward, steps: agent.steps + 1, done, solved })
      }
      onStep?.({ step, episodes: playing.length, slots: held / playing.length })
      await breathe()
    }
  } finally {
    memory.dispose()
  }
  const oracles = agents.map((_, row) => played(task, seed, row))
  return {
    episodes,
    solved: mean(agents.map(({ solved }) => Number(solved))),
    chance: task.chance,
    oracle: mean(oracles.map(({ solved }) => Number(solved))),
    meanReturn: mean(agents.map((agent) => agent.return)),
    oracleReturn: mean(oracles.map((oracle) => oracle.return)),
    meanSteps: mean(agents.map(({ steps }) => steps)),
    slots: slots / sum(agents.map(({ steps }) => steps)),
    greedy,
  }
}

/** The first episode of a row as the oracle plays it. */
function played(task: EnvironmentTask, seed: number, row: number) {
  const [world, oracle] = [task.start(seed, row), task.oracle()]
  for (let total = 0; ; ) {
    const { reward, done, solved } = world.step(oracle.act(world.observe()))
    total += reward
    if (done) return { return: total, solved }
  }
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
  agents: readonly Pick<Agent, 'world'>[],
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
 * @param resets rows whose memory begins empty
 * @returns what was observed, [batch, rollout * observationLength]; the turns of each step by row, undefined where a row
 *   is idle; per row the value of what comes after, 0 after the end of an episode
 */
async function act(
  { task, batch, rollout }: Settings,
  agents: readonly Agent[],
  decoder: Decoder,
  resets: readonly number[],
  memory: Memory,
  random: Random,
) {
  const { observationLength } = task
  const inputs = new Int32Array(batch * rollout * observationLength)
  const turns: (Turn | undefined)[][] = []
  const going = () => agents.some(({ ended }) => !ended)
  const own = memory.clone()
  let decoding = decoder.startDecoding(resets.length > 0 ? own.reset(resets) : own)
  let ahead = new Array<number>(batch).fill(0)
  try {
    while (turns.length < rollout && going()) {
      const { views, observed, memory: next } = await look(task, decoder, agents, decoding)
      decoding = next
      const turn = agents.map((agent, row) => {
        inputs.set(observed[row]!, (row * rollout + turns.length) * observationLength)
        if (agent.ended) return undefined
        const { policy, value } = views[row]!
        const action = drawn(policy, random)
        const outcome = agent.world.step(action)
        agent.return += outcome.reward
        agent.ended = outcome.done
        return { row, action, value, entropy: entropyOf(policy), outcome }
      })
      turns.push(turn)
    }
    if (going()) {
      const { views, memory: next } = await look(task, decoder, agents, decoding)
      decoding = next
      ahead = views.map(({ value }, row) => (agents[row]!.ended ? 0 : value))
    }
  } finally {
    decoding.dispose()
  }
  return { inputs, turns, ahead }
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

const sum = (list: readonly number[]) => list.reduce((a, b) => a + b, 0)
const mean = (list: readonly number[]) => sum(list) / list.length

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
