/** One row times a matrix, without copying the matrix: each of its values is used once. */
import { floatBytes, multiplyAdd, sumLanes } from './simd'

/** out[n] = Σ_k row[k] · matrix[n, k]: scalar products with rows that are `step` bytes apart. */
export function multiplyByRows(
  row: usize,
  matrix: usize,
  step: usize,
  out: usize,
  columns: i32,
  inner: i32,
): void {
  const bytes = <usize>inner * floatBytes
  const wholeBytes = bytes & ~15
  let column = 0
  for (; column + 4 <= columns; column += 4) {
    const row0 = matrix
    const row1 = row0 + step
    const row2 = row1 + step
    const row3 = row2 + step
    let sum0 = f32x4.splat(0)
    let sum1 = sum0
    let sum2 = sum0
    let sum3 = sum0
    let at: usize = 0
    for (; at < wholeBytes; at += 16) {
      const values = v128.load(row + at)
      sum0 = multiplyAdd(values, v128.load(row0 + at), sum0)
      sum1 = multiplyAdd(values, v128.load(row1 + at), sum1)
      sum2 = multiplyAdd(values, v128.load(row2 + at), sum2)
      sum3 = multiplyAdd(values, v128.load(row3 + at), sum3)
    }
    let total0 = sumLanes(sum0)
    let total1 = sumLanes(sum1)
    let total2 = sumLanes(sum2)
    let total3 = sumLanes(sum3)
    for (; at < bytes; at += floatBytes) {
      const value = load<f32>(row + at)
      total0 += value * load<f32>(row0 + at)
      total1 += value * load<f32>(row1 + at)
      total2 += value * load<f32>(row2 + at)
      total3 += value * load<f32>(row3 + at)
    }
    store<f32>(out, total0)
    store<f32>(out, total1, 4)
    store<f32>(out, total2, 8)
    store<f32>(out, total3, 12)
    out += 16
    matrix = row3 + step
  }
  for (; column < columns; column++) {
    store<f32>(out, scalarProduct(row, matrix, floatBytes, inner))
    out += floatBytes
    matrix += step
  }
}

/** out[n] = Σ_k row[k] · matrix[k, n]: a weighted sum of rows that are `step` bytes apart, 32 columns at a time. */
export function multiplyByColumns(
  row: usize,
  matrix: usize,
  step: usize,
  out: usize,
  columns: i32,
  inner: i32,
): void {
  const end = row + <usize>inner * floatBytes
  let column = 0
  for (; column + 32 <= columns; column += 32) {
    let sum0 = f32x4.splat(0)
    let sum1 = sum0
    let sum2 = sum0
    let sum3 = sum0
    let sum4 = sum0
    let sum5 = sum0
    let sum6 = sum0
    let sum7 = sum0
    let values = matrix
    for (let factor = row; factor < end; factor += floatBytes) {
      const x = v128.load32_splat(factor)
      sum0 = multiplyAdd(x, v128.load(values), sum0)
      sum1 = multiplyAdd(x, v128.load(values, 16), sum1)
      sum2 = multiplyAdd(x, v128.load(values, 32), sum2)
      sum3 = multiplyAdd(x, v128.load(values, 48), sum3)
      sum4 = multiplyAdd(x, v128.load(values, 64), sum4)
      sum5 = multiplyAdd(x, v128.load(values, 80), sum5)
      sum6 = multiplyAdd(x, v128.load(values, 96), sum6)
      sum7 = multiplyAdd(x, v128.load(values, 112), sum7)
      values += step
    }
    v128.store(out, sum0)
    v128.store(out, sum1, 16)
    v128.store(out, sum2, 32)
    v128.store(out, sum3, 48)
    v128.store(out, sum4, 64)
    v128.store(out, sum5, 80)
    v128.store(out, sum6, 96)
    v128.store(out, sum7, 112)
    out += 128
    matrix += 128
  }
  for (; column + 4 <= columns; column += 4) {
    let sum = f32x4.splat(0)
    let values = matrix
    for (let factor = row; factor < end; factor += floatBytes) {
      sum = multiplyAdd(v128.load32_splat(factor), v128.load(values), sum)
      values += step
    }
    v128.store(out, sum)
    out += 16
    matrix += 16
  }
  for (; column < columns; column++) {
    store<f32>(out, scalarProduct(row, matrix, step, inner))
    out += floatBytes
    matrix += floatBytes
  }
}

function scalarProduct(row: usize, values: usize, step: usize, inner: i32): f32 {
  let sum: f32 = 0
  for (let k = 0; k < inner; k++) {
    sum += load<f32>(row) * load<f32>(values)
    row += floatBytes
    values += step
  }
  return sum
}
