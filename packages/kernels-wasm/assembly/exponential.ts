/** exp and erf, four values at a time. Polynomials of the Cephes library (S. Moshier, expf and erff). */
import { floatBytes, multiplyAdd } from './simd'

/** e^x within two units in the last place; 0, infinity and NaN where float32 has them. */
function exponential(x: v128): v128 {
  // Beyond these bounds the result is 0 or infinite; both operations keep a NaN that comes first.
  x = f32x4.pmax(f32x4.pmin(x, f32x4.splat(89)), f32x4.splat(-104))
  // x = n log 2 + rest. Added to 3 · 2^22, a number is rounded to a whole one, which its last bits then are.
  const large = f32x4.splat(12582912)
  const rounded = f32x4.add(f32x4.mul(x, f32x4.splat(Mathf.LOG2E)), large)
  const n = f32x4.sub(rounded, large)
  // log 2 in two parts, the first of which times n is exact.
  let rest = f32x4.sub(x, f32x4.mul(n, f32x4.splat(0.693359375)))
  rest = f32x4.sub(rest, f32x4.mul(n, f32x4.splat(-2.1219444e-4)))
  let y = multiplyAdd(f32x4.splat(1.98756915e-4), rest, f32x4.splat(1.3981999507e-3))
  y = multiplyAdd(y, rest, f32x4.splat(8.3334519073e-3))
  y = multiplyAdd(y, rest, f32x4.splat(4.1665795894e-2))
  y = multiplyAdd(y, rest, f32x4.splat(1.6666665459e-1))
  y = multiplyAdd(y, rest, f32x4.splat(5.0000001201e-1))
  y = multiplyAdd(y, f32x4.mul(rest, rest), f32x4.add(rest, f32x4.splat(1)))
  // 2^n in two factors, since n reaches from -150 to 128: each is a float with nothing but an exponent.
  const whole = i32x4.sub(rounded, large)
  const half = i32x4.shr_s(whole, 1)
  const bias = i32x4.splat(127)
  const first = i32x4.shl(i32x4.add(half, bias), 23)
  const second = i32x4.shl(i32x4.add(i32x4.sub(whole, half), bias), 23)
  return f32x4.mul(f32x4.mul(y, first), second)
}

/** erf(x): a polynomial below 1, above it Abramowitz and Stegun 7.1.26; within 3e-7. */
function errorFunction(x: v128): v128 {
  const square = f32x4.mul(x, x)
  let near = multiplyAdd(f32x4.splat(7.853861353153693e-5), square, f32x4.splat(-8.010193625184903e-4))
  near = multiplyAdd(near, square, f32x4.splat(5.188327685732524e-3))
  near = multiplyAdd(near, square, f32x4.splat(-2.685381193529856e-2))
  near = multiplyAdd(near, square, f32x4.splat(1.128358514861418e-1))
  near = multiplyAdd(near, square, f32x4.splat(-3.7612625824233e-1))
  near = f32x4.mul(x, multiplyAdd(near, square, f32x4.splat(1.12837916572671)))

  const one = f32x4.splat(1)
  const size = f32x4.abs(x)
  const t = f32x4.div(one, multiplyAdd(f32x4.splat(0.3275911), size, one))
  let far = multiplyAdd(f32x4.splat(1.061405429), t, f32x4.splat(-1.453152027))
  far = multiplyAdd(far, t, f32x4.splat(1.421413741))
  far = multiplyAdd(far, t, f32x4.splat(-0.284496736))
  far = multiplyAdd(far, t, f32x4.splat(0.254829592))
  far = f32x4.sub(one, f32x4.mul(f32x4.mul(far, t), exponential(f32x4.neg(square))))
  far = v128.or(far, v128.and(x, f32x4.splat(-0.0))) // the sign of x
  return v128.bitselect(near, far, f32x4.lt(size, one))
}

/** to[i] = e^from[i] */
export function exponentials(from: usize, to: usize, count: i32): void {
  const end = from + <usize>count * floatBytes
  for (; from + 16 <= end; from += 16) {
    v128.store(to, exponential(v128.load(from)))
    to += 16
  }
  for (; from < end; from += floatBytes) {
    v128.store32_lane(to, exponential(v128.load32_splat(from)), 0)
    to += floatBytes
  }
}

/** to[i] = erf(from[i]) */
export function errorFunctions(from: usize, to: usize, count: i32): void {
  const end = from + <usize>count * floatBytes
  for (; from + 16 <= end; from += 16) {
    v128.store(to, errorFunction(v128.load(from)))
    to += 16
  }
  for (; from < end; from += floatBytes) {
    v128.store32_lane(to, errorFunction(v128.load32_splat(from)), 0)
    to += floatBytes
  }
}
