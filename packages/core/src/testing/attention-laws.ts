/**
 * The laws of attention: every geometry of slots, every combination of terms, random ones and the corners, beside the
 * float64 oracle of oracle.ts, with the gradients of all of it. For whoever computes attention: the plain operations,
 * a backend's fused kernel.
 */
import { add, grads, memory, mul, reshape, sum, type Tensor, tidy } from '@tensorflow/tfjs-core'
import type { AttentionRequest, AttentionResult } from '../attention/request'
import { Random } from '../random'
import type { Law } from './conformance'
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
} from './oracle'

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

export const attentionCases: Record<string, CaseOptions> = {
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
  'one span for all heads, per query': {
    block: 4,
    groups: [window(8, 4, 0, 8)],
    terms: [{ kind: 'head-span', ramp: 4 }],
    span: [2, 1, 4],
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

const casesWithGradient: Record<string, readonly string[]> = {
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
  'one span for all heads, per query': ['queries', 'span'],
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

export interface AttentionLawOptions {
  /** What computes it: a fused kernel is asked through `attend`. */
  readonly compute: (request: AttentionRequest) => AttentionResult
  /** Largest difference from the oracle that counts as equal: of values, of gradients. Default 1e-5 and 1e-4. */
  readonly tolerance?: { readonly values?: number; readonly gradients?: number }
}

/** Laws to run in any test runner, on the current backend; each throws with what it found. */
export function attentionLaws(options: AttentionLawOptions): Law[] {
  return [
    ...Object.entries(attentionCases).map(
      ([name, given]): Law => ({
        name,
        check: () => compareAttention(attentionCase(given), options),
      }),
    ),
    ...Object.entries(casesWithGradient).map(
      ([name, inputs]): Law => ({
        name: `gradients: ${name}`,
        check: () =>
          compareGradients(name, attentionCase({ ...attentionCases[name]!, size: 2 }), inputs, options),
      }),
    ),
    ...Object.entries(largeCases()).map(
      ([name, given]): Law => ({
        name: `large: ${name}`,
        check: () => compareAttention(given, options),
      }),
    ),
    ...[1, 2, 3, 4, 5, 6].map(
      (seed): Law => ({
        name: `random geometry ${seed}`,
        check: async () => {
          for (const given of randomGeometries(seed)) await compareAttention(given, options)
        },
      }),
    ),
    ...corners(options),
  ]
}

/** Everything that attention leaves behind, beside the oracle's. */
export async function compareAttention(
  given: AttentionCase,
  { compute, tolerance }: AttentionLawOptions,
): Promise<void> {
  const expected = attentionOracle(given)
  const before = memory().numTensors
  const result = tidy(() => {
    const { context, mass, selection } = compute(requestOf(given))
    return { context, mass: mass!, ...(selection && { ...selection }) } as Record<string, Tensor>
  })
  checkTensors(before + Object.keys(result).length)
  const selects = given.terms.some(({ kind }) => kind === 'selection')
  const names = selects ? ['context', 'mass', 'during', 'after'] : ['context', 'mass']
  if (Object.keys(result).join() !== names.join())
    throw new Error(`attention left ${Object.keys(result)} behind, not ${names}`)
  for (const [name, value] of Object.entries(result))
    await checkNear(name, value, expected[name as keyof typeof expected], tolerance?.values ?? 1e-5)
  checkTensors(before)
}

/** Checks a tensor's values and disposes of it. */
async function checkNear(
  name: string,
  value: Tensor,
  expected: Float64Array,
  tolerance: number,
): Promise<void> {
  const difference = largestDifference(await value.data(), expected)
  value.dispose()
  if (!(difference <= tolerance)) throw new Error(`${name} differs from the oracle by ${difference}`)
}

function checkTensors(expected: number): void {
  const { numTensors } = memory()
  if (numTensors !== expected) throw new Error(`${numTensors - expected} tensors were left behind`)
}

/** Slopes of the oracle, the same for all backends. */
const slopes = new Map<string, Float64Array>()

/** Gradients of a random projection of the context and F, beside central differences of the oracle. */
export async function compareGradients(
  title: string,
  given: AttentionCase,
  names: readonly string[],
  { compute, tolerance }: AttentionLawOptions,
): Promise<void> {
  const random = new Random(77)
  const { context, during, after } = attentionOracle(given)
  const voted = given.inputs.carried ? 1 : 0
  const factors = {
    context: drawn(random, [context.length]),
    during: drawn(random, [during.length], voted),
    after: drawn(random, [after.length], voted),
  }
  const project = (values: Float64Array, factor: Float64Array) =>
    values.reduce((total, value, index) => total + value * factor[index]!, 0)
  const loss = () => {
    const result = attentionOracle(given)
    return (
      project(result.context, factors.context.data) +
      project(result.during, factors.during.data) +
      project(result.after, factors.after.data)
    )
  }
  const before = memory().numTensors
  const inputs = names.map((name) => toTensor(given.inputs[name]!))
  const gradients = tidy(() =>
    grads((...variables: Tensor[]) => {
      const tensors = Object.fromEntries(names.map((name, index) => [name, variables[index]!]))
      const result = compute(requestOf(given, tensors))
      const part = (value: Tensor, factor: keyof typeof factors) =>
        sum(mul(reshape(value, [-1]), toTensor(factors[factor])))
      // What was attended to is a constant: it moves no gradient.
      const total = add(part(result.context, 'context'), sum(result.mass!))
      if (!result.selection) return total
      return add(total, add(part(result.selection.during, 'during'), part(result.selection.after, 'after')))
    })(inputs),
  )
  checkTensors(before + 2 * names.length)
  for (const [index, name] of names.entries()) {
    const key = `${title}: ${name}`
    const expected = slopes.get(key) ?? finiteDifferences(loss, given.inputs[name]!)
    slopes.set(key, expected)
    await checkNear(`the gradient of ${name}`, gradients[index]!, expected, tolerance?.gradients ?? 1e-4)
  }
  for (const value of inputs) value.dispose()
}

/** Small windows with a compressed group or without, positions of either kind. */
function randomGeometries(seed: number): AttentionCase[] {
  const random = new Random(1000 + seed)
  return Array.from({ length: 6 }, (_, round) => {
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
    return attentionCase({
      seed: seed * 100 + round,
      batch: 1 + random.integer(2),
      block,
      groups: [
        ...(random.integer(2) === 0 ? [compressed] : []),
        window(memory, block, nearest, random.integer(2) === 0 ? span : undefined),
      ],
      positions,
    })
  })
}

/** Sizes beyond the tiles of a blocked kernel, none a multiple of them. */
function largeCases(): Record<string, AttentionCase> {
  const survivors = (seed: number): OracleGroup => ({
    slots: 45,
    distance: { age: scattered(2, 45, seed) },
    nearest: 0,
  })
  const block = 37
  const size = 18
  return Object.fromEntries(
    Object.entries<CaseOptions>({
      'a window, learned': { block, size, groups: [window(70, block, 1, 70)], positions: learned(70, 1) },
      'a span per head': {
        block,
        size,
        groups: [window(70, block, 1, 70)],
        positions: learned(70, 1),
        terms: [{ kind: 'head-span', ramp: 9 }],
      },
      'survivors with a life beside the block': {
        block,
        size,
        groups: [survivors(4), { slots: block, distance: { first: 0 }, nearest: 0 }],
        positions: learned(150),
        terms: [{ kind: 'slot-life', ramp: 9 }],
      },
      'selection over survivors beside the block': {
        block,
        size,
        groups: [survivors(5), { slots: block, distance: { first: 0 }, nearest: 0 }],
        terms: [{ kind: 'selection', head: 1 }],
      },
      'sinusoidal, persistent, three heads': {
        block,
        size,
        heads: 3,
        groups: [window(33, block, 0)],
        positions: sinusoidal(50),
        persistent: 11,
      },
      'one query, many slots': { block: 1, size, groups: [window(301, 1, 0)], positions: learned(302) },
    }).map(([name, given]) => [name, attentionCase(given)]),
  )
}

/** What must hold where next to nothing may be attended to. */
function corners(options: AttentionLawOptions): Law[] {
  const law = (name: string, ...cases: CaseOptions[]): Law => ({
    name,
    check: async () => {
      for (const given of cases) await compareAttention(attentionCase(given), options)
    },
  })
  const allForgotten = [0, 1].map((nearest) => ({
    block: 3,
    groups: [window(4, 3, nearest)],
    terms: [{ kind: 'slot-life', ramp: 2 }] as const,
    inputs: { life: hostArray([2, 7], () => -20) },
  }))
  return [
    law('what is all forgotten leaves zeros and no NaN', ...allForgotten),
    {
      name: 'what is all forgotten has a finite gradient',
      check: async () => {
        for (const [nearest, given] of allForgotten.entries())
          await compareGradients(
            `all forgotten, nearest ${nearest}`,
            attentionCase(given),
            ['queries', 'keys', 'values', 'life'],
            options,
          )
      },
    },
    // The remembered slots have run out; the block's own slots live on, but query 0 may not attend to itself.
    law('a query that may attend to nothing else does not look at the future', {
      batch: 1,
      block: 3,
      groups: [window(2, 3, 1)],
      terms: [{ kind: 'slot-life', ramp: 2 }],
      inputs: { life: hostArray([1, 5], (slot) => (slot < 2 ? -20 : 20)) },
    }),
    law(
      'without any slot that may be attended to, there are zeros',
      { block: 3, groups: [window(0, 3, 1)], terms: [{ kind: 'head-span', ramp: 4 }], span: [1] },
      { block: 3, groups: [window(0, 3, 1)] },
      {
        block: 2,
        groups: [
          {
            ...window(2, 2, 1),
            valid: [
              [0, 0, 1, 1],
              [1, 1, 1, 1],
            ],
          },
        ],
        positions: learned(4, 1),
      },
    ),
    // The forgotten slot's logit is larger than the others' by more than float32's exponent.
    law('what is forgotten takes no precision from the rest', {
      batch: 1,
      heads: 1,
      size: 1,
      block: 1,
      groups: [{ slots: 3, distance: { first: 2 }, nearest: 0 }],
      terms: [{ kind: 'slot-life', ramp: 1 }],
      inputs: {
        queries: hostArray([1, 1, 1, 1], () => 1),
        keys: hostArray([1, 1, 1, 3], (slot) => [200, 1, 2][slot]!),
        life: hostArray([1, 3], (slot) => [-5, 20, 20][slot]!),
      },
    }),
  ]
}
