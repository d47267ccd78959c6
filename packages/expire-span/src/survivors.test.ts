/** The rule of survival, by hand. */
import { describe, expect, test } from 'vitest'
import { empty, gaplessOf, survivors } from './survivors'

const none = 2 * empty
const rows = (...lives: number[][]) => ({ left: lives.flat(), rows: lives.length })

describe("deletion 'row'", () => {
  test('what expired goes, each row its own; the block stays', () => {
    const slots = { ...rows([3, 0, 2, -1, -5], [0.1, -1, -2, 9, -1]), block: 2 }
    expect(survivors(slots, 'row')).toEqual([
      [0, 2, 3, 4],
      [0, 3, 4],
    ])
  })
  test('empty places go, also where the block is', () => {
    const slots = { ...rows([none, none, 1, none, 2]), block: 2 }
    expect(survivors(slots, 'row')).toEqual([[2, 4]])
  })
  test('nothing left', () => {
    expect(survivors({ ...rows([none, none], [0, -1]), block: 0 }, 'row')).toEqual([[], []])
  })
})

describe("deletion 'blocks'", () => {
  test('all rows drop as many, in multiples of the block, the oldest expired first', () => {
    const slots = { ...rows([-1, 5, -1, -1, -1, -1, 7, 7], [5, -1, 5, -1, -1, 5, 7, 7]), block: 2 }
    // 5 and 3 expired: the smaller in multiples of 2 is 2.
    expect(survivors(slots, 'blocks')).toEqual([
      [1, 3, 4, 5, 6, 7],
      [0, 2, 4, 5, 6, 7],
    ])
  })
  test('fewer than a block expired somewhere: nobody drops any', () => {
    const slots = { ...rows([-1, -1, -1, 7, 7], [-1, 5, 5, 7, 7]), block: 2 }
    expect(survivors(slots, 'blocks')).toEqual([
      [0, 1, 2, 3, 4],
      [0, 1, 2, 3, 4],
    ])
  })
  test('empty places count as expired before all others, so that a reset row holds nobody up', () => {
    const slots = { ...rows([-1, -1, 5, 7, 7], [none, none, none, 7, 7]), block: 2 }
    expect(survivors(slots, 'blocks')).toEqual([
      [2, 3, 4],
      [3, 4],
    ])
  })
})

describe('budget', () => {
  test('the longest life left stays, in order of time, even of the block', () => {
    const slots = { ...rows([3, 9, 4, -1, 1, 8], [1, 2, 3, 4, 5, 6]), block: 3 }
    expect(survivors(slots, 'row', 3)).toEqual([
      [1, 2, 5],
      [3, 4, 5],
    ])
  })
  test('expired ones of the block go first, among equals the oldest', () => {
    expect(survivors({ ...rows([2, 2, 2, -3, 2]), block: 3 }, 'row', 3)).toEqual([[1, 2, 4]])
  })
})

test.each([
  ['the block is whole', [[0, 2, 3, 4]], 3, 3],
  ['a gap in one row', [[0, 3, 4], [1, 2, 3, 4]], 3, 2], // biome-ignore format: a row each
  ['the newest is gone', [[0, 1, 2]], 3, 0],
  ['only empty places before the newest', [[4], [2, 3, 4]], 3, 3],
  ['a row without slots', [[], [3, 4]], 2, 2],
  ['never more than there were', [[0, 1, 2, 3, 4]], 2, 2],
])('gapless: %s', (_, kept, block, expected) => {
  expect(gaplessOf(kept, 5, block)).toBe(expected)
})
