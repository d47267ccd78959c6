/**
 * Attention in plain operations against an oracle: loops over float64 numbers, written from the formula
 *
 *     weight(t, i) ∝ m(t, i) · exp((q_t·k_i + position(t, i)) / √d − b(t, i))
 *
 * and from the docstrings of the groups and terms in method.ts.
 */
import { useBackend } from '@lethe/backends'
import { grads, memory, mul, sum, type Tensor, type Tensor2D, tensor, tidy } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { registerGradients } from '../gradients'
import type { Term } from '../method'
import { Random } from '../random'
import { type AttentionGroup, type AttentionRequest, attendPlain } from './attend'
import { learnedKeys, sinusoidalKeys } from './positions'

const [batch, heads, size] = [2, 2, 4]

/** A tensor's values with their shape, so that the oracle can index them. */
interface Array64 {
  readonly shape: readonly number[]
  readonly data: Float64Array
}

const random = new Random(11)
const make = (shape: readonly number[], scale = 1, shift = 0): Array64 => ({
  shape,
  data: Float64Array.from(
    { length: shape.reduce((a, b) => a * b, 1) },
    () => shift + scale * random.normal(),
  ),
})
const at = ({ shape, data }: Array64, ...index: number[]) =>
  data[index.reduce((offset, i, axis) => offset * shape[axis]! + i, 0)]!
const device = <T extends Tensor = Tensor>({ shape, data }: Array64) =>
  tensor(Float32Array.from(data), shape as number[]) as T

/** What distinguishes one case from another, in plain numbers. */
interface Case {
  readonly block: number
  readonly groups: readonly OracleGroup[]
  readonly positions?: 'learned' | 'sinusoidal'
  /** Distances in the learned table, or the clamp of sinusoids. */
  readonly count?: number
  readonly beyond?: 'none' | 'clamp'
  readonly nearest?: number
  readonly life?: boolean
  readonly span?: 'head' | 'single' | 'query'
  readonly selection?: boolean
  readonly bias?: boolean
  readonly persistent?: number
  /** Multiplies all spans and lives, to forget everything. */
  readonly reach?: number
}

interface OracleGroup {
  readonly slots: number
  /** d(b, i, j) */
  readonly distance: (row: number, query: number, slot: number) => number
  readonly group: (nearest: number) => AttentionGroup
  readonly farthest?: number
  readonly exists?: (row: number, slot: number) => boolean
  readonly noPosition?: boolean
}

const contiguous = (
  slots: number,
  first: number,
  pace = 1,
  farthest = Number.POSITIVE_INFINITY,
  noPosition = false,
): OracleGroup => ({
  slots,
  farthest,
  noPosition,
  distance: (_, query, slot) => first - slot + Math.floor(query / pace),
  group: (nearest) => ({
    slots,
    distance: { kind: 'contiguous', first, queriesPerStep: pace },
    nearest,
    farthest,
  }),
})

const ages = [
  [9, 7, 4, 3, 1],
  [12, 6, 5, 2, 1],
]
const scattered = (farthest = 14, holes = false): OracleGroup => {
  const exists = (row: number, slot: number) => !(holes && (row + slot) % 3 === 0)
  const valid = ages.map((row, index) => row.map((_, slot) => Number(exists(index, slot))))
  return {
    slots: 5,
    farthest,
    exists,
    distance: (row, query, slot) => ages[row]![slot]! + query,
    group: (nearest) => ({
      slots: 5,
      distance: { kind: 'scattered', age: tensor(ages) as Tensor2D },
      nearest,
      farthest,
      ...(holes && { valid: tensor(valid) as Tensor2D }),
    }),
  }
}

