/**
 * Attention by our own kernels: the laws of core, and beside core's plain operations at the sizes of training and with
 * what the laws leave out. Nothing is left behind, whatever happens.
 */
import {
  type AttentionGroup,
  type AttentionRequest,
  attend,
  attendPlain,
  registerGradients,
  type Term,
  takeApart,
} from '@lethe/core'
import { attentionLaws } from '@lethe/core/testing'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { disposeBackend, useBackend } from '../index'
import { attention } from './attention'
import type { WasmBackend } from './heap'

const wasm = () => (tf.backend() as unknown as WasmBackend).wasm

beforeAll(async () => {
  await useBackend('wasm')
  registerGradients()
})
afterAll(() => disposeBackend())

describe('the laws of attention', () => {
  test.each(attentionLaws({ compute: attend }))('$name', ({ check }) => check())
})

/** Draws with a seed of their own, scaled so that logits and votes are of ordinary size. */
let seed = 0
const normal = (shape: number[]) => tf.randomNormal(shape, 0, 1, 'float32', ++seed)
const uniform = (shape: number[], low: number, high: number) =>
  tf.randomUniform(shape, low, high, 'float32', ++seed)
/** 1 with this probability, else 0. */
const coins = (shape: number[], probability: number) =>
  tf.cast(tf.less(uniform(shape, 0, 1), probability), 'float32') as tf.Tensor2D

interface Sizes {
  readonly batch: number
  readonly heads: number
  readonly size: number
  readonly block: number
}
const training: Sizes = { batch: 2, heads: 4, size: 64, block: 128 }
const small: Sizes = { batch: 3, heads: 2, size: 6, block: 35 }
const oneQuery: Sizes = { batch: 2, heads: 4, size: 64, block: 1 }

function requestOf(
  { batch, heads, size, block }: Sizes,
  groups: readonly AttentionGroup[],
  terms: readonly Term[] = [],
  more: Partial<AttentionRequest> = {},
): AttentionRequest {
  const slots = groups.reduce((sum, group) => sum + group.slots, 0)
  return {
    queries: normal([batch, heads, size, block]),
    keys: normal([batch, heads, size, slots]),
    values: normal([batch, heads, size, slots]),
    scale: 1 / Math.sqrt(size),
    groups,
    terms,
    wants: { mass: true, selection: true },
    ...more,
  }
}

const window = (first: number, slots: number, farthest: number, nearest = 1): AttentionGroup => ({
  slots,
  distance: { kind: 'contiguous', first },
  nearest,
  farthest,
})
const positioned = (group: AttentionGroup, rows: tf.Tensor, low: number, high: number): AttentionGroup => ({
  ...group,
  positions: { rows, featureMajor: false, low, high, beyond: 'none' },
})
const scattered = ({ batch }: Sizes, slots: number, oldest: number): AttentionGroup => ({
  slots,
  distance: { kind: 'scattered', age: tf.cast(uniform([batch, slots], 0, oldest), 'int32') as tf.Tensor2D },
  nearest: 0,
  farthest: oldest - 20,
  valid: coins([batch, slots], 0.8),
})

