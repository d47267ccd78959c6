/**
 * The oracle of the attention tests: the formula of docs/interface.md as plain loops in float64,
 *
 *     weight(t, i) ∝ m(t, i) · exp((q_t·k_i + position(t, i)) / √d − b(t, i))
 *
 * and the same request as tensors, so that both see the same numbers. Slow and short on purpose.
 */
import { type Tensor, type Tensor2D, tensor } from '@tensorflow/tfjs-core'
import { distanceRows, learnedKeys, sinusoidalKeys } from '../attention/positions'
import type { AttentionGroup, AttentionRequest } from '../attention/request'
import type { Term } from '../method'
import { Random } from '../random'

/** Row-major float64 values; drawn as float32, so that the device sees the same numbers. */
export interface HostArray {
  readonly shape: readonly number[]
  readonly data: Float64Array
}

const sizeOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)

/** Values that float32 holds exactly. */
export const hostArray = (shape: readonly number[], value: (index: number) => number): HostArray => ({
  shape,
  data: Float64Array.from({ length: sizeOf(shape) }, (_, index) => Math.fround(value(index))),
})

export const toTensor = ({ shape, data }: HostArray, dtype: 'float32' | 'int32' = 'float32'): Tensor =>
  tensor(dtype === 'int32' ? Int32Array.from(data) : Float32Array.from(data), shape as number[], dtype)

/** Normal draws from a seed. */
export const drawn = (random: Random, shape: readonly number[], deviation = 1): HostArray =>
  hostArray(shape, () => deviation * random.normal())

/** Largest |actual - expected| / max(1, |expected|). Infinity for other lengths, and NaN counts as it. */
export function largestDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY
  let largest = 0
  for (let index = 0; index < actual.length; index++) {
    const difference = Math.abs(actual[index]! - expected[index]!) / Math.max(1, Math.abs(expected[index]!))
    if (Number.isNaN(difference)) return Number.POSITIVE_INFINITY
    largest = Math.max(largest, difference)
  }
  return largest
}

/** Central differences of `loss` along every number of `array`, which is put back afterwards. */
export function finiteDifferences(loss: () => number, { data }: HostArray, step = 1e-5): Float64Array {
  return data.map((value, index) => {
    const at = (moved: number) => {
      data[index] = moved
      return loss()
    }
    const slope = (at(value + step) - at(value - step)) / (2 * step)
    data[index] = value
    return slope
  })
}

export interface OracleGroup {
  readonly slots: number
  readonly distance:
    | { readonly first: number; readonly queriesPerStep?: number }
    | { readonly age: readonly (readonly number[])[] }
  readonly nearest: number
  readonly farthest?: number
  readonly valid?: readonly (readonly number[])[]
  /** False: no positional term even where the case has one. */
  readonly positions?: boolean
}

/** Terms by the names of their inputs. */
export type OracleTerm =
  | { readonly kind: 'slot-life'; readonly ramp: number }
  | { readonly kind: 'head-span'; readonly ramp: number }
  | { readonly kind: 'selection'; readonly head: number }
  | { readonly kind: 'bias' }

/** An attention request in host numbers. `inputs` holds whatever the terms and positions need, by name: `queries`,
 *  `keys`, `values`, `table`, `weight`, `content`, `position`, `life`, `span`, `carried`, `exempt`, `bias`,
 *  `persistentKeys`, `persistentValues`, `dropout`. */
export interface AttentionCase {
  readonly batch: number
  readonly heads: number
  readonly size: number
  readonly block: number
  readonly groups: readonly OracleGroup[]
  readonly terms: readonly OracleTerm[]
  readonly positions?:
    | { readonly kind: 'learned'; readonly nearest: number; readonly beyond: 'none' | 'clamp' }
    | { readonly kind: 'sinusoidal'; readonly nearest: number; readonly clamp: number }
  readonly inputs: Readonly<Record<string, HostArray>>
}

