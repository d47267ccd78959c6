/**
 * BatchMatMul through our own kernels, which take every transpose as it is. Where those are not to be had: through
 * XNNPACK. tfjs reaches XNNPACK only for one untransposed product; everything else (every
 * gradient, all of attention) runs in a scalar loop. Here each product becomes untransposed ones on views of the
 * same memory, with transposes only where they pay.
 *
 * tfjs caches an XNNPACK operator, with a packed copy of the right operand, under the id of that operand: used in a
 * second shape, or changed in place, it gives wrong products. So every product gets fresh ids, and they are disposed
 * of at once, which frees the operator too.
 */
import type { Kernels, Matrix } from '@lethe/kernels-wasm'
import {
  type BatchMatMulAttrs,
  broadcast_util,
  type KernelFunc,
  type TensorInfo,
  util,
} from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend, withScratch } from './heap'
import { kernelsOf } from './kernels'
import { transposeMatrix } from './transpose'

/** Nanoseconds, measured on one core by bench/matmul.mjs; only their ratios matter. */
const cost = {
  /** XNNPACK, per multiplication and addition */
  product: 0.11,
  /** XNNPACK, per element of the right operand, which it copies into a layout of its own */
  pack: 8,
  /** XNNPACK, per call: views and an operator */
  call: 1500,
  /** transposeMatrix, per element */
  transpose: 1.9,
  /** the loops in JavaScript, per multiplication and addition, and per call */
  loop: 1.2,
  loopCall: 60,
}

/** One operand: a matrix [height, width] of the product, or one such matrix for each product of the batch. */
interface Operand {
  /** in elements, from the start of the heap */
  readonly start: number
  /** elements of one matrix */
  readonly size: number
  readonly matrices: number
  /** which matrix each product of the batch takes; undefined: the one with its own number, or the only one */
  readonly index: Int32Array | undefined
  /** can be read as [height, width]; and as [width, height]. Both hold where one of the two is 1. */
  readonly plain: boolean
  readonly turned: boolean
}

/** [rows, inner] x [inner, columns], `batch` times. */
interface Product {
  readonly rows: number
  readonly inner: number
  readonly columns: number
  readonly batch: number
  readonly left: Operand
  readonly right: Operand
}

/** The same products as (right^T x left^T)^T; the result then has to be turned back. */
function swapped({ rows, inner, columns, batch, left, right }: Product): Product {
  return {
    rows: columns,
    inner,
    columns: rows,
    batch,
    left: { ...right, plain: right.turned, turned: right.plain },
    right: { ...left, plain: left.turned, turned: left.plain },
  }
}

/** XNNPACK's share of the work: calls, copies of the right operand, arithmetic, and transposes that it needs. */
function estimate({ rows, inner, columns, batch, left, right }: Product): number {
  const calls = right.matrices === 1 ? 1 : batch
  const width = Math.ceil(columns / 8) * 8 // it computes eight columns at a time
  const transposed =
    (left.plain ? 0 : left.size * left.matrices) + (right.plain ? 0 : right.size * right.matrices)
  return (
    calls * (cost.call + cost.pack * inner * width) +
    cost.product * batch * rows * inner * width +
    cost.transpose * transposed
  )
}

/** The products by our own kernels, into the heap from element `out` on: [batch, rows, columns]. */
function multiplyByKernels(kernels: Kernels, product: Product, out: number): void {
  const { rows, inner, columns, batch, left, right } = product
  // One right operand for all: their rows are those of one tall product.
  const fold = right.matrices === 1 && left.matrices === batch && left.plain
  const height = fold ? rows * batch : rows
  const indexed = left.index !== undefined || right.index !== undefined
  const calls = indexed ? batch : 1
  for (let call = 0; call < calls; call++) {
    kernels.multiply(
      matrixAt(left, call, rows, inner),
      matrixAt(right, call, inner, columns),
      4 * (out + call * rows * columns),
      height,
      columns,
      inner,
      fold || indexed ? 1 : batch,
    )
  }
}

/** The matrix that this product of the batch takes, and how far it is to that of the next. */
function matrixAt(operand: Operand, product: number, height: number, width: number): Matrix {
  const at = 4 * (operand.start + matrixOf(operand, product) * operand.size)
  const matrixStep = operand.matrices === 1 ? 0 : operand.size
  const [rowStep, columnStep] = operand.plain ? [width, 1] : [1, height]
  return { at, rowStep, columnStep, matrixStep }
}

