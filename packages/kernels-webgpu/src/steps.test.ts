/**
 * Training and decoding of every method with the kernel and without it: the same numbers, fewer dispatches, no shader
 * compiled anew from step to step, nothing left behind.
 */
import { existsSync } from 'node:fs'
import { adaptiveSpan } from '@lethe/adaptive-span'
import { type BackendInfo, disposeBackend, useBackend } from '@lethe/backends'
import { compressive } from '@lethe/compressive'
import {
  Decoder,
  type DecoderConfig,
  fixedSpan,
  Random,
  registerGradients,
  setAttentionKernel,
  sinks,
} from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import {
  backend,
  registerKernel,
  type Tensor,
  tensor,
  memory as tfMemory,
  unregisterKernel,
} from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { attentionKernel, fusedKernels } from './index'

const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'
const missing = !existsSync(softwareVulkan)

const learned = { positions: 'learned', learnedDistances: 40 } as const
const configs: Record<string, Omit<DecoderConfig, 'vocabulary' | 'width' | 'heads' | 'layers'>> = {
  'fixed-span': { ...learned, method: fixedSpan({ span: 12 }), norm: 'rms', activation: 'swiglu' },
  'adaptive-span': { ...learned, method: adaptiveSpan({ maxSpan: 12, ramp: 4 }), persistentSlots: 3 },
  'adaptive-span, dynamic': { ...learned, method: adaptiveSpan({ maxSpan: 12, ramp: 4, dynamic: true }) },
  'expire-span': { ...learned, method: expireSpan({ maxSpan: 16, ramp: 4 }), activation: 'gelu' },
  'expire-span, rotary, dropout': {
    positions: 'rotary',
    method: expireSpan({ maxSpan: 16, ramp: 4 }),
    dropout: 0.2,
    dropoutPlaces: ['attention'],
  },
  compressive: {
    positions: 'sinusoidal',
    method: compressive({ memory: 8, compressed: 4, rate: 2, compression: 'most-used' }),
  },
  selective: { ...learned, method: selective({ budget: 12 }) },
  'sinks around survivors': {
    ...learned,
    beyondLearned: 'clamp',
    method: sinks({ count: 2, method: expireSpan({ maxSpan: 16, ramp: 4 }) }),
  },
}

/** A GPU in software takes minutes for all of them. */
const some = process.env.LETHE_TEST_EVERYTHING
  ? Object.entries(configs)
  : ['fixed-span', 'expire-span, rotary, dropout', 'selective'].map((name) => [name, configs[name]!] as const)

interface Backend {
  readonly pipelineCache: object
  readonly bufferManager: { getNumUsedBuffers(): number }
  recordAndSubmit(...given: unknown[]): unknown
}

const [batch, block, warmUp, steps] = [2, 8, 6, 20]
const tokens = (length: number, step: number): Tensor =>
  tensor(
    Int32Array.from({ length: batch * length }, (_, i) => (i * 7 + step * 3) % 20),
    length === 1 ? [batch] : [batch, length],
    'int32',
  )

interface Counts {
  readonly dispatches: number
  readonly pipelines: number
  readonly tensors: number
  readonly buffers: number
}

describe.skipIf(missing)('steps on webgpu', () => {
  let info: BackendInfo
  let dispatches = 0
  const device = () => backend() as unknown as Backend

  beforeAll(async () => {
    info = await useBackend('webgpu', { softwareVulkan })
    registerGradients()
    const { recordAndSubmit } = device()
    device().recordAndSubmit = function (...given) {
      dispatches++
      return recordAndSubmit.apply(this, given)
    }
  })
  afterAll(() => disposeBackend())

  /** Runs a step, reads its results and frees them. Buffers are counted then: until work is submitted, tfjs keeps them. */
  async function counted(
    inputs: Tensor[],
    work: () => Tensor[],
  ): Promise<{ values: number[]; counts: Counts }> {
    dispatches = 0
    const results = work()
    const ofStep = dispatches
    const values: number[] = []
    for (const result of results) values.push(...(await result.data()))
    for (const tensor of [...results, ...inputs]) tensor.dispose()
    const counts = {
      dispatches: ofStep,
      pipelines: Object.keys(device().pipelineCache).length,
      tensors: tfMemory().numTensors,
      buffers: device().bufferManager.getNumUsedBuffers(),
    }
    return { values, counts }
  }

  async function runSteps(config: (typeof configs)[string]) {
    const decoder = new Decoder({ vocabulary: 20, width: 16, heads: 2, layers: 1, ...config }, { seed: 1 })
    const random = new Random(5)
    const values: number[] = []
    const [training, decoding]: [Counts[], Counts[]] = [[], []]
    let memory = decoder.initialMemory(batch)
    for (let step = 0; step < steps; step++) {
      const [inputs, targets] = [tokens(block, step), tokens(block, step + 1)]
      const read = await counted([inputs, targets], () => {
        const {
          loss,
          penalty,
          gradients,
          memory: next,
        } = decoder.gradients(inputs, targets, memory, { random })
        memory = next
        return [loss, penalty, ...Object.values(gradients)]
      })
      memory = await decoder.compact(memory)
      training.push(read.counts)
      values.push(...read.values)
    }
    let state = decoder.startDecoding(memory)
    for (let step = 0; step < steps; step++) {
      const input = tokens(1, step)
      const read = await counted([input], () => {
        const { logits, memory: next } = decoder.decode(input, state)
        state = next
        return [logits]
      })
      decoding.push(read.counts)
      values.push(...read.values)
    }
    state.dispose()
    decoder.dispose()
    info.throwIfFailed()
    return { values, training, decoding }
  }

  test.each(some)('%s', async (_, config) => {
    setAttentionKernel('webgpu', null)
    for (const { kernelName } of fusedKernels) unregisterKernel(kernelName, 'webgpu')
    const plain = await runSteps(config)
    const before = tfMemory().numTensors
    setAttentionKernel('webgpu', attentionKernel)
    for (const kernel of fusedKernels) registerKernel(kernel)
    const fused = await runSteps(config)
    expect(tfMemory().numTensors).toBe(before)
    expect(fused.values.length).toBe(plain.values.length)
    const difference = Math.max(...fused.values.map((value, index) => Math.abs(value - plain.values[index]!)))
    expect(difference).toBeLessThan(1e-4)
    for (const phase of ['training', 'decoding'] as const) {
      const later = fused[phase].slice(warmUp)
      expect(later.at(-1)!.dispatches).toBeLessThan(plain[phase].at(-1)!.dispatches)
      const stable = (key: keyof Counts) => [...new Set(later.map((counts) => counts[key]))]
      expect(stable('pipelines'), `shaders compiled in ${phase}`).toHaveLength(1)
      expect(stable('tensors'), `tensors of ${phase}`).toHaveLength(1)
      // Those that were kept for the models before may go meanwhile.
      const gained = later.map(({ buffers }, step) => buffers - later[Math.max(0, step - 1)]!.buffers)
      expect(Math.max(...gained), `buffers gained in ${phase}`).toBe(0)
    }
  })
})
