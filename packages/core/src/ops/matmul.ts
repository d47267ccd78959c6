/**
 * Matrix products as the decoder needs them. Hidden states are row-major [batch, steps, width]; queries, keys and
 * values are feature-major [batch, heads, headSize, steps], which a product's transpose flags give for free, so that
 * no layer ever transposes a tensor.
 */
import {
  add,
  clone,
  concat,
  ones,
  matMul as product,
  reshape,
  slice,
  sum,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  relu as zeroBelow,
} from '@tensorflow/tfjs-core'
import { reluGradient } from './activation'
import { differentiable, differentiableAll } from './differentiable'
import { fused, several } from './fused'

/** What a product does to its values. ReLU's gradient reads them, so that nothing is added behind it. */
export type Ending =
  /** Negative values become zero. */
  | { readonly relu: boolean; readonly residual?: undefined }
  /** Added, of the product's shape. */
  | { readonly relu?: undefined; readonly residual?: Tensor | undefined }

/** relu(a b + bias), or a b + bias + residual, without a gradient. bias [columns]. */
function productWith(
  a: Tensor,
  b: Tensor,
  transposeA: boolean,
  transposeB: boolean,
  { relu = false, residual }: Ending,
  bias?: Tensor,
): Tensor {
  const inputs = { a, b, ...(bias && { bias }), ...(residual && { residual }) }
  const plain = () => {
    const y = product(a, b, transposeA, transposeB)
    const z = bias ? add(y, bias) : y
    const active = relu ? zeroBelow(z) : z
    return residual ? add(active, residual) : active
  }
  if (!bias && !relu && !residual) return plain()
  return fused('LetheProduct', inputs, { transposeA, transposeB, relu })?.[0] ?? plain()
}

export interface MatMulOptions {
  readonly transposeA?: boolean
  readonly transposeB?: boolean
  /** This factor needs no gradient. */
  readonly constant?: 'a' | 'b'
  /** Added to the product. */
  readonly residual?: Tensor | undefined
}

/** Sums away the leading axes that `shape` has as 1 and `gradient` has not. */
function reduceBatch(gradient: Tensor, shape: readonly number[]): Tensor {
  const axes = gradient.shape
    .slice(0, -2)
    .map((size, axis) => (shape[axis] === 1 && size !== 1 ? axis : -1))
    .filter((axis) => axis >= 0)
  return axes.length === 0 ? gradient : reshape(sum(gradient, axes), shape as number[])
}

/**
 * Product over the last two axes of tensors of equal rank. The outermost axes of one side may be 1 and are broadcast:
 * [1, heads, ...] against [batch, heads, ...], but not [batch, 1, ...] (tfjs takes batches modulo, silently). Unlike
 * tfjs's own, the gradient sums over broadcast axes, and a factor declared constant costs no gradient.
 */
export function matMul(a: Tensor, b: Tensor, options: MatMulOptions = {}): Tensor {
  const { transposeA = false, transposeB = false, constant, residual } = options
  const gradientOfA = (dy: Tensor, b: Tensor) =>
    reduceBatch(transposeA ? product(b, dy, transposeB, true) : product(dy, b, false, !transposeB), a.shape)
  const gradientOfB = (dy: Tensor, a: Tensor) =>
    reduceBatch(transposeB ? product(dy, a, true, transposeA) : product(a, dy, !transposeA, false), b.shape)
  const [ofA, ofB] = [constant !== 'a', constant !== 'b']
  return differentiable(
    [...(ofA ? [a] : []), ...(ofB ? [b] : []), ...(residual ? [residual] : [])],
    (save) => {
      // Each factor's gradient needs the other one.
      save([...(ofA ? [b] : []), ...(ofB ? [a] : [])])
      return productWith(a, b, transposeA, transposeB, { residual })
    },
    (dy, saved) => {
      const others = [...saved]
      return [
        ...(ofA ? [gradientOfA(dy, others.shift()!)] : []),
        ...(ofB ? [gradientOfB(dy, others.shift()!)] : []),
        ...(residual ? [clone(dy)] : []),
      ]
    },
  )
}

/** Sum over all but the last axis, as a product with ones (sums over rows are slow on wasm): [..., width] → [width]. */
export function sumRows(x: Tensor): Tensor {
  const width = x.shape[x.rank - 1]!
  const rows = x.size / width
  return reshape(product(ones([1, rows]), reshape(x, [rows, width])), [width])
}

