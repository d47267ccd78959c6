/** The innermost part of a product: 4 x 8 results held in registers. Taller or wider tiles spill them. */
import { floatBytes, multiplyAdd } from './simd'

export const tileRows: i32 = 4
export const tileColumns: i32 = 8

function storeRow(to: usize, low: v128, high: v128, accumulate: bool): void {
  if (accumulate) {
    low = f32x4.add(v128.load(to), low)
    high = f32x4.add(v128.load(to, 16), high)
  }
  v128.store(to, low)
  v128.store(to, high, 16)
}

/**
 * to[4, 8] (+)= left[depth, 4]ᵀ · right[depth, 8]. `left` is packed; rows of `right` are `rightStep` bytes apart, rows of
 * `to` `toStep`. Must have one call site, so that it is inlined; unrolling over depth makes it slower.
 */
export function multiplyTile(
  left: usize,
  right: usize,
  rightStep: usize,
  depth: i32,
  to: usize,
  toStep: usize,
  accumulate: bool,
): void {
  let low0 = f32x4.splat(0)
  let high0 = low0
  let low1 = low0
  let high1 = low0
  let low2 = low0
  let high2 = low0
  let low3 = low0
  let high3 = low0
  const end = left + <usize>depth * <usize>tileRows * floatBytes
  while (left < end) {
    const left3 = v128.load32_splat(left, 12)
    const high = v128.load(right, 16)
    high3 = multiplyAdd(left3, high, high3)
    const low = v128.load(right)
    low3 = multiplyAdd(left3, low, low3)
    const left2 = v128.load32_splat(left, 8)
    high2 = multiplyAdd(left2, high, high2)
    low2 = multiplyAdd(left2, low, low2)
    const left1 = v128.load32_splat(left, 4)
    high1 = multiplyAdd(left1, high, high1)
    low1 = multiplyAdd(left1, low, low1)
    const left0 = v128.load32_splat(left)
    high0 = multiplyAdd(left0, high, high0)
    low0 = multiplyAdd(left0, low, low0)
    left += <usize>tileRows * floatBytes
    right += rightStep
  }
  storeRow(to, low0, high0, accumulate)
  storeRow(to + toStep, low1, high1, accumulate)
  storeRow(to + 2 * toStep, low2, high2, accumulate)
  storeRow(to + 3 * toStep, low3, high3, accumulate)
}

/** Copies (or adds) the first rows and columns of a 4 x 8 tile: the edge of a result. */
export function copyTile(
  tile: usize,
  to: usize,
  toStep: usize,
  accumulate: bool,
  rows: i32,
  columns: i32,
): void {
  for (let row = 0; row < rows; row++) {
    const source = tile + <usize>(row * tileColumns) * floatBytes
    const target = to + <usize>row * toStep
    for (let column = 0; column < columns; column++) {
      const at = <usize>column * floatBytes
      let value = load<f32>(source + at)
      if (accumulate) value += load<f32>(target + at)
      store<f32>(target + at, value)
    }
  }
}
