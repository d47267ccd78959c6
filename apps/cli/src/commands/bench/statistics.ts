/** What is made of measured times: medians, and how sure a ratio of two of them is. */
import { Random } from '@lethe/core'

/** The value below which this share of the values lies, between neighbours in proportion. */
export function quantile(values: readonly number[], share: number): number {
  if (values.length === 0) throw new RangeError('there is no quantile of no values')
  const sorted = [...values].sort((a, b) => a - b)
  const place = share * (sorted.length - 1)
  const below = Math.floor(place)
  const [low, high] = [sorted[below]!, sorted[Math.ceil(place)]!]
  return low + (high - low) * (place - below)
}

export const median = (values: readonly number[]) => quantile(values, 0.5)

/** What both sides took in one round, in ms: one or more steps each. */
export interface Round {
  readonly numerator: readonly number[]
  readonly denominator: readonly number[]
}

export interface Ratio {
  /** Median of all numerators over that of all denominators. */
  readonly value: number
  /** 95 % bootstrap interval; missing with a single round, which says nothing about it. */
  readonly interval?: readonly [low: number, high: number]
}

/**
 * The ratio of two medians. Bootstrap (Efron 1979, percentiles): rounds are drawn with replacement, each with both of
 * its sides, so that another process which slowed a round down moves numerator and denominator together.
 */
export function ratioOfMedians(rounds: readonly Round[], { draws = 2000, seed = 0 } = {}): Ratio {
  const ratioOf = (chosen: readonly Round[]) =>
    median(chosen.flatMap(({ numerator }) => numerator)) /
    median(chosen.flatMap(({ denominator }) => denominator))
  const value = ratioOf(rounds)
  if (rounds.length < 2) return { value }
  const random = new Random(seed)
  const ratios = Array.from({ length: draws }, () =>
    ratioOf(rounds.map(() => rounds[random.integer(rounds.length)]!)),
  )
  return { value, interval: [quantile(ratios, 0.025), quantile(ratios, 0.975)] }
}
