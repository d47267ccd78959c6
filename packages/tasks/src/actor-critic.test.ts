/** The agent: its loss against plain arrays, what it reads twice agrees, episodes and memory, leaks, learning. */
import { useBackend } from '@lethe/backends'
import { Decoder, fixedSpan, presets, Random, registerGradients } from '@lethe/core'
import { Optimizer } from '@lethe/trainer'
import { memory as engineMemory, grad, type Tensor, type Tensor3D, tensor3d } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { lossOf, type Turn } from './actor-critic-loss'
import {
  type ActorCriticOptions,
  agentVocabulary,
  corridor,
  type EnvironmentTask,
  evaluatePolicy,
  portal,
  trainActorCritic,
  type UpdateEvent,
} from './index'

beforeAll(async () => {
  await useBackend('wasm')
  registerGradients()
})

const decoderFor = (task: EnvironmentTask, width = 16) =>
  new Decoder(
    {
      ...presets.modern.decoder,
      vocabulary: agentVocabulary(task),
      ...{ layers: 1, width, heads: 2, feedForward: 2 * width },
      method: fixedSpan({ span: 32 }),
    },
    { seed: 3 },
  )

async function run(options: Omit<ActorCriticOptions, 'optimizer'>, each?: (event: UpdateEvent) => boolean) {
  const optimizer = new Optimizer(options.decoder.parameters, { optimizer: 'adam', clip: 1 })
  const events: UpdateEvent[] = []
  try {
    for await (const event of trainActorCritic({ ...options, optimizer })) {
      events.push(event)
      if (each && !each(event)) break
    }
  } finally {
    optimizer.dispose()
  }
  return events
}

test('slots are counted after each step of an episode: a span of 4, 20 steps that reach no door', async () => {
  const task = corridor({ length: 50, limit: 20 })
  const method = fixedSpan({ span: 4 })
  const decoder = decoderFor(task)
  const narrow = decoder.withMethod(method)
  const { slots, meanSteps, solved } = await evaluatePolicy({ task, decoder: narrow, seed: 0, episodes: 3 })
  expect({ meanSteps, solved }).toEqual({ meanSteps: 20, solved: 0 })
  // The step itself is one of them.
  expect(slots).toBeCloseTo((1 + 2 + 3 + 4 + 16 * 5) / 20, 5)
  narrow.dispose()
  decoder.dispose()
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
    const { of, constants } = lossOf(settings, turns, ahead)
    const logits = tensor3d(values, [2, 6, 6])
    const [loss] = await of(logits).data()
    expect(loss).toBeCloseTo(expected(values), 5)
    const gradient = await grad((x: Tensor) => of(x as Tensor3D))(logits).data()
    const numeric = Array.from(values, (_, at) => {
      const moved = (by: number) =>
        expected(Array.from(values, (value, index) => value + (index === at ? by : 0)))
      return (moved(1e-4) - moved(-1e-4)) / 2e-4
    })
    for (const [at, value] of numeric.entries()) expect(gradient[at]).toBeCloseTo(value, 4)
    for (const constant of [...constants, logits]) constant.dispose()
  })
})

describe('training', () => {
  const task = corridor({ length: [3, 6], limit: 9 })

  test('is the same for the same seed, counts steps and episodes, and leaks nothing', async () => {
    const before = engineMemory().numTensors
    const once = async () => {
      const decoder = decoderFor(task)
      const events = await run({
        task,
        decoder,
        learningRate: 1e-3,
        updates: 6,
        batch: 5,
        rollout: 4,
        seed: 2,
      })
      decoder.dispose()
      return events
    }
    const events = await once()
    expect(await once()).toEqual(events)
    expect(engineMemory().numTensors).toBe(before)
    const last = events.at(-1)!
    expect(last).toMatchObject({ type: 'update', update: 6 })
    // Nine steps at most: within three rollouts of four each row has ended at least once.
    const ended = events.reduce((sum, { episodes }) => sum + episodes, 0)
    expect(ended).toBeGreaterThanOrEqual(2 * 5)
    const idle = events.reduce((sum, event) => sum + event.idle, 0)
    expect(last.steps).toBe(Math.round((6 - idle) * 5 * 4))
    expect(last.entropy).toBeGreaterThan(1)
    expect(last.entropy).toBeLessThanOrEqual(Math.log(4))
  })

  test('leaving early frees everything', async () => {
    const before = engineMemory().numTensors
    const decoder = decoderFor(task)
    const options = { task, decoder, learningRate: 1e-3, updates: 100, batch: 3, rollout: 4 }
    expect(await run(options, () => false)).toHaveLength(1)
    const controller = new AbortController()
    const events = await run({ ...options, signal: controller.signal }, ({ update }) => {
      if (update === 2) controller.abort()
      return true
    })
    expect(events).toHaveLength(2)
    decoder.dispose()
    expect(engineMemory().numTensors).toBe(before)
  })

  test('memory is carried through an episode and forgotten at its end', async () => {
    // Episodes of exactly 8 steps, in rollouts of 4.
    const walk = corridor({ length: 100, limit: 8 })
    const decoder = decoderFor(walk)
    const events = await run({ task: walk, decoder, learningRate: 0, updates: 5, batch: 2, rollout: 4 })
    expect(events.map(({ slots }) => slots)).toEqual([4, 0, 4, 0, 4])
    expect(events.map(({ episodes }) => episodes)).toEqual([0, 2, 0, 2, 0])
    decoder.dispose()
  })

  test('policies are the same read step by step, to act, and as a block, for the gradients', async () => {
    // What the entropy's cost takes from the loss of the block is the mean entropy of the policies that acted.
    const walk = portal({ rooms: 3, size: 5, limit: 1000 })
    const decoder = decoderFor(walk)
    const options = { task: walk, decoder, learningRate: 0, updates: 3, batch: 2, rollout: 2 }
    const [without, withCost] = [
      await run({ ...options, entropyCost: 0 }),
      await run({ ...options, entropyCost: 1 }),
    ]
    for (const [at, { loss, entropy }] of without.entries())
      expect(loss - withCost[at]!.loss).toBeCloseTo(entropy, 5)
    decoder.dispose()
  })

  test('what does not fit is refused', async () => {
    const decoder = decoderFor(task)
    const refusal = async (more: Partial<ActorCriticOptions>) =>
      run({ task, decoder, learningRate: 1, updates: 1, ...more }).catch((error) => error.message)
    expect(await refusal({ task: portal() })).toMatch(/portal needs vocabulary 105 .*not 12/)
    expect(await refusal({ rollout: 10, unroll: 3 })).toMatch(
      /unroll must divide the rollout of 10 steps, not 3/,
    )
    expect(await refusal({ batch: 0 })).toMatch(/batch must be a whole number from 1 up, not 0/)
    expect(await refusal({ discount: 1.5 })).toMatch(/discount must lie in \[0, 1\]/)
    await expect(evaluatePolicy({ task: portal(), decoder, seed: 0 })).rejects.toThrow(/agentVocabulary/)
    decoder.dispose()
  })
})
