/** Statistics of the benchmarks against values worked out by hand, and against what the theory promises. */
import { Random } from '@lethe/core'
import { describe, expect, test } from 'vitest'
import { median, quantile, type Round, ratioOfMedians } from './statistics'

describe('quantiles', () => {
  test('medians of odd and even counts, in any order', () => {
    expect(median([9, 1, 5])).toBe(5)
    expect(median([4, 1, 3, 2])).toBe(2.5)
    expect(median([10, 9, 100])).toBe(10)
    expect(median([7])).toBe(7)
  })

  test('between neighbours in proportion', () => {
    expect(quantile([0, 10, 20, 30, 40], 0.025)).toBeCloseTo(1, 12)
    expect(quantile([0, 10, 20, 30, 40], 0)).toBe(0)
    expect(quantile([0, 10, 20, 30, 40], 1)).toBe(40)
  })

  test('values are not reordered, and none is an error', () => {
    const values = [3, 1, 2]
    median(values)
    expect(values).toEqual([3, 1, 2])
    expect(() => median([])).toThrow(/no values/)
  })
})

describe('ratio of medians', () => {
  const noisy = (random: Random, numerator: number, denominator: number): Round => {
    // The machine is slower in some rounds, for both sides.
    const load = 1 + random.uniform()
    const step = (mean: number) => [0, 0].map(() => mean * load * (1 + 0.02 * random.normal()))
    return { numerator: step(numerator), denominator: step(denominator) }
  }

  test('constant times give their ratio and no width', () => {
    const rounds = [1, 2, 3].map(() => ({ numerator: [30, 30], denominator: [20] }))
    expect(ratioOfMedians(rounds)).toEqual({ value: 1.5, interval: [1.5, 1.5] })
  })

  test('one round says nothing about its spread', () => {
    expect(ratioOfMedians([{ numerator: [3, 5], denominator: [2] }])).toEqual({ value: 2 })
  })

  test('the same seed gives the same interval, and the value lies in it', () => {
    const random = new Random(1)
    const rounds = Array.from({ length: 12 }, () => noisy(random, 30, 20))
    const { value, interval } = ratioOfMedians(rounds)
    expect(ratioOfMedians(rounds)).toEqual({ value, interval })
    expect(interval![0]).toBeLessThan(value)
    expect(interval![1]).toBeGreaterThan(value)
  })

  test('nine in ten intervals and more hold the true ratio, and they are tighter than the load', () => {
    const random = new Random(2)
    let held = 0
    const widths: number[] = []
    for (let trial = 0; trial < 100; trial++) {
      const rounds = Array.from({ length: 20 }, () => noisy(random, 30, 20))
      const [low, high] = ratioOfMedians(rounds, { draws: 300, seed: trial }).interval!
      if (low <= 1.5 && 1.5 <= high) held++
      widths.push(high - low)
    }
    expect(held).toBeGreaterThanOrEqual(88)
    // Sides drawn apart would be 0.6 wide: the load differs by up to a factor of two between rounds.
    expect(median(widths)).toBeLessThan(0.2)
  })
})
