/** The agent: its loss against plain arrays, what it reads twice agrees, episodes and memory, resuming, leaks, learning. */
import { useBackend } from '@lethe/backends'
import { Decoder, type ForgettingMethod, fixedSpan, presets, Random, registerGradients } from '@lethe/core'
import { type Checkpoint, type StepEvent, type TrainEvent, type TrainOptions, train } from '@lethe/trainer'
import {
  memory as engineMemory,
  grad,
  type Tensor,
  type Tensor3D,
  tensor3d,
  tidy,
} from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { lossOf, type Turn } from './actor-critic-loss'
import {
  type ActorCriticOptions,
  actorCriticSource,
  agentVocabulary,
  corridor,
  type EnvironmentTask,
  evaluatePolicy,
  portal,
} from './index'

beforeAll(async () => {
  await useBackend('wasm')
  registerGradients()
})

const decoderFor = (task: EnvironmentTask, method: ForgettingMethod = fixedSpan({ span: 32 })) =>
  new Decoder(
    {
      ...presets.modern.decoder,
      vocabulary: agentVocabulary(task),
      ...{ layers: 1, width: 16, heads: 2, feedForward: 32 },
      method,
    },
    { seed: 3 },
  )

type Run = Omit<TrainOptions, 'train' | 'validation'> & {
  readonly task: EnvironmentTask
} & ActorCriticOptions

async function run({ task, discount, entropyCost, ...options }: Run, each?: (event: StepEvent) => void) {
  const { seed = 0 } = options
  const source = actorCriticSource(task, {
    seed,
    ...(discount !== undefined && { discount }),
    ...(entropyCost !== undefined && { entropyCost }),
  })
  const steps: StepEvent[] = []
  for await (const event of train({ clip: 1, warmup: 0, ...options, train: source })) {
    if (event.type !== 'step') continue
    steps.push(event)
    each?.(event)
  }
  return steps
}

const timeless = (events: readonly TrainEvent[]) =>
  events.map((event) => ({ ...event, seconds: 0, tokensPerSecond: 0 }))

test('slots are counted after each step of an episode: a span of 4, 20 steps that reach no door', async () => {
  const task = corridor({ length: 50, limit: 20 })
  const method = fixedSpan({ span: 4 })
  const decoder = decoderFor(task)
  const narrow = decoder.withMethod(method)
  const held: number[] = []
  const { slots, meanSteps, solved } = await evaluatePolicy({
    ...{ task, decoder: narrow, seed: 0, episodes: 3 },
    onStep: ({ step, episodes, slots }) => {
      expect([step, episodes]).toEqual([held.length + 1, 3])
      held.push(slots)
    },
  })
  expect({ meanSteps, solved }).toEqual({ meanSteps: 20, solved: 0 })
  // The step itself is one of them.
  expect(held).toEqual([1, 2, 3, 4, ...new Array(16).fill(5)])
  expect(slots).toBeCloseTo((1 + 2 + 3 + 4 + 16 * 5) / 20, 5)
  narrow.dispose()
  decoder.dispose()
})

test('beside a policy stand chance and what the oracle does in the same episodes', async () => {
  const before = engineMemory().numTensors
  // Of these lengths, an oracle needs as many steps: those of 9 and 10 end before their door.
  const task = corridor({ length: [3, 10], limit: 8 })
  const source = actorCriticSource(task, { seed: 5, greedy: true })
  const decoder = decoderFor(task)
  const played = await source.evaluate({ decoder, episodes: 40 })
  const within = Array.from({ length: 40 }, (_, row) => task.start(5, row).state.length as number).filter(
    (length) => length <= 8,
  ).length
  expect(within).toBeGreaterThan(20)
  expect(played).toMatchObject({ chance: 0.5, oracle: within / 40, oracleReturn: within / 40, greedy: true })
  const stopped = AbortSignal.abort(new Error('enough'))
  await expect(source.evaluate({ decoder, episodes: 2, signal: stopped })).rejects.toThrow('enough')
  decoder.dispose()
  expect(engineMemory().numTensors).toBe(before)
})

