/**
 * Positional distances between the block's queries and slots, and what follows from them on the host: which pairs
 * may attend, and the skew that turns "query × distance" into "query × slot".
 */
import { add, pad, reshape, slice, type Tensor, tensor, transpose } from '@tensorflow/tfjs-core'
import type { SlotDistance } from '../method'

/** Added to the logits of pairs that may not attend: exp of it is 0 in float32. */
export const masked = -1e30

/** A group as attention sees it: how many slots, at which distances, which distances may be attended to. */
export interface GroupGeometry {
  readonly slots: number
  readonly distance: SlotDistance
  readonly nearest: number
  readonly farthest: number
}

/** Queries after which a contiguous group's distances grow by one. */
const pace = (distance: SlotDistance) => (distance.kind === 'contiguous' ? (distance.queriesPerStep ?? 1) : 1)

/** d(i, j) of a contiguous group as a host array [queries × slots]. */
function contiguousDistances(
  first: number,
  queriesPerStep: number,
  queries: number,
  slots: number,
): Float32Array {
  const distances = new Float32Array(queries * slots)
  for (let i = 0; i < queries; i++) {
    const start = first + Math.floor(i / queriesPerStep)
    for (let j = 0; j < slots; j++) distances[i * slots + j] = start - j
  }
  return distances
}

/** Distances of a group: [1, 1, queries, slots], or [batch, 1, queries, slots] for scattered slots. */
export function distances({ slots, distance }: GroupGeometry, queries: number): Tensor {
  if (distance.kind === 'contiguous') {
    const values = contiguousDistances(distance.first, pace(distance), queries, slots)
    return tensor(values, [1, 1, queries, slots])
  }
  const [batch] = distance.age.shape
  const index = tensor(
    Float32Array.from({ length: queries }, (_, i) => i),
    [1, 1, queries, 1],
  )
  return add(reshape(distance.age, [batch, 1, 1, slots]), index)
}

/** The host mask of a contiguous group: 0 where a pair may attend, `masked` elsewhere; null if all may. */
export function windowMask({ slots, distance, nearest, farthest }: GroupGeometry, queries: number) {
  if (distance.kind !== 'contiguous') return null
  const values = contiguousDistances(distance.first, pace(distance), queries, slots)
  let any = false
  for (let index = 0; index < values.length; index++) {
    const outside = values[index]! < nearest || values[index]! > farthest
    any ||= outside
    values[index] = outside ? masked : 0
  }
  return any ? values : null
}

/** The distances a contiguous group can have at all, within the window. */
export function distanceRange({ slots, distance, nearest, farthest }: GroupGeometry, queries: number) {
  if (distance.kind !== 'contiguous') return { low: nearest, high: farthest }
  const newest = distance.first - slots + 1
  const oldest = distance.first + Math.floor((queries - 1) / pace(distance))
  return { low: Math.max(nearest, newest), high: Math.min(farthest, oldest) }
}

/**
 * From "query × distance" to "query × slot" for a contiguous group, by padding and reshaping alone (the shift trick
 * of Transformer-XL, appendix B, for any window).
 * @param byDistance [rows, queries, high - low + 1], column c for distance high - c
 * @returns [rows, queries, slots]; 0 for distances above `high`, arbitrary for those below `low`
 */
export function skew(
  byDistance: Tensor,
  first: number,
  queriesPerStep: number,
  low: number,
  high: number,
  slots: number,
): Tensor {
  const [rows, queries, columns] = byDistance.shape as [number, number, number]
  if (queriesPerStep === 1) return skewRows(byDistance, first, low, high, slots)
  if (queriesPerStep >= queries) {
    // No query moves: row i has slot j at distance first - j.
    const still = reshape(byDistance, [rows * queries, 1, columns])
    return reshape(skewRows(still, first, low, high, slots), [rows, queries, slots])
  }
  // Queries that share a step become rows of their own: [rows, steps, pace, columns] → [rows · pace, steps, columns].
  const steps = Math.ceil(queries / queriesPerStep)
  const whole = pad(byDistance, [
    [0, 0],
    [0, steps * queriesPerStep - queries],
    [0, 0],
  ])
  const apart = transpose(reshape(whole, [rows, steps, queriesPerStep, columns]), [0, 2, 1, 3])
  const skewed = skewRows(reshape(apart, [rows * queriesPerStep, steps, columns]), first, low, high, slots)
  const together = transpose(reshape(skewed, [rows, queriesPerStep, steps, slots]), [0, 2, 1, 3])
  return slice(reshape(together, [rows, steps * queriesPerStep, slots]), [0, 0, 0], [rows, queries, slots])
}

/** `skew` where every query is one step after the one before it. */
function skewRows(byDistance: Tensor, first: number, low: number, high: number, slots: number): Tensor {
  const [rows, queries, columns] = byDistance.shape as [number, number, number]
  // Entry (i, c) belongs at column offset + i + c. Written into rows of width + 1 and read in rows of width, row i
  // moves i places to the right.
  const offset = first - high
  const width = Math.max(slots, first - low + queries)
  const left = Math.max(0, offset)
  const padded = pad(byDistance, [
    [0, 0],
    [0, 0],
    [left, width + 1 - columns - left],
  ])
  const flat = reshape(padded, [rows, queries * (width + 1)])
  const moved = slice(flat, [0, Math.max(0, -offset)], [rows, queries * width])
  const shifted = reshape(moved, [rows, queries, width])
  return width === slots ? shifted : slice(shifted, [0, 0, 0], [rows, queries, slots])
}
