/** The generator against its published definition, in 64-bit integers. */
import { describe, expect, test } from 'vitest'
import { Random, type RandomState } from './random'

/** xoshiro128** as Blackman and Vigna print it (prng.di.unimi.it/xoshiro128starstar.c). */
function* xoshiro(seed: readonly number[]) {
  const word = (x: bigint) => BigInt.asUintN(32, x)
  const turn = (x: bigint, by: bigint) => word((x << by) | (x >> (32n - by)))
  const s = seed.map((x) => word(BigInt(x))) as [bigint, bigint, bigint, bigint]
  for (;;) {
    yield Number(word(turn(word(s[1] * 5n), 7n) * 9n))
    const t = word(s[1] << 9n)
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = turn(s[3], 11n)
  }
}

test.each<[string, RandomState]>([
  ['1, 2, 3, 4', [1, 2, 3, 4]],
  ['negative and large words', [-1, 2 ** 31 - 1, -(2 ** 31), 12345]],
  ['a seeded state', new Random(99).state],
])('bits are those of xoshiro128**: %s', (_, state) => {
  const random = new Random(state)
  const reference = xoshiro(state)
  for (let i = 0; i < 1000; i++) expect(random.bits()).toBe(reference.next().value)
  expect(new Random([1, 2, 3, 4]).bits()).toBe(11520)
})

test('seeds beyond 32 bits, and neighbours, start unrelated streams', () => {
  const seeds = [0, 1, 2, 2 ** 32, 2 ** 32 + 1, 2 ** 33, 2 ** 53 - 1]
  const firsts = seeds.map((seed) => new Random(seed).bits())
  expect(new Set(firsts).size).toBe(seeds.length)
  for (const seed of seeds) expect(new Random(seed).state).not.toEqual([0, 0, 0, 0])
})

describe('distributions', () => {
  const count = 200_000

  test('uniform: every bucket gets its share', () => {
    const random = new Random(1)
    const buckets = new Array(16).fill(0)
    for (let i = 0; i < count; i++) buckets[Math.floor(random.uniform() * 16)]!++
    const expected = count / 16
    // Chi-squared with 15 degrees of freedom: above 37.7 once in a thousand seeds.
    expect(buckets.reduce((sum, found) => sum + (found - expected) ** 2 / expected, 0)).toBeLessThan(37.7)
  })

  test('normal: four moments, and both tails', () => {
    const values = new Random(2).normals(count)
    const moment = (power: number) => values.reduce((sum, x) => sum + x ** power, 0) / count
    expect(Math.abs(moment(1))).toBeLessThan(0.01)
    expect(Math.abs(moment(2) - 1)).toBeLessThan(0.015)
    expect(Math.abs(moment(3))).toBeLessThan(0.04)
    expect(Math.abs(moment(4) - 3)).toBeLessThan(0.15)
    const beyond = values.filter((x) => Math.abs(x) > 1.96).length / count
    expect(Math.abs(beyond - 0.05)).toBeLessThan(0.003)
    expect(values.every(Number.isFinite)).toBe(true)
  })

  test.each([0, 0.1, 0.5, 0.9])('a dropout mask of rate %d drops that share and keeps the mean', (rate) => {
    const mask = new Random(3).dropoutMask(count, rate)
    const dropped = mask.filter((value) => value === 0).length / count
    expect(Math.abs(dropped - rate)).toBeLessThan(0.005)
    expect(new Set(mask)).toEqual(new Set(rate === 0 ? [1] : [0, Math.fround(1 / (1 - rate))]))
  })
})
