/** What is done along the last axis: sums, and the other way round. */
import { sumOf } from './rows'
import { floatBytes } from './simd'

/** to[line] = Σ_i from[line, i] */
export function sumLines(from: usize, to: usize, length: i32, lines: i32): void {
  const bytes = <usize>length * floatBytes
  for (let line = 0; line < lines; line++) {
    store<f32>(to, sumOf(from, bytes))
    from += bytes
    to += floatBytes
  }
}

/** to[line, i] = from[line, length - 1 - i]: values of four bytes, bits as they are. */
export function reverseLines(from: usize, to: usize, length: i32, lines: i32): void {
  const bytes = <usize>length * 4
  for (let line = 0; line < lines; line++) {
    const end = to + bytes
    let last = from + bytes
    for (; to + 16 <= end; to += 16) {
      last -= 16
      const values = v128.load(last)
      v128.store(to, i32x4.shuffle(values, values, 3, 2, 1, 0))
    }
    for (; to < end; to += 4) {
      last -= 4
      store<i32>(to, load<i32>(last))
    }
    from += bytes
  }
}
