/**
 * Sum over neighbouring axes. Where the last is not among them, tfjs transposes first, slowly: here rows are added to
 * rows; the gradient of every broadcast (a bias, shared weights) is such a sum. Our own kernels do both; without them
 * JavaScript adds rows.
 */
import { backend_util, type KernelFunc, type SumAttrs, type TensorInfo, util } from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend } from './heap'
import { kernelsOf } from './kernels'

export function sum(stock: KernelFunc): KernelFunc {
  return (args) => {
    const { x } = args.inputs as { x: TensorInfo }
    const { axis, keepDims } = args.attrs as unknown as SumAttrs
    const empty = util.sizeFromShape(x.shape) === 0
    if (x.dtype !== 'float32' && !(x.dtype === 'int32' && empty)) return stock(args)
    const axes = util.parseAxisParam(axis, x.shape).sort((one, other) => one - other)
    const first = axes[0] ?? 0
    const last = axes.at(-1) ?? 0
    const inner = util.sizeFromShape(x.shape.slice(last + 1))
    const neighbours = axes.length > 0 && axes.length === last - first + 1
    const backend = args.backend as WasmBackend
    const kernels = neighbours ? kernelsOf(backend) : undefined
    // A short row costs more to begin than to add. A sum of nothing is 0; tfjs leaves its memory as it was.
    if (!empty && kernels === undefined && (!neighbours || inner < 8)) return stock(args)

    const [reduced] = backend_util.computeOutAndReduceShapes(x.shape, axes)
    const shape = keepDims ? backend_util.expandShapeToKeepDim(reduced, axes) : reduced
    const out = backend.makeOutput(shape, x.dtype)
    const heap = backend.wasm.HEAPF32
    const outer = util.sizeFromShape(x.shape.slice(0, first))
    const rows = util.sizeFromShape(axes.map((one) => x.shape[one]!))
    let from = offsetOf(backend, x) / 4
    let to = offsetOf(backend, out) / 4
    if (empty) {
      heap.fill(0, to, to + util.sizeFromShape(shape)) // 0 has the same bits as a float and as an integer
      return out
    }
    if (kernels !== undefined && inner === 1) {
      kernels.sumLines(4 * from, 4 * to, rows, outer)
      return out
    }
    for (let block = 0; block < outer; block++) {
      if (kernels === undefined) addRows(heap, from, to, rows, inner)
      else kernels.sumRows(4 * from, 4 * to, rows, inner, 0, inner)
      from += rows * inner
      to += inner
    }
    return out
  }
}

/** to[i] = the sum over all rows of from[row, i]; four rows at a time, to read and write `to` less often. */
function addRows(heap: Float32Array, from: number, to: number, rows: number, width: number): void {
  heap.fill(0, to, to + width)
  let row = 0
  for (; row + 4 <= rows; row += 4) {
    const row0 = from + row * width
    const row1 = row0 + width
    const row2 = row1 + width
    const row3 = row2 + width
    for (let i = 0; i < width; i++) {
      heap[to + i] = heap[to + i]! + (heap[row0 + i]! + heap[row1 + i]! + (heap[row2 + i]! + heap[row3 + i]!))
    }
  }
  for (; row < rows; row++) {
    const row0 = from + row * width
    for (let i = 0; i < width; i++) heap[to + i] = heap[to + i]! + heap[row0 + i]!
  }
}
