/** The seam of fused kernels: who computes when, and the same numbers from a backend's kernels as from plain operations. */
import { patchWasmBackend, useBackend } from '@lethe/backends'
import {
  grads,
  type KernelFunc,
  memory,
  mul,
  profile,
  registerKernel,
  scalar,
  setBackend,
  sum,
  type Tensor,
  type Tensor2D,
  tensor,
  tidy,
  unregisterKernel,
} from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { rotaryAngles, rotaryAnglesOfAges, rotate } from '../attention/positions'
import { registerGradients } from '../gradients'
import { Random } from '../random'
import { gelu, swiglu } from './activation'
import { fused } from './fused'
import { crossEntropy } from './loss'
import { linear } from './matmul'
import { layerNorm, rmsNorm } from './norm'

const random = new Random(11)
const draw = (shape: readonly number[], scale = 1) =>
  tensor(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => scale * random.normal()),
    shape as number[],
  )

beforeAll(async () => {
  await useBackend('cpu')
  await useBackend('wasm')
  registerGradients()
})

/** Kernels of the names given that ran in `work`, whose result is freed. */
async function kernelsIn(work: () => Tensor | Tensor[]): Promise<string[]> {
  const { kernelNames } = await profile(() => tidy(() => void work()) as never)
  return kernelNames.filter((name) => name.startsWith('Lethe'))
}

describe('who computes', () => {
  const shared = { kernelName: 'LetheGelu', backendName: 'cpu' }
  afterAll(() => void setBackend('wasm'))

  test('a registered kernel; the plain operations where there is none and where it declines', async () => {
    await setBackend('cpu')
    const x = tensor([1, 2, 3])
    expect(fused('LetheGelu', { x }, {})).toBe(undefined)
    const plain = await gelu(x).data()

    let calls = 0
    const sevens: KernelFunc = ({ inputs, backend }) => {
      calls++
      const { shape } = inputs.x as Tensor
      const dataId = (
        backend as unknown as { write(values: Float32Array, shape: number[], dtype: string): object }
      ).write(new Float32Array(3).fill(7), shape, 'float32')
      return [{ dataId, shape, dtype: 'float32' }]
    }
    const declines: KernelFunc = () => {
      calls++
      return []
    }
    registerKernel({ ...shared, kernelFunc: sevens })
    expect([...(await gelu(x).data())]).toEqual([7, 7, 7])
    unregisterKernel(shared.kernelName, shared.backendName)

    registerKernel({ ...shared, kernelFunc: declines })
    expect(await gelu(x).data()).toEqual(plain)
    unregisterKernel(shared.kernelName, shared.backendName)
    expect(calls).toBe(2)
  })

  test('on wasm our own, unless they are turned off, the tensor is empty, or it holds integers', async () => {
    await setBackend('wasm')
    const x = draw([4])
    const [empty, whole] = [tensor([], [0, 4]), tensor([1, 2], [2], 'int32')]
    expect(await kernelsIn(() => gelu(x))).toEqual(['LetheGelu'])
    expect(fused('LetheGelu', { x: empty }, {})).toBe(undefined)
    expect(fused('LetheGelu', { x: whole }, {})).toBe(undefined)
    patchWasmBackend({ kernels: false })
    expect(fused('LetheGelu', { x }, {})).toBe(undefined)
    patchWasmBackend({ kernels: true })
  })
})

const targets = Int32Array.from({ length: 30 }, () => random.integer(67))

interface Case {
  readonly inputs: () => Tensor[]
  readonly run: (...inputs: Tensor[]) => Tensor
  /** Kernels that must have run, forward and backward. */
  readonly kernels: readonly string[]
}

