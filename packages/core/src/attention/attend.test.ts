/**
 * Attention in plain operations against the float64 oracle of testing/oracle.ts: every geometry of slots, every
 * combination of terms, random ones, and the gradients of all of it.
 */
import { useBackend } from '@lethe/backends'
import { add, grads, memory, mul, reshape, sum, type Tensor, tidy, zeros } from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { registerGradients } from '../gradients'
import { scope } from '../ops/scope'
import { Random } from '../random'
import {
  type AttentionCase,
  attentionCase,
  attentionOracle,
  type CaseOptions,
  drawn,
  finiteDifferences,
  hostArray,
  largestDifference,
  type OracleGroup,
  requestOf,
  toTensor,
} from '../testing/oracle'
import { attend, attendByContent, attendPlain, setAttentionKernel } from './attend'

const learned = (count: number, nearest = 0, beyond: 'none' | 'clamp' = 'none') =>
  ({ kind: 'learned', count, nearest, beyond }) as const
const sinusoidal = (clamp: number, nearest = 0) => ({ kind: 'sinusoidal', nearest, clamp }) as const

/** Memory and block in one contiguous group, as most methods declare it. */
const window = (memory: number, block: number, nearest: number, farthest?: number): OracleGroup => ({
  slots: memory + block,
  distance: { first: memory },
  nearest,
  ...(farthest !== undefined && { farthest }),
})

/** Ages 1.. in an order of its own in each row, with holes. */
const scattered = (batch: number, slots: number, seed: number, youngest = 1): number[][] => {
  const random = new Random(seed)
  return Array.from({ length: batch }, () => {
    const ages: number[] = []
    for (let age = youngest; ages.length < slots; age += 1 + random.integer(3)) ages.push(age)
    return ages.reverse()
  })
}

