/** One update of parameters, value by value for the values [from, to), and the sum of squares of a gradient. */
import { squaresOf } from './rows'
import { floatBytes, loadSome, multiplyAdd, storeSome } from './simd'

/** Values whose squares are added up in float32; a sum has so many parts, whatever the number of threads. */
const valuesPerPart = 4096

/** Numbers that `sumSquares` writes for so many values. */
export function sumSquaresParts(count: i32): i32 {
  return (count + valuesPerPart - 1) / valuesPerPart
}

/** out[part] = Σ x[i]² over the values of the part, for the parts [from, to). */
export function sumSquares(x: usize, out: usize, count: i32, from: i32, to: i32): void {
  for (let part = from; part < to; part++) {
    const first = part * valuesPerPart
    const values = min(valuesPerPart, count - first)
    store<f32>(
      out + <usize>part * floatBytes,
      squaresOf(x + <usize>first * floatBytes, <usize>values * floatBytes, 0),
    )
  }
}

/**
 * Adam with averages that lack their factors 1 - beta: with g = factor · gradient + decay · values,
 * newMean = beta1 · mean + g, newSquare = beta2 · square + g²,
 * newValues = shrink · values - rate · newMean / (√newSquare + epsilon). `factor` is the address of one number; 0: 1.
 */
export function adam(
  values: usize,
  gradient: usize,
  mean: usize,
  square: usize,
  factor: usize,
  newValues: usize,
  newMean: usize,
  newSquare: usize,
  beta1: f32,
  beta2: f32,
  rate: f32,
  epsilon: f32,
  decay: f32,
  shrink: f32,
  from: i32,
  to: i32,
): void {
  const factors = f32x4.splat(factor !== 0 ? load<f32>(factor) : 1)
  let i = <usize>from * floatBytes
  const end = <usize>to * floatBytes
  while (i < end) {
    const four = i + 16 <= end
    const value = loadSome(values + i, four)
    let g = loadSome(gradient + i, four)
    let m = loadSome(mean + i, four)
    let s = loadSome(square + i, four)
    g = multiplyAdd(value, f32x4.splat(decay), f32x4.mul(g, factors))
    m = multiplyAdd(m, f32x4.splat(beta1), g)
    s = multiplyAdd(s, f32x4.splat(beta2), f32x4.mul(g, g))
    const change = f32x4.mul(f32x4.div(m, f32x4.add(f32x4.sqrt(s), f32x4.splat(epsilon))), f32x4.splat(rate))
    const next = f32x4.sub(f32x4.mul(value, f32x4.splat(shrink)), change)
    storeSome(newValues + i, next, four)
    storeSome(newMean + i, m, four)
    storeSome(newSquare + i, s, four)
    i += four ? 16 : floatBytes
  }
}

/** Adagrad: g as above, newSquare = square + g², newValues = values - rate · g / (√newSquare + epsilon). */
export function adagrad(
  values: usize,
  gradient: usize,
  square: usize,
  factor: usize,
  newValues: usize,
  newSquare: usize,
  rate: f32,
  epsilon: f32,
  decay: f32,
  from: i32,
  to: i32,
): void {
  const factors = f32x4.splat(factor !== 0 ? load<f32>(factor) : 1)
  let i = <usize>from * floatBytes
  const end = <usize>to * floatBytes
  while (i < end) {
    const four = i + 16 <= end
    const value = loadSome(values + i, four)
    let g = loadSome(gradient + i, four)
    let s = loadSome(square + i, four)
    g = multiplyAdd(value, f32x4.splat(decay), f32x4.mul(g, factors))
    s = multiplyAdd(g, g, s)
    const change = f32x4.mul(f32x4.div(g, f32x4.add(f32x4.sqrt(s), f32x4.splat(epsilon))), f32x4.splat(rate))
    const next = f32x4.sub(value, change)
    storeSome(newValues + i, next, four)
    storeSome(newSquare + i, s, four)
    i += four ? 16 : floatBytes
  }
}
