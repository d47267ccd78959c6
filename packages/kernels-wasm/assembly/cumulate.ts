/** Cumulated sums along an axis. */
import { floatBytes } from './simd'

/** The lanes cumulated: a, a + b, a + b + c, a + b + c + d. */
function cumulateLanes(x: v128): v128 {
  const zero = f32x4.splat(0)
  x = f32x4.add(x, i32x4.shuffle(zero, x, 0, 4, 5, 6))
  return f32x4.add(x, i32x4.shuffle(zero, x, 0, 1, 4, 5))
}

/** y[i] = x[0] + … + x[i], or to x[i - 1] where exclusive; backwards from the other end. */
function cumulateLine(x: usize, y: usize, length: i32, exclusive: bool, backwards: bool): void {
  const bytes = <usize>length * floatBytes
  const vectors = bytes & ~15
  let carried = f32x4.splat(0) // the sum so far, in all lanes
  let i: usize = 0
  for (; i < vectors; i += 16) {
    const at = backwards ? bytes - 16 - i : i
    let values = v128.load(x + at)
    if (backwards) values = i32x4.shuffle(values, values, 3, 2, 1, 0)
    const sums = f32x4.add(carried, cumulateLanes(values))
    let out = exclusive ? i32x4.shuffle(carried, sums, 0, 4, 5, 6) : sums
    if (backwards) out = i32x4.shuffle(out, out, 3, 2, 1, 0)
    v128.store(y + at, out)
    carried = i32x4.shuffle(sums, sums, 3, 3, 3, 3)
  }
  let sum = f32x4.extract_lane(carried, 0)
  for (; i < bytes; i += floatBytes) {
    const at = backwards ? bytes - floatBytes - i : i
    const next = sum + load<f32>(x + at)
    store<f32>(y + at, exclusive ? sum : next)
    sum = next
  }
}

/** to[i] = a[i] + b[i] */
function addRow(a: usize, b: usize, to: usize, bytes: usize): void {
  const vectors = bytes & ~15
  let i: usize = 0
  for (; i < vectors; i += 16) v128.store(to + i, f32x4.add(v128.load(a + i), v128.load(b + i)))
  for (; i < bytes; i += floatBytes) store<f32>(to + i, load<f32>(a + i) + load<f32>(b + i))
}

/** Cumulates x along the middle axis of [blocks, length, width], for the blocks [from, to). */
export function cumulate(
  x: usize,
  y: usize,
  length: i32,
  width: i32,
  exclusive: bool,
  backwards: bool,
  from: i32,
  to: i32,
): void {
  const row = <usize>width * floatBytes
  const blockBytes = <usize>length * row
  if (length === 0) return
  for (let block = from; block < to; block++) {
    const source = x + <usize>block * blockBytes
    const target = y + <usize>block * blockBytes
    if (width === 1) {
      cumulateLine(source, target, length, exclusive, backwards)
      continue
    }
    let at: usize = backwards ? blockBytes - row : 0
    if (exclusive) memory.fill(target + at, 0, row)
    else memory.copy(target + at, source + at, row)
    for (let i = 1; i < length; i++) {
      const before = at
      at = backwards ? at - row : at + row
      addRow(target + before, source + (exclusive ? before : at), target + at, row)
    }
  }
}
