/** Distances, masks and the skew against loops over every pair. */
import { useBackend } from '@lethe/backends'
import { mul, sum, type Tensor, tensor, tidy } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  distanceRange,
  distances,
  type GroupGeometry,
  masked,
  padColumns,
  skew,
  skewLayout,
  unskew,
  windowMask,
} from './distance'

const infinity = Number.POSITIVE_INFINITY
const contiguous = (
  slots: number,
  first: number,
  queriesPerStep = 1,
  nearest = 0,
  farthest = infinity,
): GroupGeometry => ({
  slots,
  distance: { kind: 'contiguous', first, queriesPerStep },
  nearest,
  farthest,
})

/** @param byDistance [rows, queries, high - low + 1] */
function skewed(byDistance: Tensor, first: number, pace: number, low: number, high: number, slots: number) {
  const layout = skewLayout(first, pace, { low, high }, byDistance.shape[1]!, slots)
  return skew(padColumns(byDistance, 2, layout), layout)
}

/** Every geometry of a small grid: first below, at and above the window, all paces, narrow and wide groups. */
const grid = [1, 2, 5].flatMap((queries) =>
  [1, 3, 7].flatMap((slots) =>
    [0, 2, 6, 12].flatMap((first) =>
      [1, 2, 3, infinity].flatMap((pace) =>
        [
          [0, infinity],
          [1, infinity],
          [0, 4],
          [1, 6],
          [3, 3],
        ].map(([nearest, farthest]) => ({
          queries,
          pace,
          first,
          group: contiguous(slots, first, pace, nearest, farthest),
        })),
      ),
    ),
  ),
)

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(() => useBackend(backend))

  test('the skew puts every distance before its slot', () => {
    const rows = 2
    let compared = 0
    for (const { queries, pace, first, group } of grid) {
      const { low, high } = distanceRange(group, queries)
      if (high < low) continue
      const columns = high - low + 1
      // The value of query i at distance d says so.
      const value = (row: number, query: number, distance: number) =>
        1000 * row + 100 * query + distance + 0.5
      const byDistance = Float32Array.from({ length: rows * queries * columns }, (_, index) => {
        const query = Math.floor(index / columns) % queries
        return value(Math.floor(index / (columns * queries)), query, high - (index % columns))
      })
      const found = tidy(() =>
        skewed(tensor(byDistance, [rows, queries, columns]), first, pace, low, high, group.slots).arraySync(),
      ) as number[][][]
      for (let row = 0; row < rows; row++)
        for (let query = 0; query < queries; query++)
          for (let slot = 0; slot < group.slots; slot++) {
            const distance = first - slot + Math.floor(query / pace)
            if (distance < low) continue // arbitrary, and masked
            const expected = distance > high ? 0 : value(row, query, distance)
            if (found[row]![query]![slot] !== expected)
              expect.fail(
                `${JSON.stringify({ queries, pace, first, group, row, query, slot })}: ${found[row]![query]![slot]}, not ${expected}`,
              )
            compared++
          }
    }
    expect(compared).toBeGreaterThan(5000)
  })

  test('the way back is the transpose', () => {
    for (const { queries, pace, first, group } of grid) {
      const range = distanceRange(group, queries)
      if (range.high < range.low) continue
      const layout = skewLayout(first, pace, range, queries, group.slots)
      const filled = (columns: number, seed: number) =>
        tensor(
          Float32Array.from({ length: 2 * queries * columns }, (_, index) => Math.sin(seed + index * index)),
          [2, queries, columns],
        )
      const [there, back] = tidy(() => {
        const [x, y] = [filled(layout.columns, 1), filled(group.slots, 2)]
        return [sum(mul(skew(x, layout), y)).arraySync(), sum(mul(x, unskew(y, layout))).arraySync()]
      }) as [number, number]
      expect(there, JSON.stringify({ queries, pace, first, group })).toBeCloseTo(back, 4)
    }
  })

  test('the skew above a table that is shorter than the distances is zero', () => {
    // Distances 5..0 occur; the table ends at 2.
    const found = tidy(() => skewed(tensor([[[1, 2, 3]]]), 5, 1, 0, 2, 6).arraySync())
    expect(found).toEqual([[[0, 0, 0, 1, 2, 3]]])
  })

  test('distances of contiguous and of scattered slots', () => {
    tidy(() => {
      expect(distances(contiguous(3, 4, 2), 3).arraySync()).toEqual([
        [
          [
            [4, 3, 2],
            [4, 3, 2],
            [5, 4, 3],
          ],
        ],
      ])
      const age = tensor(
        [
          [5, 2],
          [9, 1],
        ],
        [2, 2],
        'int32',
      )
      const scattered = {
        slots: 2,
        distance: { kind: 'scattered', age },
        nearest: 0,
        farthest: infinity,
      } as never
      expect(distances(scattered, 2).arraySync()).toEqual([
        [
          [
            [5, 2],
            [6, 3],
          ],
        ],
        [
          [
            [9, 1],
            [10, 2],
          ],
        ],
      ])
    })
  })
})

test('the range holds all distances that may be attended to, and no more', () => {
  for (const { queries, pace, first, group } of grid) {
    const occurring: number[] = []
    for (let query = 0; query < queries; query++)
      for (let slot = 0; slot < group.slots; slot++) {
        const distance = first - slot + Math.floor(query / pace)
        if (distance >= group.nearest && distance <= group.farthest) occurring.push(distance)
      }
    const { low, high } = distanceRange(group, queries)
    if (occurring.length === 0) continue
    expect([low, high]).toEqual([Math.min(...occurring), Math.max(...occurring)])
  }
})

test('the mask is null where all may be attended to, else exact', () => {
  expect(windowMask(contiguous(3, 2), 1)).toBe(null)
  for (const { queries, pace, first, group } of grid) {
    const mask = windowMask(group, queries)
    for (let query = 0; query < queries; query++)
      for (let slot = 0; slot < group.slots; slot++) {
        const distance = first - slot + Math.floor(query / pace)
        const may = distance >= group.nearest && distance <= group.farthest
        if (mask) expect(mask[query * group.slots + slot]).toBe(may ? 0 : Math.fround(masked))
        else expect(may).toBe(true)
      }
  }
})
