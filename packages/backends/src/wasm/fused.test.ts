/**
 * What the fused operations do as kernels of tfjs: they leave nothing behind, decline where our kernels do not run, and
 * keep out of each other's memory. Their values are tested with the kernels and with core's operations.
 */
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { disposeBackend, patchWasmBackend, useBackend } from '../index'
import { fusedKernels } from './fused'
import type { WasmBackend } from './heap'

type Call = [
  inputs: Record<string, tf.Tensor>,
  attributes: Record<string, number | boolean>,
  outputs: number[][],
  /** Default: float32. */
  dtypes?: tf.DataType[],
]

const ramp = (...shape: number[]) => {
  const size = shape.reduce((a, b) => a * b, 1)
  return tf.tensor(
    Float32Array.from({ length: size }, (_, i) => Math.sin(i + 1)),
    shape,
  )
}
const whole = (values: number[], ...shape: number[]) => tf.tensor(values, shape, 'int32')

/** One that another tensor shares its values with, for as long as the scope lasts. */
const shared = (x: tf.Tensor) => {
  tf.clone(x)
  return x
}

/** A call of every kernel, and the shapes it returns. */
const calls = (): Record<string, Call> => ({
  LetheLayerNorm: [
    { x: ramp(2, 3, 5), scale: ramp(5), bias: ramp(5) },
    { epsilon: 1e-5 },
    [
      [2, 3, 5],
      [2, 3, 1],
      [2, 3, 1],
    ],
  ],
  LetheLayerNormGradient: [
    { dy: ramp(2, 3, 5), x: ramp(2, 3, 5), scale: ramp(5), mean: ramp(2, 3, 1), inverse: ramp(2, 3, 1) },
    {},
    [[2, 3, 5], [5], [5]],
  ],
  LetheRmsNorm: [
    { x: ramp(70, 6), scale: ramp(6) },
    { epsilon: 1e-5 },
    [
      [70, 6],
      [70, 1],
    ],
  ],
  LetheRmsNormGradient: [
    { dy: ramp(70, 6), x: ramp(70, 6), scale: ramp(6), inverse: ramp(70, 1) },
    {},
    [[70, 6], [6]],
  ],
  LetheGelu: [{ x: ramp(3, 5) }, {}, [[3, 5]]],
  LetheGeluGradient: [{ dy: ramp(3, 5), x: ramp(3, 5) }, {}, [[3, 5]]],
  LetheSwiglu: [{ gate: ramp(3, 5), x: ramp(3, 5) }, {}, [[3, 5]]],
  LetheSwigluGradient: [
    { dy: ramp(3, 5), gate: ramp(3, 5), x: ramp(3, 5) },
    {},
    [
      [3, 5],
      [3, 5],
    ],
  ],
  LetheReluGradient: [{ dy: ramp(3, 5), y: ramp(3, 5) }, {}, [[3, 5]]],
  LetheCrossEntropy: [
    { logits: ramp(3, 7), targets: whole([0, 6, 3], 3) },
    {},
    [
      [3, 1],
      [3, 1],
      [3, 1],
    ],
  ],
  LetheCrossEntropyGradient: [
    {
      logits: ramp(3, 7),
      targets: whole([0, 6, 3], 3),
      largest: ramp(3, 1),
      logTotal: ramp(3, 1),
      scale: ramp(3, 1),
    },
    {},
    [[3, 7]],
  ],
  LetheRotate: [
    { x: ramp(2, 3, 4, 5), cosine: ramp(2, 1, 2, 5), sine: ramp(2, 1, 2, 5) },
    { back: true },
    [[2, 3, 4, 5]],
  ],
  LetheRotaryAngles: [
    { age: whole([1, 2, 3, 4, 5, 6], 2, 3) },
    { half: 4, ratio: 0.5 },
    [
      [2, 1, 4, 3],
      [2, 1, 4, 3],
    ],
  ],
  LetheTakePlace: [
    { ages: ramp(2, 5), valid: tf.ones([2, 5]), worths: ramp(2, 5) },
    { empty: 2 ** 25, among: 5 },
    [[2, 5], [2, 5], [2]],
    ['float32', 'float32', 'int32'],
  ],
  LetheWriteSlot: [
    {
      x0: shared(ramp(2, 3, 5)),
      column0: ramp(2, 3, 1),
      x1: shared(ramp(2, 5)),
      column1: ramp(2, 1),
      place: whole([4, 0], 2),
    },
    {},
    [
      [2, 3, 5],
      [2, 5],
    ],
  ],
  LetheSumSquares: [{ x0: ramp(3, 5), x1: ramp(2) }, {}, [[2]]],
  LetheAdam: [
    {
      values: ramp(3, 5),
      gradient: ramp(3, 5),
      mean: ramp(3, 5),
      square: tf.ones([3, 5]),
      factor: tf.scalar(0.5),
    },
    { beta1: 0.9, beta2: 0.99, rate: 0.1, epsilon: 1e-6, decay: 0, shrink: 1 },
    [
      [3, 5],
      [3, 5],
      [3, 5],
    ],
  ],
  LetheAdagrad: [
    { values: ramp(3, 5), gradient: ramp(3, 5), square: tf.ones([3, 5]) },
    { rate: 0.1, epsilon: 1e-6, decay: 0.1 },
    [
      [3, 5],
      [3, 5],
    ],
  ],
})