/** Computes the products into the heap from element `out` on: [batch, rows, columns]. */
function multiply(backend: WasmBackend, product: Product, out: number): void {
  const { rows, inner, columns, batch } = product
  const other = swapped(product)
  const flat = rows === 1 || columns === 1
  const direct = estimate(product)
  const swap = estimate(other) + (flat ? 0 : cost.transpose * batch * rows * columns)
  const loop = batch * (cost.loopCall + cost.loop * rows * inner * columns)
  if (loop <= direct && loop <= swap) loops(backend.wasm.HEAPF32, product, out)
  else if (direct <= swap) xnnpack(backend, product, out, false)
  else xnnpack(backend, other, out, !flat)
}

/** @param turn write each result transposed: [batch, columns, rows] */
function xnnpack(backend: WasmBackend, product: Product, out: number, turn: boolean): void {
  const { rows, inner, columns, batch, left, right } = product
  // One right operand for all: their rows are those of one tall product.
  const fold = right.matrices === 1 && left.matrices === batch
  const calls = fold ? 1 : batch
  const height = fold ? rows * batch : rows

  const shapeBytes = 32
  const leftSize = left.plain ? 0 : left.size * left.matrices
  const rightSize = right.plain ? 0 : right.size * right.matrices
  const outSize = turn ? height * columns : 0
  withScratch(backend, shapeBytes + 4 * (leftSize + rightSize + outSize), (scratch) => {
    const { wasm } = backend
    const shapes = scratch / 4
    const leftScratch = shapes + shapeBytes / 4
    const rightScratch = leftScratch + leftSize
    const outScratch = rightScratch + rightSize
    for (let matrix = 0; !left.plain && matrix < left.matrices; matrix++) {
      const at = matrix * left.size
      transposeMatrix(wasm.HEAPF32, left.start + at, leftScratch + at, inner, rows)
    }
    for (let matrix = 0; !right.plain && matrix < right.matrices; matrix++) {
      const at = matrix * right.size
      transposeMatrix(wasm.HEAPF32, right.start + at, rightScratch + at, columns, inner)
    }
    wasm.HEAP32.set([1, height, inner, 1, inner, columns], shapes)

    const leftStart = left.plain ? left.start : leftScratch
    const rightStart = right.plain ? right.start : rightScratch
    const { tfjs } = wasm
    for (let call = 0; call < calls; call++) {
      const a = backend.dataIdNextNumber++
      const b = backend.dataIdNextNumber++
      const c = backend.dataIdNextNumber++
      const target = turn ? outScratch : out + call * height * columns
      tfjs.registerTensor(a, height * inner, 4 * (leftStart + matrixOf(left, call) * left.size))
      tfjs.registerTensor(b, right.size, 4 * (rightStart + matrixOf(right, call) * right.size))
      tfjs.registerTensor(c, height * columns, 4 * target)
      wasm._BatchMatMul(a, scratch, 3, b, scratch + 12, 3, 0, 0, c)
      tfjs.disposeData(a)
      tfjs.disposeData(b)
      tfjs.disposeData(c)
      // The heap may have grown: read its view anew.
      for (let part = 0; turn && part < height / rows; part++) {
        const size = rows * columns
        transposeMatrix(wasm.HEAPF32, outScratch + part * size, out + (call + part) * size, rows, columns)
      }
    }
  })
}

function matrixOf(operand: Operand, product: number): number {
  if (operand.matrices === 1) return 0
  return operand.index === undefined ? product : operand.index[product]!
}

/** For products so small, or so flat, that copying an operand costs more than multiplying. */
function loops(heap: Float32Array, product: Product, out: number): void {
  // A column is computed like a row, if the matrix then lies in the order in which it is read.
  const { rows, inner, columns, batch, left, right } =
    product.columns === 1 && product.left.turned ? swapped(product) : product
  const leftRow = left.plain ? inner : 1
  const leftInner = left.plain ? 1 : rows
  for (let item = 0; item < batch; item++) {
    const a = left.start + matrixOf(left, item) * left.size
    const b = right.start + matrixOf(right, item) * right.size
    const c = out + item * rows * columns
    for (let row = 0; row < rows; row++) {
      if (right.turned) dots(heap, a + row * leftRow, leftInner, b, c + row * columns, inner, columns)
      else sums(heap, a + row * leftRow, leftInner, b, c + row * columns, inner, columns)
    }
  }
}

