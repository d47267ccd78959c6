/**
 * Relative positions: what the distance between a query and a slot adds to their logit. A choice of core, independent
 * of the method.
 */
import {
  add,
  cast,
  concat,
  cos,
  fill,
  gather,
  greaterEqual,
  less,
  logicalAnd,
  minimum,
  mul,
  pad,
  matMul as product,
  reshape,
  sin,
  slice,
  sub,
  sum,
  type Tensor,
  type Tensor1D,
  type Tensor2D,
  tensor,
  tensor1d,
  transpose,
  where,
} from '@tensorflow/tfjs-core'
import { ConfigError } from '../errors'
import { differentiable } from '../ops/differentiable'
import { fused } from '../ops/fused'
import { indicator } from '../ops/indicator'
import { matMul } from '../ops/matmul'
import { scope } from '../ops/scope'
import {
  distanceRange,
  type GroupGeometry,
  padColumns,
  type SkewLayout,
  skew,
  skewLayout,
  unskew,
} from './distance'
import type { DistanceRows } from './request'

/** Keys of distances: what a query is multiplied with to score how far away a slot is. */
export interface DistanceKeys {
  /** Keys of the distances low..high, farthest first, shared by heads or one set per head:
   *  [1 | heads, high - low + 1, headSize], or [1 | heads, headSize, high - low + 1] where `featureMajor`. */
  rows(low: number, high: number): Tensor
  readonly featureMajor: boolean
  /** The distances that have a key of their own. */
  readonly nearest: number
  readonly farthest: number
  /** What a farther distance gets: nothing, or the farthest key. */
  readonly beyond: 'none' | 'clamp'
}

/** A learned table [distances, headSize] shared by all heads. Shaw et al. 2018 as in the FAIR repositories. */
export function learnedKeys(table: Tensor2D, nearest: number, beyond: 'none' | 'clamp'): DistanceKeys {
  const [count, size] = table.shape
  return {
    nearest,
    farthest: nearest + count - 1,
    beyond,
    featureMajor: false,
    rows: (low, high) => {
      const index = Int32Array.from({ length: high - low + 1 }, (_, c) =>
        Math.min(high - c - nearest, count - 1),
      )
      return reshape(gather(table, tensor1d(index, 'int32')), [1, index.length, size])
    },
  }
}

/**
 * Sinusoids projected per head. Transformer-XL section 3.3: R_d = [sin(d f), cos(d f)], f_n = 10000^(-2n/width).
 * @param weight [width, heads · headSize]
 * @param clamp distances beyond it count as it (the authors' clamp_len)
 */
export function sinusoidalKeys(
  weight: Tensor2D,
  heads: number,
  nearest: number,
  clamp: number,
): DistanceKeys {
  const [width, size] = weight.shape
  return {
    nearest,
    farthest: clamp,
    beyond: 'clamp',
    featureMajor: true,
    rows: (low, high) => {
      const count = high - low + 1
      const positions = Array.from({ length: count }, (_, c) => Math.min(high - c, clamp))
      const projected = matMul(weight, tensor(sinusoids(positions, width), [count, width]), {
        transposeA: true,
        transposeB: true,
        constant: 'b',
      })
      return reshape(projected, [heads, size / heads, count])
    },
  }
}

/** [sin(d f), cos(d f)] for each distance, in float64 until the end: distances.length × width. */
function sinusoids(distances: readonly number[], width: number): Float32Array {
  const half = width / 2
  const values = new Float32Array(distances.length * width)
  distances.forEach((distance, row) => {
    for (let n = 0; n < half; n++) {
      const angle = distance * 10000 ** ((-2 * n) / width)
      values[row * width + n] = Math.sin(angle)
      values[row * width + half + n] = Math.cos(angle)
    }
  })
  return values
}

/**
 * The keys of all distances that a group can meet within its window.
 * @returns null where none of them has a position
 * @throws ConfigError where scattered slots may have any age and every age has a key of its own
 */
export function distanceRows(
  keys: DistanceKeys,
  group: GroupGeometry & { readonly exempt?: Tensor },
  block: number,
): DistanceRows | null {
  const { distance } = group
  // What is exempt of `farthest` has a position there, too.
  const farthest = group.exempt ? Number.POSITIVE_INFINITY : group.farthest
  const { featureMajor, beyond, nearest } = keys
  const reach = (high: number) => (beyond === 'clamp' ? high : Math.min(high, keys.farthest))
  const between = (low: number, high: number): DistanceRows => ({
    rows: keys.rows(low, high),
    featureMajor,
    low,
    high,
    beyond,
  })
  if (distance.kind === 'contiguous') {
    const range = distanceRange({ ...group, farthest }, block)
    const low = Math.max(range.low, nearest)
    const high = reach(range.high)
    return high < low ? null : between(low, high)
  }
  if (beyond === 'none' && (distance.youngest ?? 0) > keys.farthest) return null
  const oldest = Math.min(keys.farthest, farthest)
  if (!Number.isFinite(oldest))
    throw new ConfigError(
      'positions of scattered slots need a farthest distance: set `farthestPosition`, or use rotary or learned positions',
      { farthest: oldest },
    )
  return between(nearest, reach(oldest + block - 1))
}

