import { Random } from '@lethe/core'
import { expect, test } from 'vitest'
import { candidates, likeliest, sampleToken } from './sampling'

const logits = [0.5, 0.1, 0.25, 0.15].map(Math.log)
const round = (list: number[]) => list.map((value) => Number(value.toFixed(6)))

test('without limits, probabilities are the softmax', () => {
  expect(candidates(logits)).toEqual({ tokens: [0, 2, 3, 1], probabilities: expect.anything() })
  expect(round(candidates(logits).probabilities)).toEqual([0.5, 0.25, 0.15, 0.1])
})

test('temperature sharpens, 0 is greedy', () => {
  const squared = [0.25, 0.0625, 0.0225, 0.01]
  const sum = squared.reduce((a, b) => a + b)
  expect(round(candidates(logits, { temperature: 0.5 }).probabilities)).toEqual(
    round(squared.map((p) => p / sum)),
  )
  expect(candidates(logits, { temperature: 0 })).toEqual({ tokens: [0], probabilities: [1] })
  expect(likeliest([1, 3, 3])).toBe(1)
})

test('top-k keeps k, top-p the fewest that reach p', () => {
  expect(candidates(logits, { topK: 2 }).tokens).toEqual([0, 2])
  expect(round(candidates(logits, { topK: 2 }).probabilities)).toEqual([0.666667, 0.333333])
  expect(candidates(logits, { topP: 0.5 }).tokens).toEqual([0])
  expect(candidates(logits, { topP: 0.51 }).tokens).toEqual([0, 2])
  expect(candidates(logits, { topP: 1e-9 }).tokens).toEqual([0])
  expect(candidates(logits, { topK: 2, topP: 0.7 }).tokens).toEqual([0, 2])
  expect(candidates(logits, { topK: 99 }).tokens).toHaveLength(4)
})

test('draws follow the probabilities, and the same seed the same draws', () => {
  const counts = [0, 0, 0, 0]
  const random = new Random(7)
  for (let i = 0; i < 20_000; i++) counts[sampleToken(logits, {}, random)]!++
  for (const [token, expected] of [0.5, 0.1, 0.25, 0.15].entries())
    expect(Math.abs(counts[token]! / 20_000 - expected)).toBeLessThan(0.015)
  const draws = (seed: number) => {
    const source = new Random(seed)
    return Array.from({ length: 50 }, () => sampleToken(logits, { topP: 0.95 }, source))
  }
  expect(draws(3)).toEqual(draws(3))
  expect(draws(3)).not.toEqual(draws(4))
})

test('what is out of range is refused', () => {
  expect(() => candidates(logits, { temperature: -1 })).toThrow(/temperature must be 0 or more, not -1/)
  expect(() => candidates(logits, { topK: 1.5 })).toThrow(/topK/)
  expect(() => candidates(logits, { topP: 0 })).toThrow(/topP/)
})
