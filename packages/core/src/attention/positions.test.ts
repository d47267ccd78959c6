/** Tables of positions and rotations, number by number. */
import { useBackend } from '@lethe/backends'
import { type Tensor, type Tensor2D, tensor, tidy } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { ConfigError } from '../errors'
import { Random } from '../random'
import { drawn, largestDifference, toTensor } from '../testing/oracle'
import {
  distanceRows,
  learnedKeys,
  rotaryAngles,
  rotaryAnglesOfAges,
  rotate,
  sinusoidalKeys,
} from './positions'

const infinity = Number.POSITIVE_INFINITY
const random = new Random(21)

/** [sin(d f), cos(d f)], f_n = 10000^(-2n/width). */
const wave = (d: number, width: number) => {
  const angles = Array.from({ length: width / 2 }, (_, n) => d / 10000 ** ((2 * n) / width))
  return [...angles.map(Math.sin), ...angles.map(Math.cos)]
}

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(() => useBackend(backend))

  test('learned keys run from far to near, and end or go on at the last', () => {
    tidy(() => {
      const table = tensor([[1], [2], [3]]) as Tensor2D
      expect(learnedKeys(table, 1, 'none').rows(1, 3).arraySync()).toEqual([[[3], [2], [1]]])
      expect(learnedKeys(table, 1, 'clamp').rows(2, 5).arraySync()).toEqual([[[3], [3], [3], [2]]])
      expect(learnedKeys(table, 0, 'none')).toMatchObject({ nearest: 0, farthest: 2, beyond: 'none' })
      expect(learnedKeys(table, 1, 'clamp')).toMatchObject({ nearest: 1, farthest: 3, beyond: 'clamp' })
    })
  })

  test('sinusoidal keys are the projected sinusoids of each head', async () => {
    const [width, heads, size] = [6, 2, 3]
    const weight = drawn(random, [width, heads * size])
    const rows = tidy(() => sinusoidalKeys(toTensor(weight) as Tensor2D, heads, 0, 7).rows(5, 9))
    expect(rows.shape).toEqual([heads, size, 5])
    const waves = [7, 7, 7, 6, 5].map((d) => wave(d, width)) // 9 and 8 count as 7
    const expected = Array.from({ length: heads * size * 5 }, (_, index) => {
      const [feature, column] = [Math.floor(index / 5), index % 5]
      let total = 0
      for (let n = 0; n < width; n++) total += waves[column]![n]! * weight.data[n * heads * size + feature]!
      return total
    })
    expect(largestDifference(await rows.data(), expected)).toBeLessThan(1e-5)
    rows.dispose()
  })

  test('scattered slots without a farthest distance are refused', () => {
    tidy(() => {
      const keys = sinusoidalKeys(
        tensor([
          [1, 2],
          [3, 4],
        ]) as Tensor2D,
        1,
        0,
        infinity,
      )
      const age = tensor([[3, 1]], [1, 2], 'int32') as Tensor2D
      const group = {
        slots: 2,
        distance: { kind: 'scattered', age },
        nearest: 0,
        farthest: infinity,
      } as const
      expect(() => distanceRows(keys, group, 1)).toThrow(ConfigError)
    })
  })

  test('a group none of whose distances has a position adds nothing', () => {
    tidy(() => {
      const keys = learnedKeys(tensor([[1], [2]]) as Tensor2D, 0, 'none')
      const group = {
        slots: 2,
        distance: { kind: 'contiguous', first: 9 },
        nearest: 0,
        farthest: infinity,
      } as const
      expect(distanceRows(keys, group, 1)).toBe(null)
    })
  })

  describe('rotation', () => {
    const size = 8
    const one = drawn(random, [1, 1, size, 1])
    const other = drawn(random, [1, 1, size, 1])
    const values = (x: Tensor) => Array.from(x.dataSync())
    /** Inner product of `one` at one position with `other` at another. */
    const product = (at: number, there: number) =>
      tidy(() => {
        const turned = values(rotate(toTensor(one), rotaryAngles([at], size)))
        return values(rotate(toTensor(other), rotaryAngles([there], size))).reduce(
          (total, x, f) => total + x * turned[f]!,
          0,
        )
      })

    test('inner products depend on the distance alone, also far into a stream', () => {
      for (const distance of [0, 1, 7, 500])
        for (const start of [0, 3, 1000, 1e6, 1e9])
          expect(product(start + distance, start)).toBeCloseTo(product(distance, 0), 4)
      expect(Math.abs(product(1, 0) - product(0, 0))).toBeGreaterThan(1e-2)
      expect(Math.abs(product(1, 0) - product(0, 1))).toBeGreaterThan(1e-2)
    })

    test('it keeps lengths, and position 0 is the identity', () => {
      const turned = tidy(() => values(rotate(toTensor(one), rotaryAngles([12], size))))
      expect(Math.hypot(...turned)).toBeCloseTo(Math.hypot(...one.data), 5)
      expect(tidy(() => values(rotate(toTensor(one), rotaryAngles([0], size))))).toEqual([...one.data])
    })

    test('it is that of the paper: pairs (n, n + half) turn by position · 10000^(-2n/size)', () => {
      const turned = tidy(() => values(rotate(toTensor(one), rotaryAngles([5], size))))
      for (let n = 0; n < size / 2; n++) {
        const angle = 5 * 10000 ** ((-2 * n) / size)
        const [x, y] = [one.data[n]!, one.data[n + size / 2]!]
        expect(turned[n]).toBeCloseTo(x * Math.cos(angle) - y * Math.sin(angle), 5)
        expect(turned[n + size / 2]).toBeCloseTo(y * Math.cos(angle) + x * Math.sin(angle), 5)
      }
    })

    test('ages on the device turn back as positions on the host do', () => {
      const ages = [
        [0, 1, 5, 63],
        [900, 12, 3, 2],
      ]
      tidy(() => {
        const device = rotaryAnglesOfAges(tensor(ages, [2, 4], 'int32') as Tensor2D, size)
        expect(device.cosine.shape).toEqual([2, 1, size / 2, 4])
        for (const part of ['cosine', 'sine'] as const) {
          const host = ages.flatMap((row) =>
            values(
              rotaryAngles(
                row.map((age) => -age),
                size,
              )[part],
            ),
          )
          expect(largestDifference(values(device[part]), host), part).toBeLessThan(1e-4)
        }
      })
    })
  })
})