/**
 * y = x W (+ bias): [..., in] → [..., out] as one two-dimensional product. weight [in, out], bias [out]; with `relu`,
 * negative values become zero, or a residual [..., out] is added.
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  { relu = false, residual }: Ending = { relu: false },
): Tensor {
  const [width, size] = weight.shape as [number, number]
  const flat = x.rank === 2 ? x : reshape(x, [x.size / width, width])
  const ending: Ending = relu ? { relu } : { residual: residual && reshape(residual, [flat.shape[0]!, size]) }
  const y = bias || relu ? affine(flat, weight, bias, ending) : matMul(flat, weight, ending)
  return x.rank === 2 ? y : reshape(y, [...x.shape.slice(0, -1), size])
}

/** The same for x [rows, in]. */
const affine = (x: Tensor, weight: Tensor, bias: Tensor | undefined, ending: Ending): Tensor =>
  differentiable(
    [x, weight, ...(bias ? [bias] : []), ...(ending.residual ? [ending.residual] : [])],
    (save) => {
      const y = productWith(x, weight, false, false, ending, bias)
      save([x, weight, ...(ending.relu ? [y] : [])])
      return y
    },
    (dy, [x, weight, y]) => {
      const inner = y ? reluGradient(dy, y) : dy
      return [
        product(inner, weight!, false, true),
        product(x!, inner, true, false),
        ...(bias ? [sumRows(inner)] : []),
        ...(ending.residual ? [clone(dy)] : []),
      ]
    },
  )

/** Hidden states along the step axis; a constant piece gets no gradient. */
export interface Piece {
  readonly hidden: Tensor3D
  readonly constant: boolean
}

/**
 * Hidden states to heads: pieces [batch, steps, width], side by side, × [width, heads · headSize] →
 * [batch, heads, headSize, all steps] for each weight. One product a weight for all pieces, which are put side by side
 * once; gradients only where one is wanted.
 */
export function projectToHeads(
  pieces: readonly Piece[],
  weights: readonly Tensor2D[],
  heads: number,
): Tensor[] {
  const [batch] = pieces[0]!.hidden.shape
  const steps = pieces.reduce((sum, { hidden }) => sum + hidden.shape[1], 0)
  const asBatch = (weight: Tensor) => reshape(weight, [1, ...weight.shape])
  let start = 0
  const learning: { hidden: Tensor3D; from: number }[] = []
  for (const { hidden, constant } of pieces) {
    if (!constant) learning.push({ hidden, from: start })
    start += hidden.shape[1]
  }
  return differentiableAll(
    [...weights, ...learning.map(({ hidden }) => hidden)],
    (save) => {
      const hidden = pieces.map(({ hidden }) => hidden)
      const all = hidden.length === 1 ? hidden[0]! : concat(hidden, 1)
      save([all, ...weights])
      // Of a single step, rows and features stand alike.
      const at =
        steps === 1 && weights.length > 1 && weights.every(({ shape }) => shape[1] === weights[0]!.shape[1])
      const together =
        at && fused('LetheProducts', { x: reshape(all, [batch, -1]), ...several('weight', weights) }, {})
      return weights.map((weight, index) => {
        const size = weight.shape[1]
        const projected = together ? together[index]! : product(asBatch(weight), all, true, true)
        return reshape(projected, [batch, heads, size / heads, steps])
      })
    },
    (dys, saved) => {
      const [all, ...weights] = saved as [Tensor3D, ...Tensor2D[]]
      const flat = dys.map((dy) => reshape(dy, [batch, dy.size / (batch * steps), steps]))
      const pieceGradient = ({ hidden, from }: (typeof learning)[number]) =>
        flat
          .map((dy, index) => {
            const count = hidden.shape[1]
            const own = count === steps ? dy : slice(dy, [0, 0, from], [batch, dy.shape[1]!, count])
            return product(own, asBatch(weights[index]!), true, true)
          })
          .reduce((a, b) => add(a, b))
      return [
        ...flat.map((dy) => sum(product(all, dy, true, true), 0)),
        ...learning.map((piece) => pieceGradient(piece)),
      ]
    },
  )
}

/**
 * Heads to hidden states: [batch, heads, headSize, steps] × [heads · headSize, width] → [batch, steps, width], and a
 * residual of that shape added.
 */
export function projectFromHeads(context: Tensor, weight: Tensor2D, residual?: Tensor): Tensor3D {
  const [batch, heads, size, steps] = context.shape as [number, number, number, number]
  const flat = reshape(context, [batch, heads * size, steps])
  return matMul(flat, reshape(weight, [1, ...weight.shape]), { transposeA: true, residual }) as Tensor3D
}
