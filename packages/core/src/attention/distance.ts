/**
 * Positional distances between the block's queries and slots, and what follows from them on the host: which pairs
 * may attend, and the skew that turns "query × distance" into "query × slot".
 */
import { add, pad, reshape, slice, type Tensor, tensor, transpose } from '@tensorflow/tfjs-core'
import type { SlotDistance } from '../method'
import { scope } from '../ops/scope'

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

/** Whether each query has a slot of a contiguous group within its window. */
export function seesSome({ slots, distance, nearest, farthest }: GroupGeometry, queries: number): boolean {
  if (distance.kind !== 'contiguous') return false
  for (let i = 0; i < queries; i++) {
    const oldest = distance.first + Math.floor(i / pace(distance))
    if (Math.max(nearest, oldest - slots + 1) > Math.min(farthest, oldest)) return false
  }
  return true
}

/** The distances a contiguous group can have at all, within the window. */
export function distanceRange({ slots, distance, nearest, farthest }: GroupGeometry, queries: number) {
  if (distance.kind !== 'contiguous') return { low: nearest, high: farthest }
  const newest = distance.first - slots + 1
  const oldest = distance.first + Math.floor((queries - 1) / pace(distance))
  return { low: Math.max(nearest, newest), high: Math.min(farthest, oldest) }
}

/** Where the products of a contiguous group's queries with the keys of its distances are to stand, for the skew. */
export interface SkewLayout {
  readonly queries: number
  readonly slots: number
  /** Queries after which distances grow by one, at most `queries`. */
  readonly pace: number
  /** Rows in which distances grow by one from each to the next. */
  readonly steps: number
  /** Columns of a row: the distances high..low from column `left` on, zeros beside them. */
  readonly columns: number
  readonly left: number
  /** Columns of the first row that no slot has. */
  readonly start: number
}

/** @param queriesPerStep Infinity for slots that keep their distance */
export function skewLayout(
  first: number,
  queriesPerStep: number,
  { low, high }: { readonly low: number; readonly high: number },
  queries: number,
  slots: number,
): SkewLayout {
  const pace = Math.min(queriesPerStep, queries)
  const steps = Math.ceil(queries / pace)
  // Distance high - c of row i belongs to slot offset + i + c. Written into rows of width + 1 and read in rows of
  // width, row i moves i places to the right.
  const offset = first - high
  const width = Math.max(slots, first - low + steps)
  const left = Math.max(0, offset)
  return { queries, slots, pace, steps, columns: width + 1, left, start: Math.max(0, -offset) }
}

/** Zeros beside the distances along an axis, to the layout's columns. */
export function padColumns(x: Tensor, axis: number, { columns, left }: SkewLayout): Tensor {
  const paddings = x.shape.map((size, index): [number, number] =>
    index === axis ? [left, columns - size - left] : [0, 0],
  )
  return pad(x, paddings)
}

/**
 * From "query × distance" to "query × slot" for a contiguous group, by reshaping alone (the shift trick of
 * Transformer-XL, appendix B, for any window).
 * @param byDistance [rows, queries, columns] as the layout has it
 * @returns [rows, queries, slots]; 0 for distances above `high`, arbitrary for those below `low`
 */
export function skew(byDistance: Tensor, layout: SkewLayout): Tensor {
  const { slots, steps, columns, start } = layout
  const width = columns - 1
  const apart = splitPace(byDistance, layout) // [streams, steps, columns]
  const streams = apart.shape[0]!
  const moved = scope(() =>
    slice(reshape(apart, [streams, steps * columns]), [0, start], [streams, steps * width]),
  )
  const shifted = reshape(moved, [streams, steps, width])
  return joinPace(width === slots ? shifted : slice(shifted, [0, 0, 0], [streams, steps, slots]), layout)
}

/** The transpose of `skew`: gradients by slot to gradients by distance, [rows, queries, columns]. */
export function unskew(bySlot: Tensor, layout: SkewLayout): Tensor {
  const { slots, steps, columns, start } = layout
  const width = columns - 1
  const apart = splitPace(bySlot, layout) // [streams, steps, slots]
  const streams = apart.shape[0]!
  const wide =
    width === slots
      ? apart
      : pad(apart, [
          [0, 0],
          [0, 0],
          [0, width - slots],
        ]) // prettier-ignore
  const flat = pad(reshape(wide, [streams, steps * width]), [
    [0, 0],
    [start, steps - start],
  ])
  return joinPace(reshape(flat, [streams, steps, columns]), layout)
}

/** Queries that share a step become streams of their own: [rows, queries, n] → [rows · pace, steps, n]. */
function splitPace(x: Tensor, { queries, pace, steps }: SkewLayout): Tensor {
  const [rows, , size] = x.shape as [number, number, number]
  if (pace === 1) return x
  if (steps === 1) return reshape(x, [rows * queries, 1, size])
  const whole = pad(x, [
    [0, 0],
    [0, steps * pace - queries],
    [0, 0],
  ])
  const apart = transpose(reshape(whole, [rows, steps, pace, size]), [0, 2, 1, 3])
  return reshape(apart, [rows * pace, steps, size])
}

/** The way back: [rows · pace, steps, n] → [rows, queries, n]. */
function joinPace(x: Tensor, { queries, pace, steps }: SkewLayout): Tensor {
  const [streams, , size] = x.shape as [number, number, number]
  if (pace === 1) return x
  const rows = streams / pace
  if (steps === 1) return reshape(x, [rows, queries, size])
  const together = transpose(reshape(x, [rows, pace, steps, size]), [0, 2, 1, 3])
  return slice(reshape(together, [rows, steps * pace, size]), [0, 0, 0], [rows, queries, size])
}