const bound = Number.POSITIVE_INFINITY
const cases: Record<string, () => AttentionRequest> = {
  'fixed span': () => requestOf(training, [positioned(window(512, 640, 512), normal([1, 512, 64]), 1, 512)]),
  'keys of distances per head': () => {
    const rows = normal([4, 64, 640])
    const group = window(512, 640, bound, 0)
    return requestOf(
      training,
      [{ ...group, positions: { rows, featureMajor: true, low: 0, high: 639, beyond: 'clamp' } }],
      [],
      { queryBias: { content: normal([4, 64]), position: normal([4, 64]) } },
    )
  },
  'spans per head, dropout, persistent slots': () =>
    requestOf(
      training,
      [positioned(window(300, 428, 300), normal([1, 300, 64]), 1, 300)],
      [{ kind: 'head-span', span: uniform([4], 0, 300), ramp: 32 }],
      {
        dropout: tf.mul(coins([2, 4, 128, 428], 0.8), 1.25),
        persistent: { keys: normal([4, 64, 21]), values: normal([4, 64, 21]) },
      },
    ),
  'compressed slots beside a window': () =>
    requestOf(training, [
      { ...window(640, 160, bound), distance: { kind: 'contiguous', first: 640, queriesPerStep: 4 } },
      window(512, 640, 512),
    ]),
  'lives of scattered slots beside a block': () =>
    requestOf(
      training,
      [
        positioned(scattered(training, 400, 700), normal([1, 200, 64]), 0, 199),
        positioned(window(0, 128, bound, 0), normal([1, 128, 64]), 0, 127),
      ],
      [{ kind: 'slot-life', life: uniform([2, 528], 0, 700) as tf.Tensor2D, ramp: 64 }],
    ),
  'votes among scattered slots': () =>
    requestOf(
      training,
      [scattered(training, 300, 600), window(0, 128, bound, 0)],
      [
        {
          kind: 'selection',
          head: 2,
          carried: uniform([2, 428], 0, 1) as tf.Tensor2D,
          exempt: coins([2, 428], 0.1),
        },
      ],
    ),
  'votes that nobody asks for': () =>
    requestOf(
      small,
      [window(30, 65, 40, 0)],
      [
        {
          kind: 'selection',
          head: 1,
          carried: uniform([3, 65], 0, 1) as tf.Tensor2D,
          exempt: coins([3, 65], 0.1),
        },
      ],
      { wants: {} },
    ),
  'exempt slots, every term, clamped distances': () => {
    const group = { ...scattered(small, 23, 70), exempt: coins([3, 23], 0.3) }
    const rows = normal([1, 90, 6])
    return requestOf(
      small,
      [
        { ...window(99, 5, bound), distance: { kind: 'contiguous', first: 99, queriesPerStep: bound } },
        { ...group, positions: { rows, featureMajor: false, low: 0, high: 89, beyond: 'clamp' } },
        window(0, 35, bound, 0),
      ],
      [
        { kind: 'slot-life', life: uniform([3, 63], 0, 90) as tf.Tensor2D, ramp: 20 },
        { kind: 'head-span', span: uniform([3, 2, 35], 0, 90), ramp: 30 },
        { kind: 'head-span', span: uniform([1], 20, 90), ramp: 30 },
        { kind: 'bias', bias: normal([2, 1, 63]) },
        { kind: 'bias', bias: normal([3, 1, 35, 1]) },
        {
          kind: 'selection',
          head: 0,
          carried: uniform([3, 63], 0, 1) as tf.Tensor2D,
          exempt: coins([3, 63], 0.1),
        },
      ],
      {
        persistent: { queries: normal([3, 2, 6, 35]), keys: normal([2, 6, 3]), values: normal([2, 6, 3]) },
        queryBias: { content: normal([2, 6]), position: normal([2, 6]) },
        dropout: tf.mul(coins([3, 2, 35, 63], 0.8), 1.25),
      },
    )
  },
  'one query': () =>
    requestOf(
      oneQuery,
      [positioned(scattered(oneQuery, 513, 700), normal([1, 512, 64]), 0, 511)],
      [{ kind: 'slot-life', life: uniform([2, 513], 0, 700) as tf.Tensor2D, ramp: 64 }],
      { persistent: { keys: normal([4, 64, 7]), values: normal([4, 64, 7]) } },
    ),
}

type Compute = (request: AttentionRequest) => ReturnType<typeof attend>

/** All results, and all gradients of a projection of them. */
function everything(request: AttentionRequest, compute: Compute): Record<string, tf.Tensor> {
  const parts = takeApart(request)
  const names = Object.keys(parts.learning)
  const results: Record<string, tf.Tensor> = {}
  const gradients = tf.grads((...tensors: tf.Tensor[]) => {
    const learning = Object.fromEntries(names.map((name, index) => [name, tensors[index]!]))
    const { context, mass, selection } = compute(parts.with({ ...parts.constant, ...learning }))
    Object.assign(results, { context, ...(mass && { mass }), ...selection })
    for (const value of Object.values(results)) tf.keep(value)
    seed = 1000
    const projected = [context, selection?.during, selection?.after].flatMap((value) =>
      value ? [tf.sum(tf.mul(value, normal(value.shape)))] : [],
    )
    return projected.reduce((total, part) => tf.add(total, part)) as tf.Scalar
  })(Object.values(parts.learning))
  names.forEach((name, index) => {
    results[`gradient of ${name}`] = gradients[index]!
  })
  return results
}

/** Root of the mean square. */
const sizeOf = (values: ArrayLike<number>) =>
  Math.sqrt(Array.from(values).reduce((sum, value) => sum + value * value, 0) / values.length)

