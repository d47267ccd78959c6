/** Loops over one row of values, which the kernels of rows share. A row may have any length. */
import { floatBytes, multiplyAdd, sumLanes } from './simd'

/** Σ x[i] over `bytes` bytes, in 16 parts that are added at the end: more exact than one after the other. */
export function sumOf(at: usize, bytes: usize): f32 {
  const end = at + bytes
  let sum0 = f32x4.splat(0)
  let sum1 = sum0
  let sum2 = sum0
  let sum3 = sum0
  for (; at + 64 <= end; at += 64) {
    sum0 = f32x4.add(sum0, v128.load(at))
    sum1 = f32x4.add(sum1, v128.load(at, 16))
    sum2 = f32x4.add(sum2, v128.load(at, 32))
    sum3 = f32x4.add(sum3, v128.load(at, 48))
  }
  for (; at + 16 <= end; at += 16) sum0 = f32x4.add(sum0, v128.load(at))
  let sum = sumLanes(f32x4.add(f32x4.add(sum0, sum1), f32x4.add(sum2, sum3)))
  for (; at < end; at += floatBytes) sum += load<f32>(at)
  return sum
}

/** Σ (x[i] - centre)² over `bytes` bytes, in the same way. */
export function squaresOf(at: usize, bytes: usize, centre: f32): f32 {
  const end = at + bytes
  const middle = f32x4.splat(centre)
  let sum0 = f32x4.splat(0)
  let sum1 = sum0
  let sum2 = sum0
  let sum3 = sum0
  for (; at + 64 <= end; at += 64) {
    const x0 = f32x4.sub(v128.load(at), middle)
    const x1 = f32x4.sub(v128.load(at, 16), middle)
    const x2 = f32x4.sub(v128.load(at, 32), middle)
    const x3 = f32x4.sub(v128.load(at, 48), middle)
    sum0 = multiplyAdd(x0, x0, sum0)
    sum1 = multiplyAdd(x1, x1, sum1)
    sum2 = multiplyAdd(x2, x2, sum2)
    sum3 = multiplyAdd(x3, x3, sum3)
  }
  for (; at + 16 <= end; at += 16) {
    const x = f32x4.sub(v128.load(at), middle)
    sum0 = multiplyAdd(x, x, sum0)
  }
  let sum = sumLanes(f32x4.add(f32x4.add(sum0, sum1), f32x4.add(sum2, sum3)))
  for (; at < end; at += floatBytes) {
    const x = load<f32>(at) - centre
    sum += x * x
  }
  return sum
}

/** y[i] = the sum over all rows of x[row, i], for the columns [from, to) of [rows, width]; at least one row. */
export function sumRows(x: usize, y: usize, rows: i32, width: i32, from: i32, to: i32): void {
  const step = <usize>width * floatBytes
  const bytes = <usize>(to - from) * floatBytes
  const vectors = bytes & ~15
  x += <usize>from * floatBytes
  y += <usize>from * floatBytes
  // The rows beyond a multiple of four first: they begin the sums, to which four rows at a time are added then.
  let row = rows & 3
  if (row === 0) memory.fill(y, 0, bytes)
  else memory.copy(y, x, bytes)
  for (let other = 1; other < row; other++) {
    const at = x + <usize>other * step
    let i: usize = 0
    for (; i < vectors; i += 16) v128.store(y + i, f32x4.add(v128.load(y + i), v128.load(at + i)))
    for (; i < bytes; i += floatBytes) store<f32>(y + i, load<f32>(y + i) + load<f32>(at + i))
  }
  for (; row < rows; row += 4) {
    const row0 = x + <usize>row * step
    const row1 = row0 + step
    const row2 = row1 + step
    const row3 = row2 + step
    let i: usize = 0
    for (; i < vectors; i += 16) {
      const low = f32x4.add(v128.load(row0 + i), v128.load(row1 + i))
      const high = f32x4.add(v128.load(row2 + i), v128.load(row3 + i))
      v128.store(y + i, f32x4.add(v128.load(y + i), f32x4.add(low, high)))
    }
    for (; i < bytes; i += floatBytes) {
      const low = load<f32>(row0 + i) + load<f32>(row1 + i)
      store<f32>(y + i, load<f32>(y + i) + (low + (load<f32>(row2 + i) + load<f32>(row3 + i))))
    }
  }
}