const cases: Record<string, CaseOptions> = {
  // One contiguous group.
  'content alone, nothing masked': {
    block: 1,
    groups: [{ slots: 5, distance: { first: 4 }, nearest: 0 }],
  },
  'no memory, causal': { block: 5, groups: [window(0, 5, 0)] },
  'memory and block, causal': { block: 4, groups: [window(6, 4, 0)] },
  'memory and block, not attending to itself': { block: 4, groups: [window(6, 4, 1)] },
  'first = 0, learned': { block: 5, groups: [window(0, 5, 0)], positions: learned(5) },
  'first < span, learned, window 0..span': {
    block: 4,
    groups: [window(3, 4, 0, 5)],
    positions: learned(6),
  },
  'first = span, learned, window 1..span': {
    block: 4,
    groups: [window(6, 4, 1, 6)],
    positions: learned(6, 1),
  },
  'first > span, learned, window 1..span': {
    block: 4,
    groups: [window(9, 4, 1, 6)],
    positions: learned(6, 1),
  },
  'first > span, learned, window 0..span': {
    block: 4,
    groups: [window(9, 4, 0, 3)],
    positions: learned(4),
  },
  'no window, table shorter than the distances': {
    block: 4,
    groups: [window(6, 4, 0)],
    positions: learned(4),
  },
  'no window, beyond the table clamped': {
    block: 4,
    groups: [window(6, 4, 0)],
    positions: learned(4, 0, 'clamp'),
  },
  'not itself, beyond the table clamped': {
    block: 4,
    groups: [window(6, 4, 1)],
    positions: learned(3, 1, 'clamp'),
  },
  'table of one distance': { block: 3, groups: [window(3, 3, 1)], positions: learned(1, 1) },
  'table longer than the distances': { block: 3, groups: [window(2, 3, 0)], positions: learned(20) },
  'block of one': { block: 1, groups: [window(6, 1, 1, 6)], positions: learned(6, 1) },
  'block of one, itself included': { block: 1, groups: [window(6, 1, 0, 6)], positions: learned(7) },
  'more queries than slots': {
    block: 7,
    groups: [{ slots: 3, distance: { first: 3 }, nearest: 0 }],
    positions: learned(10),
  },
  'more queries than slots, cut by the window': {
    block: 9,
    groups: [{ slots: 3, distance: { first: 3 }, nearest: 0, farthest: 8 }],
    positions: learned(4, 0, 'clamp'),
    persistent: 1,
  },
  'a group without the block': {
    block: 4,
    groups: [{ slots: 6, distance: { first: 9 }, nearest: 0 }],
    positions: learned(16),
  },
  'sinusoidal with u and v': { block: 4, groups: [window(5, 4, 0)], positions: sinusoidal(1000) },
  'sinusoidal, clamped': { block: 4, groups: [window(5, 4, 0)], positions: sinusoidal(4) },
  'sinusoidal, not itself, window': {
    block: 4,
    groups: [window(5, 4, 1, 5)],
    positions: sinusoidal(1000, 1),
  },
  'valid, different in each row': {
    block: 2,
    groups: [
      {
        ...window(4, 2, 0),
        valid: [
          [0, 0, 1, 1, 1, 1],
          [0, 1, 0, 1, 1, 1],
        ],
      },
    ],
    positions: learned(6),
  },
  // Several groups.
  ...Object.fromEntries(
    [2, 3, 4].flatMap((pace) =>
      [4, 6, 7].map((block): [string, CaseOptions] => [
        `compressed 1 : ${pace} beside a window, block of ${block}`,
        {
          block,
          groups: [
            {
              slots: 5 + Math.ceil(block / pace),
              distance: { first: 11, queriesPerStep: pace },
              nearest: 7,
              farthest: 11,
            },
            window(6, block, 1, 6),
          ],
          positions: learned(11, 1),
        },
      ]),
    ),
  ),
  'compressed without a window, sinusoidal': {
    block: 5,
    groups: [{ slots: 4, distance: { first: 10, queriesPerStep: 2 }, nearest: 0 }, window(6, 5, 0)],
    positions: sinusoidal(9),
  },
  'sinks keep their distance': {
    block: 5,
    groups: [
      { slots: 2, distance: { first: 8, queriesPerStep: Number.POSITIVE_INFINITY }, nearest: 0 },
      window(6, 5, 0, 6),
    ],
    positions: learned(9),
  },
  'sinks without positions beside a window with': {
    block: 5,
    groups: [
      {
        slots: 2,
        distance: { first: 8, queriesPerStep: Number.POSITIVE_INFINITY },
        nearest: 0,
        positions: false,
      },
      window(6, 5, 0, 6),
    ],
    positions: learned(7),
  },
  'three groups, one with valid': {
    block: 3,
    groups: [
      {
        slots: 2,
        distance: { first: 20, queriesPerStep: Number.POSITIVE_INFINITY },
        nearest: 0,
        valid: [
          [1, 0],
          [1, 1],
        ],
      },
      { slots: 3, distance: { first: 12, queriesPerStep: 3 }, nearest: 0 },
      window(4, 3, 0, 4),
    ],
    positions: learned(8, 0, 'clamp'),
  },
  // Scattered slots.
  'scattered, one query, learned': {
    block: 1,
    groups: [{ slots: 6, distance: { age: scattered(2, 6, 3, 0) }, nearest: 0 }],
    positions: learned(30),
  },
  'scattered, one query, beyond the table nothing': {
    block: 1,
    groups: [{ slots: 6, distance: { age: scattered(2, 6, 4, 0) }, nearest: 0 }],
    positions: learned(5),
  },
  'scattered, one query, beyond the table clamped': {
    block: 1,
    groups: [{ slots: 6, distance: { age: scattered(2, 6, 5) }, nearest: 0 }],
    positions: learned(5, 0, 'clamp'),
  },
  'scattered, one query, window and empty places': {
    block: 1,
    groups: [
      {
        slots: 5,
        distance: {
          age: [
            [9, 0, 3, 2 ** 24, 1],
            [0, 4, 2 ** 24, 2 ** 24, 6],
          ],
        },
        nearest: 0,
        farthest: 6,
        valid: [
          [1, 1, 1, 0, 1],
          [1, 1, 0, 0, 1],
        ],
      },
    ],
    positions: learned(7),
  },
  'scattered beside the block, learned': {
    block: 3,
    groups: [{ slots: 5, distance: { age: scattered(2, 5, 6) }, nearest: 1 }, window(0, 3, 1)],
    positions: learned(12, 1),
  },
  'scattered beside the block, beyond nothing': {
    block: 3,
    groups: [{ slots: 5, distance: { age: scattered(2, 5, 7) }, nearest: 0 }, window(0, 3, 0)],
    positions: learned(4),
  },
  'scattered beside the block, beyond clamped': {
    block: 4,
    groups: [{ slots: 5, distance: { age: scattered(2, 5, 8) }, nearest: 0 }, window(2, 4, 0)],
    positions: learned(4, 0, 'clamp'),
  },
  'scattered beside the block, window': {
    block: 4,
    groups: [
      { slots: 5, distance: { age: scattered(2, 5, 9) }, nearest: 0, farthest: 5 },
      window(0, 4, 0, 5),
    ],
    positions: learned(6),
  },
  'scattered, sinusoidal, clamped': {
    block: 3,
    groups: [{ slots: 5, distance: { age: scattered(2, 5, 10) }, nearest: 0 }, window(0, 3, 0)],
    positions: sinusoidal(6),
  },
  'scattered, the block among them': {
    block: 3,
    groups: [
      {
        slots: 6,
        distance: {
          age: [
            [7, 4, 2, 0, -1, -2],
            [3, 2, 1, 0, -1, -2],
          ],
        },
        nearest: 0,
      },
    ],
    positions: learned(10),
  },
  'scattered, no positions': {
    block: 3,
    groups: [{ slots: 5, distance: { age: scattered(2, 5, 11) }, nearest: 0, farthest: 8 }, window(0, 3, 0)],
  },
  // Terms.
  'slot life': {
    block: 4,
    groups: [window(8, 4, 0)],
    terms: [{ kind: 'slot-life', ramp: 3 }],
    positions: learned(4),
  },
  'slot life, scattered': {
    block: 4,
    groups: [{ slots: 5, distance: { age: scattered(2, 5, 12) }, nearest: 0 }, window(0, 4, 0)],
    terms: [{ kind: 'slot-life', ramp: 4 }],
  },
  'span per head': { block: 4, groups: [window(8, 4, 0, 8)], terms: [{ kind: 'head-span', ramp: 4 }] },
  'span per head, not attending to itself': {
    block: 4,
    groups: [window(8, 4, 1, 8)],
    terms: [{ kind: 'head-span', ramp: 4 }],
    positions: learned(8, 1),
  },
  'one span for all heads': {
    block: 4,
    heads: 3,
    groups: [window(8, 4, 1, 8)],
    terms: [{ kind: 'head-span', ramp: 4 }],
    span: [1],
  },
  'span per head and query': {
    block: 4,
    groups: [window(8, 4, 0, 8)],
    terms: [{ kind: 'head-span', ramp: 4 }],
    span: [2, 2, 4],
  },
  selection: {
    block: 5,
    groups: [window(4, 5, 0)],
    terms: [{ kind: 'selection', head: 0 }],
    positions: learned(9),
  },
  'selection by another head, window and valid': {
    block: 3,
    groups: [
      {
        ...window(3, 3, 0, 3),
        valid: [
          [0, 1, 1, 1, 1, 1],
          [1, 0, 1, 1, 1, 1],
        ],
      },
    ],
    terms: [{ kind: 'selection', head: 1 }],
  },
  'selection among scattered slots': {
    block: 1,
    groups: [
      {
        slots: 6,
        distance: {
          age: [
            [0, 5, 3, 1, 9, 2],
            [4, 2, 0, 1, 8, 3],
          ],
        },
        nearest: 0,
      },
    ],
    terms: [{ kind: 'selection', head: 0 }],
  },
  bias: { block: 4, groups: [window(4, 4, 0)], terms: [{ kind: 'bias' }] },
  'bias, broadcast': { block: 4, groups: [window(4, 4, 0)], terms: [{ kind: 'bias' }], bias: [1, 2, 1, 8] },
  'life, span, selection and bias at once': {
    block: 4,
    groups: [window(8, 4, 0)],
    terms: [
      { kind: 'slot-life', ramp: 6 },
      { kind: 'head-span', ramp: 8 },
      { kind: 'selection', head: 0 },
      { kind: 'bias' },
    ],
    positions: learned(6),
  },
  'life over two groups': {
    block: 4,
    groups: [{ slots: 3, distance: { first: 12, queriesPerStep: 2 }, nearest: 0 }, window(5, 4, 0)],
    terms: [{ kind: 'slot-life', ramp: 5 }],
    positions: learned(14),
  },
  persistent: { block: 4, groups: [window(5, 4, 1, 5)], persistent: 3, positions: learned(5, 1) },
  'persistent beside spans': {
    block: 4,
    groups: [window(5, 4, 1, 5)],
    persistent: 3,
    terms: [{ kind: 'head-span', ramp: 3 }],
    positions: learned(5, 1),
  },
  'persistent beside lives': {
    block: 4,
    groups: [window(5, 4, 0)],
    persistent: 2,
    terms: [{ kind: 'slot-life', ramp: 3 }],
  },
  'persistent alone for the first query': { block: 3, groups: [window(0, 3, 1)], persistent: 2 },
  dropout: {
    block: 4,
    groups: [window(4, 4, 0)],
    terms: [{ kind: 'head-span', ramp: 4 }],
    inputs: { dropout: hostArray([2, 2, 4, 8], (index) => (index % 3 === 0 ? 0 : 1.5)) },
  },
  'one head of one feature, one stream': {
    batch: 1,
    heads: 1,
    size: 1,
    block: 3,
    groups: [window(2, 3, 0)],
    positions: learned(5),
  },
}

