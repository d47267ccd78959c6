/** Matrix products: blocks that fit the caches, packed, and tiles of results in registers. */
import { packPanels } from './pack'
import { multiplyByColumns, multiplyByRows } from './row'
import { floatBytes } from './simd'
import { copyTile, multiplyTile, tileColumns, tileRows } from './tile'

/** A block of the left operand, 96 kB, stays in the second cache; one panel of the right, 8 kB, in the first. */
const blockDepth: i32 = 256
const blockRows: i32 = tileRows * 24
const blockColumns: i32 = 1024

/** Up to so many rows, packing the right operand costs more than reading it where it lies. */
const fewRows: i32 = 16

/** Bytes of scratch memory that `multiply` needs: a block of each operand and one tile. */
export function scratchBytes(): i32 {
  return 4 * (blockRows * blockDepth + blockDepth * blockColumns + tileRows * tileColumns)
}

/**
 * out[rows, columns] = left[rows, inner] · right[inner, columns], all float32. Addresses are in bytes, steps between
 * rows and columns in elements, so a transpose is a swap of two steps; `out` is contiguous and overlaps nothing else.
 */
export function multiply(
  left: usize,
  leftRow: i32,
  leftColumn: i32,
  right: usize,
  rightRow: i32,
  rightColumn: i32,
  out: usize,
  rows: i32,
  columns: i32,
  inner: i32,
  scratch: usize,
): void {
  if (columns === 1) {
    // A column is computed as a row: (left · right)ᵀ = rightᵀ · leftᵀ.
    const other = left
    left = right
    right = other
    const row = leftRow
    const column = leftColumn
    leftRow = rightColumn
    leftColumn = rightRow
    rightRow = column
    rightColumn = row
    columns = rows
    rows = 1
  }
  const leftRowBytes = <usize>leftRow * floatBytes
  const leftColumnBytes = <usize>leftColumn * floatBytes
  const rightRowBytes = <usize>rightRow * floatBytes
  const rightColumnBytes = <usize>rightColumn * floatBytes
  const outRowBytes = <usize>columns * floatBytes

  if (rows < tileRows && leftColumn === 1 && (rightRow === 1 || rightColumn === 1)) {
    for (let row = 0; row < rows; row++) {
      const values = left + <usize>row * leftRowBytes
      const to = out + <usize>row * outRowBytes
      if (rightColumn === 1) multiplyByColumns(values, right, rightRowBytes, to, columns, inner)
      else multiplyByRows(values, right, rightColumnBytes, to, columns, inner)
    }
    return
  }

  const packedLeft = scratch
  const packedRight = packedLeft + <usize>(blockRows * blockDepth) * floatBytes
  const tile = packedRight + <usize>(blockDepth * blockColumns) * floatBytes
  const inPlace = rows <= fewRows && rightColumn === 1

  for (let firstColumn = 0; firstColumn < columns; firstColumn += blockColumns) {
    const width = min(blockColumns, columns - firstColumn)
    /** So many columns are read where they lie; the others are packed. */
    const lying = inPlace ? width & ~(tileColumns - 1) : 0
    for (let firstInner = 0; firstInner < inner; firstInner += blockDepth) {
      const depth = min(blockDepth, inner - firstInner)
      const source = right + <usize>firstInner * rightRowBytes + <usize>firstColumn * rightColumnBytes
      if (lying < width) {
        packPanels(
          tileColumns,
          source + <usize>lying * rightColumnBytes,
          rightColumnBytes,
          rightRowBytes,
          width - lying,
          depth,
          packedRight + <usize>(lying * depth) * floatBytes,
        )
      }
      for (let firstRow = 0; firstRow < rows; firstRow += blockRows) {
        const height = min(blockRows, rows - firstRow)
        packPanels(
          tileRows,
          left + <usize>firstRow * leftRowBytes + <usize>firstInner * leftColumnBytes,
          leftRowBytes,
          leftColumnBytes,
          height,
          depth,
          packedLeft,
        )
        const to = out + <usize>firstRow * outRowBytes + <usize>firstColumn * floatBytes
        const accumulate = firstInner > 0
        for (let column = 0; column < width; column += tileColumns) {
          const lies = column < lying
          const rightPanel = lies
            ? source + <usize>column * floatBytes
            : packedRight + <usize>(column * depth) * floatBytes
          const rightStep = lies ? rightRowBytes : <usize>tileColumns * floatBytes
          for (let row = 0; row < height; row += tileRows) {
            const leftPanel = packedLeft + <usize>(row * depth) * floatBytes
            const target = to + <usize>row * outRowBytes + <usize>column * floatBytes
            const whole = row + tileRows <= height && column + tileColumns <= width
            multiplyTile(
              leftPanel,
              rightPanel,
              rightStep,
              depth,
              whole ? target : tile,
              whole ? outRowBytes : <usize>tileColumns * floatBytes,
              whole && accumulate,
            )
            if (!whole)
              copyTile(
                tile,
                target,
                outRowBytes,
                accumulate,
                min(tileRows, height - row),
                min(tileColumns, width - column),
              )
          }
        }
      }
    }
  }
}