export interface CaseOptions {
  readonly seed?: number
  readonly batch?: number
  readonly heads?: number
  readonly size?: number
  readonly block: number
  readonly groups: readonly OracleGroup[]
  readonly terms?: readonly OracleTerm[]
  /** Learned: how many distances the table holds. */
  readonly positions?:
    | {
        readonly kind: 'learned'
        readonly count: number
        readonly nearest: number
        readonly beyond: 'none' | 'clamp'
      }
    | { readonly kind: 'sinusoidal'; readonly nearest: number; readonly clamp: number }
  readonly persistent?: number
  /** Shape of `span`; default [heads]. */
  readonly span?: readonly number[]
  /** Shape of `bias`; default [batch, heads, block, slots]. */
  readonly bias?: readonly number[]
  /** Replaces drawn inputs. */
  readonly inputs?: Readonly<Record<string, HostArray>>
}

/** Draws everything that the options ask for. Lives and spans are uniform in the distances that occur. */
export function attentionCase(options: CaseOptions): AttentionCase {
  const { seed = 1, batch = 2, heads = 2, size = 4, block, groups, terms = [], positions } = options
  const random = new Random(seed)
  const slots = groups.reduce((sum, group) => sum + group.slots, 0)
  const inputs: Record<string, HostArray> = {
    queries: drawn(random, [batch, heads, size, block]),
    keys: drawn(random, [batch, heads, size, slots]),
    values: drawn(random, [batch, heads, size, slots]),
  }
  if (positions?.kind === 'learned') inputs.table = drawn(random, [positions.count, size])
  if (positions?.kind === 'sinusoidal') {
    inputs.weight = drawn(random, [6, heads * size], 0.5)
    inputs.content = drawn(random, [heads, size])
    inputs.position = drawn(random, [heads, size])
  }
  for (const { kind } of terms) {
    if (kind === 'slot-life')
      inputs.life = hostArray([batch, slots], () => random.uniform() * (slots + block))
    if (kind === 'head-span') inputs.span = hostArray(options.span ?? [heads], () => random.uniform() * slots)
    if (kind === 'selection') {
      inputs.carried = hostArray([batch, slots], () => random.uniform())
      inputs.exempt = hostArray([batch, slots], () => random.integer(2))
    }
    if (kind === 'bias') inputs.bias = drawn(random, options.bias ?? [batch, heads, block, slots])
  }
  if (options.persistent) {
    inputs.persistentKeys = drawn(random, [heads, size, options.persistent])
    inputs.persistentValues = drawn(random, [heads, size, options.persistent])
  }
  return {
    batch,
    heads,
    size,
    block,
    groups,
    terms,
    ...(positions && { positions }),
    inputs: { ...inputs, ...options.inputs },
  }
}

