import { expect, test } from 'vitest'
import { Random } from './random'

test('the same seed gives the same numbers, another gives others', () => {
  const draw = (seed: number) => Array.from(new Random(seed).uniforms(50))
  expect(draw(1)).toEqual(draw(1))
  expect(draw(1)).not.toEqual(draw(2))
  expect(draw(2 ** 40)).not.toEqual(draw(0))
})

test('a saved state goes on exactly where it was', () => {
  const random = new Random(3)
  random.normals(17)
  const copy = new Random(JSON.parse(JSON.stringify(random.state)))
  expect(copy.normals(30)).toEqual(random.normals(30))
})

test('moments and bounds are those of the distributions', () => {
  const random = new Random(4)
  const count = 100_000
  const mean = (values: Float32Array) => values.reduce((a, b) => a + b, 0) / count
  const uniform = random.uniforms(count, -2, 4)
  expect(mean(uniform)).toBeCloseTo(1, 1)
  expect(Math.min(...uniform.subarray(0, 5e4))).toBeGreaterThanOrEqual(-2)
  expect(Math.max(...uniform.subarray(0, 5e4))).toBeLessThan(4)
  const normal = random.normals(count, 3)
  expect(mean(normal)).toBeCloseTo(0, 1)
  expect(Math.sqrt(mean(normal.map((x) => x * x)))).toBeCloseTo(3, 1)
  const mask = random.dropoutMask(count, 0.25)
  expect(new Set(mask)).toEqual(new Set([0, Math.fround(4 / 3)]))
  expect(mean(mask)).toBeCloseTo(1, 1)
  const integers = Array.from({ length: 1000 }, () => random.integer(5))
  expect(new Set(integers)).toEqual(new Set([0, 1, 2, 3, 4]))
})

test.each([-1, 1.5, Number.NaN, 2 ** 60])('seed %d is refused', (seed) => {
  expect(() => new Random(seed)).toThrow(/seed must be an integer from 0/)
})
