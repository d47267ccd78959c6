/**
 * Gradients at the edges of operations, on each backend: arguments as callers leave them out, broadcast operands,
 * several axes, repeated indices, empty pieces; and gradients that are known without differences.
 */
import { useBackend } from '@lethe/backends'
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { kernelsWithGradient, registerGradients } from './gradients'
import { Random } from './random'

const random = new Random(8)

/** Operations that are linear: the gradient of a weighting w is found by applying the operation to unit vectors. */
const linear: Record<string, [shape: number[], f: (x: tf.Tensor) => tf.Tensor]> = {
  'slice with fewer starts than axes': [[3, 4], (x) => tf.slice(x, [1])],
  'slice from one number': [[5], (x) => tf.slice(x, 2, 2)],
  'slice to the end': [[3, 4], (x) => tf.slice(x, [1, 1], [-1, 2])],
  'pad by zeros': [
    [2, 3, 2],
    (x) =>
      tf.pad(x, [
        [0, 1],
        [0, 0],
        [2, 0],
      ]),
  ],
  'concat with an empty piece': [[2, 3], (x) => tf.concat([tf.zeros([2, 0]), x, tf.zeros([2, 0])], 1)],
  'concat with itself': [[2, 3], (x) => tf.concat([x, tf.mul(x, 2), x], 0)],
  'concat of one': [[2, 3], (x) => tf.concat([x], 1)],
  'split, one part unused': [[2, 6], (x) => tf.split(x, [1, 3, 2], 1)[1]!],
  'split in equal parts': [[4, 2], (x) => tf.add(...(tf.split(x, 2) as [tf.Tensor, tf.Tensor]))],
  'unstack, one part unused': [[3, 2], (x) => tf.unstack(x, 0)[2]!],
  'stack off the first axis': [[2, 2], (x) => tf.stack([x, x, tf.neg(x)], -1)],
  'tile of three axes': [[2, 1, 3], (x) => tf.tile(x, [1, 3, 2])],
  'gather of repeated rows by a matrix': [
    [3, 2],
    (x) =>
      tf.gather(
        x,
        tf.tensor2d(
          [
            [0, 2],
            [2, 2],
          ],
          [2, 2],
          'int32',
        ),
      ),
  ],
  'gather of one row': [[3, 2], (x) => tf.gather(x, tf.scalar(1, 'int32'))],
  'gather of floats': [[4], (x) => tf.gather(x, tf.tensor1d([3, 3, 0], 'int32'))],
  'sum of all': [[2, 3], (x) => tf.sum(x)],
  'sum over the outer axes, kept': [[2, 3, 2], (x) => tf.sum(x, [0, 2], true)],
  'mean over negative axes': [[2, 3, 2], (x) => tf.mean(x, [-1, -3])],
  'mean of all, kept': [[2, 3], (x) => tf.mean(x, undefined, true)],
  'cumsum of the middle axis': [[2, 2, 2], (x) => tf.cumsum(x, 1)],
  'cumsum, reverse': [[3, 3], (x) => tf.cumsum(x, 0, false, true)],
  'cumsum, exclusive and reverse': [[3, 3], (x) => tf.cumsum(x, 1, true, true)],
  'transpose by default': [[2, 3, 2], (x) => tf.transpose(x)],
  'transpose of four axes': [[2, 1, 3, 2], (x) => tf.transpose(x, [3, 0, 2, 1])],
  'squeeze and expand': [[2, 1, 3], (x) => tf.expandDims(tf.squeeze(x, [1]), -1)],
  'broadcast to more axes': [[3, 1], (x) => tf.add(x, tf.zeros([2, 3, 4]))],
  'broadcast of a scalar': [[], (x) => tf.sub(tf.zeros([2, 2]), x)],
  'broadcast in a product': [[1, 3], (x) => tf.mul(tf.tensor2d([1, 2, 3, 4], [4, 1]), x)],
  'broadcast divided': [[1, 3], (x) => tf.div(x, tf.tensor2d([1, 2, 4], [3, 1]))],
  'where, both branches': [[4], (x) => tf.where(tf.tensor1d([1, 0, 1, 0], 'bool'), tf.mul(x, 3), x)],
  'where, a row chosen for all': [
    [3],
    (x) => tf.where(tf.tensor2d([1, 0], [2, 1], 'bool'), x, tf.zeros([2, 3])),
  ],
  'times integers': [[3], (x) => tf.mul(x, tf.tensor1d([1, 2, 3], 'int32'))],
  broadcastTo: [[1, 3], (x) => tf.broadcastTo(x, [2, 3])],
}

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
    registerGradients()
  })

  test.each(Object.entries(linear))('%s', async (_, [shape, f]) => {
    const size = shape.reduce((a, b) => a * b, 1)
    const before = tf.memory().numTensors
    const { gradient, expected } = tf.tidy(() => {
      const result = f(tf.ones(shape))
      const weighting = tf.tensor(random.normals(result.size), result.shape)
      const x = tf.tensor(random.normals(size), shape)
      const gradient = tf.grad((y: tf.Tensor) => tf.sum(tf.mul(f(y), weighting)))(x)
      const expected = Array.from({ length: size }, (_, unit) => {
        const one = Float32Array.from({ length: size }, (_, index) => (index === unit ? 1 : 0))
        return tf.sum(tf.mul(f(tf.tensor(one, shape)), weighting)).dataSync()[0]!
      })
      expect(gradient.shape).toEqual(shape)
      return { gradient, expected }
    })
    const found = await gradient.data()
    expected.forEach((slope, index) => {
      expect(found[index]).toBeCloseTo(slope, 5)
    })
    gradient.dispose()
    expect(tf.memory().numTensors).toBe(before)
  })

  const gradientOf = (f: (x: tf.Tensor) => tf.Tensor, x: tf.TensorLike) =>
    tf.tidy(() =>
      tf
        .grad((y: tf.Tensor) => tf.sum(f(y)))(tf.tensor(x))
        .arraySync(),
    )

  test('max over several axes goes to the largest', () => {
    const x = [
      [
        [1, 5],
        [2, 3],
      ],
      [
        [9, 4],
        [0, 8],
      ],
    ]
    expect(gradientOf((y) => tf.max(y, [0, 2]), x)).toEqual([
      [
        [0, 0],
        [0, 0],
      ],
      [
        [1, 0],
        [0, 1],
      ],
    ])
    expect(gradientOf((y) => tf.max(y), x)).toEqual([
      [
        [0, 0],
        [0, 0],
      ],
      [
        [1, 0],
        [0, 0],
      ],
    ])
  })

  test('several largest values share the gradient of max', () => {
    expect(gradientOf((y) => tf.max(y), [3, 1, 3])).toEqual([0.5, 0, 0.5])
    const x = [
      [2, 2, 2, 2],
      [0, 4, 1, 4],
    ]
    expect(gradientOf((y) => tf.mul(tf.max(y, 1), [1, 6]), x)).toEqual([
      [0.25, 0.25, 0.25, 0.25],
      [0, 3, 0, 3],
    ])
    expect(gradientOf((y) => tf.max(y, 0, true), x)).toEqual([
      [1, 0, 1, 0],
      [0, 1, 0, 1],
    ])
  })

  test('maximum and minimum give a tie to one side only', () => {
    expect(gradientOf((y) => tf.maximum(y, 2), [1, 2, 3])).toEqual([0, 1, 1])
    expect(gradientOf((y) => tf.minimum(y, 2), [1, 2, 3])).toEqual([1, 1, 0])
    expect(gradientOf((y) => tf.maximum(y, y), [1, 2])).toEqual([1, 1])
  })

  test('clipping lets through what lies inside, bounds included', () => {
    expect(gradientOf((y) => tf.clipByValue(y, 0, 1), [-0.5, 0, 0.5, 1, 1.5])).toEqual([0, 1, 1, 1, 0])
  })

  test('negative and large numbers stay finite', () => {
    const signs = gradientOf((y) => tf.abs(y), [-3, 4])
    expect(signs).toEqual([-1, 1])
    expect(gradientOf((y) => tf.softplus(y), [-200, 200])).toEqual([0, 1])
    expect(gradientOf((y) => tf.sigmoid(y), [-200, 200])).toEqual([0, 0])
    expect(gradientOf((y) => tf.tanh(y), [-200, 200])).toEqual([0, 0])
    expect(gradientOf((y) => tf.softmax(tf.mul(y, tf.tensor1d([1, 2]))), [1e4, -1e4])).toEqual([0, 0])
  })

  test('what is flat has the gradient 0', () => {
    const flat: Record<string, (x: tf.Tensor) => tf.Tensor> = {
      greater: (x) => tf.cast(tf.greater(x, tf.neg(x)), 'float32'),
      equal: (x) => tf.cast(tf.equal(x, x), 'float32'),
      floor: tf.floor,
      ceil: tf.ceil,
      round: tf.round,
      sign: tf.sign,
      step: (x) => tf.step(x, 0.5),
    }
    for (const [name, f] of Object.entries(flat))
      expect(gradientOf(f, [-1.2, 0, 0.7]), name).toEqual([0, 0, 0])
  })

  test('the gradient of gather off the first axis is refused, not wrong', () => {
    expect(() => gradientOf((y) => tf.gather(y, tf.tensor1d([0], 'int32'), 1), [[1, 2]])).toThrow(
      'transpose first',
    )
  })
})

