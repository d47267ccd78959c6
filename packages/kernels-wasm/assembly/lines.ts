/** What is done along the last axis: sums, and the other way round. */
import { sumOf } from './rows'
import { floatBytes } from './simd'

/** to[line] = Σ_i from[line, i] */
export function sumLines(from: usize, to: usize, length: i32, first: i32, last: i32): void {
  const bytes = <usize>length * floatBytes
  from += <usize>first * bytes
  to += <usize>first * floatBytes
  for (let line = first; line < last; line++) {
    store<f32>(to, sumOf(from, bytes))
    from += bytes
    to += floatBytes
  }
}

/** to[line, i] = from[line, length - 1 - i]: values of four bytes, bits as they are. */
export function reverseLines(from: usize, to: usize, length: i32, first: i32, last: i32): void {
  const bytes = <usize>length * 4
  from += <usize>first * bytes
  to += <usize>first * bytes
  for (let line = first; line < last; line++) {
    const end = to + bytes
    let source = from + bytes
    for (; to + 16 <= end; to += 16) {
      source -= 16
      const values = v128.load(source)
      v128.store(to, i32x4.shuffle(values, values, 3, 2, 1, 0))
    }
    for (; to < end; to += 4) {
      source -= 4
      store<i32>(to, load<i32>(source))
    }
    from += bytes
  }
}
