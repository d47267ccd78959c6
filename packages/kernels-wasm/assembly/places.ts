/** The places of slots in streaming decode: which one a new slot takes, and the slot written into it. */
import { floatBytes } from './simd'

/**
 * For the rows [from, to) of [rows, count]: all slots become one step older, and the new one, of age 0, takes the place
 * that is worth least of the first `among`; without worths (0), that of the oldest. An empty place is worth `empty` less.
 * @param places the places taken, int32 [rows]
 */
export function takePlaces(
  ages: usize,
  valid: usize,
  worths: usize,
  newAges: usize,
  newValid: usize,
  places: usize,
  count: i32,
  among: i32,
  empty: f32,
  from: i32,
  to: i32,
): void {
  for (let row = from; row < to; row++) {
    const start = <usize>(row * count) * floatBytes
    let least: f32 = Infinity
    let taken = 0
    for (let place = 0; place < count; place++) {
      const at = start + <usize>place * floatBytes
      const age = load<f32>(ages + at) + 1
      const inUse = load<f32>(valid + at)
      const worth = (worths ? load<f32>(worths + at) : -age) - (1 - inUse) * empty
      store<f32>(newAges + at, age)
      store<f32>(newValid + at, inUse)
      if (worth < least && place < among) {
        least = worth
        taken = place
      }
    }
    store<f32>(newAges + start + <usize>taken * floatBytes, 0)
    store<f32>(newValid + start + <usize>taken * floatBytes, 1)
    store<i32>(places + <usize>row * 4, taken)
  }
}

/** x[line, places[line / lines]] = column[line], for the lines [from, to) of [..., count]; `lines` of them share a place. */
export function writePlaces(
  x: usize,
  column: usize,
  places: usize,
  count: i32,
  lines: i32,
  from: i32,
  to: i32,
): void {
  for (let line = from; line < to; line++) {
    const place = load<i32>(places + <usize>(line / lines) * 4)
    store<f32>(x + <usize>(line * count + place) * floatBytes, load<f32>(column + <usize>line * floatBytes))
  }
}
