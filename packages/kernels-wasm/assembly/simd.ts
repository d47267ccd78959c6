/** What all kernels share: vectors of four floats. */

/** Bytes of a float; addresses and strides named `...Bytes` or `...Step` count bytes. */
export const floatBytes: usize = 4

/** a · b + c: fused in the relaxed build, rounded twice in the plain one. */
export function multiplyAdd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c)
  return f32x4.add(f32x4.mul(a, b), c)
}

/** Sum of the four lanes. */
export function sumLanes(v: v128): f32 {
  return (
    f32x4.extract_lane(v, 0) +
    f32x4.extract_lane(v, 1) +
    (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3))
  )
}

/** Copies the transpose of a 4 x 4 block; steps are the bytes between rows. */
export function transposeSquare(from: usize, fromStep: usize, to: usize, toStep: usize): void {
  const row0 = v128.load(from)
  const row1 = v128.load(from + fromStep)
  const row2 = v128.load(from + 2 * fromStep)
  const row3 = v128.load(from + 3 * fromStep)
  const low01 = i32x4.shuffle(row0, row1, 0, 4, 1, 5)
  const low23 = i32x4.shuffle(row2, row3, 0, 4, 1, 5)
  const high01 = i32x4.shuffle(row0, row1, 2, 6, 3, 7)
  const high23 = i32x4.shuffle(row2, row3, 2, 6, 3, 7)
  v128.store(to, i32x4.shuffle(low01, low23, 0, 1, 4, 5))
  v128.store(to + toStep, i32x4.shuffle(low01, low23, 2, 3, 6, 7))
  v128.store(to + 2 * toStep, i32x4.shuffle(high01, high23, 0, 1, 4, 5))
  v128.store(to + 3 * toStep, i32x4.shuffle(high01, high23, 2, 3, 6, 7))
}

/** Four values, or one in all lanes: kernels that go value by value take the last few one at a time, by the same code. */
export function loadSome(at: usize, four: bool): v128 {
  return four ? v128.load(at) : v128.load32_splat(at)
}

/** Stores all four lanes, or the first alone. */
export function storeSome(at: usize, values: v128, four: bool): void {
  if (four) v128.store(at, values)
  else v128.store32_lane(at, values, 0)
}
