/** Kernels of the tensorflow backend beside plain loops; skipped where its addon is not installed. */
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { useBackend } from './index'

const addon = '@tensorflow/tfjs-node'
const installed = await import(addon).then(
  () => true,
  () => false,
)

describe.skipIf(!installed)('on tensorflow', async () => {
  if (installed) await useBackend('tensorflow')
  const values = (count: number) => Array.from({ length: count }, (_, index) => Math.sin(3 * index * index))
  const run = (name: string, inputs: Record<string, tf.Tensor>, attributes: tf.NamedAttrMap = {}) =>
    tf.engine().runKernel(name, inputs, attributes) as unknown as tf.Tensor[]

  test('the gradient of ReLU is closed at zero', () => {
    const found = tf.tidy(() => {
      const [dx] = run('LetheReluGradient', {
        dy: tf.tensor1d([1, 2, 3, 4]),
        y: tf.tensor1d([0, 5, 0, 1e-9]),
      })
      return [...dx!.dataSync()]
    })
    expect(found).toEqual([0, 2, 0, 4])
  })

  test.each([[[5]], [[3, 7]], [[300, 1000]]])('the sum of squares of %o', (shape) => {
    const given = values(shape.reduce((a, b) => a * b))
    const before = tf.memory().numTensors
    const [found, parts] = tf.tidy(() => {
      const [parts] = run('LetheSumSquares', {
        x0: tf.tensor(given.slice(0, 1)),
        x1: tf.tensor(given, shape),
      })
      return [tf.sum(parts!).dataSync()[0]!, parts!.rank] as never
    }) as unknown as [number, number]
    expect(parts).toBe(1)
    expect(found / given.reduce((sum, x) => sum + x * x, given[0]! ** 2)).toBeCloseTo(1, 5)
    expect(tf.memory().numTensors).toBe(before)
  })

  test.each([true, false])('running sums, exclusive %o, as TensorFlow computes them itself', (exclusive) => {
    const before = tf.memory().numTensors
    tf.tidy(() => {
      const x = tf.tensor3d(values(2 * 70 * 3), [2, 70, 3])
      for (const backwards of [false, true]) {
        const [y] = run('LetheRunningSum', { x }, { exclusive, backwards })
        const own = tf.cumsum(x, 1, exclusive, backwards)
        expect(tf.max(tf.abs(tf.sub(y!, own))).dataSync()[0]).toBeLessThan(1e-5)
      }
      expect(run('LetheRunningSum', { x: tf.zeros([1, 1025, 1]) }, { exclusive, backwards: false })).toEqual(
        [],
      )
    })
    expect(tf.memory().numTensors).toBe(before)
  })

  test('reshape, to the same shape, to many others, to a scalar and of whole numbers', () => {
    const before = tf.memory().numTensors
    tf.tidy(() => {
      const x = tf.tensor(values(24), [4, 6])
      const expected = x.arraySync() as number[][]
      const same = tf.reshape(x, [4, 6])
      const third = tf.reshape(x, [2, 3, 4])
      x.dispose()
      expect(same.arraySync()).toEqual(expected)
      expect([...third.dataSync()]).toEqual(expected.flat())
      expect(third.shape).toEqual([2, 3, 4])
      // More shapes than are remembered, each of them twice.
      for (let round = 0; round < 2; round++)
        for (let size = 1; size <= 600; size++)
          expect(tf.tidy(() => tf.sum(tf.reshape(tf.ones([size]), [1, size]), 1).dataSync()[0])).toBe(size)
      expect(tf.reshape(tf.tensor1d([7]), []).arraySync()).toBe(7)
      expect(tf.reshape(tf.tensor1d([1, 2], 'int32'), [2, 1]).arraySync()).toEqual([[1], [2]])
      expect(tf.reshape(tf.zeros([0, 3]), [3, 0]).shape).toEqual([3, 0])
    })
    expect(tf.memory().numTensors).toBe(before)
  })
})
