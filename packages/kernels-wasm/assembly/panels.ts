/** A product of operands that are in panels: one loop over tiles for all kernels that multiply. */
import { floatBytes } from './simd'
import { copyTile, multiplyTile, tileColumns, tileRows } from './tile'

/**
 * to[rows, columns] (+)= left · right. Panels of four rows of the left operand, each [depth, 4], are `leftPanel` bytes
 * apart. Panels of eight columns of the right one, each [depth, 8] with `rightStep` bytes from line to line, are
 * `rightPanel` bytes apart: packed ones, or the columns of a matrix where it lies. Rows of `to` are `toStep` bytes apart;
 * `tile` is room for one tile.
 */
export function multiplyPanels(
  left: usize,
  leftPanel: usize,
  right: usize,
  rightPanel: usize,
  rightStep: usize,
  depth: i32,
  to: usize,
  toStep: usize,
  rows: i32,
  columns: i32,
  accumulate: bool,
  tile: usize,
): void {
  for (let column = 0; column < columns; column += tileColumns) {
    let panel = left
    for (let row = 0; row < rows; row += tileRows) {
      const target = to + <usize>row * toStep + <usize>column * floatBytes
      const whole = row + tileRows <= rows && column + tileColumns <= columns
      multiplyTile(
        panel,
        right,
        rightStep,
        depth,
        whole ? target : tile,
        whole ? toStep : <usize>tileColumns * floatBytes,
        whole && accumulate,
      )
      if (!whole)
        copyTile(
          tile,
          target,
          toStep,
          accumulate,
          min(tileRows, rows - row),
          min(tileColumns, columns - column),
        )
      panel += leftPanel
    }
    right += rightPanel
  }
}