describe('the loss of a rollout', () => {
  // Three observations in two tokens each, two actions; row 1 ends in its second step, row 0 goes on.
  const settings = {
    task: { observations: 3, observationLength: 2, actions: ['a', 'b'] },
    ...{ batch: 2, rollout: 3, discount: 0.9, entropyCost: 0.3, valueCost: 0.7 },
  }
  const turn = (row: number, action: number, value: number, reward: number, done = false): Turn => ({
    ...{ row, action, value, entropy: 0 },
    outcome: { reward, done, solved: false },
  })
  const turns = [
    [turn(0, 0, 0.1, 0), turn(1, 1, -0.4, 0)],
    [turn(0, 1, 0.2, 2), turn(1, 1, 0.3, 1, true)],
    [turn(0, 1, 0.5, 0), undefined],
  ]
  const ahead = [4, 100]
  const random = new Random(8)
  const values = random.normals(2 * 6 * 6)

  /** By the formulas, over [row][token][logit]. */
  function expected(logits: ArrayLike<number>): number {
    // From the end: 0.9 * 4, 2 + 0.9 * 3.6, 0.9 * 5.24; and 1, 0.9 * 1 where the episode ended.
    const returns = [
      [4.716, 5.24, 3.6],
      [0.9, 1],
    ]
    let sum = 0
    for (const [row, own] of returns.entries())
      for (const [step, value] of own.entries()) {
        const { action, value: thought } = turns[step]![row]!
        const first = (row * 6 + 2 * step + 1) * 6
        const [a, b, v] = [3, 4, 5].map((column) => logits[first + column]!) as [number, number, number]
        const log = [a, b].map((logit) => logit - Math.log(Math.exp(a) + Math.exp(b)))
        const entropy = -log.reduce((total, one) => total + Math.exp(one) * one, 0)
        sum += -(value - thought) * log[action]! + 0.7 * (value - v) ** 2 - 0.3 * entropy
      }
    return sum / 5
  }

  test('is that of the formulas, and so is its gradient', async () => {
    const loss = lossOf(settings, turns, ahead)
    const logits = tensor3d(values, [2, 6, 6])
    const [value] = await tidy(() => loss(logits)).data()
    expect(value).toBeCloseTo(expected(values), 5)
    const gradient = await grad((x: Tensor) => loss(x as Tensor3D))(logits).data()
    const numeric = Array.from(values, (_, at) => {
      const moved = (by: number) =>
        expected(Array.from(values, (value, index) => value + (index === at ? by : 0)))
      return (moved(1e-4) - moved(-1e-4)) / 2e-4
    })
    for (const [at, value] of numeric.entries()) expect(gradient[at]).toBeCloseTo(value, 4)
    logits.dispose()
  })
})

