/** Expire-Span (Sukhbaatar et al. 2021): each remembered step says by its own hidden state how long it lives. */
import {
  clamp01,
  distance,
  later,
  linear,
  type MethodOracle,
  mean,
  range,
  type Slot,
  sigmoid,
  sum,
  type View,
  zeroSlots,
} from './decoder'

export interface ExpireSpanOptions {
  readonly maxSpan: number
  readonly ramp: number
  readonly penalty: number
  readonly loss?: 'ramp' | 'mean'
  readonly divider?: number
  readonly shorten?: boolean
  readonly deletion?: 'row' | 'blocks'
  readonly budget?: number
  /** Zeros in the first memory where it has any (the authors: one block). */
  readonly zeros?: number
}

export function expireSpan(options: ExpireSpanOptions): MethodOracle<readonly Slot[]> {
  const { maxSpan, ramp, penalty, loss = 'ramp', divider = 1, shorten = false } = options
  const { deletion = 'row', budget = Number.POSITIVE_INFINITY } = options

  /** e of every slot, unshortened. `attendedSlots`: as attention reads them. */
  const lives = (view: View) =>
    view.attendedSlots.map((x) => {
      const scaled = x.map((value) => value / divider)
      return (
        maxSpan * sigmoid(linear(scaled, view.layer.parameter('weight'), view.layer.parameter('bias'))[0]!)
      )
    })
  const shortened = (view: View) =>
    lives(view).map((e) => (shorten && view.training ? Math.min(e, view.draw * maxSpan) : e))

  const penaltyOf = (view: View) => {
    const length = view.input.length
    if (loss === 'mean') return sum(lives(view).slice(view.remembered)) / length
    const onRamp = shortened(view).flatMap((e, j) =>
      range(length)
        .map((i) => e - distance(view, i, j))
        .filter((left) => left / ramp + 1 > 0 && left / ramp + 1 < 1),
    )
    return sum(onRamp) / ramp / length
  }

  /** What is remembered, in order of time: expired ones go, then those with the least life left. */
  const keep = (view: View, alike: number) => {
    const length = view.input.length
    const life = lives(view)
    const left = (j: number) => life[j]! - view.slots[j]!.age
    const expired = expiredOf(view)
    const gone = new Set(deletion === 'row' ? expired : expired.slice(0, alike))
    const alive = range(view.slots.length).filter((j) => !gone.has(j))
    const strongest = [...alive].sort((a, b) => left(b) - left(a)).slice(0, budget)
    return later(
      alive.filter((j) => strongest.includes(j)).map((j) => view.slots[j]!),
      length,
    )
  }
  /** Remembered slots, oldest first, that no later block can see. */
  const expiredOf = (view: View) => {
    const life = lives(view)
    return range(view.remembered).filter((j) => life[j]! - view.slots[j]!.age + ramp - view.input.length <= 0)
  }

  return {
    start: (layer) => zeroSlots(layer, options.zeros),
    slots: (row) => row,
    recall: (view) => {
      const life = shortened(view)
      return { m: (_, i, j) => clamp01((life[j]! - distance(view, i, j)) / ramp + 1) }
    },
    settle: (views) => {
      const length = views[0]!.input.length
      const fewest = Math.min(...views.map((view) => expiredOf(view).length))
      const alike = Math.floor(fewest / length) * length
      return {
        rows: views.map((view) => keep(view, alike)),
        penalty: penalty * mean(views.map(penaltyOf)),
      }
    },
  }
}