/** All numbers of a case, drawn anew. */
function numbersOf(c: Case) {
  const slots = c.groups.reduce((sum, group) => sum + group.slots, 0)
  const reach = c.reach ?? 1
  return {
    slots,
    queries: make([batch, heads, size, c.block]),
    keys: make([batch, heads, size, slots]),
    values: make([batch, heads, size, slots]),
    table: make([c.count ?? 6, size]),
    weight: make([8, heads * size]),
    u: make([heads, size]),
    v: make([heads, size]),
    life: make([batch, slots], 2, 5 * reach),
    headSpan: make(
      c.span === 'single' ? [1] : c.span === 'query' ? [batch, heads, c.block] : [heads],
      1,
      3 * reach,
    ),
    carried: { ...make([batch, slots]), data: make([batch, slots]).data.map(Math.abs) },
    bias: make([batch, heads, c.block, slots]),
    persistentKeys: make([heads, size, c.persistent ?? 1]),
    persistentValues: make([heads, size, c.persistent ?? 1]),
  }
}
type Numbers = ReturnType<typeof numbersOf>
const ramp = 3
/** Slot 1 of every row may not be voted out. */
const exempt = (slot: number) => slot === 1

function requestOf(c: Case, n: Numbers, replace: Readonly<Record<string, Tensor>> = {}): AttentionRequest {
  const get = (name: keyof Numbers) => replace[name] ?? device(n[name] as Array64)
  const nearest = c.nearest ?? 1
  const terms: Term[] = []
  if (c.life) terms.push({ kind: 'slot-life', life: get('life') as Tensor2D, ramp })
  if (c.span) terms.push({ kind: 'head-span', span: get('headSpan'), ramp })
  if (c.bias) terms.push({ kind: 'bias', bias: get('bias') })
  if (c.selection) {
    const free = tensor(
      Array.from({ length: batch }, () => Array.from({ length: n.slots }, (_, slot) => Number(exempt(slot)))),
    )
    terms.push({ kind: 'selection', head: 0, carried: get('carried') as Tensor2D, exempt: free as Tensor2D })
  }
  const positions =
    c.positions === 'learned'
      ? learnedKeys(get('table') as Tensor2D, nearest, c.beyond ?? 'none')
      : c.positions === 'sinusoidal'
        ? sinusoidalKeys(get('weight') as Tensor2D, heads, nearest, c.count ?? Number.POSITIVE_INFINITY)
        : undefined
  return {
    queries: get('queries'),
    keys: get('keys'),
    values: get('values'),
    scale: 1 / Math.sqrt(size),
    groups: c.groups.map(({ group, noPosition }) => ({
      ...group(nearest),
      ...(positions && !noPosition && { positions }),
    })),
    terms,
    wants: { mass: true, selection: true },
    ...(c.positions === 'sinusoidal' && { queryBias: { content: get('u'), position: get('v') } }),
    ...(c.persistent && { persistent: { keys: get('persistentKeys'), values: get('persistentValues') } }),
  }
}

