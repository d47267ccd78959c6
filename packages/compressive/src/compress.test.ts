/** The compression functions on cases small enough to follow by hand, and the options that choose them. */
import { useBackend } from '@lethe/backends'
import { ConfigError, registerGradients } from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { type CompressiveOptions, compressive } from '.'
import { type Compression, compress, compressionSpecs } from './compress'

const rows = (x: tf.Tensor) => x.arraySync()
/** Numbers that look like nothing in particular. */
const drawn = (shape: number[], seed = 1) =>
  tf.tensor(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, at) => Math.sin(seed + at * at)),
    shape,
  )

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
    registerGradients()
  })

  // Two rows of four steps of two features.
  const steps = [
    [
      [1, 8],
      [3, 4],
      [5, 2],
      [9, 6],
    ],
    [
      [0, -8],
      [-2, -6],
      [7, 1],
      [1, 3],
    ],
  ]
  const evicted = (valid = [1, 1, 1, 1], usage?: number[]) => ({
    hidden: tf.tensor3d(steps),
    valid: tf.tensor2d([...valid, 1, 1, 1, 1], [2, 4]),
    ...(usage && { usage: tf.tensor2d([...usage, ...usage], [2, 4]) }),
  })

  test('mean and max pooling', () => {
    const made = compress('mean', 2, evicted(), {})
    expect(rows(made.hidden)).toEqual([
      [
        [2, 6],
        [7, 4],
      ],
      [
        [-1, -7],
        [4, 2],
      ],
    ])
    expect(rows(compress('max', 4, evicted(), {}).hidden)).toEqual([[[9, 8]], [[7, 3]]])
    expect(rows(compress('max', 1, evicted(), {}).hidden)).toEqual(steps)
  })

  test('a slot is empty only if all its steps are', () => {
    expect(rows(compress('mean', 2, evicted([0, 0, 0, 1]), {}).valid)).toEqual([
      [0, 1],
      [1, 1],
    ])
  })

  test('a convolution whose first tap is the oldest step', () => {
    // Tap 0 takes feature 0 ten times, tap 1 takes feature 1 once.
    const weight = tf.tensor2d([10, 0, 0, 0, 0, 0, 0, 1], [4, 2])
    const made = compress('conv', 2, evicted(), {
      'conv.weight': weight,
      'conv.bias': tf.tensor1d([0.5, -1]),
    })
    expect(rows(made.hidden)).toEqual([
      [
        [10.5, 3],
        [50.5, 5],
      ],
      [
        [0.5, -7],
        [70.5, 2],
      ],
    ])
  })

  test.each([1, 2, 3, 5, 8])('dilated convolutions over %i steps, position by position', async (rate) => {
    const width = 3
    const [count, groups] = [2, 2]
    const hidden = drawn([count, groups * rate, width]) as tf.Tensor3D
    const specs = compressionSpecs('dilated', rate, width)
    const parameters = Object.fromEntries(
      Object.entries(specs).map(([name, { shape }], n) => [name, drawn([...shape], n + 2)]),
    )
    const layers = Object.keys(specs).length / 2
    expect(2 ** layers).toBeGreaterThanOrEqual(rate)
    const found = await compress(
      'dilated',
      rate,
      { hidden, valid: tf.ones([count, groups * rate]) },
      parameters,
    ).hidden.array()

    const values = hidden.arraySync()
    const zero = new Array<number>(width).fill(0)
    for (let row = 0; row < count; row++)
      for (let group = 0; group < groups; group++) {
        const own = values[row]!.slice(group * rate, (group + 1) * rate)
        // at(n, t): layer n at position t of the group; before it there are zeros.
        const at = (n: number, t: number): number[] => {
          if (n === 0) return t < 0 ? zero : own[t]!
          const read = (x: number[]) => (n === 1 ? x : x.map((value) => Math.max(0, value)))
          const input = [...read(at(n - 1, t - 2 ** (n - 1))), ...read(at(n - 1, t))]
          const weight = parameters[`dilated.${n - 1}.weight`]!.arraySync() as number[][]
          const bias = parameters[`dilated.${n - 1}.bias`]!.arraySync() as number[]
          return bias.map((b, o) => input.reduce((total, x, i) => total + x * weight[i]![o]!, b))
        }
        at(layers, rate - 1).forEach((value, o) => {
          expect(found[row]![group]![o]).toBeCloseTo(value, 4)
        })
      }
  })

  test('the most used steps stay, in order of time', () => {
    const made = compress('most-used', 2, evicted([0, 1, 1, 1], [0.4, 0.2, 0.1, 0.5]), {})
    expect(rows(made.hidden)).toEqual([
      [steps[0]![1], steps[0]![3]],
      [steps[1]![0], steps[1]![3]],
    ])
    expect(rows(made.valid)).toEqual([
      [1, 1],
      [1, 1],
    ])
    // A row with two steps of four makes one slot of them, behind an empty one.
    const fewer = compress('most-used', 2, evicted([0, 0, 1, 1], [0.4, 0.3, 0.2, 0.1]), {})
    expect(rows(fewer.hidden)).toEqual([
      [[0, 0], steps[0]![2]],
      [steps[1]![0], steps[1]![1]],
    ])
    expect(rows(fewer.valid)).toEqual([
      [0, 1],
      [1, 1],
    ])
    const turned = compress('most-used', 2, evicted(undefined, [0.4, 0.1, 0.2, 0.5]), {})
    expect(rows(turned.hidden)).toEqual(steps.map((row) => [row[0], row[3]]))
  })

  test.each(['mean', 'max', 'conv', 'dilated', 'most-used'] as const)(
    '%s lets gradients through to the steps',
    async (compression: Compression) => {
      const hidden = drawn([1, 6, 2]) as tf.Tensor3D
      const own = Object.fromEntries(
        Object.entries(compressionSpecs(compression, 3, 2)).map(([name, { shape }], n) => [
          name,
          drawn([...shape], n),
        ]),
      )
      const weights = drawn([1, 2, 2], 5)
      const total = (x: tf.Tensor) => {
        // Usage that depends on the steps: the choice itself has no gradient.
        const usage = tf.sum(x, 2) as tf.Tensor2D
        const made = compress(
          compression,
          3,
          { hidden: x as tf.Tensor3D, valid: tf.ones([1, 6]), usage },
          own,
        )
        return tf.sum(tf.mul(made.hidden, weights)) as tf.Scalar
      }
      const gradient = await tf.grad(total)(hidden).data()
      const values = await hidden.data()
      for (const [index, slope] of gradient.entries()) {
        const at = (step: number) =>
          total(
            tf.tensor(
              values.map((value, i) => value + (i === index ? step : 0)),
              hidden.shape,
            ),
          ).dataSync()[0]!
        expect(slope).toBeCloseTo((at(1e-2) - at(-1e-2)) / 2e-2, 2)
      }
    },
  )
})

