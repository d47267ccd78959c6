/** Copies lines from one place to another: parts of a tensor. A call per line from JavaScript costs more than the copy. */

/** Copies `lines` lines of `bytes` bytes; from one line to the next are `fromStep` and `toStep` bytes. */
export function copyLines(
  from: usize,
  fromStep: usize,
  to: usize,
  toStep: usize,
  bytes: usize,
  lines: i32,
): void {
  for (let line = 0; line < lines; line++) {
    if (bytes >= 16) {
      const last = bytes - 16
      for (let at: usize = 0; at < last; at += 16) v128.store(to + at, v128.load(from + at))
      v128.store(to + last, v128.load(from + last)) // overlaps the one before, if need be
    } else {
      for (let at: usize = 0; at < bytes; at++) store<u8>(to + at, load<u8>(from + at))
    }
    from += fromStep
    to += toStep
  }
}
