/**
 * Layer norm and RMS norm of rows, forward and backward. RMS norm is the same with mean 0 and no bias: the addresses of
 * means and biases are 0 then.
 */
import { squaresOf, sumOf } from './rows'
import { floatBytes, multiplyAdd, sumLanes } from './simd'

/** Rows whose gradients of scale and bias are added up in one place, whatever the number of threads. */
const rowsPerPart = 32

/** Rows of partial sums that `normalizeGradient` writes for so many rows. */
export function normalizeParts(rows: i32): i32 {
  return (rows + rowsPerPart - 1) / rowsPerPart
}

/**
 * y = (x - mean) · inverse · scale + bias with inverse = 1 / √(mean of (x - mean)² + epsilon), for the rows [from, to)
 * of [rows, width]; also writes mean and inverse of each row.
 */
export function normalize(
  x: usize,
  scale: usize,
  bias: usize,
  y: usize,
  means: usize,
  inverses: usize,
  width: i32,
  epsilon: f32,
  from: i32,
  to: i32,
): void {
  const bytes = <usize>width * floatBytes
  const vectors = bytes & ~15
  for (let row = from; row < to; row++) {
    const start = <usize>row * bytes
    const at = x + start
    const out = y + start
    let mean: f32 = 0
    if (means !== 0) {
      mean = sumOf(at, bytes) / <f32>width
      store<f32>(means + <usize>row * floatBytes, mean)
    }
    const inverse = <f32>1 / sqrt<f32>(squaresOf(at, bytes, mean) / <f32>width + epsilon)
    store<f32>(inverses + <usize>row * floatBytes, inverse)

    const middle = f32x4.splat(mean)
    const factor = f32x4.splat(inverse)
    for (let i: usize = 0; i < vectors; i += 16) {
      const normal = f32x4.mul(f32x4.sub(v128.load(at + i), middle), factor)
      const offset = bias !== 0 ? v128.load(bias + i) : f32x4.splat(0)
      v128.store(out + i, multiplyAdd(normal, v128.load(scale + i), offset))
    }
    for (let i = vectors; i < bytes; i += floatBytes) {
      const normal = (load<f32>(at + i) - mean) * inverse
      const offset: f32 = bias !== 0 ? load<f32>(bias + i) : 0
      store<f32>(out + i, normal * load<f32>(scale + i) + offset)
    }
  }
}

/**
 * The gradients of `normalize` for the parts [from, to), each of up to 32 rows. With n = (x - mean) · inverse and
 * w = dy · scale: dx = inverse · (w - mean of w - n · mean of w n), where the mean of w is left out without means.
 * Writes dx, and the sums of dy · n and of dy over the rows of a part to row `part` of scaleParts and biasParts
 * [parts, width], to be added up by whoever calls.
 */
export function normalizeGradient(
  dy: usize,
  x: usize,
  scale: usize,
  means: usize,
  inverses: usize,
  dx: usize,
  scaleParts: usize,
  biasParts: usize,
  rows: i32,
  width: i32,
  from: i32,
  to: i32,
): void {
  const bytes = <usize>width * floatBytes
  const vectors = bytes & ~15
  const centred = means !== 0
  for (let part = from; part < to; part++) {
    const dscale = scaleParts + <usize>part * bytes
    const dbias = biasParts + <usize>part * bytes
    memory.fill(dscale, 0, bytes)
    if (centred) memory.fill(dbias, 0, bytes)
    const last = min(rows, (part + 1) * rowsPerPart)
    for (let row = part * rowsPerPart; row < last; row++) {
      const start = <usize>row * bytes
      const upper = dy + start
      const at = x + start
      const mean: f32 = centred ? load<f32>(means + <usize>row * floatBytes) : 0
      const inverse = load<f32>(inverses + <usize>row * floatBytes)
      const middle = f32x4.splat(mean)
      const factor = f32x4.splat(inverse)

      let weights = f32x4.splat(0)
      let along = f32x4.splat(0)
      let i: usize = 0
      for (; i < vectors; i += 16) {
        const d = v128.load(upper + i)
        const normal = f32x4.mul(f32x4.sub(v128.load(at + i), middle), factor)
        const weighted = f32x4.mul(d, v128.load(scale + i))
        weights = f32x4.add(weights, weighted)
        along = multiplyAdd(weighted, normal, along)
        v128.store(dscale + i, multiplyAdd(d, normal, v128.load(dscale + i)))
        if (centred) v128.store(dbias + i, f32x4.add(d, v128.load(dbias + i)))
      }
      let weightSum = sumLanes(weights)
      let alongSum = sumLanes(along)
      for (; i < bytes; i += floatBytes) {
        const d = load<f32>(upper + i)
        const normal = (load<f32>(at + i) - mean) * inverse
        const weighted = d * load<f32>(scale + i)
        weightSum += weighted
        alongSum += weighted * normal
        store<f32>(dscale + i, load<f32>(dscale + i) + d * normal)
        if (centred) store<f32>(dbias + i, load<f32>(dbias + i) + d)
      }

      const weightMean: f32 = centred ? weightSum / <f32>width : 0
      const alongMean = alongSum / <f32>width
      const out = dx + start
      for (i = 0; i < vectors; i += 16) {
        const normal = f32x4.mul(f32x4.sub(v128.load(at + i), middle), factor)
        const weighted = f32x4.mul(v128.load(upper + i), v128.load(scale + i))
        const rest = f32x4.sub(
          f32x4.sub(weighted, f32x4.splat(weightMean)),
          f32x4.mul(normal, f32x4.splat(alongMean)),
        )
        v128.store(out + i, f32x4.mul(factor, rest))
      }
      for (; i < bytes; i += floatBytes) {
        const normal = (load<f32>(at + i) - mean) * inverse
        const weighted = load<f32>(upper + i) * load<f32>(scale + i)
        store<f32>(out + i, inverse * (weighted - weightMean - normal * alongMean))
      }
    }
  }
}
