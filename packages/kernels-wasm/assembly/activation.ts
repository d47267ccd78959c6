/** GELU, SwiGLU and the gradient of ReLU, value by value, for the values [from, to). */
import { decay, errorFunction } from './exponential'
import { floatBytes, loadSome, multiplyAdd, storeSome } from './simd'

/** Φ(x), the normal distribution's cumulative function. */
function cumulative(x: v128): v128 {
  const half = f32x4.splat(0.5)
  return multiplyAdd(errorFunction(f32x4.mul(x, f32x4.splat(Mathf.SQRT1_2))), half, half)
}

/** 1 / (1 + e^-x) */
function sigmoid(x: v128): v128 {
  const one = f32x4.splat(1)
  const power = decay(f32x4.neg(f32x4.abs(x)))
  const upper = f32x4.div(one, f32x4.add(one, power))
  return v128.bitselect(f32x4.mul(power, upper), upper, f32x4.lt(x, f32x4.splat(0)))
}

/** x Φ(x) */
function geluOf(x: v128): v128 {
  return f32x4.mul(x, cumulative(x))
}

/** dy · (Φ(x) + x φ(x)) */
function geluSlope(dy: v128, x: v128): v128 {
  const power = decay(f32x4.mul(f32x4.mul(x, x), f32x4.splat(-0.5)))
  const density = f32x4.mul(power, f32x4.splat(0.3989422804014327))
  return f32x4.mul(dy, multiplyAdd(x, density, cumulative(x)))
}

/** gate · sigmoid(gate) · x */
function swigluOf(gate: v128, x: v128): v128 {
  return f32x4.mul(f32x4.mul(gate, sigmoid(gate)), x)
}

/** dy · x · s (1 + gate (1 - s)), s = sigmoid(gate) */
function gateSlope(dy: v128, gate: v128, x: v128, s: v128): v128 {
  const one = f32x4.splat(1)
  return f32x4.mul(f32x4.mul(dy, x), f32x4.mul(s, multiplyAdd(gate, f32x4.sub(one, s), one)))
}

/** y = x Φ(x) */
export function gelu(x: usize, y: usize, from: i32, to: i32): void {
  let i = <usize>from * floatBytes
  const end = <usize>to * floatBytes
  for (; i + 16 <= end; i += 16) v128.store(y + i, geluOf(v128.load(x + i)))
  for (; i < end; i += floatBytes) v128.store32_lane(y + i, geluOf(v128.load32_splat(x + i)), 0)
}

/** dx = dy · (Φ(x) + x φ(x)) */
export function geluGradient(dy: usize, x: usize, dx: usize, from: i32, to: i32): void {
  let i = <usize>from * floatBytes
  const end = <usize>to * floatBytes
  for (; i + 16 <= end; i += 16) v128.store(dx + i, geluSlope(v128.load(dy + i), v128.load(x + i)))
  for (; i < end; i += floatBytes)
    v128.store32_lane(dx + i, geluSlope(v128.load32_splat(dy + i), v128.load32_splat(x + i)), 0)
}

/** y = gate · sigmoid(gate) · x */
export function swiglu(gate: usize, x: usize, y: usize, from: i32, to: i32): void {
  let i = <usize>from * floatBytes
  const end = <usize>to * floatBytes
  for (; i + 16 <= end; i += 16) v128.store(y + i, swigluOf(v128.load(gate + i), v128.load(x + i)))
  for (; i < end; i += floatBytes)
    v128.store32_lane(y + i, swigluOf(v128.load32_splat(gate + i), v128.load32_splat(x + i)), 0)
}

/** dgate = dy · x · s (1 + gate (1 - s)) and dx = dy · gate · s, with s = sigmoid(gate) */
export function swigluGradient(
  dy: usize,
  gate: usize,
  x: usize,
  dgate: usize,
  dx: usize,
  from: i32,
  to: i32,
): void {
  let i = <usize>from * floatBytes
  const end = <usize>to * floatBytes
  for (; i + 16 <= end; i += 16) {
    const d = v128.load(dy + i)
    const g = v128.load(gate + i)
    const s = sigmoid(g)
    v128.store(dgate + i, gateSlope(d, g, v128.load(x + i), s))
    v128.store(dx + i, f32x4.mul(d, f32x4.mul(g, s)))
  }
  for (; i < end; i += floatBytes) {
    const d = v128.load32_splat(dy + i)
    const g = v128.load32_splat(gate + i)
    const s = sigmoid(g)
    v128.store32_lane(dgate + i, gateSlope(d, g, v128.load32_splat(x + i), s), 0)
    v128.store32_lane(dx + i, f32x4.mul(d, f32x4.mul(g, s)), 0)
  }
}

/** dx = 0 where y <= 0, else dy; y is the result of ReLU, or what went in. */
export function reluGradient(dy: usize, y: usize, dx: usize, from: i32, to: i32): void {
  const zero = f32x4.splat(0)
  let i = <usize>from * floatBytes
  const end = <usize>to * floatBytes
  while (i < end) {
    const four = i + 16 <= end
    storeSome(dx + i, v128.andnot(loadSome(dy + i, four), f32x4.le(loadSome(y + i, four), zero)), four)
    i += four ? 16 : floatBytes
  }
}