describe('beside the plain operations', () => {
  test.each(Object.entries(cases))('%s', async (_, make) => {
    const request = make()
    expect(attention.covers(request)).toBe(true)
    const ours = everything(request, attend)
    const plain = everything(request, attendPlain)
    expect(Object.keys(ours)).toEqual(Object.keys(plain))
    for (const [name, value] of Object.entries(plain)) {
      const [expected, actual] = [await value.data(), await ours[name]!.data()]
      expect(ours[name]!.shape, name).toEqual(value.shape)
      const difference = sizeOf(expected.map((one, index) => one - actual[index]!))
      expect(difference / (sizeOf(expected) + 1e-3), name).toBeLessThan(2e-5)
    }
    tf.dispose([ours, plain])
  })

  test('nothing depends on what lay in the memory before', () => {
    const request = cases['exempt slots, every term, clamped distances']!()
    const malloc = wasm()._malloc.bind(wasm())
    const compute = (garbage: readonly number[]) => {
      vi.spyOn(wasm(), '_malloc').mockImplementation((bytes) => {
        const at = malloc(bytes)
        const room = new Float32Array(wasm().HEAPU8.buffer, at, Math.floor(bytes / 4))
        room.forEach((_, i) => {
          room[i] = garbage[(i * 7 + (i >> 3)) % garbage.length]!
        })
        return at
      })
      const results = everything(request, attend)
      vi.restoreAllMocks()
      const values = Object.entries(results).map(([name, value]) => [name, value.dataSync()])
      tf.dispose(results)
      return Object.fromEntries(values)
    }
    const { NaN: none, POSITIVE_INFINITY: most, NEGATIVE_INFINITY: least } = Number
    const expected = compute([0.5, -2, 3])
    expect(compute([none, most, 1.5, least, -2, 1e30, none, 0, 3])).toEqual(expected)
    expect(compute([2.5, none, most, -3, none, 0.5, -1e30])).toEqual(expected)
  })

  test('a query that may attend to nothing gets zeros, and not the future', async () => {
    const request = requestOf(small, [window(0, 35, bound)])
    const { context } = attend(request)
    const first = await tf.slice(context, [0, 0, 0, 0], [3, 2, 6, 1]).data()
    expect(first.every((value) => value === 0)).toBe(true)
  })
})

describe('memory', () => {
  afterEach(() => {
    vi.restoreAllMocks()
  })

  test('no tensor of queries × slots is kept between forward and backward', () => {
    const request = cases['fixed span']!()
    const before = tf.memory().numBytes
    const { context, kept } = attention.forward({ ...request, wants: {} })
    expect(tf.memory().numBytes - before).toBe(4 * (context.size + 2 * 2 * 4 * 128))
    tf.dispose([context, ...kept!])
  })

  test('nothing is left behind, tensors and heap', () => {
    const request = cases['exempt slots, every term, clamped distances']!()
    const once = () => tf.dispose(everything(request, attend))
    for (let i = 0; i < 3; i++) once()
    const before = { tensors: tf.memory().numTensors, heap: wasm().HEAPU8.length }
    for (let i = 0; i < 100; i++) once()
    expect({ tensors: tf.memory().numTensors, heap: wasm().HEAPU8.length }).toEqual(before)
  })

  test('where the heap has no room, it says so and frees what it has', () => {
    const request = cases['fixed span']!()
    const malloc = wasm()._malloc.bind(wasm())
    const room = vi.spyOn(wasm(), '_malloc').mockImplementation((bytes) => {
      // Tensors find their place, the working space does not.
      return bytes === 4 * 2 * 4 * 64 * 128 || bytes === 4 * 2 * 4 * 128 * 2 ? malloc(bytes) : 0
    })
    const before = tf.memory().numTensors
    expect(() => tf.tidy(() => attention.forward({ ...request, wants: {} }).context)).toThrow('heap has no')
    expect(room).toHaveBeenCalled()
    expect(tf.memory().numTensors).toBe(before)
  })
})

describe('what goes to the plain operations', () => {
  afterEach(() => useBackend('wasm', { kernels: true }))

  test('everything, where our kernels are turned off', async () => {
    const request = requestOf(small, [window(30, 65, 40)])
    tf.env().set('LETHE_WASM_KERNELS', false)
    expect(attention.covers(request)).toBe(false)
    tf.env().set('LETHE_WASM_KERNELS', true)
    expect(attention.covers(request)).toBe(true)
  })

  test.each<[string, (request: AttentionRequest) => AttentionRequest]>([
    ['masks of another type', (request) => withGroup(request, { valid: tf.ones([3, 65], 'int32') })],
    ['masks that the batch shares', (request) => withGroup(request, { valid: tf.ones([1, 65]) })],
    [
      'distances that grow by fractions',
      (request) => withGroup(request, { distance: { kind: 'contiguous', first: 3, queriesPerStep: 1.5 } }),
    ],
    [
      'no slots at all',
      (request) => ({ ...request, keys: tf.zeros([3, 2, 6, 0]), values: tf.zeros([3, 2, 6, 0]) }),
    ],
  ])('%s', (_, change) => {
    expect(attention.covers(change(requestOf(small, [window(30, 65, 40)])))).toBe(false)
  })
  const withGroup = (request: AttentionRequest, change: object): AttentionRequest => ({
    ...request,
    groups: [{ ...request.groups[0]!, ...change }],
  })
})