/** One row of the result, the right operand stored as [inner, columns]: a weighted sum of its rows. */
function sums(
  heap: Float32Array,
  a: number,
  step: number,
  b: number,
  c: number,
  inner: number,
  columns: number,
) {
  heap.fill(0, c, c + columns)
  let k = 0
  for (; k + 4 <= inner; k += 4) {
    const a0 = heap[a + k * step]!
    const a1 = heap[a + (k + 1) * step]!
    const a2 = heap[a + (k + 2) * step]!
    const a3 = heap[a + (k + 3) * step]!
    const b0 = b + k * columns
    const b1 = b0 + columns
    const b2 = b1 + columns
    const b3 = b2 + columns
    for (let n = 0; n < columns; n++) {
      heap[c + n] =
        heap[c + n]! + a0 * heap[b0 + n]! + a1 * heap[b1 + n]! + a2 * heap[b2 + n]! + a3 * heap[b3 + n]!
    }
  }
  for (; k < inner; k++) {
    const a0 = heap[a + k * step]!
    const b0 = b + k * columns
    for (let n = 0; n < columns; n++) heap[c + n] = heap[c + n]! + a0 * heap[b0 + n]!
  }
}

/** One row of the result, the right operand stored as [columns, inner]: a scalar product with each of its rows. */
function dots(
  heap: Float32Array,
  a: number,
  step: number,
  b: number,
  c: number,
  inner: number,
  columns: number,
) {
  for (let n = 0; n < columns; n++) {
    const row = b + n * inner
    let even = 0
    let odd = 0
    let k = 0
    for (; k + 2 <= inner; k += 2) {
      even += heap[a + k * step]! * heap[row + k]!
      odd += heap[a + (k + 1) * step]! * heap[row + k + 1]!
    }
    if (k < inner) even += heap[a + k * step]! * heap[row + k]!
    heap[c + n] = even + odd
  }
}

/** Reads an operand's shape. `turned` as given by the caller: the last two dimensions are the other way round. */
function operand(backend: WasmBackend, tensor: TensorInfo, batchShape: number[], turned: boolean): Operand {
  const rank = tensor.shape.length
  const height = tensor.shape[rank - 2]!
  const width = tensor.shape[rank - 1]!
  const flat = height === 1 || width === 1
  const own = tensor.shape.slice(0, -2)
  const matrices = util.sizeFromShape(own)
  const batch = util.sizeFromShape(batchShape)
  return {
    start: offsetOf(backend, tensor) / 4,
    size: height * width,
    matrices,
    index: matrices === 1 || matrices === batch ? undefined : broadcastIndex(own, batchShape),
    plain: !turned || flat,
    turned: turned || flat,
  }
}

/** For each place in `shape`, the place in `own` that is broadcast there. */
function broadcastIndex(own: number[], shape: number[]): Int32Array {
  const padded = [...new Array<number>(shape.length - own.length).fill(1), ...own]
  const strides = util.computeStrides([...padded, 1])
  const index = new Int32Array(util.sizeFromShape(shape))
  for (let place = 0; place < index.length; place++) {
    let rest = place
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const at = rest % shape[axis]!
      rest = (rest - at) / shape[axis]!
      if (padded[axis] !== 1) index[place]! += at * strides[axis]!
    }
  }
  return index
}

/** The kernel. Whatever is not float32 goes to tfjs's own. */
export function batchMatMul(stock: KernelFunc): KernelFunc {
  return (args) => {
    const { a, b } = args.inputs as { a: TensorInfo; b: TensorInfo }
    const { transposeA, transposeB } = args.attrs as unknown as BatchMatMulAttrs
    if (a.dtype !== 'float32' || b.dtype !== 'float32') return stock(args)
    const backend = args.backend as WasmBackend
    const [rows, innerA] = lastTwo(a.shape, transposeA)
    const [innerB, columns] = lastTwo(b.shape, transposeB)
    util.assert(
      innerA === innerB,
      () =>
        `Error in matMul: inner shapes (${innerA}) and (${innerB}) of Tensors with shapes ${a.shape} and ` +
        `${b.shape} and transposeA=${transposeA} and transposeB=${transposeB} must match.`,
    )
    const batchShape = broadcast_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2))
    const out = backend.makeOutput([...batchShape, rows, columns], 'float32')
    const size = util.sizeFromShape(out.shape)
    if (size === 0) return out
    const start = offsetOf(backend, out) / 4
    if (innerA === 0) {
      backend.wasm.HEAPF32.fill(0, start, start + size)
      return out
    }
    const left = operand(backend, a, batchShape, transposeA)
    const right = operand(backend, b, batchShape, transposeB)
    const batch = util.sizeFromShape(batchShape)
    const product = { rows, inner: innerA, columns, batch, left, right }
    const kernels = kernelsOf(backend)
    if (kernels !== undefined) multiplyByKernels(kernels, product, start)
    else multiply(backend, product, start)
    return out
  }
}

function lastTwo(shape: number[], turned: boolean): [height: number, width: number] {
  const height = shape[shape.length - 2]!
  const width = shape[shape.length - 1]!
  return turned ? [width, height] : [height, width]
}
