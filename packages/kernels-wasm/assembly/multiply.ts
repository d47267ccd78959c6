/** Matrix products: blocks that fit the caches, packed, and tiles of results in registers. */
import { packPanels } from './pack'
import { multiplyPanels } from './panels'
import { multiplyByColumns, multiplyByRows } from './row'
import { floatBytes } from './simd'
import { tileColumns, tileRows } from './tile'

/** A block of the left operand, 96 kB, stays in the second cache; one panel of the right, 8 kB, in the first. */
const blockDepth: i32 = 256
const blockRows: i32 = tileRows * 24
const blockColumns: i32 = 1024

/** Up to so many rows, packing the right operand costs more than reading it where it lies. */
const fewRows: i32 = 16

/** The columns that a row of a product is computed in at once. */
const rowGroup: i32 = 32

/** Bytes of scratch memory that `multiply` needs: a block of each operand and one tile. */
export function scratchBytes(): i32 {
  return 4 * (blockRows * blockDepth + blockDepth * blockColumns + tileRows * tileColumns)
}

/**
 * A product is cut along its longer side, into parts of whole groups. What is summed in which order depends on whether
 * there are fewer than four rows, and in a row on the group of its column: results must not depend on the cut.
 */
function lengthOf(rows: i32, columns: i32): i32 {
  return max(rows, columns)
}

function groupOf(rows: i32, columns: i32): i32 {
  return rows >= columns && columns > 1 ? tileRows : rowGroup
}

/** The parts that a product of this size can be cut into, no more than `wanted`. */
export function partsOf(rows: i32, columns: i32, wanted: i32): i32 {
  return max(1, min(wanted, lengthOf(rows, columns) / groupOf(rows, columns)))
}

/** Where a part starts; the last one has what is left over of whole groups. */
function startOf(part: i32, parts: i32, rows: i32, columns: i32): i32 {
  const length = lengthOf(rows, columns)
  if (part === parts) return length
  const group = groupOf(rows, columns)
  return <i32>((<i64>(length / group) * part) / parts) * group
}

/**
 * out[matrix] = left[matrix, rows, inner] · right[matrix, inner, columns], all float32. Each matrix is computed in `parts`
 * units, as `partsOf` allows; this computes units first to last - 1 of all matrices. Addresses are in bytes, steps between
 * rows, columns and matrices in elements, so a transpose is a swap of two steps; `out` is contiguous and overlaps nothing.
 */
export function multiply(
  left: usize,
  leftRow: i32,
  leftColumn: i32,
  leftMatrix: i32,
  right: usize,
  rightRow: i32,
  rightColumn: i32,
  rightMatrix: i32,
  out: usize,
  rows: i32,
  columns: i32,
  inner: i32,
  parts: i32,
  first: i32,
  last: i32,
  scratch: usize,
): void {
  for (let unit = first; unit < last; unit++) {
    const matrix = <usize>(unit / parts)
    const start = startOf(unit % parts, parts, rows, columns)
    const length = startOf((unit % parts) + 1, parts, rows, columns) - start
    const byRows = rows >= columns
    const row = byRows ? start : 0
    const column = byRows ? 0 : start
    multiplyPart(
      left + (matrix * <usize>leftMatrix + <usize>row * <usize>leftRow) * floatBytes,
      leftRow,
      leftColumn,
      right + (matrix * <usize>rightMatrix + <usize>column * <usize>rightColumn) * floatBytes,
      rightRow,
      rightColumn,
      out + ((matrix * <usize>rows + <usize>row) * <usize>columns + <usize>column) * floatBytes,
      columns,
      byRows ? length : rows,
      byRows ? columns : length,
      inner,
      scratch,
    )
  }
}

/** One part: out[rows, columns] with rows that are `outRow` elements apart. */
function multiplyPart(
  left: usize,
  leftRow: i32,
  leftColumn: i32,
  right: usize,
  rightRow: i32,
  rightColumn: i32,
  out: usize,
  outRow: i32,
  rows: i32,
  columns: i32,
  inner: i32,
  scratch: usize,
): void {
  if (columns === 1 && outRow === 1) {
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
    outRow = rows
    rows = 1
  }
  const leftRowBytes = <usize>leftRow * floatBytes
  const leftColumnBytes = <usize>leftColumn * floatBytes
  const rightRowBytes = <usize>rightRow * floatBytes
  const rightColumnBytes = <usize>rightColumn * floatBytes
  const outRowBytes = <usize>outRow * floatBytes

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
        const leftPanel = <usize>(tileRows * depth) * floatBytes
        const tileBytes = <usize>tileColumns * floatBytes
        // Once where they lie, once where they were packed.
        for (let part = 0; part < 2; part++) {
          const lies = part === 0
          const first = lies ? 0 : lying
          multiplyPanels(
            packedLeft,
            leftPanel,
            lies ? source : packedRight + <usize>(lying * depth) * floatBytes,
            lies ? tileBytes : <usize>depth * tileBytes,
            lies ? rightRowBytes : tileBytes,
            depth,
            to + <usize>first * floatBytes,
            outRowBytes,
            height,
            lies ? lying : width - lying,
            accumulate,
            tile,
          )
        }
      }
    }
  }
}
