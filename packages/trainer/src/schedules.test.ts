import { expect, test } from 'vitest'
import { learningRateAt } from './schedules'

const base = { learningRate: 1, warmup: 10, steps: 110 }

test('warm-up is linear and reaches the rate at its last step', () => {
  for (const schedule of ['constant', 'cosine', 'inverse-sqrt'] as const) {
    expect(learningRateAt(1, { ...base, schedule })).toBeCloseTo(0.1)
    expect(learningRateAt(5, { ...base, schedule })).toBeCloseTo(0.5)
    expect(learningRateAt(10, { ...base, schedule })).toBe(1)
  }
})

test('constant stays', () => {
  expect(learningRateAt(100, { ...base, schedule: 'constant' })).toBe(1)
  expect(learningRateAt(1, { ...base, warmup: 0, schedule: 'constant' })).toBe(1)
})

test('cosine is half at half time and 0 at the end', () => {
  expect(learningRateAt(60, { ...base, schedule: 'cosine' })).toBeCloseTo(0.5)
  expect(learningRateAt(110, { ...base, schedule: 'cosine' })).toBeCloseTo(0)
  expect(learningRateAt(500, { ...base, schedule: 'cosine' })).toBeCloseTo(0)
})

test('a warm-up as long as the run ends at the full rate', () => {
  expect(learningRateAt(10, { learningRate: 1, warmup: 10, steps: 10, schedule: 'cosine' })).toBe(1)
  expect(learningRateAt(10, { learningRate: 1, warmup: 40, steps: 10, schedule: 'cosine' })).toBe(0.25)
})

test('inverse square root halves when the steps are four times the warm-up', () => {
  expect(learningRateAt(40, { ...base, schedule: 'inverse-sqrt' })).toBeCloseTo(0.5)
  expect(learningRateAt(4, { ...base, warmup: 0, schedule: 'inverse-sqrt' })).toBeCloseTo(0.5)
})

test('an unknown schedule is refused', () => {
  expect(() => learningRateAt(50, { ...base, schedule: 'linear' as 'cosine' })).toThrow(
    /unknown schedule "linear"/,
  )
})
