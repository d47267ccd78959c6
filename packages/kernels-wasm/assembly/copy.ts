/** Copies lines from one place to another: parts of a tensor. A call per line from JavaScript costs more than the copy. */

/** Copies lines first to last - 1, of `bytes` bytes each; from one to the next are `fromStep` and `toStep` bytes. */
export function copyLines(
  from: usize,
  fromStep: usize,
  to: usize,
  toStep: usize,
  bytes: usize,
  first: i32,
  last: i32,
): void {
  from += <usize>first * fromStep
  to += <usize>first * toStep
  for (let line = first; line < last; line++) {
    if (bytes >= 16) {
      const end = bytes - 16
      for (let at: usize = 0; at < end; at += 16) v128.store(to + at, v128.load(from + at))
      v128.store(to + end, v128.load(from + end)) // overlaps the one before, if need be
    } else {
      for (let at: usize = 0; at < bytes; at++) store<u8>(to + at, load<u8>(from + at))
    }
    from += fromStep
    to += toStep
  }
}