/** The case as tensors; those given by name stand in for their inputs (variables of a gradient). */
export function requestOf(
  given: AttentionCase,
  tensors: Readonly<Record<string, Tensor>> = {},
): AttentionRequest {
  const { inputs, positions, size, heads } = given
  const get = (name: string) => tensors[name] ?? toTensor(inputs[name]!)
  const keysOf = () =>
    positions?.kind === 'learned'
      ? learnedKeys(get('table') as Tensor2D, positions.nearest, positions.beyond)
      : sinusoidalKeys(get('weight') as Tensor2D, heads, positions!.nearest, positions!.clamp)
  const terms = given.terms.map((term): Term => {
    if (term.kind === 'slot-life') return { ...term, life: get('life') as Tensor2D }
    if (term.kind === 'head-span') return { ...term, span: get('span') }
    if (term.kind === 'bias') return { ...term, bias: get('bias') }
    return { ...term, carried: get('carried') as Tensor2D, exempt: get('exempt') as Tensor2D }
  })
  return {
    queries: get('queries'),
    keys: get('keys'),
    values: get('values'),
    scale: 1 / Math.sqrt(size),
    groups: given.groups.map(
      ({ slots, distance, nearest, farthest = Number.POSITIVE_INFINITY, ...group }) => {
        const placed: AttentionGroup = {
          slots,
          nearest,
          farthest,
          distance:
            'age' in distance
              ? {
                  kind: 'scattered',
                  age: tensor(distance.age as number[][], [distance.age.length, slots], 'int32') as Tensor2D,
                }
              : { kind: 'contiguous', ...distance },
          ...(group.valid && {
            valid: tensor(group.valid as number[][], [group.valid.length, slots]) as Tensor2D,
          }),
        }
        const rows =
          positions && group.positions !== false ? distanceRows(keysOf(), placed, given.block) : null
        return rows ? { ...placed, positions: rows } : placed
      },
    ),
    terms,
    ...(inputs.content && { queryBias: { content: get('content'), position: get('position') } }),
    ...(inputs.persistentKeys && {
      persistent: { keys: get('persistentKeys'), values: get('persistentValues') },
    }),
    ...(inputs.dropout && { dropout: get('dropout') }),
    wants: { mass: true, selection: true },
  }
}

export interface OracleResult {
  /** [batch, heads, size, block] */
  readonly context: Float64Array
  /** [batch, slots] */
  readonly mass: Float64Array
  /** [batch, block, slots] and [batch, slots]; zeros without a selection term. */
  readonly during: Float64Array
  readonly after: Float64Array
}

const clamp01 = (value: number) => Math.min(1, Math.max(0, value))

