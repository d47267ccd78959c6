/** exp, log and erf, four values at a time. Polynomials of the Cephes library (S. Moshier, expf, logf and erff). */
import { floatBytes, multiplyAdd } from './simd'

/** e^x / 2^n within two units in the last place, for a whole number n next to x / log 2. */
function remainder(x: v128, n: v128): v128 {
  // log 2 in two parts, the first of which times n is exact.
  let rest = f32x4.sub(x, f32x4.mul(n, f32x4.splat(0.693359375)))
  rest = f32x4.sub(rest, f32x4.mul(n, f32x4.splat(-2.1219444e-4)))
  let y = multiplyAdd(f32x4.splat(1.98756915e-4), rest, f32x4.splat(1.3981999507e-3))
  y = multiplyAdd(y, rest, f32x4.splat(8.3334519073e-3))
  y = multiplyAdd(y, rest, f32x4.splat(4.1665795894e-2))
  y = multiplyAdd(y, rest, f32x4.splat(1.6666665459e-1))
  y = multiplyAdd(y, rest, f32x4.splat(5.0000001201e-1))
  return multiplyAdd(y, f32x4.mul(rest, rest), f32x4.add(rest, f32x4.splat(1)))
}

/** e^x for x <= 0: the same, a third faster; 0 below 2^-126. NaN stays. */
export function decay(x: v128): v128 {
  // Added to 3 · 2^22 + 127, a number is rounded to a whole one, and the last bits are the exponent of 2^n.
  const large = f32x4.splat(12583039)
  const rounded = f32x4.add(f32x4.mul(x, f32x4.splat(Mathf.LOG2E)), large)
  const y = f32x4.mul(remainder(x, f32x4.sub(rounded, large)), i32x4.shl(rounded, 23))
  return v128.andnot(y, f32x4.lt(x, f32x4.splat(-87.33)))
}

/** e^x within two units in the last place; 0, infinity and NaN where float32 has them. */
function exponential(x: v128): v128 {
  // Beyond these bounds the result is 0 or infinite; both operations keep a NaN that comes first.
  x = f32x4.pmax(f32x4.pmin(x, f32x4.splat(89)), f32x4.splat(-104))
  // Added to 3 · 2^22, a number is rounded to a whole one, which its last bits then are.
  const large = f32x4.splat(12582912)
  const rounded = f32x4.add(f32x4.mul(x, f32x4.splat(Mathf.LOG2E)), large)
  const y = remainder(x, f32x4.sub(rounded, large))
  // 2^n in two factors, since n reaches from -150 to 128: each is a float with nothing but an exponent.
  const whole = i32x4.sub(rounded, large)
  const half = i32x4.shr_s(whole, 1)
  const bias = i32x4.splat(127)
  const first = i32x4.shl(i32x4.add(half, bias), 23)
  const second = i32x4.shl(i32x4.add(i32x4.sub(whole, half), bias), 23)
  return f32x4.mul(f32x4.mul(y, first), second)
}

/** erf(x): a polynomial below 1, above it Abramowitz and Stegun 7.1.26; within 3e-7. */
export function errorFunction(x: v128): v128 {
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
  far = f32x4.sub(one, f32x4.mul(f32x4.mul(far, t), decay(f32x4.neg(square))))
  far = v128.or(far, v128.and(x, f32x4.splat(-0.0))) // the sign of x
  return v128.bitselect(near, far, f32x4.lt(size, one))
}

/** log x of one positive, not subnormal number; infinity and NaN stay. */
export function logarithm(x: f32): f32 {
  if (!(x < Infinity)) return x
  // x = 2^power · (1 + rest), rest between √½ - 1 and √2 - 1.
  const bits = reinterpret<i32>(x)
  let power = (bits >> 23) - 126
  let rest = reinterpret<f32>((bits & 0x7fffff) | 0x3f000000)
  if (rest < Mathf.SQRT1_2) {
    power--
    rest += rest
  }
  rest -= 1
  const square = rest * rest
  let y: f32 = 7.0376836292e-2
  y = y * rest - <f32>1.151461031e-1
  y = y * rest + <f32>1.167699874e-1
  y = y * rest - <f32>1.2420140846e-1
  y = y * rest + <f32>1.4249322787e-1
  y = y * rest - <f32>1.6668057665e-1
  y = y * rest + <f32>2.0000714765e-1
  y = y * rest - <f32>2.4999993993e-1
  y = y * rest + <f32>3.3333331174e-1
  y = y * rest * square - <f32>2.1219444e-4 * <f32>power - <f32>0.5 * square
  return rest + y + <f32>0.693359375 * <f32>power
}

/** to[i] = e^from[i] for i in [first, last) */
export function exponentials(from: usize, to: usize, first: i32, last: i32): void {
  const end = from + <usize>last * floatBytes
  from += <usize>first * floatBytes
  to += <usize>first * floatBytes
  for (; from + 16 <= end; from += 16) {
    v128.store(to, exponential(v128.load(from)))
    to += 16
  }
  for (; from < end; from += floatBytes) {
    v128.store32_lane(to, exponential(v128.load32_splat(from)), 0)
    to += floatBytes
  }
}

/** to[i] = erf(from[i]) for i in [first, last) */
export function errorFunctions(from: usize, to: usize, first: i32, last: i32): void {
  const end = from + <usize>last * floatBytes
  from += <usize>first * floatBytes
  to += <usize>first * floatBytes
  for (; from + 16 <= end; from += 16) {
    v128.store(to, errorFunction(v128.load(from)))
    to += 16
  }
  for (; from < end; from += floatBytes) {
    v128.store32_lane(to, errorFunction(v128.load32_splat(from)), 0)
    to += floatBytes
  }
}
