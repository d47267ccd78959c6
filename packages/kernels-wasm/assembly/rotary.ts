/** Rotary positions: the angles of slots by their age, and the rotation itself. */
import { floatBytes, loadSome, multiplyAdd, storeSome } from './simd'

/**
 * Turns the pairs (n, n + half) of the features of the matrices [from, to) of [matrices, 2 · half, steps] by angles
 * whose cosine and sine are [tables, half, steps]; so many neighbouring matrices share a table. sign -1 turns back.
 */
export function rotate(
  x: usize,
  cosine: usize,
  sine: usize,
  y: usize,
  half: i32,
  steps: i32,
  matricesPerTable: i32,
  sign: f32,
  from: i32,
  to: i32,
): void {
  const bytes = <usize>half * <usize>steps * floatBytes
  const vectors = bytes & ~15
  const signs = f32x4.splat(sign)
  for (let matrix = from; matrix < to; matrix++) {
    const table = <usize>(matrix / matricesPerTable) * bytes
    const cosines = cosine + table
    const sines = sine + table
    const first = <usize>matrix * bytes * 2
    const second = first + bytes
    let i: usize = 0
    for (; i < vectors; i += 16) {
      const c = v128.load(cosines + i)
      const s = f32x4.mul(v128.load(sines + i), signs)
      const a = v128.load(x + first + i)
      const b = v128.load(x + second + i)
      v128.store(y + first + i, f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s)))
      v128.store(y + second + i, f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s)))
    }
    for (; i < bytes; i += floatBytes) {
      const c = load<f32>(cosines + i)
      const s = load<f32>(sines + i) * sign
      const a = load<f32>(x + first + i)
      const b = load<f32>(x + second + i)
      store<f32>(y + first + i, a * c - b * s)
      store<f32>(y + second + i, b * c + a * s)
    }
  }
}

/** Cosine and sine of -age · frequency for four ages, the angle in float64. Polynomials of Cephes (sinf, cosf). */
function turn(ages: v128, frequency: f64, cosine: usize, sine: usize, four: bool): void {
  const quarter = f64x2.splat(Math.PI / 2)
  const perQuarter = f64x2.splat(2 / Math.PI)
  const factor = f64x2.splat(-frequency)
  const low = f64x2.mul(f64x2.convert_low_i32x4_s(ages), factor)
  const high = f64x2.mul(f64x2.convert_low_i32x4_s(i64x2.shuffle(ages, ages, 1, 0)), factor)
  // Quarter turns are taken off, as many as are nearest: the rest is between -π/4 and π/4.
  const lowQuarters = f64x2.nearest(f64x2.mul(low, perQuarter))
  const highQuarters = f64x2.nearest(f64x2.mul(high, perQuarter))
  const lowRest = f64x2.sub(low, f64x2.mul(lowQuarters, quarter))
  const highRest = f64x2.sub(high, f64x2.mul(highQuarters, quarter))
  const rest = i64x2.shuffle(f32x4.demote_f64x2_zero(lowRest), f32x4.demote_f64x2_zero(highRest), 0, 2)
  const quarters = i64x2.shuffle(
    i32x4.trunc_sat_f64x2_s_zero(lowQuarters),
    i32x4.trunc_sat_f64x2_s_zero(highQuarters),
    0,
    2,
  )

  const z = f32x4.mul(rest, rest)
  let s = multiplyAdd(f32x4.splat(-1.9515295891e-4), z, f32x4.splat(8.3321608736e-3))
  s = multiplyAdd(s, z, f32x4.splat(-1.6666654611e-1))
  s = multiplyAdd(f32x4.mul(s, z), rest, rest)
  let c = multiplyAdd(f32x4.splat(2.443315711809948e-5), z, f32x4.splat(-1.388731625493765e-3))
  c = multiplyAdd(c, z, f32x4.splat(4.166664568298827e-2))
  c = multiplyAdd(f32x4.mul(c, z), z, multiplyAdd(f32x4.splat(-0.5), z, f32x4.splat(1)))
  // After an odd number of quarters sine and cosine change places; then come the signs: of the sine in the third and
  // fourth quarter, of the cosine in the second and third.
  const one = i32x4.splat(1)
  const odd = i32x4.eq(v128.and(quarters, one), one)
  const sineSign = i32x4.shl(v128.and(quarters, i32x4.splat(2)), 30)
  const cosineSign = i32x4.shl(v128.and(i32x4.add(quarters, one), i32x4.splat(2)), 30)
  const sines = v128.xor(v128.bitselect(c, s, odd), sineSign)
  const cosines = v128.xor(v128.bitselect(s, c, odd), cosineSign)
  storeSome(sine, sines, four)
  storeSome(cosine, cosines, four)
}

/**
 * cosine and sine [rows, half, slots] of the angles -age · ratio^n, for the rows [from, to) of the ages, int32
 * [rows, slots]. In float64 until the angle is below a quarter turn.
 */
export function rotaryAngles(
  age: usize,
  cosine: usize,
  sine: usize,
  half: i32,
  slots: i32,
  ratio: f64,
  from: i32,
  to: i32,
): void {
  const bytes = <usize>slots * floatBytes
  for (let row = from; row < to; row++) {
    const ages = age + <usize>row * bytes
    let out = <usize>row * <usize>half * bytes
    let frequency: f64 = 1
    for (let n = 0; n < half; n++) {
      let i: usize = 0
      while (i < bytes) {
        const four = i + 16 <= bytes
        turn(loadSome(ages + i, four), frequency, cosine + out + i, sine + out + i, four)
        i += four ? 16 : floatBytes
      }
      frequency *= ratio
      out += bytes
    }
  }
}