describe('options', () => {
  const fine: CompressiveOptions = { memory: 4, compressed: 3, rate: 2 }

  test('the default is the best of the paper', () => {
    expect(compressive(fine).options).toEqual({
      ...fine,
      compression: 'conv',
      loss: 'attention',
      overlap: false,
    })
    expect(compressive({ ...fine, compression: 'max' }).options.loss).toBe('none')
  })

  test('the options make the same method again, also from JSON', () => {
    const { options } = compressive({ ...fine, compression: 'dilated', loss: 'auto-encoding' })
    expect(compressive(JSON.parse(JSON.stringify(options))).options).toEqual(options)
  })

  test.each<[Record<string, unknown>, RegExp]>([
    [{ memory: 0 }, /memory must be a whole number of slots from 1 up, not 0/],
    [{ memory: undefined }, /memory .* not undefined/],
    [{ compressed: 1.5 }, /compressed must be a whole number of slots from 1 up, not 1.5/],
    [{ compressed: '3' }, /compressed/],
    [{ rate: 0 }, /rate must be a whole number of steps per compressed slot from 1 up, not 0/],
    [{ rate: Number.NaN }, /rate .* not NaN/],
    [{ compression: 'avg' }, /compression must be one of mean, max, conv, dilated, most-used, not avg/],
    [{ loss: 'reconstruction' }, /loss must be one of none, auto-encoding, attention, not reconstruction/],
    [{ compression: 'mean', loss: 'attention' }, /"mean" has no parameters .* set loss: 'none'/],
    [{ compression: 'most-used', loss: 'auto-encoding' }, /no parameters/],
    [{ overlap: 1 }, /overlap must be true or false, not 1/],
    [{ overlap: true }, /compression must be "mean"/],
    [{ compresion: 'mean' }, /unknown option "compresion" of compressive; known are memory, compressed/],
  ])('%j is refused', (wrong, message) => {
    const make = () => compressive({ ...fine, ...wrong })
    const before = tf.memory().numTensors
    expect(make).toThrow(ConfigError)
    expect(make).toThrow(message)
    expect(tf.memory().numTensors).toBe(before)
  })
})