const wasm = () => tf.backend() as unknown as WasmBackend & { numDataIds(): number }
const run = (name: string, [inputs, attributes]: Call) =>
  tf.engine().runKernel(name, inputs, attributes) as unknown as tf.Tensor[]

beforeAll(() => useBackend('wasm'))
afterAll(() => disposeBackend())

test('every kernel has its case', () => {
  expect(tf.tidy(() => Object.keys(calls())).sort()).toEqual(Object.keys(fusedKernels).sort())
})

describe.each(Object.keys(fusedKernels))('%s', (name) => {
  test('returns its outputs, finite, and leaves its inputs as they were', () => {
    tf.tidy(() => {
      const call = calls()[name]!
      const before = Object.values(call[0]).map((input) => input.dataSync().slice())
      const outputs = run(name, call)
      expect(outputs.map(({ shape, dtype }) => ({ shape, dtype }))).toEqual(
        call[2].map((shape, index) => ({ shape, dtype: call[3]?.[index] ?? 'float32' })),
      )
      for (const output of outputs) expect([...output.dataSync()].every(Number.isFinite)).toBe(true)
      expect(Object.values(call[0]).map((input) => input.dataSync())).toEqual(before)
    })
  })

  test('a thousand of them leave nothing behind', () => {
    const call = tf.tidy(() => {
      const [inputs, ...rest] = calls()[name]!
      for (const input of Object.values(inputs)) tf.keep(input)
      return [inputs, ...rest] as unknown as tf.TensorContainer
    }) as unknown as Call
    const state = () => ({
      tensors: tf.memory().numTensors,
      data: wasm().numDataIds(),
      heap: wasm().wasm.HEAPU8.length,
    })
    tf.tidy(() => void run(name, call))
    const before = state()
    for (let i = 0; i < 1000; i++) tf.tidy(() => void run(name, call))
    expect(state()).toEqual(before)
    tf.dispose(call[0])
  })

  test('declines without our kernels, and empty tensors', () => {
    tf.tidy(() => {
      const call = calls()[name]!
      patchWasmBackend({ kernels: false })
      expect(run(name, call)).toEqual([])
      patchWasmBackend({ kernels: true })
      const empty = Object.fromEntries(
        Object.entries(call[0]).map(([input, { dtype }]) => [
          input,
          tf.zeros([0, 1, 2, 3], dtype as 'int32'),
        ]),
      )
      expect(run(name, [empty, call[1], []])).toEqual([])
    })
  })
})
