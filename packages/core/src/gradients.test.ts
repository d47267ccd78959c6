/** Every registered gradient against central differences, through the operation that users call. */
import { useBackend } from '@lethe/backends'
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { kernelsWithGradient, registerGradients } from './gradients'
import { Random } from './random'

type Case = readonly [
  kernel: string,
  inputs: readonly (readonly number[])[],
  f: (...x: tf.Tensor[]) => tf.Tensor,
]

/** Inputs lie in (0.2, 1.8), away from kinks at 0 and 1 unless a case shifts them there. */
const cases: readonly Case[] = [
  ['Add', [[2, 3], [3]], (a, b) => tf.add(a!, b!)],
  [
    'Add',
    [
      [1, 3],
      [2, 1],
    ],
    (a, b) => tf.add(a!, b!),
  ],
  [
    'Sub',
    [
      [2, 3],
      [2, 1],
    ],
    (a, b) => tf.sub(a!, b!),
  ],
  ['Multiply', [[2, 3], [3]], (a, b) => tf.mul(a!, b!)],
  [
    'RealDiv',
    [
      [2, 3],
      [1, 3],
    ],
    (a, b) => tf.div(a!, b!),
  ],
  ['Maximum', [[2, 3], [3]], (a, b) => tf.maximum(a!, b!)],
  ['Minimum', [[2, 3], [3]], (a, b) => tf.minimum(a!, b!)],
  ['Neg', [[4]], (x) => tf.neg(x!)],
  ['Identity', [[4]], (x) => tf.clone(x!)],
  ['Cast', [[4]], (x) => tf.cast(x!, 'float32')],
  ['Square', [[4]], (x) => tf.square(x!)],
  ['Sqrt', [[4]], (x) => tf.sqrt(x!)],
  ['Rsqrt', [[4]], (x) => tf.rsqrt(x!)],
  ['Exp', [[4]], (x) => tf.exp(x!)],
  ['Log', [[4]], (x) => tf.log(x!)],
  ['Log1p', [[4]], (x) => tf.log1p(x!)],
  ['Softplus', [[4]], (x) => tf.softplus(x!)],
  ['Sigmoid', [[4]], (x) => tf.sigmoid(x!)],
  ['Tanh', [[4]], (x) => tf.tanh(x!)],
  ['Erf', [[4]], (x) => tf.erf(x!)],
  ['Sin', [[4]], (x) => tf.sin(x!)],
  ['Cos', [[4]], (x) => tf.cos(x!)],
  ['Abs', [[6]], (x) => tf.abs(tf.sub(x!, 1))],
  ['Relu', [[6]], (x) => tf.relu(tf.sub(x!, 1))],
  ['ClipByValue', [[8]], (x) => tf.clipByValue(x!, 0.6, 1.3)],
  ['Softmax', [[2, 5]], (x) => tf.softmax(x!)],
  ['Sum', [[2, 3, 4]], (x) => tf.sum(x!, [0, 2])],
  ['Sum', [[2, 3]], (x) => tf.sum(x!, 1, true)],
  ['Mean', [[2, 3, 4]], (x) => tf.mean(x!, [1])],
  ['Max', [[3, 4]], (x) => tf.max(x!, -1)],
  ['Max', [[3, 4]], (x) => tf.max(x!, 0, true)],
  ['Reshape', [[2, 3]], (x) => tf.reshape(x!, [3, 2])],
  ['ExpandDims', [[2, 3]], (x) => tf.expandDims(x!, 1)],
  ['Transpose', [[2, 3, 4]], (x) => tf.transpose(x!, [2, 0, 1])],
  ['Slice', [[4, 5]], (x) => tf.slice(x!, [1, 2], [2, 3])],
  [
    'PadV2',
    [[2, 3]],
    (x) =>
      tf.pad(x!, [
        [1, 0],
        [2, 1],
      ]),
  ],
  [
    'Concat',
    [
      [2, 3],
      [2, 2],
      [2, 1],
    ],
    (...x) => tf.concat(x, 1),
  ],
  ['SplitV', [[2, 6]], (x) => tf.concat(tf.split(x!, [1, 3, 2], 1).toReversed(), 1)],
  [
    'Pack',
    [
      [2, 3],
      [2, 3],
    ],
    (...x) => tf.stack(x, 1),
  ],
  ['Unpack', [[2, 3]], (x) => tf.stack(tf.unstack(x!, 1).toReversed(), 0)],
  ['Tile', [[2, 3]], (x) => tf.tile(x!, [2, 3])],
  ['Select', [[4], [4]], (a, b) => tf.where(tf.tensor1d([1, 0, 0, 1], 'bool'), a!, b!)],
  ['GatherV2', [[4, 3]], (x) => tf.gather(x!, tf.tensor1d([2, 0, 2, 1, 2], 'int32'))],
  ['Cumsum', [[3, 3]], (x) => tf.cumsum(x!, 0)],
  ['Cumsum', [[3, 4]], (x) => tf.cumsum(x!, 0, true)],
  ['Cumsum', [[2, 3, 3]], (x) => tf.cumsum(x!, 1, true, true)],
  // Flat almost everywhere: the gradient comes through the other factor alone.
  ['Greater', [[6]], (x) => tf.mul(x!, tf.cast(tf.greater(x!, 1), 'float32'))],
  ['GreaterEqual', [[6]], (x) => tf.mul(x!, tf.cast(tf.greaterEqual(x!, 1), 'float32'))],
  ['Less', [[6]], (x) => tf.mul(x!, tf.cast(tf.less(x!, 1), 'float32'))],
  ['LessEqual', [[6]], (x) => tf.mul(x!, tf.cast(tf.lessEqual(x!, 1), 'float32'))],
  ['Equal', [[6]], (x) => tf.mul(x!, tf.cast(tf.equal(x!, 1), 'float32'))],
  ['NotEqual', [[6]], (x) => tf.mul(x!, tf.cast(tf.notEqual(x!, 1), 'float32'))],
  ['Floor', [[6]], (x) => tf.mul(x!, tf.floor(x!))],
  ['Ceil', [[6]], (x) => tf.mul(x!, tf.ceil(x!))],
  ['Round', [[6]], (x) => tf.mul(x!, tf.round(x!))],
  ['Sign', [[6]], (x) => tf.mul(x!, tf.sign(x!))],
  ['Step', [[6]], (x) => tf.mul(x!, tf.step(x!))],
]