/** The formula, number by number. */
function oracle(c: Case, n: Numbers) {
  const { block } = c
  const nearest = c.nearest ?? 1
  const clamp = (x: number) => Math.min(1, Math.max(0, x))
  const places = c.groups.flatMap((group) =>
    Array.from({ length: group.slots }, (_, slot) => ({ group, slot })),
  )
  const context = new Float64Array(batch * heads * size * block)
  const mass = new Float64Array(batch * n.slots)
  const during = new Float64Array(batch * block * n.slots)
  const after = new Float64Array(batch * n.slots)

  const distanceKey = (h: number, distance: number, f: number) => {
    if (c.positions === 'learned') {
      const row = distance - nearest
      if (row < 0) return 0
      if (row >= n.table.shape[0]! && c.beyond !== 'clamp') return 0
      return at(n.table, Math.min(row, n.table.shape[0]! - 1), f)
    }
    const width = n.weight.shape[0]!
    let sum = 0
    for (let w = 0; w < width; w++) {
      const wave = w % (width / 2)
      const angle = Math.min(distance, c.count ?? Number.POSITIVE_INFINITY) * 10000 ** ((-2 * wave) / width)
      sum += (w < width / 2 ? Math.sin(angle) : Math.cos(angle)) * at(n.weight, w, h * size + f)
    }
    return sum
  }
  for (let b = 0; b < batch; b++) {
    const faded = places.map((_, j) => (c.selection ? at(n.carried, b, j) : 0))
    for (let i = 0; i < block; i++) {
      faded.forEach((value, j) => {
        during[(b * block + i) * n.slots + j] = value
      })
      const votes = new Array(n.slots).fill(0)
      for (let h = 0; h < heads; h++) {
        const terms = places.map(({ group, slot }, j) => {
          const distance = group.distance(b, i, slot)
          const may =
            distance >= nearest &&
            distance <= (group.farthest ?? Number.POSITIVE_INFINITY) &&
            (group.exists?.(b, slot) ?? true)
          let dot = 0
          for (let f = 0; f < size; f++) {
            const q = at(n.queries, b, h, f, i)
            const [u, v] = c.positions === 'sinusoidal' ? [at(n.u, h, f), at(n.v, h, f)] : [0, 0]
            dot += (q + u) * at(n.keys, b, h, f, j)
            if (c.positions && !group.noPosition && may) dot += (q + v) * distanceKey(h, distance, f)
          }
          const logit = dot / Math.sqrt(size)
          if (h === 0 && may && distance > 0 && !exempt(j)) votes[j] = Math.max(0, logit)
          let m = 1
          if (c.life) m *= clamp((at(n.life, b, j) - distance) / ramp + 1)
          if (c.span) {
            const span =
              c.span === 'query' ? at(n.headSpan, b, h, i) : at(n.headSpan, c.span === 'single' ? 0 : h)
            m *= clamp((span - distance + nearest) / ramp + 1)
          }
          const bias = (c.bias ? at(n.bias, b, h, i, j) : 0) - (c.selection ? faded[j]! : 0)
          return may ? m * Math.exp(logit + bias) : 0
        })
        const persistent = Array.from({ length: c.persistent ?? 0 }, (_, s) => {
          let dot = 0
          for (let f = 0; f < size; f++) dot += at(n.queries, b, h, f, i) * at(n.persistentKeys, h, f, s)
          return Math.exp(dot / Math.sqrt(size))
        })
        const total = [...terms, ...persistent].reduce((sum, term) => sum + term, 0)
        if (total === 0) continue
        for (let f = 0; f < size; f++) {
          let sum = 0
          terms.forEach((term, j) => {
            sum += (term / total) * at(n.values, b, h, f, j)
          })
          persistent.forEach((term, s) => {
            sum += (term / total) * at(n.persistentValues, h, f, s)
          })
          context[((b * heads + h) * size + f) * block + i] = sum
        }
        terms.forEach((term, j) => {
          mass[b * n.slots + j]! += term / total / heads
        })
      }
      if (c.selection)
        votes.forEach((vote, j) => {
          faded[j]! += vote
        })
    }
    faded.forEach((value, j) => {
      after[b * n.slots + j] = value
    })
  }
  return { context, mass, during, after }
}

const largest = (found: ArrayLike<number>, expected: Float64Array) => {
  expect(found.length).toBe(expected.length)
  let error = 0
  for (let i = 0; i < expected.length; i++) error = Math.max(error, Math.abs(found[i]! - expected[i]!))
  return Number.isNaN(error) ? Number.POSITIVE_INFINITY : error
}

