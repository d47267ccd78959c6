/** What is measured: a decoder with a full memory that trains, on random tokens or on a trained model's text. */
import { type Decoder, type Memory, Random, registerGradients } from '@lethe/core'
import { blockSource, blockTensors, isRolloutSource, Optimizer } from '@lethe/trainer'
import {
  backend,
  dispose,
  env,
  getBackend,
  getKernel,
  profile,
  type Tensor,
  tensor2d,
  memory as tensorMemory,
} from '@tensorflow/tfjs-core'
import { openData } from '../../data'
import { UsageError } from '../../errors'
import { openModel } from '../../model'
import type { Given } from '../../options'
import { decoderOf, type Settings, settingsOf } from '../../settings'
import { benchDefaults } from './setup'
import type { Figures, Part } from './turns'

/** Bytes. */
export const vocabulary = 256

/** A decoder, and blocks of tokens for it. */
export interface Workload {
  readonly settings: Settings
  readonly decoder: Decoder
  readonly random: Random
  /** The next block of `batch` streams: inputs and targets, int32 [batch, block]. */
  next(): Promise<readonly [inputs: Tensor, targets: Tensor]>
}

/**
 * The decoder that the options describe, or the trained one in a folder, which then reads on in its own text.
 * @param start starts the backend, once files were read
 */
export async function openWorkload(
  given: Given,
  folder: readonly string[],
  start: () => Promise<unknown>,
): Promise<Workload> {
  registerGradients()
  if (folder.length === 0) {
    const settings = settingsOf(given, benchDefaults)
    await start()
    const { batch, block } = settings
    const random = new Random(settings.seed)
    const tokens = () => randomTokens(random, [batch, block])
    const next = async () => [tokens(), tokens()] as const
    return { settings, decoder: decoderOf(settings, vocabulary), random, next }
  }
  const { decoder, tokenizer, config } = await openModel('bench', folder, start)
  const settings = settingsOf({ ...config, ...given }, { steps: benchDefaults.steps })
  const data = await openData(config, tokenizer, ['train'])
  const { batch, block } = settings
  if (isRolloutSource(data.train))
    throw new UsageError(
      `lethe bench times steps that read, and the agent in ${folder[0]} acts: see lethe measure ${folder[0]}`,
    )
  const stream = blockSource(data.train).stream({ batch, block })
  const next = async () => {
    const { inputs, targets } = await stream.next()
    const tensors = blockTensors({ inputs, targets }, batch)
    return [tensors.inputs, tensors.targets] as const
  }
  await decoder.afterUpdate()
  return { settings, decoder, random: new Random(settings.seed), next }
}

export const randomTokens = (random: Random, shape: [number, number]) =>
  tensor2d(
    Int32Array.from({ length: shape[0] * shape[1] }, () => random.integer(vocabulary)),
    shape,
    'int32',
  )

/**
 * A memory that has read so much that it no longer grows (two blocks in a row), or as many tokens as can matter.
 * @param memory where reading begins; consumed
 */
export async function fillMemory({ decoder, settings, next }: Workload, memory: Memory): Promise<Memory> {
  const { span, rate = 4, compressed = Math.ceil(span / rate), block } = settings
  const most = span + rate * compressed
  for (let read = 0, still = 0; read < most && still < 2; read += block) {
    const [tokens, targets] = await next()
    const { slots } = memory
    const result = decoder.forward(tokens, memory)
    dispose([tokens, targets, result.logits, result.penalty])
    memory = await decoder.compact(result.memory)
    still = memory.slots > slots ? 0 : still + 1
  }
  return memory
}

/** Whole steps: forward, backward, clipping, update, reading the loss. */
export class TrainingRun {
  /** Slots after each step. */
  private readonly slots: number[] = []

  private constructor(
    private readonly workload: Workload,
    private readonly optimizer: Optimizer,
    private memory: Memory,
  ) {}

  /** Begins with a full memory. */
  static async start(workload: Workload): Promise<TrainingRun> {
    const { decoder, settings } = workload
    const optimizer = new Optimizer(decoder.parameters, {
      optimizer: settings.optimizer,
      clip: settings.clip,
    })
    await decoder.afterUpdate()
    const memory = await fillMemory(workload, decoder.initialMemory(settings.batch))
    return new TrainingRun(workload, optimizer, memory)
  }

  /** One step, in ms. Making the tokens does not count. */
  async step(): Promise<number> {
    const tokens = await this.workload.next()
    const began = performance.now()
    await this.read(this.pass(tokens))
    const ms = performance.now() - began
    this.slots.push(this.memory.slots)
    return ms
  }

  /** What it holds and holds at most: takes one further step, observed. */
  async figures(): Promise<Figures> {
    const { numBytes } = tensorMemory()
    const tokens = await this.workload.next()
    let last: ReturnType<TrainingRun['pass']> | undefined
    env().set('CHECK_COMPUTATION_FOR_ERRORS', false)
    const { peakBytes, kernels } = await profile(() => {
      last = this.pass(tokens)
      return null as never
    })
    await this.read(last!)
    return {
      memory_slots: this.slots.reduce((sum, count) => sum + count, 0) / this.slots.length,
      held_tensor_bytes: numBytes,
      peak_tensor_bytes: peakBytes,
      ...heldBytes(),
      peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
      parts: await partsOf(kernels),
    }
  }

  dispose(): void {
    this.memory.dispose()
    this.optimizer.dispose()
    this.workload.decoder.dispose()
  }

  private pass([inputs, targets]: readonly [Tensor, Tensor]) {
    const { decoder, settings, random } = this.workload
    const result = decoder.gradients(inputs, targets, this.memory, { random })
    this.memory = result.memory
    const norm = this.optimizer.update(result.gradients, settings['learning-rate'])
    dispose([inputs, targets, result.penalty, Object.values(result.gradients)])
    return { loss: result.loss, norm }
  }

  private async read({ loss, norm }: ReturnType<TrainingRun['pass']>): Promise<void> {
    const { decoder } = this.workload
    await Promise.all([loss.data(), norm.data()])
    dispose([loss, norm])
    await decoder.afterUpdate()
    this.memory = await decoder.compact(this.memory)
  }
}

/** Bytes that the backend has taken from the system; never fewer than it ever needed at once, scratch included. */
export function heldBytes(): Pick<Figures, 'heap_bytes' | 'gpu_bytes'> {
  const { wasm } = backend() as { wasm?: { HEAPU8: Uint8Array } }
  const { numBytesAllocatedInGPU } = tensorMemory() as { numBytesAllocatedInGPU?: number }
  return {
    ...(wasm && { heap_bytes: wasm.HEAPU8.buffer.byteLength }),
    ...(numBytesAllocatedInGPU !== undefined && { gpu_bytes: numBytesAllocatedInGPU }),
  }
}

/** Time by kind of kernel; scopes that hold kernels are left out, or these would count twice. Time as the backend's clock has it (WebGPU: timestamps, none without that feature). */
async function partsOf(kernels: Awaited<ReturnType<typeof profile>>['kernels']): Promise<Part[]> {
  const parts = new Map<string, { name: string; calls: number; ms: number }>()
  for (const { name, kernelTimeMs } of kernels) {
    if (!getKernel(name, getBackend())) continue
    const ms = await kernelTimeMs
    const part = parts.get(name) ?? { name, calls: 0, ms: 0 }
    part.calls++
    if (typeof ms === 'number') part.ms += ms
    parts.set(name, part)
  }
  return [...parts.values()].sort((a, b) => b.ms - a.ms)
}
