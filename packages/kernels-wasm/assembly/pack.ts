/** Copies blocks of the operands into the order in which the tile kernel reads them. */
import { floatBytes, transposeSquare } from './simd'

/**
 * Packs `count` lines (rows of the left operand, columns of the right one) of `depth` values into panels of `width`
 * lines: panel[depth, width]. Missing lines of the last panel are zero. Steps are bytes between neighbours.
 */
export function packPanels(
  width: i32,
  from: usize,
  lineStep: usize,
  depthStep: usize,
  count: i32,
  depth: i32,
  to: usize,
): void {
  const panelStep = <usize>width * floatBytes
  for (let first = 0; first < count; first += width) {
    const source = from + <usize>first * lineStep
    const lines = min(width, count - first)
    let k = 0
    if (lines === width && lineStep === floatBytes) {
      for (; k < depth; k++) {
        const values = source + <usize>k * depthStep
        const target = to + <usize>k * panelStep
        for (let at: usize = 0; at < panelStep; at += 16) v128.store(target + at, v128.load(values + at))
      }
    } else if (lines === width && depthStep === floatBytes) {
      for (; k + 4 <= depth; k += 4) {
        for (let line = 0; line < width; line += 4) {
          transposeSquare(
            source + <usize>line * lineStep + <usize>k * floatBytes,
            lineStep,
            to + <usize>k * panelStep + <usize>line * floatBytes,
            panelStep,
          )
        }
      }
    }
    for (; k < depth; k++) {
      for (let line = 0; line < width; line++) {
        let value: f32 = 0
        if (line < lines) value = load<f32>(source + <usize>line * lineStep + <usize>k * depthStep)
        store<f32>(to + <usize>k * panelStep + <usize>line * floatBytes, value)
      }
    }
    to += <usize>depth * panelStep
  }
}