const random = new Random(5)
/** Uniform in (0.2, 1.8), no value within 0.03 of another or of a kink. */
function inputs(shape: readonly number[], taken: number[]): Float32Array {
  const size = shape.reduce((a, b) => a * b, 1)
  return Float32Array.from({ length: size }, () => {
    for (;;) {
      const value = 0.2 + 1.6 * random.uniform()
      const apart = [0.5, 0.6, 1, 1.3, 1.5, ...taken].every((other) => Math.abs(value - other) > 0.015)
      if (!apart) continue
      taken.push(value)
      return value
    }
  })
}

test('every gradient in the table has a case here', () => {
  expect([...new Set(cases.map(([kernel]) => kernel))].sort()).toEqual([...kernelsWithGradient].sort())
})

describe('gradients on cpu', () => {
  beforeAll(async () => {
    await useBackend('cpu')
    registerGradients()
    registerGradients()
  })

  test.each(cases.map((c, index) => [`${index} ${c[0]}`, c] as const))('%s', async (_, [, shapes, f]) => {
    const taken: number[] = []
    const values = shapes.map((shape) => inputs(shape, taken))
    const before = tf.memory().numTensors
    const outputShape = tf.tidy(() => f(...values.map((v, i) => tf.tensor(v, shapes[i] as number[]))).shape)
    const weighting = tf.tensor(random.normals(outputShape.reduce((a, b) => a * b, 1)), outputShape)
    const scalarOf = (all: readonly Float32Array[]) =>
      tf.tidy(
        () =>
          tf
            .sum(tf.mul(f(...all.map((v, i) => tf.tensor(v, shapes[i] as number[]))), weighting))
            .dataSync()[0]!,
      )
    const xs = values.map((v, i) => tf.tensor(v, shapes[i] as number[]))
    const found = tf.tidy(() => tf.grads((...x: tf.Tensor[]) => tf.sum(tf.mul(f(...x), weighting)))(xs))
    for (const [i, gradient] of found.entries()) {
      const slopes = Array.from(values[i]!, (value, place) => {
        const moved = (step: number) =>
          scalarOf(
            values.map((v, index) => (index === i ? v.map((x, at) => (at === place ? value + step : x)) : v)),
          )
        return (moved(1e-2) - moved(-1e-2)) / 2e-2
      })
      const data = await gradient.data()
      slopes.forEach((slope, place) => {
        expect(Math.abs(data[place]! - slope)).toBeLessThan(4e-3 + 4e-3 * Math.abs(slope))
      })
    }
    for (const value of [...xs, ...found, weighting]) value.dispose()
    expect(tf.memory().numTensors).toBe(before)
  })

  test('a gradient that serves two inputs is not disposed of twice', async () => {
    const x = tf.tensor1d([1, 2, 3])
    const gradient = tf.tidy(() =>
      tf.grad((y: tf.Tensor) => tf.sum(tf.add(tf.add(y, y), tf.add(y, tf.mul(y, y)))))(x),
    )
    expect(Array.from(await gradient.data())).toEqual([5, 7, 9])
    x.dispose()
    gradient.dispose()
  })
})
