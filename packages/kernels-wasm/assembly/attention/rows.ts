/** What is done with the rows of one query: whole vectors, so that up to three values behind the end are written, too. */
import { floatBytes } from '../simd'

const vector: usize = 16

/** A logit of which nothing is left. */
export const nothing: f32 = -Infinity

export function fillRow(to: usize, end: usize, value: f32): void {
  const values = f32x4.splat(value)
  for (; to < end; to += vector) v128.store(to, values)
}

export function copyRow(from: usize, to: usize, end: usize): void {
  for (; to < end; to += vector) {
    v128.store(to, v128.load(from))
    from += vector
  }
}

/** to = a + b */
export function addRows(a: usize, b: usize, to: usize, end: usize): void {
  for (; to < end; to += vector) {
    v128.store(to, f32x4.add(v128.load(a), v128.load(b)))
    a += vector
    b += vector
  }
}

/** to = a - b */
export function subtractRows(a: usize, b: usize, to: usize, end: usize): void {
  for (; to < end; to += vector) {
    v128.store(to, f32x4.sub(v128.load(a), v128.load(b)))
    a += vector
    b += vector
  }
}

/** to = from + value */
export function shiftRow(from: usize, value: f32, to: usize, end: usize): void {
  const values = f32x4.splat(value)
  for (; to < end; to += vector) {
    v128.store(to, f32x4.add(v128.load(from), values))
    from += vector
  }
}

/** to = from · value */
export function scaleRow(from: usize, value: f32, to: usize, end: usize): void {
  const values = f32x4.splat(value)
  for (; to < end; to += vector) {
    v128.store(to, f32x4.mul(v128.load(from), values))
    from += vector
  }
}

/** to = a · b */
export function multiplyRows(a: usize, b: usize, to: usize, end: usize): void {
  for (; to < end; to += vector) {
    v128.store(to, f32x4.mul(v128.load(a), v128.load(b)))
    a += vector
    b += vector
  }
}

/** The largest of whole vectors; -infinity if there is none. */
export function largestOf(from: usize, end: usize): f32 {
  let largest = f32x4.splat(nothing)
  for (; from < end; from += vector) largest = f32x4.pmax(largest, v128.load(from))
  return max(
    max(f32x4.extract_lane(largest, 0), f32x4.extract_lane(largest, 1)),
    max(f32x4.extract_lane(largest, 2), f32x4.extract_lane(largest, 3)),
  )
}

/** Exactly `count` values, where something else may follow. */
export function copyExactly(from: usize, to: usize, count: i32): void {
  const end = to + <usize>count * floatBytes
  for (; to + vector <= end; to += vector) {
    v128.store(to, v128.load(from))
    from += vector
  }
  for (; to < end; to += floatBytes) {
    store<f32>(to, load<f32>(from))
    from += floatBytes
  }
}

/** to += from, exactly `count` values. */
export function addExactly(from: usize, to: usize, count: i32): void {
  const end = to + <usize>count * floatBytes
  for (; to + vector <= end; to += vector) {
    v128.store(to, f32x4.add(v128.load(to), v128.load(from)))
    from += vector
  }
  for (; to < end; to += floatBytes) {
    store<f32>(to, load<f32>(to) + load<f32>(from))
    from += floatBytes
  }
}