/** Everything that attention leaves behind, beside the oracle's. */
async function compare(given: AttentionCase): Promise<void> {
  const expected = attentionOracle(given)
  const before = memory().numTensors
  const result = tidy(() => {
    const { context, mass, selection } = attendPlain(requestOf(given))
    return { context, mass: mass!, ...(selection && { ...selection }) } as Record<string, Tensor>
  })
  expect(memory().numTensors).toBe(before + Object.keys(result).length)
  for (const [name, value] of Object.entries(result))
    expect(largestDifference(await value.data(), expected[name as keyof typeof expected]), name).toBeLessThan(
      1e-5,
    )
  expect('during' in result).toBe(given.terms.some(({ kind }) => kind === 'selection'))
  for (const value of Object.values(result)) value.dispose()
  expect(memory().numTensors).toBe(before)
}

/** Slopes of the oracle, the same for all backends. */
const slopes = new Map<string, Float64Array>()

/** Gradients of a random projection of the context, mass and F, beside central differences of the oracle. */
async function compareGradients(
  title: string,
  given: AttentionCase,
  names: readonly string[],
): Promise<void> {
  const random = new Random(77)
  const { context, mass, after } = attentionOracle(given)
  const factors = {
    context: drawn(random, [context.length]),
    mass: drawn(random, [mass.length]),
    after: drawn(random, [after.length], given.inputs.carried ? 1 : 0),
  }
  const project = (values: Float64Array, factor: Float64Array) =>
    values.reduce((total, value, index) => total + value * factor[index]!, 0)
  const loss = () => {
    const result = attentionOracle(given)
    return (
      project(result.context, factors.context.data) +
      project(result.mass, factors.mass.data) +
      project(result.after, factors.after.data)
    )
  }
  const before = memory().numTensors
  const inputs = names.map((name) => toTensor(given.inputs[name]!))
  const gradients = tidy(() =>
    grads((...variables: Tensor[]) => {
      const tensors = Object.fromEntries(names.map((name, index) => [name, variables[index]!]))
      const result = attendPlain(requestOf(given, tensors))
      const part = (value: Tensor, factor: keyof typeof factors) =>
        sum(mul(reshape(value, [-1]), toTensor(factors[factor])))
      const total = add(part(result.context, 'context'), part(result.mass!, 'mass'))
      return result.selection ? add(total, part(result.selection.after, 'after')) : total
    })(inputs),
  )
  expect(memory().numTensors).toBe(before + 2 * names.length)
  for (const [index, name] of names.entries()) {
    const key = `${title}: ${name}`
    const expected = slopes.get(key) ?? finiteDifferences(loss, given.inputs[name]!)
    slopes.set(key, expected)
    expect(largestDifference(await gradients[index]!.data(), expected), name).toBeLessThan(1e-4)
  }
  for (const value of [...inputs, ...gradients]) value.dispose()
}

