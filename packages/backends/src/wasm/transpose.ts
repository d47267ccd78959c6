/** Transposes matrices on the wasm heap: eight rows at a time, so that each cache line written is filled. */

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
