/** Matrices stored as float16, and products of a few rows with them: these take the time of reading the matrix. */
import type { Tensor } from '@tensorflow/tfjs-core'
import { run } from '../program'
import { fewRows, rowsFor } from './choose'
import { multiply, wayOf } from './index'
import type { Product } from './product'

/** Rounds in whole numbers: WGSL's pack2x16float leaves it to the device whether to round or to cut off. */
const halfOf = `
fn halfOf(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  let size = bits & 0x7fffffffu;
  // Below 2^-14 numbers have steps of 2^-24, as float32 has from 0.5 to 1.
  if (size < 0x38800000u) { return sign | (bitcast<u32>(bitcast<f32>(size) + 0.5) - 0x3f000000u); }
  return sign | ((size - 0x38000000u + 0xfffu + ((size >> 13u) & 1u)) >> 13u);
}`

const threads = 64

/** x [rows, columns] → int32 [rows, 2 · ⌈columns / 4⌉]. */
export function toFloat16(x: Tensor): Tensor {
  const [rows, columns] = x.shape as [number, number]
  const pairs = 2 * Math.ceil(columns / 4)
  return run(
    {
      key: 'to-float16',
      inputs: ['x'],
      uniforms: 'columns: i32, pairs: i32, ',
      threads,
      code: () => `${halfOf}
fn at(row: i32, column: i32) -> u32 {
  return select(0u, halfOf(x[row * uniforms.columns + column]), column < uniforms.columns);
}
fn main(index: i32) {
  if (index >= i32(arrayLength(&result))) { return; }
  let row = index / uniforms.pairs;
  let column = index % uniforms.pairs * 2;
  result[index] = bitcast<i32>(at(row, column) | (at(row, column + 1) << 16u));
}`,
    },
    {
      inputs: [x],
      into: { shape: [rows, pairs], dtype: 'int32' },
      workgroups: Math.ceil((rows * pairs) / threads),
      uniforms: [columns, pairs].map((size) => ({ type: 'int32', data: [size] })),
    },
  )
}

/** x [rows, inner] by a matrix as `toFloat16` makes it; undefined where reading that is not what takes the time. */
export function float16Product(
  x: Tensor,
  packed: Tensor,
  columns: number,
  transpose: boolean,
): Tensor | undefined {
  const [rows, inner] = x.shape as [number, number]
  if (rows > fewRows || (transpose && inner % 4 !== 0)) return undefined
  const none = [0, 0, 0, 0]
  const product: Product = {
    rows,
    columns,
    inner,
    batch: [1, 1, 1, 1],
    left: { of: 'a', turned: false, steps: none },
    right: { of: 'b', turned: transpose, steps: none, float16: true },
  }
  return multiply(wayOf(rowsFor(product), product, [rows, columns]), { a: x, b: packed })
}