const withGradient: Record<string, readonly string[]> = {
  'first > span, learned, window 1..span': ['queries', 'keys', 'values', 'table'],
  'no window, beyond the table clamped': ['queries', 'keys', 'values', 'table'],
  'sinusoidal with u and v': ['queries', 'keys', 'values', 'weight', 'content', 'position'],
  'compressed 1 : 3 beside a window, block of 7': ['queries', 'keys', 'values', 'table'],
  'sinks keep their distance': ['queries', 'table'],
  'scattered, one query, beyond the table clamped': ['queries', 'keys', 'values', 'table'],
  'scattered beside the block, beyond nothing': ['queries', 'keys', 'values', 'table'],
  'slot life': ['queries', 'keys', 'values', 'table', 'life'],
  'span per head, not attending to itself': ['queries', 'keys', 'values', 'table', 'span'],
  'one span for all heads': ['queries', 'span'],
  'span per head and query': ['queries', 'span'],
  selection: ['queries', 'keys', 'values', 'table', 'carried'],
  'bias, broadcast': ['queries', 'bias'],
  'life, span, selection and bias at once': [
    'queries',
    'keys',
    'values',
    'table',
    'life',
    'span',
    'carried',
    'bias',
  ],
  'persistent beside spans': ['queries', 'keys', 'values', 'span', 'persistentKeys', 'persistentValues'],
}