/**
 * The positional part of the logits of one group.
 * @param queries [batch, heads, headSize, block], scaled
 * @returns [batch, heads, block, slots]
 */
export function positionLogits(queries: Tensor, positions: DistanceRows, group: GroupGeometry): Tensor {
  const [batch, heads, size, block] = queries.shape as [number, number, number, number]
  const { rows, featureMajor } = positions
  const layout = layoutOf(positions, group, block)
  // Zeros go where they are fewer: beside the keys or beside the products.
  const early = rows.shape[0]! * size <= batch * heads * block
  const keys = early ? padColumns(rows, featureMajor ? 2 : 1, layout) : rows
  // Each tensor of queries × distances is freed as soon as the next one is there.
  const byDistance = scope(() => {
    const product = matMul(queries, reshape(keys, [1, ...keys.shape]), {
      transposeA: true,
      transposeB: !featureMajor,
    })
    const flat = reshape(product, [batch * heads, block, product.shape[3]!])
    return early ? flat : padColumns(flat, 2, layout)
  })
  const skewed = scope(() => skew(byDistance, layout))
  const { distance, slots } = group
  if (distance.kind === 'contiguous') return reshape(skewed, [batch, heads, block, slots])

  // Scattered survivors: as if every age were there; then each slot picks its own by a product with one-hot rows.
  const { column, ages } = columnsOfAges(distance.age, positions, block)
  if (block === 1) return pickRows(skewed, column, batch, heads)
  // Heads count as queries: tfjs cannot broadcast an inner batch axis (it takes batches modulo).
  const queriesOfStream = reshape(skewed, [batch, heads * block, ages])
  const picked = matMul(queriesOfStream, indicator(column, ages), { transposeB: true, constant: 'b' })
  return reshape(picked, [batch, heads, block, slots])
}

/**
 * The gradients of `positionLogits`, written out.
 * @param dy [batch, heads, block, slots]
 * @returns `queries` as they are, `rows` as they are
 */
export function positionGradients(
  dy: Tensor,
  queries: Tensor,
  positions: DistanceRows,
  group: GroupGeometry,
): { readonly queries: Tensor; readonly rows: Tensor } {
  const [batch, heads, , block] = queries.shape as [number, number, number, number]
  const { rows, featureMajor } = positions
  const { distance } = group
  const layout = layoutOf(positions, group, block)
  let bySlot = reshape(dy, [batch * heads, block, group.slots])
  if (distance.kind === 'scattered') {
    const { column, ages } = columnsOfAges(distance.age, positions, block)
    const picked = reshape(dy, [batch, heads * block, group.slots])
    bySlot = reshape(product(picked, indicator(column, ages)), [batch * heads, block, ages])
  }
  const byDistance = scope(() => reshape(unskew(bySlot, layout), [batch, heads, block, layout.columns]))
  const axis = featureMajor ? 2 : 1
  const keys = padColumns(rows, axis, layout)
  const wide = featureMajor ? product(queries, byDistance) : product(byDistance, queries, true, true)
  const perHead = rows.shape[0] === 1 ? sum(wide, [0, 1]) : sum(wide, 0)
  const whole = reshape(perHead, keys.shape)
  const from = [0, 0, 0]
  from[axis] = layout.left
  return {
    queries: product(reshape(keys, [1, ...keys.shape]), byDistance, !featureMajor, true),
    rows: slice(whole, from, rows.shape),
  }
}

function layoutOf(positions: DistanceRows, { distance, slots }: GroupGeometry, block: number): SkewLayout {
  if (distance.kind === 'contiguous')
    return skewLayout(distance.first, distance.queriesPerStep ?? 1, positions, block, slots)
  const { oldest, ages } = agesOf(positions, block)
  return skewLayout(oldest, 1, positions, block, ages)
}

/** The ages that scattered slots can have and still have a position: oldest, oldest - 1, …, so many. */
function agesOf({ low, high, beyond }: DistanceRows, block: number) {
  const oldest = beyond === 'clamp' ? high - block + 1 : high
  return { oldest, ages: oldest - (low - block + 1) + 1 }
}

/** For each scattered slot which of the ages it has; those outside 0..ages-1 have no position. */
function columnsOfAges(age: Tensor2D, positions: DistanceRows, block: number) {
  const { oldest, ages } = agesOf(positions, block)
  const whole = cast(age, 'int32')
  const clamped = positions.beyond === 'clamp' ? minimum(whole, oldest) : whole
  return { column: cast(sub(oldest, clamped), 'int32') as Tensor2D, ages }
}

/**
 * The scattered pick for a single query, by gathering: cheaper than a product of capacity × ages.
 * @param byAge [batch · heads, 1, ages]
 * @param column int32 [batch, slots], those outside 0..ages-1 get 0
 */