test('registering is silent, and changes nothing the second time', () => {
  const spies = (['log', 'warn', 'info', 'error'] as const).map((name) => vi.spyOn(console, name))
  const found = () => kernelsWithGradient.map((name) => tf.getGradient(name))
  const before = found()
  registerGradients()
  expect(found()).toEqual(before)
  expect(before).not.toContain(undefined)
  for (const spy of spies) {
    expect(spy).not.toHaveBeenCalled()
    spy.mockRestore()
  }
})

test('a gradient that is there already is left alone, but for cumsum and max, whose own are wrong', () => {
  const own = { kernelName: 'Square', gradFunc: () => ({}) }
  const wrong = ['Cumsum', 'Max'].map((kernelName) => ({ kernelName, gradFunc: () => ({}) }))
  const [square, ...right] = ['Square', 'Cumsum', 'Max'].map((name) => tf.getGradient(name))
  for (const config of [own, ...wrong]) {
    tf.unregisterGradient(config.kernelName)
    tf.registerGradient(config)
  }
  registerGradients()
  expect(tf.getGradient('Square')).toBe(own)
  for (const gradient of right) expect(tf.getGradient(gradient!.kernelName).gradFunc).toBe(gradient!.gradFunc)
  tf.unregisterGradient('Square')
  tf.registerGradient(square!)
})
