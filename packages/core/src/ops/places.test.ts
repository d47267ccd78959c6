/** The place that a new slot takes, by a backend's kernels and by plain operations, beside a loop. */
import { useBackend } from '@lethe/backends'
import { clone, env, memory, type Tensor2D, tensor, tensor2d, tidy } from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Random } from '../random'
import { takePlace } from './places'

const never = 2 ** 24

interface Rows {
  readonly ages: number[][]
  readonly valid: number[][]
  readonly worths?: number[][]
  readonly among?: number
}

/** The rule in plain words. */
function taken({ ages, valid, worths, among }: Rows) {
  return ages.map((row, b) => {
    const older = row.map((age) => Math.fround(age + 1))
    const worth = older.map((age, i) => (worths ? worths[b]![i]! : -age) - (1 - valid[b]![i]!) * 2 * never)
    const place = worth.indexOf(Math.min(...worth.slice(0, among)))
    return {
      place,
      ages: older.map((age, i) => (i === place ? 0 : age)),
      valid: valid[b]!.map((inUse, i) => (i === place ? 1 : inUse)),
    }
  })
}

const random = new Random(5)
const drawn = (batch: number, count: number, value: () => number) =>
  Array.from({ length: batch }, () => Array.from({ length: count }, value))
const cases: Record<string, Rows> = {
  'one place': { ages: [[never], [3]], valid: [[0], [1]] },
  'all in use: the oldest': { ages: [[4, 9, 2, 1]], valid: [[1, 1, 1, 1]] },
  'empty places first, however young they say they are': {
    ages: [
      [4, 9, 2, 1],
      [never, 0, 8, never],
    ],
    valid: [
      [1, 1, 0, 1],
      [0, 1, 1, 0],
    ],
  },
  'by worth': { ages: [[4, 9, 2]], valid: [[1, 1, 1]], worths: [[1, 2, 0.5]] },
  'by worth, empty ones first': { ages: [[4, 9, 2]], valid: [[1, 0, 1]], worths: [[-100, 200, 0.5]] },
  'the last places are not for it, empty or worth less': {
    ages: [
      [4, 9, 2, 10],
      [4, 9, 2, never],
    ],
    valid: [
      [1, 1, 1, 1],
      [1, 1, 1, 0],
    ],
    among: 3,
  },
  'many rows': {
    ages: drawn(5, 131, () => random.integer(1000)),
    valid: drawn(5, 131, () => random.integer(2)),
    worths: drawn(5, 131, () => random.normal()),
  },
}

describe.each([
  ['cpu', true],
  ['wasm', true],
  ['wasm', false],
] as const)('on %s, own kernels %s', (backend, kernels) => {
  beforeAll(async () => {
    await useBackend(backend)
    if (backend === 'wasm') env().set('LETHE_WASM_KERNELS', kernels)
  })
  afterAll(() => {
    if (backend === 'wasm') env().set('LETHE_WASM_KERNELS', true)
  })

  const take = ({ ages, valid, worths, among }: Rows) =>
    takePlace(tensor2d(ages), tensor2d(valid), worths && tensor2d(worths), never, among)

  test.each(Object.entries(cases))('%s', (_, rows) => {
    const before = memory().numTensors
    tidy(() => {
      const expected = taken(rows)
      const place = take(rows)
      expect([...place.place.dataSync()]).toEqual(expected.map((row) => row.place))
      expect(place.ages.arraySync()).toEqual(expected.map((row) => row.ages))
      expect(place.valid.arraySync()).toEqual(expected.map((row) => row.valid))
    })
    expect(memory().numTensors).toBe(before)
  })

  test.each([
    [
      [2, 3],
      [2, 1],
    ],
    [
      [2, 2, 3, 3],
      [2, 2, 3, 1],
    ],
    [
      [2, 5, 3],
      [2, 5, 1],
    ],
  ])('a slot is written into its place alone, of x %j', (shape, columnShape) => {
    tidy(() => {
      const place = take({
        ages: [
          [1, 7, 2, 8, 9],
          [5, 1, 2, 8, 9],
        ],
        valid: drawn(2, 5, () => 1),
        among: 3,
      })
      const size = shape.reduce((a, b) => a * b)
      const x = tensor(
        Float32Array.from({ length: size }, (_, i) => i),
        shape,
      )
      const column = tensor(
        Float32Array.from({ length: size / 3 }, (_, i) => -1 - i),
        columnShape,
      )
      const expected = Array.from({ length: size }, (_, i) => {
        const line = Math.floor(i / 3)
        return i % 3 === [1, 0][Math.floor((2 * line) / (size / 3))] ? -1 - line : i
      })
      const other = tensor2d([
        [0, 1, 2],
        [3, 4, 5],
      ])
      const written = place.write({ x: [x, column], other: [other, tensor2d([[-1], [-2]])] })
      expect([...written.x!.dataSync()]).toEqual(expected)
      expect([...written.other!.dataSync()]).toEqual([0, -1, 2, -2, 4, 5])
    })
  })

  test('what is written into is used up', () => {
    tidy(() => {
      const x = tensor2d([[1, 2, 3]])
      take({ ages: [[1, 7, 2]], valid: [[1, 1, 1]] }).write({ y: [x, tensor2d([[9]])] })
      expect(x.isDisposed).toBe(true)
    })
  })

  test('who holds a clone keeps what it had', () => {
    tidy(() => {
      const place = take({ ages: [[1, 7, 2]], valid: [[1, 1, 1]] })
      const x = tensor2d([[1, 2, 3]])
      const held = clone(x)
      const { written } = place.write({ written: [x, tensor2d([[9]])] })
      expect([...held.dataSync()]).toEqual([1, 2, 3])
      expect([...written!.dataSync()]).toEqual([1, 9, 3])
    })
  })

  test('one that nobody else holds is written into where it lies, on wasm', () => {
    const x = tensor2d([[1, 2, 3]])
    const before = memory().numDataBuffers
    const { y: written } = tidy(() =>
      take({ ages: [[1, 7, 2]], valid: [[1, 1, 1]] }).write({ y: [x, tensor2d([[9]])] }),
    )
    expect(memory().numDataBuffers).toBe(before)
    expect((written!.arraySync() as number[][])[0]).toEqual([1, 9, 3])
    if (backend === 'wasm' && kernels) expect(written!.dataId).toBe(x.dataId)
    written!.dispose()
  })

  test('ages that are whole numbers by type go to the plain operations', () => {
    tidy(() => {
      const place = takePlace(
        tensor2d([[1, 7, 2]], [1, 3], 'int32') as Tensor2D,
        tensor2d([[1, 1, 1]]),
        undefined,
        never,
      )
      expect([...place.ages.dataSync()]).toEqual([2, 0, 3])
    })
  })
})
