/** Transposes matrices on the wasm heap: eight rows at a time, so that each cache line written is filled. */
import type { KernelFunc, TensorInfo, TransposeAttrs } from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend } from './heap'

/**
 * out[column, row] = matrix[row, column]; both are contiguous in `heap`, offsets are in elements.
 * @param heap the current view of the heap (Float32Array, or Int32Array for bits as they are)
 */
export function transposeMatrix(
  heap: Float32Array | Int32Array,
  from: number,
  to: number,
  rows: number,
  columns: number,
): void {
  for (let start = 0; start < columns; start += 64) {
    const end = Math.min(columns, start + 64)
    let row = 0
    for (; row + 8 <= rows; row += 8) {
      let out = to + row + start * rows
      const last = from + row * columns + end
      for (let i = from + row * columns + start; i < last; i++) {
        const i2 = i + 2 * columns
        const i4 = i + 4 * columns
        const i6 = i + 6 * columns
        heap[out] = heap[i]!
        heap[out + 1] = heap[i + columns]!
        heap[out + 2] = heap[i2]!
        heap[out + 3] = heap[i2 + columns]!
        heap[out + 4] = heap[i4]!
        heap[out + 5] = heap[i4 + columns]!
        heap[out + 6] = heap[i6]!
        heap[out + 7] = heap[i6 + columns]!
        out += rows
      }
    }
    for (; row < rows; row++) {
      for (let column = start; column < end; column++) {
        heap[to + column * rows + row] = heap[from + row * columns + column]!
      }
    }
  }
}

/** The kernel, where it comes down to transposed matrices. Runs that stay whole are fast in tfjs's own. */
export function transpose(stock: KernelFunc): KernelFunc {
  return (args) => {
    const { x } = args.inputs as { x: TensorInfo }
    const { perm } = args.attrs as unknown as TransposeAttrs
    const matrices = x.dtype === 'float32' || x.dtype === 'int32' ? asMatrices(x.shape, perm) : undefined
    if (matrices === undefined) return stock(args)
    const backend = args.backend as WasmBackend
    const { batch, rows, columns } = matrices
    const out = backend.makeOutput(
      perm.map((axis) => x.shape[axis]!),
      x.dtype,
    )
    const from = offsetOf(backend, x) / 4
    const to = offsetOf(backend, out) / 4
    // As integers where they are integers: as floats, some of their bits would be taken for a NaN and changed.
    const heap = x.dtype === 'float32' ? backend.wasm.HEAPF32 : backend.wasm.HEAP32
    for (let matrix = 0; matrix < batch; matrix++) {
      const at = matrix * rows * columns
      transposeMatrix(heap, from + at, to + at, rows, columns)
    }
    return out
  }
}

/** Reads a permutation as [batch, rows, columns] to [batch, columns, rows], if it is one. */
function asMatrices(shape: number[], perm: number[]) {
  const long = perm.filter((axis) => shape[axis] !== 1) // axes of size 1 move nothing
  const sorted = [...long].sort((one, other) => one - other)
  let kept = 0
  while (kept < long.length && long[kept] === sorted[kept]) kept++
  // What is left must be one rotation: c d e a b of a b c d e.
  const rest = sorted.slice(kept)
  const turn = rest.indexOf(long[kept]!)
  if (turn <= 0 || !rest.every((_, i) => rest[(i + turn) % rest.length] === long[kept + i])) return undefined
  const size = (axes: number[]) => axes.reduce((product, axis) => product * shape[axis]!, 1)
  return {
    batch: size(sorted.slice(0, kept)),
    rows: size(rest.slice(0, turn)),
    columns: size(rest.slice(turn)),
  }
}