const window = (span: number, block: number) => contiguous(span + block, span, 1, span)
const cases: Record<string, Case> = {
  'memory and block, span 1..5': { block: 4, groups: [window(5, 4)], positions: 'learned', count: 5 },
  'attending to oneself': { block: 4, nearest: 0, groups: [window(5, 4)], positions: 'learned', count: 6 },
  'no memory yet': { block: 4, nearest: 0, groups: [contiguous(4, 0)], positions: 'learned', count: 3 },
  'a memory shorter than the table': {
    block: 3,
    groups: [contiguous(5, 2, 1, 9)],
    nearest: 0,
    positions: 'learned',
    count: 9,
  },
  'a memory longer than the table': { block: 3, groups: [contiguous(9, 6)], positions: 'learned', count: 4 },
  'the same, clamped': {
    block: 3,
    groups: [contiguous(9, 6)],
    positions: 'learned',
    count: 4,
    beyond: 'clamp',
  },
  'one query': { block: 1, nearest: 0, groups: [window(5, 1)], positions: 'learned', count: 6 },
  'memory and block apart': {
    block: 4,
    nearest: 0,
    groups: [contiguous(3, 3), contiguous(4, 0)],
    positions: 'learned',
    count: 5,
  },
  'no positions': { block: 4, nearest: 0, groups: [window(5, 4)] },
  sinusoids: { block: 4, nearest: 0, groups: [contiguous(9, 5)], positions: 'sinusoidal' },
  'sinusoids, clamped': {
    block: 4,
    nearest: 0,
    groups: [contiguous(9, 5)],
    positions: 'sinusoidal',
    count: 4,
  },
  'compressed 2 : 1': {
    block: 4,
    groups: [contiguous(5, 11, 2, 11), window(4, 4)],
    positions: 'learned',
    count: 11,
  },
  'compressed 3 : 1, not divisible': {
    block: 4,
    groups: [contiguous(5, 11, 3, 11), window(4, 4)],
    positions: 'learned',
    count: 11,
  },
  sinks: {
    block: 4,
    groups: [contiguous(2, 7, Number.POSITIVE_INFINITY), window(5, 4)],
    positions: 'learned',
    count: 7,
  },
  'old slots without a position': {
    block: 4,
    groups: [contiguous(3, 7, 1, 99, true), window(4, 4)],
    positions: 'learned',
    count: 4,
  },
  scattered: {
    block: 3,
    nearest: 0,
    groups: [scattered(), contiguous(3, 0)],
    positions: 'learned',
    count: 8,
  },
  'scattered, clamped': {
    block: 3,
    nearest: 0,
    groups: [scattered(), contiguous(3, 0)],
    positions: 'learned',
    count: 8,
    beyond: 'clamp',
  },
  'scattered, far window': {
    block: 3,
    nearest: 0,
    groups: [scattered(7), contiguous(3, 0)],
    positions: 'learned',
    count: 15,
  },
  'scattered with holes, one query': {
    block: 1,
    groups: [scattered(14, true)],
    positions: 'learned',
    count: 8,
    persistent: 2,
  },
  'scattered, sinusoids': {
    block: 3,
    nearest: 0,
    groups: [scattered(9), contiguous(3, 0)],
    positions: 'sinusoidal',
    count: 9,
  },
  'slot lives': { block: 4, groups: [window(5, 4)], positions: 'learned', count: 4, life: true },
  'slot lives, scattered': {
    block: 3,
    nearest: 0,
    groups: [scattered(14, true), contiguous(3, 0)],
    life: true,
  },
  'spans of heads': { block: 4, groups: [window(6, 4)], positions: 'learned', count: 6, span: 'head' },
  'one span, to oneself': { block: 4, nearest: 0, groups: [window(6, 4)], span: 'single' },
  'spans of queries': { block: 4, groups: [window(6, 4)], positions: 'learned', count: 6, span: 'query' },
  selection: {
    block: 5,
    nearest: 0,
    groups: [scattered(14), contiguous(5, 0)],
    positions: 'learned',
    count: 12,
    selection: true,
  },
  'selection with holes': {
    block: 5,
    nearest: 0,
    groups: [scattered(14, true), contiguous(5, 0)],
    selection: true,
  },
  bias: { block: 4, nearest: 0, groups: [window(5, 4)], bias: true },
  'persistent slots': { block: 4, groups: [window(5, 4)], positions: 'learned', count: 5, persistent: 3 },
  'persistent slots and spans': {
    block: 4,
    groups: [window(5, 4)],
    positions: 'learned',
    count: 5,
    persistent: 3,
    span: 'head',
  },
  'everything at once': {
    ...{
      block: 3,
      nearest: 0,
      groups: [scattered(14, true), contiguous(3, 0)],
      positions: 'learned',
      count: 8,
    },
    ...{ life: true, span: 'head', selection: true, bias: true, persistent: 2 },
  },
  'all forgotten': { block: 4, groups: [window(5, 4)], life: true, reach: -20 },
}

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
    registerGradients()
  })

  test.each(Object.entries(cases))('%s', async (_, c) => {
    const n = numbersOf(c)
    const expected = oracle(c, n)
    const before = memory().numTensors
    const result = tidy(() => {
      const { context, mass, selection } = attendPlain(requestOf(c, n))
      return { context, mass: mass!, ...(selection && { during: selection.during, after: selection.after }) }
    })
    expect(largest(await result.context.data(), expected.context)).toBeLessThan(1e-5)
    expect(largest(await result.mass.data(), expected.mass)).toBeLessThan(1e-5)
    if (c.selection) {
      expect(largest(await result.during!.data(), expected.during)).toBeLessThan(2e-5)
      expect(largest(await result.after!.data(), expected.after)).toBeLessThan(2e-5)
    } else expect(result.during).toBeUndefined()
    for (const value of Object.values(result)) value.dispose()
    expect(memory().numTensors).toBe(before)
  })

  const learnt: Record<string, readonly (keyof Numbers)[]> = {
    'memory and block, span 1..5': ['queries', 'keys', 'values', 'table'],
    'sinusoids, clamped': ['queries', 'keys', 'weight', 'u', 'v'],
    'compressed 3 : 1, not divisible': ['queries', 'keys', 'table'],
    scattered: ['queries', 'keys', 'table'],
    'slot lives': ['queries', 'keys', 'values', 'life'],
    'spans of heads': ['queries', 'headSpan'],
    'spans of queries': ['headSpan', 'table'],
    selection: ['queries', 'keys', 'table'],
    'persistent slots and spans': ['queries', 'headSpan', 'persistentKeys', 'persistentValues'],
    'everything at once': ['queries', 'keys', 'values', 'life', 'headSpan', 'bias', 'carried'],
  }
  test.each(Object.entries(learnt))('gradients: %s', async (name, names) => {
    const c = cases[name]!
    const n = numbersOf(c)
    // A fixed weighting of the context makes a scalar of it.
    const weighting = make([batch, heads, size, c.block])
    const scalarOf = (numbers: Numbers) =>
      oracle(c, numbers).context.reduce((sum, value, index) => sum + value * weighting.data[index]!, 0)
    const before = memory().numTensors
    const inputs = names.map((key) => device(n[key] as Array64))
    const weights = device(weighting)
    const found = tidy(() =>
      grads((...tensors: Tensor[]) => {
        const replace = Object.fromEntries(names.map((key, index) => [key, tensors[index]!]))
        return sum(mul(attendPlain(requestOf(c, n, replace)).context, weights))
      })(inputs),
    )
    for (const [index, key] of names.entries()) {
      const values = n[key] as Array64
      const gradient = await found[index]!.data()
      const slopes = values.data.map((value, place) => {
        const slope = (step: number) => {
          const moved = values.data.slice()
          moved[place] = value + step
          return scalarOf({ ...n, [key]: { ...values, data: moved } })
        }
        return (slope(1e-5) - slope(-1e-5)) / 2e-5
      })
      expect(largest(gradient, slopes), key).toBeLessThan(2e-4)
    }
    for (const value of [...found, ...inputs, weights]) value.dispose()
    expect(memory().numTensors).toBe(before)
  })
})