describe.each(['cpu', 'wasm'] as const)('attention on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
    registerGradients()
  })

  test.each(Object.entries(cases))('%s', (_name, options) => compare(attentionCase(options)))

  test.each(Object.entries(withGradient))('gradients: %s', (name, inputs) =>
    compareGradients(name, attentionCase({ ...cases[name]!, size: 2 }), inputs),
  )

  test.each([1, 2, 3, 4, 5, 6])('random geometry %i', async (seed) => {
    const random = new Random(1000 + seed)
    for (let round = 0; round < 6; round++) {
      const block = 1 + random.integer(6)
      const memory = random.integer(8)
      const nearest = memory > 0 ? random.integer(2) : 0
      const span = 1 + random.integer(10)
      const pace = 1 + random.integer(4)
      const compressed = {
        slots: 1 + random.integer(5),
        distance: { first: 6 + random.integer(12), queriesPerStep: pace },
        nearest,
      }
      const positions = [
        learned(1 + random.integer(12), nearest, random.integer(2) === 0 ? 'none' : 'clamp'),
        sinusoidal(3 + random.integer(10), nearest),
      ][random.integer(2)]!
      await compare(
        attentionCase({
          seed: seed * 100 + round,
          batch: 1 + random.integer(2),
          block,
          groups: [
            ...(random.integer(2) === 0 ? [compressed] : []),
            window(memory, block, nearest, random.integer(2) === 0 ? span : undefined),
          ],
          positions,
        }),
      )
    }
  })

  test('what is all forgotten leaves zeros and no NaN, with a finite gradient', async () => {
    for (const nearest of [0, 1]) {
      const given = attentionCase({
        block: 3,
        groups: [window(4, 3, nearest)],
        terms: [{ kind: 'slot-life', ramp: 2 }],
        inputs: { life: hostArray([2, 7], () => -20) },
      })
      await compare(given)
      expect(Math.max(...attentionOracle(given).context)).toBe(0)
      await compareGradients(`all forgotten, nearest ${nearest}`, given, [
        'queries',
        'keys',
        'values',
        'life',
      ])
    }
  })

  test('a query that may attend to nothing else does not look at the future', async () => {
    // The remembered slots have run out; the block's own slots live on, but query 0 may not attend to itself.
    const life = hostArray([1, 5], (slot) => (slot < 2 ? -20 : 20))
    await compare(
      attentionCase({
        batch: 1,
        block: 3,
        groups: [window(2, 3, 1)],
        terms: [{ kind: 'slot-life', ramp: 2 }],
        inputs: { life },
      }),
    )
  })

  test('without any slot that may be attended to, a strength term yields zeros', () =>
    compare(
      attentionCase({
        block: 3,
        groups: [window(0, 3, 1)],
        terms: [{ kind: 'head-span', ramp: 4 }],
        span: [1],
      }),
    ))

  test('what is forgotten takes no precision from the rest', async () => {
    // The forgotten slot's logit is larger than the others' by more than float32's exponent.
    const queries = hostArray([1, 1, 1, 1], () => 1)
    const keys = hostArray([1, 1, 1, 3], (slot) => [200, 1, 2][slot]!)
    const life = hostArray([1, 3], (slot) => [-5, 20, 20][slot]!)
    await compare(
      attentionCase({
        batch: 1,
        heads: 1,
        size: 1,
        block: 1,
        groups: [{ slots: 3, distance: { first: 2 }, nearest: 0 }],
        terms: [{ kind: 'slot-life', ramp: 1 }],
        inputs: { queries, keys, life },
      }),
    )
  })

  test('a head-span of the wrong size is refused', () => {
    const given = attentionCase({
      block: 2,
      heads: 2,
      groups: [window(2, 2, 0)],
      terms: [{ kind: 'head-span', ramp: 1 }],
      span: [3],
    })
    expect(() => scope(() => attendPlain(requestOf(given)))).toThrow('1 or 2 spans, not 3')
  })

  test('nothing is made that is not asked for', () => {
    const given = attentionCase(cases.selection!)
    const before = memory().numTensors
    const result = scope(() => attendPlain({ ...requestOf(given), wants: {} }))
    expect(Object.keys(result)).toEqual(['context'])
    expect(memory().numTensors).toBe(before + 1)
    result.context.dispose()
  })

  test('attention by content alone sees every slot', async () => {
    const given = attentionCase({
      block: 3,
      groups: [{ slots: 5, distance: { first: 100 }, nearest: 0 }],
    })
    const { queries, keys, values } = given.inputs
    const context = tidy(() =>
      attendByContent(toTensor(queries!), toTensor(keys!), toTensor(values!), 1 / Math.sqrt(given.size)),
    )
    expect(largestDifference(await context.data(), attentionOracle(given).context)).toBeLessThan(1e-5)
    context.dispose()
  })

  describe('the seam of fused kernels', () => {
    afterEach(() => setAttentionKernel(backend, null))
    const given = attentionCase(cases.persistent!)

    test('a kernel takes over what it covers, and is taken away', () => {
      tidy(() => {
        const request = requestOf(given)
        const fused = { context: zeros([1]) }
        setAttentionKernel(backend, () => fused)
        expect(attend(request)).toBe(fused)
        setAttentionKernel(backend, null)
        expect(attend(request).context.shape).toEqual([2, 2, 4, 4])
      })
    })

    test('what it refuses goes to the plain operations', async () => {
      setAttentionKernel(backend, () => null)
      const { context } = tidy(() => ({ context: attend(requestOf(given)).context }))
      expect(largestDifference(await context.data(), attentionOracle(given).context)).toBeLessThan(1e-5)
      context.dispose()
    })

    test("another backend's kernel is not asked", () => {
      setAttentionKernel('another', () => {
        throw new Error('asked')
      })
      scope(() => {
        expect(attend(requestOf(given)).context.shape).toEqual([2, 2, 4, 4])
      })
      setAttentionKernel('another', null)
    })
  })
})
