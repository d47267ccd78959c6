/** What a call of tfjs's BatchMatMul asks for, in the one form that the shaders compute. */
import { broadcast_util, util } from '@tensorflow/tfjs-core'

/** What is known of a tensor. */
export interface Shaped {
  readonly shape: number[]
}

/** One side: a matrix for each product of the batch, or one for several. */
export interface Factor {
  /** Which of the two given. */
  readonly of: 'a' | 'b'
  /** Stored with its two axes the other way round: left [inner, rows], right [columns, inner]. */
  readonly turned: boolean
  /** From one matrix to the next along each of the four batch axes, in values; 0 where it is broadcast. */
  readonly steps: readonly number[]
  /** Stored as float16, two values in each int32; rows begin at multiples of four values. */
  readonly float16?: boolean
}

/** [rows, inner] × [inner, columns] for each place of the batch. */
export interface Product {
  readonly rows: number
  readonly columns: number
  readonly inner: number
  /** Sizes of four batch axes, which is as many as a tensor may have. */
  readonly batch: readonly number[]
  readonly left: Factor
  readonly right: Factor
}

/** How many values of each factor lie side by side: where four divides it, they may be read by fours. */
export const widthsOf = ({ rows, columns, inner, left, right }: Product) => ({
  left: left.turned ? rows : inner,
  right: right.turned ? inner : columns,
})

const axes = 4
const sizeOf = (sizes: readonly number[]) => sizes.reduce((product, size) => product * size, 1)

export const matricesOf = ({ batch }: Product) => sizeOf(batch)

/** Steps between the matrices of a tensor [...own, height, width] under a batch of four axes. */
function stepsOf({ shape }: Shaped): number[] {
  const own = shape.slice(0, -2)
  const padded = [...new Array<number>(axes - own.length).fill(1), ...own]
  const size = sizeOf(shape.slice(-2))
  return padded.map((count, axis) => (count === 1 ? 0 : size * sizeOf(padded.slice(axis + 1))))
}

/**
 * The product of a and b as tfjs takes them, and the shape of its result. Throws as tfjs does for inner sizes that differ
 * and batches that do not broadcast. All of a batch that meets one right factor becomes rows of one product, and a
 * result of one column becomes a result of one row, which is stored alike.
 */
export function productOf(
  a: Shaped,
  b: Shaped,
  transposeA: boolean,
  transposeB: boolean,
): { product: Product; shape: number[] } {
  const [heightA, widthA] = a.shape.slice(-2) as [number, number]
  const [heightB, widthB] = b.shape.slice(-2) as [number, number]
  const [rows, inner] = transposeA ? [widthA, heightA] : [heightA, widthA]
  const [innerB, columns] = transposeB ? [widthB, heightB] : [heightB, widthB]
  util.assert(
    inner === innerB,
    () =>
      `Error in matMul: inner shapes (${inner}) and (${innerB}) of Tensors with shapes ${a.shape} and ` +
      `${b.shape} and transposeA=${transposeA} and transposeB=${transposeB} must match.`,
  )
  const batchShape = broadcast_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2))
  const product: Product = {
    rows,
    columns,
    inner,
    batch: [...new Array<number>(axes - batchShape.length).fill(1), ...batchShape],
    left: { of: 'a', turned: transposeA, steps: stepsOf(a) },
    right: { of: 'b', turned: transposeB, steps: stepsOf(b) },
  }
  return {
    product: folded(columns === 1 ? swapped(product) : product),
    shape: [...batchShape, rows, columns],
  }
}

const swapped = ({ rows, columns, inner, batch, left, right }: Product): Product => ({
  rows: columns,
  columns: rows,
  inner,
  batch,
  left: { ...right, turned: !right.turned },
  right: { ...left, turned: !left.turned },
})

function folded(product: Product): Product {
  const { rows, batch, left, right } = product
  // A single row is stored alike either way.
  const straight = rows === 1 ? { ...left, turned: false } : left
  const matrices = matricesOf(product)
  const own = batch.every((count, axis) => count === 1 || left.steps[axis]! > 0)
  if (straight.turned || !own || right.steps.some((step) => step > 0)) return { ...product, left: straight }
  const none = [0, 0, 0, 0]
  return {
    ...product,
    rows: rows * matrices,
    batch: [1, 1, 1, 1],
    left: { ...straight, steps: none },
    right: { ...right, steps: none },
  }
}