function pickRows(byAge: Tensor, column: Tensor2D, batch: number, heads: number): Tensor {
  const ages = byAge.shape[2]!
  const slots = column.shape[1]
  const perAge = transpose(reshape(byAge, [batch, heads, ages]), [0, 2, 1])
  // One row of zeros more per stream, for slots without a position.
  const table = pad(perAge, [
    [0, 0],
    [0, 1],
    [0, 0],
  ])
  const inside = logicalAnd(greaterEqual(column, 0), less(column, ages))
  const stream = tensor(
    Int32Array.from({ length: batch }, (_, row) => row * (ages + 1)),
    [batch, 1],
    'int32',
  )
  const row = add(where(inside, column, fill(column.shape, ages, 'int32')), stream)
  const picked = gather(
    reshape(table, [batch * (ages + 1), heads]),
    cast(reshape(row, [batch * slots]), 'int32') as Tensor1D,
  )
  return reshape(transpose(reshape(picked, [batch, slots, heads]), [0, 2, 1]), [batch, heads, 1, slots])
}

/** Angles as [1 | batch, 1, headSize / 2, 1 | steps]. */
export interface RotaryAngles {
  readonly cosine: Tensor
  readonly sine: Tensor
}

/**
 * Rotary positions (Su et al. 2021): pairs (n, n + headSize/2) of features turn by position · 10000^(-2n/headSize). The
 * gradient turns back; the angles get none.
 * @param x [batch, heads, headSize, steps]
 */
export function rotate(x: Tensor, angles: RotaryAngles): Tensor {
  return differentiable(
    [x],
    (save) => {
      save([angles.cosine, angles.sine])
      return turn(x, angles, false)
    },
    (dy, [cosine, sine]) => [turn(dy, { cosine: cosine!, sine: sine! }, true)],
  )
}

function turn(x: Tensor, { cosine, sine }: RotaryAngles, back: boolean): Tensor {
  const turned = fused('LetheRotate', { x, cosine, sine }, { back })
  if (turned) return turned[0]
  const [batch, heads, size, steps] = x.shape as [number, number, number, number]
  const half = size / 2
  const first = slice(x, [0, 0, 0, 0], [batch, heads, half, steps])
  const second = slice(x, [0, 0, half, 0], [batch, heads, half, steps])
  const [one, other] = back ? [add, sub] : [sub, add]
  return concat([one(mul(first, cosine), mul(second, sine)), other(mul(second, cosine), mul(first, sine))], 2)
}

/** 10000^(-2/headSize), what the frequency falls by from one pair to the next. */
const rotaryRatio = (headSize: number) => 10000 ** (-2 / headSize)

/** Rotation angles of host positions, computed in float64: cosine and sine [1, 1, headSize/2, steps]. */
export function rotaryAngles(positions: readonly number[], headSize: number): RotaryAngles {
  const { cosine, sine } = rotaryTable(positions, headSize)
  const shape: [number, number, number, number] = [1, 1, headSize / 2, positions.length]
  return { cosine: tensor(cosine, shape), sine: tensor(sine, shape) }
}

interface Table {
  readonly cosine: Float32Array
  readonly sine: Float32Array
}

/** The last few tables: the layers of a pass and the passes of a training need the same ones. */
const tables = new Map<string, Table>()
const tablesKept = 8

function rotaryTable(positions: readonly number[], headSize: number): Table {
  const key = `${headSize}:${positions.join()}`
  const table = tables.get(key) ?? computeTable(positions, headSize)
  tables.delete(key) // so that the one used last comes last
  tables.set(key, table)
  if (tables.size > tablesKept) tables.delete(tables.keys().next().value!)
  return table
}

function computeTable(positions: readonly number[], headSize: number): Table {
  const half = headSize / 2
  const steps = positions.length
  const cosine = new Float32Array(half * steps)
  const sine = new Float32Array(half * steps)
  for (let n = 0; n < half; n++) {
    const frequency = rotaryRatio(headSize) ** n
    positions.forEach((position, step) => {
      cosine[n * steps + step] = Math.cos(position * frequency)
      sine[n * steps + step] = Math.sin(position * frequency)
    })
  }
  return { cosine, sine }
}

/** The same for slots of different ages in each row, on the device: [batch, 1, headSize/2, slots]. */
export function rotaryAnglesOfAges(age: Tensor2D, headSize: number): RotaryAngles {
  const half = headSize / 2
  const ratio = rotaryRatio(headSize)
  const found = fused('LetheRotaryAngles', { age: cast(age, 'int32') }, { half, ratio })
  if (found) return { cosine: found[0], sine: found[1] }
  const [batch, slots] = age.shape
  const frequency = tensor(
    Float32Array.from({ length: half }, (_, n) => -(ratio ** n)),
    [1, 1, half, 1],
  )
  const angles = mul(reshape(cast(age, 'float32'), [batch, 1, 1, slots]), frequency)
  return { cosine: cos(angles), sine: sin(angles) }
}
