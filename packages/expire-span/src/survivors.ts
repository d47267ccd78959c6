/**
 * Which slots outlive a block, decided on the host from the life they have left: numbers in, indices out.
 */

export interface SlotsLeft {
  /** Row by row, slots from oldest to newest: steps until the slot is fully forgotten, as the next query will see it
   *  (e + ramp - age; 0 or below: expired). `empty` or less where there is no slot. */
  readonly left: ArrayLike<number>
  readonly rows: number
  /** How many of the newest slots are the block just read: they stay, so that it goes on without a gap. */
  readonly block: number
}

/** Less than any life. */
export const empty = -1e9

/**
 * The slots that each row keeps, oldest first.
 *
 * 'row': every row drops all that expired. 'blocks': every row drops as many, the smallest number expired in any row,
 * rounded down to a multiple of the block; the oldest expired go first (places without a slot before them). At most
 * `budget` stay then: those with the least life left go first, even of the block just read; among equals the oldest.
 */
export function survivors(
  { left, rows, block }: SlotsLeft,
  deletion: 'row' | 'blocks',
  budget = Number.POSITIVE_INFINITY,
): number[][] {
  const slots = left.length / rows
  const lives = Array.from({ length: rows }, (_, row) =>
    Array.from({ length: slots }, (_, slot) => left[row * slots + slot]!),
  )
  const gone = lives.map((life) => {
    const places = [...life.keys()]
    const isEmpty = (slot: number) => life[slot]! <= empty
    const hasExpired = (slot: number) => !isEmpty(slot) && life[slot]! <= 0 && slot < slots - block
    return [...places.filter(isEmpty), ...places.filter(hasExpired)]
  })
  const fewest = Math.min(...gone.map(({ length }) => length))
  const alike = Math.floor(fewest / Math.max(1, block)) * block
  return lives.map((life, row) => {
    const dropped = new Set(deletion === 'row' ? gone[row] : gone[row]!.slice(0, alike))
    const kept = [...life.keys()].filter((slot) => !dropped.has(slot) && life[slot]! > empty)
    if (kept.length <= budget) return kept
    const longestFirst = kept.sort((a, b) => life[b]! - life[a]! || b - a)
    return longestFirst.slice(0, budget).sort((a, b) => a - b)
  })
}

/** How many of the newest places follow each other without a gap in every row, of `before` that did so before. */
export function gaplessOf(kept: readonly (readonly number[])[], slots: number, before: number): number {
  const runs = kept.map((places) => {
    let run = 0
    while (run < places.length && places[places.length - 1 - run] === slots - 1 - run) run++
    // Before the oldest slot of a row are only empty places.
    return run === places.length ? before : run
  })
  return Math.min(before, ...runs)
}
