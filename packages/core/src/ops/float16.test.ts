/** Float16 copies of weights: who may decode with them, and what is refused. Kernels of packages/kernels-webgpu have their own test. */
import { useBackend } from '@lethe/backends'
import {
  clone,
  dispose,
  type KernelFunc,
  memory,
  registerKernel,
  type Tensor,
  tensor1d,
  unregisterKernel,
  zeros,
} from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Decoder } from '../decoder'
import { ConfigError, MemoryError } from '../errors'
import { fixedSpan } from '../fixed-span'
import type { Float16Weights } from './float16'

beforeAll(async () => {
  await useBackend('cpu')
})

const decoderOf = () =>
  new Decoder({ vocabulary: 6, width: 8, heads: 2, layers: 1, method: fixedSpan({ span: 4 }) }, { seed: 1 })

function logitsOf(decoder: Decoder, weights?: Float16Weights): number[] {
  const token = tensor1d([3], 'int32')
  const memory = decoder.startDecoding(decoder.initialMemory(1))
  try {
    const { logits, memory: next } = decoder.decode(token, memory, { weights })
    const values = [...logits.dataSync()]
    dispose([logits])
    next.dispose()
    return values
  } finally {
    if (!memory.disposed) memory.dispose()
    token.dispose()
  }
}

test('a backend without kernels refuses, before any tensor is made', async () => {
  const decoder = decoderOf()
  const before = memory().numTensors
  await expect(decoder.float16Weights()).rejects.toThrow(ConfigError)
  await expect(decoder.float16Weights()).rejects.toThrow(/backend cpu .*useBackend\('webgpu'\)/)
  expect(memory().numTensors).toBe(before)
  decoder.dispose()
})

describe('with kernels', () => {
  /** The product that is registered: zeros, so that it shows. */
  let product: KernelFunc
  let before = 0
  const kernels = {
    LetheToFloat16: ({ inputs }) => [clone(inputs.x as Tensor)],
    LetheFloat16Product: (given) => product(given),
  } satisfies Record<string, KernelFunc>

  beforeEach(() => {
    product = ({ inputs, attrs }) => [
      zeros([(inputs.x as Tensor).shape[0]!, (attrs as { columns: number }).columns]),
    ]
    for (const [kernelName, kernelFunc] of Object.entries(kernels))
      registerKernel({ kernelName, backendName: 'cpu', kernelFunc })
    before = memory().numTensors
  })
  afterEach(() => {
    for (const kernelName of Object.keys(kernels)) unregisterKernel(kernelName, 'cpu')
    expect(memory().numTensors).toBe(before)
  })

  test('they compute where they are given and do not decline', async () => {
    const decoder = decoderOf()
    const full = logitsOf(decoder)
    const weights = await decoder.float16Weights()
    expect(logitsOf(decoder, weights)).toEqual([0, 0, 0, 0, 0, 0])
    product = () => []
    expect(logitsOf(decoder, weights)).toEqual(full)
    expect(logitsOf(decoder)).toEqual(full)
    weights.dispose()
    decoder.dispose()
  })

  test('a decoder that shares the weights may use them; after an update or a disposal nobody may', async () => {
    const decoder = decoderOf()
    const other = decoder.withMethod(fixedSpan({ span: 2 }))
    const stranger = decoderOf()
    const weights = await other.float16Weights()
    expect(logitsOf(other, weights)).toEqual(logitsOf(decoder, weights))
    expect(() => logitsOf(stranger, weights)).toThrow(MemoryError)
    await decoder.afterUpdate()
    expect(() => logitsOf(decoder, weights)).toThrow('float16Weights() after an update')
    weights.dispose()
    expect(() => logitsOf(decoder, weights)).toThrow('disposed of')
    stranger.dispose()
    decoder.dispose()
  })

  test('weights that float16 cannot hold are refused by name', async () => {
    const decoder = decoderOf()
    const parameters = await decoder.exportParameters()
    const [name, { data }] = [...parameters].find(([name]) => name.endsWith('feedForward.out'))!
    data[5] = -65536
    decoder.importParameters(parameters)
    await expect(decoder.float16Weights()).rejects.toThrow(`"${name}" has values up to 65536`)
    decoder.dispose()
  })
})