/** The formula. */
export function attentionOracle(given: AttentionCase): OracleResult {
  const { batch, heads, size, block, inputs, terms } = given
  const places = given.groups.flatMap((group) =>
    Array.from({ length: group.slots }, (_, slot) => ({ group, slot })),
  )
  const slots = places.length
  const persistent = inputs.persistentKeys?.shape[2] ?? 0
  const at = (name: string, ...index: number[]) => {
    const { shape, data } = inputs[name]!
    return data[index.reduce((offset, place, axis) => offset * shape[axis]! + place, 0)]!
  }
  const column = (name: string, ...index: [number, number, number]) =>
    Array.from({ length: size }, (_, f) => at(name, index[0], index[1], f, index[2]))
  const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, x, f) => sum + x * b[f]!, 0)
  const distanceOf = (b: number, i: number, j: number) => {
    const { distance } = places[j]!.group
    const { slot } = places[j]!
    return 'age' in distance
      ? distance.age[b]![slot]! + i
      : distance.first - slot + Math.floor(i / (distance.queriesPerStep ?? 1))
  }
  const mayAttend = (b: number, i: number, j: number) => {
    const { group, slot } = places[j]!
    const distance = distanceOf(b, i, j)
    if (distance < group.nearest || distance > (group.farthest ?? Number.POSITIVE_INFINITY)) return false
    return group.valid === undefined || group.valid[b]![slot] === 1
  }
  const positionKey = (h: number, j: number, distance: number): number[] | undefined => {
    const { positions } = given
    if (!positions || places[j]!.group.positions === false) return undefined
    if (positions.kind === 'learned') {
      const count = inputs.table!.shape[0]!
      let row = distance - positions.nearest
      if (row >= count && positions.beyond === 'none') return undefined
      row = Math.min(row, count - 1)
      return Array.from({ length: size }, (_, f) => at('table', row, f))
    }
    const width = inputs.weight!.shape[0]!
    const d = Math.min(distance, positions.clamp)
    return Array.from({ length: size }, (_, f) => {
      let sum = 0
      for (let n = 0; n < width / 2; n++) {
        const angle = d * 10000 ** ((-2 * n) / width)
        sum += Math.sin(angle) * at('weight', n, h * size + f)
        sum += Math.cos(angle) * at('weight', width / 2 + n, h * size + f)
      }
      return sum
    })
  }
  const known = new Float64Array(batch * heads * block * slots).fill(Number.NaN)
  const logit = (b: number, h: number, i: number, j: number) => {
    const index = ((b * heads + h) * block + i) * slots + j
    if (Number.isNaN(known[index]!)) known[index] = freshLogit(b, h, i, j)
    return known[index]!
  }
  const freshLogit = (b: number, h: number, i: number, j: number) => {
    const query = column('queries', b, h, i)
    const shifted = (bias: string) => query.map((x, f) => x + (inputs[bias] ? at(bias, h, f) : 0))
    const key = positionKey(h, j, distanceOf(b, i, j))
    const content = dot(shifted('content'), column('keys', b, h, j))
    return (content + (key ? dot(shifted('position'), key) : 0)) / Math.sqrt(size)
  }

  // F: what strictly earlier queries voted away. Votes only where the head may attend, not on oneself.
  const selection = terms.find((term) => term.kind === 'selection')
  const during = new Float64Array(batch * block * slots)
  const after = new Float64Array(batch * slots)
  if (selection)
    for (let b = 0; b < batch; b++)
      for (let j = 0; j < slots; j++) {
        let total = at('carried', b, j)
        for (let i = 0; i < block; i++) {
          during[(b * block + i) * slots + j] = total
          const counts = mayAttend(b, i, j) && distanceOf(b, i, j) > 0 && at('exempt', b, j) === 0
          if (counts) total += Math.max(0, logit(b, selection.head, i, j))
        }
        after[b * slots + j] = total
      }

  const strength = (b: number, h: number, i: number, j: number) => {
    let m = 1
    for (const term of terms) {
      if (term.kind === 'slot-life') m *= clamp01((at('life', b, j) - distanceOf(b, i, j)) / term.ramp + 1)
      if (term.kind === 'head-span') {
        const { shape } = inputs.span!
        const span =
          shape.length === 3 ? at('span', b, shape[1] === 1 ? 0 : h, i) : at('span', shape[0] === 1 ? 0 : h)
        m *= clamp01((span - distanceOf(b, i, j) + given.groups[0]!.nearest) / term.ramp + 1)
      }
    }
    return m
  }
  const minus = (b: number, h: number, i: number, j: number) => {
    let sum = selection ? during[(b * block + i) * slots + j]! : 0
    if (inputs.bias) {
      const { shape } = inputs.bias
      const index = [b, h, i, j].map((place, axis) => (shape[axis] === 1 ? 0 : place))
      sum -= at('bias', ...index)
    }
    return sum
  }

  const context = new Float64Array(batch * heads * size * block)
  const mass = new Float64Array(batch * slots)
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < block; i++) {
        const weights = places.map((_, j) =>
          mayAttend(b, i, j) ? strength(b, h, i, j) * Math.exp(logit(b, h, i, j) - minus(b, h, i, j)) : 0,
        )
        const query = column('queries', b, h, i)
        const always = Array.from({ length: persistent }, (_, s) =>
          Math.exp(query.reduce((sum, x, f) => sum + x * at('persistentKeys', h, f, s), 0) / Math.sqrt(size)),
        )
        const total = [...weights, ...always].reduce((sum, weight) => sum + weight, 0)
        if (total === 0) continue
        weights.forEach((weight, j) => {
          mass[b * slots + j]! += weight / total / heads
          const kept = inputs.dropout ? at('dropout', b, h, i, j) : 1
          for (let f = 0; f < size; f++)
            context[((b * heads + h) * size + f) * block + i]! +=
              ((kept * weight) / total) * at('values', b, h, f, j)
        })
        always.forEach((weight, s) => {
          for (let f = 0; f < size; f++)
            context[((b * heads + h) * size + f) * block + i]! +=
              (weight / total) * at('persistentValues', h, f, s)
        })
      }
  return { context, mass, during, after }
}