describe('training', () => {
  const task = corridor({ length: [3, 6], limit: 9 })
  const small = { task, learningRate: 1e-3, batch: 5, block: 4, seed: 2 }

  test('is the same for the same seed, counts tokens and episodes, and leaks nothing', async () => {
    const before = engineMemory().numTensors
    const once = async () => {
      const decoder = decoderFor(task)
      const events = await run({ ...small, decoder, steps: 6 })
      decoder.dispose()
      return events
    }
    const events = await once()
    expect(timeless(await once())).toEqual(timeless(events))
    expect(engineMemory().numTensors).toBe(before)
    // Nine steps at most: within three rollouts of four each row has ended at least once.
    const ended = events.reduce((sum, { episodes }) => sum + episodes!, 0)
    expect(ended).toBeGreaterThanOrEqual(2 * 5)
    const idle = events.reduce((sum, event) => sum + event.idle!, 0)
    const last = events.at(-1)!
    expect(last.tokens).toBe(Math.round((6 - idle) * 5 * 4))
    expect(last.entropy).toBeGreaterThan(1)
    expect(last.entropy).toBeLessThanOrEqual(Math.log(4))
    expect(last.perplexity).toBe(undefined)
  })

  test('parts that are accumulated are played one after the other, and counted together', async () => {
    const walk = corridor({ length: 100, limit: 8 })
    const decoder = decoderFor(walk)
    const options = { task: walk, decoder, learningRate: 0.1, batch: 2, block: 4, steps: 1 }
    const [both] = await run({ ...options, accumulate: 2 })
    // The second rollout of each row ends its episode of 8 steps.
    expect(both).toMatchObject({ episodes: 2, solved: 0, meanReturn: 0, idle: 0, tokens: 2 * 8, slots: 8 })
    decoder.dispose()
  })

  test.each([
    ['corridor', corridor({ length: [3, 6], limit: 9 }), {}],
    ['portal', portal({ rooms: 3, size: 3, limit: 12 }), { unroll: 2, accumulate: 2 }],
  ])('in the %s goes on exactly from a checkpoint that went through JSON', async (_, world, more) => {
    const saved: Checkpoint[] = []
    const checkpoints = { save: async (checkpoint: Checkpoint) => `checkpoint ${saved.push(checkpoint)}` }
    const once = async (
      options: Pick<TrainOptions, 'resume' | 'checkpoints' | 'checkpointEvery'>,
      seed = 2,
    ) => {
      const decoder = decoderFor(world, fixedSpan({ span: 6 }))
      const source = actorCriticSource(world, { seed })
      const validation = actorCriticSource(world, { seed: 99 })
      const sizes = { steps: 8, batch: 3, block: 4, clip: 1, learningRate: 0.01, warmup: 2 }
      const found: TrainEvent[] = []
      const all = { decoder, train: source, validation, ...sizes, evalEvery: 2, validBatch: 4 }
      try {
        for await (const event of train({ ...all, ...more, ...options }))
          if (event.type === 'step' || event.type === 'eval') found.push(event)
      } finally {
        decoder.dispose()
      }
      return found
    }
    const whole = await once({ checkpoints, checkpointEvery: 5 })
    expect(whole.filter(({ type }) => type === 'eval')).toHaveLength(4)
    const before = engineMemory().numTensors
    const resume: Checkpoint = { ...saved[0]!, state: JSON.parse(JSON.stringify(saved[0]!.state)) }
    expect(resume.step).toBe(5)
    expect(timeless(await once({ resume }))).toEqual(timeless(whole.filter(({ step }) => step > 5)))
    await expect(once({ resume }, 3)).rejects.toThrow(
      /the data ".* seed 2, actor-critic .*", not ".* seed 3,/,
    )
    const position = (resume.state.position as unknown[]).slice(1)
    const fewer = { ...resume, state: { ...resume.state, position } }
    await expect(once({ resume: fewer })).rejects.toThrow('that of 2 worlds, not of 3')
    expect(engineMemory().numTensors).toBe(before)
  })

  test('leaving early frees everything', async () => {
    const before = engineMemory().numTensors
    const decoder = decoderFor(task)
    for await (const event of train({ ...small, decoder, train: actorCriticSource(task), steps: 100 }))
      if (event.type === 'step') break
    const controller = new AbortController()
    const steps = await run({ ...small, decoder, steps: 100, signal: controller.signal }, ({ step }) => {
      if (step === 2) controller.abort()
    })
    expect(steps).toHaveLength(2)
    decoder.dispose()
    expect(engineMemory().numTensors).toBe(before)
  })

  test('memory is carried through an episode and forgotten before the next', async () => {
    // Episodes of exactly 8 steps, in rollouts of 4.
    const walk = corridor({ length: 100, limit: 8 })
    const decoder = decoderFor(walk)
    const steps = await run({ task: walk, decoder, learningRate: 1e-9, steps: 5, batch: 2, block: 4 })
    expect(steps.map(({ slots }) => slots)).toEqual([4, 8, 4, 8, 4])
    expect(steps.map(({ episodes }) => episodes)).toEqual([0, 2, 0, 2, 0])
    expect(steps.map(({ meanReturn }) => meanReturn)).toEqual([undefined, 0, undefined, 0, undefined])
    decoder.dispose()
  })

  test('policies are the same read step by step, to act, and as a block, for the gradients', async () => {
    // What the entropy's cost takes from the loss of the block is the mean entropy of the policies that acted.
    const walk = portal({ rooms: 3, size: 5, limit: 1000 })
    const losses = async (entropyCost: number) => {
      const decoder = decoderFor(walk)
      const options = { task: walk, decoder, learningRate: 1e-12, steps: 3, batch: 2, block: 2 }
      const steps = await run({ ...options, entropyCost })
      decoder.dispose()
      return steps
    }
    const [without, withCost] = [await losses(0), await losses(1)]
    for (const [at, { loss, entropy }] of without.entries())
      expect(loss - withCost[at]!.loss).toBeCloseTo(entropy!, 5)
  })

  test('what does not fit is refused', async () => {
    const decoder = decoderFor(task)
    const refusal = async (more: Partial<Run>) =>
      run({ ...small, decoder, steps: 1, ...more }).catch((error) => error.message)
    expect(await refusal({ task: portal() })).toMatch(
      /vocabulary is 12: make the decoder with vocabulary 105/,
    )
    expect(await refusal({ task: corridor(), batch: 0 })).toMatch(
      /batch must be a whole number of at least 1/,
    )
    expect(await refusal({ discount: 1.5 })).toMatch(/discount must lie in \[0, 1\]/)
    expect(await refusal({ entropyCost: -1 })).toMatch(/entropyCost must be a number from 0 up/)
    expect(() => actorCriticSource(task, { seed: 0.5 })).toThrow(/seed must be a whole number/)
    expect(() => actorCriticSource(task).stream({ batch: 2, block: 0 })).toThrow(
      /block must be a whole number/,
    )
    await expect(evaluatePolicy({ task: portal(), decoder, seed: 0 })).rejects.toThrow(/agentVocabulary/)
    decoder.dispose()
  })
})
