/** What is done along the last axis: sums, and the other way round. */
import { floatBytes, sumLanes } from './simd'

/** to[line] = Σ_i from[line, i], in 16 parts that are added at the end: more exact than one after the other. */
export function sumLines(from: usize, to: usize, length: i32, lines: i32): void {
  const bytes = <usize>length * floatBytes
  for (let line = 0; line < lines; line++) {
    const end = from + bytes
    let sum0 = f32x4.splat(0)
    let sum1 = sum0
    let sum2 = sum0
    let sum3 = sum0
    for (; from + 64 <= end; from += 64) {
      sum0 = f32x4.add(sum0, v128.load(from))
      sum1 = f32x4.add(sum1, v128.load(from, 16))
      sum2 = f32x4.add(sum2, v128.load(from, 32))
      sum3 = f32x4.add(sum3, v128.load(from, 48))
    }
    for (; from + 16 <= end; from += 16) sum0 = f32x4.add(sum0, v128.load(from))
    let sum = sumLanes(f32x4.add(f32x4.add(sum0, sum1), f32x4.add(sum2, sum3)))
    for (; from < end; from += floatBytes) sum += load<f32>(from)
    store<f32>(to, sum)
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