const cases: Record<string, Case> = {
  'layer norm of no row that is a multiple of anything': {
    inputs: () => [draw([3, 23, 5]), draw([5]), draw([5])],
    run: (x, scale, bias) => layerNorm(x!, scale!, bias!, 1e-5),
    kernels: ['LetheLayerNorm', 'LetheLayerNormGradient'],
  },
  'layer norm of one value': {
    inputs: () => [draw([1]), draw([1]), draw([1])],
    run: (x, scale, bias) => layerNorm(x!, scale!, bias!, 1e-5),
    kernels: ['LetheLayerNorm', 'LetheLayerNormGradient'],
  },
  'RMS norm': {
    inputs: () => [draw([2, 50, 37]), draw([37])],
    run: (x, scale) => rmsNorm(x!, scale!, 1e-5),
    kernels: ['LetheRmsNorm', 'LetheRmsNormGradient'],
  },
  GELU: {
    inputs: () => [draw([7, 11, 13], 3)],
    run: (x) => gelu(x!),
    kernels: ['LetheGelu', 'LetheGeluGradient'],
  },
  SwiGLU: {
    inputs: () => [draw([5, 17], 5), draw([5, 17])],
    run: (gate, x) => swiglu(gate!, x!),
    kernels: ['LetheSwiglu', 'LetheSwigluGradient'],
  },
  'a product with ReLU': {
    inputs: () => [draw([5, 17]), draw([17, 6]), draw([6])],
    run: (x, weight, bias) => linear(x!, weight!, bias!, { relu: true }),
    kernels: ['LetheReluGradient'],
  },
  'cross-entropy of large logits, one of them masked': {
    inputs: () => [
      tensor(
        Float32Array.from({ length: 30 * 67 }, (_, i) => (i === 3 ? -1e30 : 100 + 30 * random.normal())),
        [5, 6, 67],
      ),
    ],
    run: (logits) => mul(crossEntropy(logits!, tensor(targets, [5, 6], 'int32')), scalar(3)),
    kernels: ['LetheCrossEntropy', 'LetheCrossEntropyGradient'],
  },
  'cross-entropy, weighted': {
    inputs: () => [draw([5, 6, 67])],
    run: (logits) =>
      crossEntropy(
        logits!,
        tensor(targets, [5, 6], 'int32'),
        tensor(
          Float32Array.from(targets, (i) => i % 3),
          [5, 6],
        ),
      ),
    kernels: ['LetheCrossEntropy', 'LetheCrossEntropyGradient'],
  },
  'rotation by host positions': {
    inputs: () => [draw([2, 3, 10, 7])],
    run: (x) => rotate(x!, rotaryAngles([5, 6, 7, 8, 9, 10, 11], 10)),
    kernels: ['LetheRotate'],
  },
  'rotation by one angle for all steps, which the kernel leaves alone': {
    inputs: () => [draw([2, 3, 10, 7])],
    run: (x) => rotate(x!, rotaryAngles([5], 10)),
    kernels: ['LetheRotate'],
  },
  'rotation by ages': {
    inputs: () => [draw([2, 3, 10, 3])],
    run: (x) =>
      rotate(
        x!,
        rotaryAnglesOfAges(
          tensor(
            [
              [0, 5, 3],
              [900, 12, 1],
            ],
            [2, 3],
            'int32',
          ) as Tensor2D,
          10,
        ),
      ),
    kernels: ['LetheRotaryAngles', 'LetheRotate'],
  },
}

describe('our own kernels and the plain operations agree', () => {
  test.each(Object.entries(cases))('%s', async (_, { inputs, run, kernels }) => {
    await setBackend('wasm')
    const xs = inputs()
    const before = memory().numTensors
    const value = tidy(() => run(...xs))
    const weights = draw(value.shape)
    value.dispose()
    /** The value, and the gradients of its weighted sum. */
    const compute = () =>
      tidy(() => [run(...xs), ...grads((...moved: Tensor[]) => sum(mul(run(...moved), weights)))(xs)])
    const results: { shape: number[]; values: Float32Array }[][] = []
    for (const on of [true, false]) {
      patchWasmBackend({ kernels: on })
      const all = compute()
      results.push(
        await Promise.all(
          all.map(async (x) => ({ shape: x.shape, values: (await x.data()) as Float32Array })),
        ),
      )
      for (const x of all) x.dispose()
      expect(memory().numTensors).toBe(before + 1)
      if (on) expect(new Set(await kernelsIn(compute))).toEqual(new Set(kernels))
    }
    patchWasmBackend({ kernels: true })
    const [own, plain] = results as [(typeof results)[number], (typeof results)[number]]
    for (const [i, { shape, values }] of plain.entries()) {
      expect(own[i]!.shape).toEqual(shape)
      values.forEach((value, place) => {
        const error = Math.abs(own[i]!.values[place]! - value)
        if (!(error <= 2e-5 * Math.max(1, Math.abs(value))))
          expect.fail(`result ${i} [${place}]: ${own[i]!.values[place]} instead of ${value}`)
      })
    }
    for (const x of [weights, ...xs]) x.dispose()
  })
})
