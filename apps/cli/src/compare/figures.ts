/** What a trained model remembers, how well it predicts with it, and what that costs: measured on its own text. */
import type { Decoder, Memory } from '@lethe/core'
import { registerGradients } from '@lethe/core'
import { type EvaluatedBlock, evaluate, Streams, type TextData } from '@lethe/trainer'
import { dispose, profile, tensor2d } from '@tensorflow/tfjs-core'
import { median } from '../commands/bench/statistics'

export interface Figures {
  readonly parameters: number
  /** Of the whole validation text, memory carried from block to block. */
  readonly bitsPerByte: number
  readonly perplexity: number
  readonly tokens: number
  /** Slots alive, mean over layers, rows and blocks. */
  readonly slots: number
  /** Most bytes of one stream's memory. */
  readonly memoryBytes: number
  /** Bits per byte of the tokens that come after so many others of their stream: [from, to). */
  readonly byPosition: readonly { readonly from: number; readonly to: number; readonly bitsPerByte: number }[]
  /** Slots alive after so many tokens, mean over layers and rows. */
  readonly slotsOverTime: readonly { readonly position: number; readonly slots: number }[]
  readonly layers: readonly LayerFigures[]
  /** Medians: one block of the evaluation, and one forward and backward pass, of the run's own batch. */
  readonly evaluationMsPerBlock: number
  readonly trainingMsPerBlock: number
  readonly trainingTokensPerSecond: number
  /** Most bytes of tensors during a forward and backward pass. */
  readonly peakTensorBytes: number
  readonly peakRssBytes: number
}

export interface LayerFigures {
  readonly slots: number
  readonly bytes: number
  /** Slots that a step attends to, per head. */
  readonly attended: readonly number[]
  readonly flopsPerStep: number
}

export interface MeasureOptions {
  readonly decoder: Decoder
  readonly data: TextData
  readonly batch: number
  readonly block: number
  /** Streams of the evaluation. */
  readonly validBatch: number
}

const timedBlocks = 5
const mostBlocksToFill = 64

/** Measures a trained model; leaves its weights as they are. */
export async function measure(options: MeasureOptions): Promise<Figures> {
  const { decoder, data, batch, block, validBatch } = options
  // What shapes depend on (trimmed spans) is read from the weights before the first memory is made.
  await decoder.afterUpdate()
  const blocks: EvaluatedBlock[] = []
  const times: number[] = []
  let last = performance.now()
  const evaluation = await evaluate({
    decoder,
    source: data.validation,
    batch: validBatch,
    block,
    onBlock: (evaluated) => {
      blocks.push(evaluated)
      const now = performance.now()
      times.push(now - last)
      last = now
    },
  })
  const bytesPerToken = data.validation.bytes / data.validation.length
  const training = await measureTraining(decoder, data, batch, block)
  return {
    parameters: decoder.parameterCount,
    bitsPerByte: evaluation.bitsPerByte,
    perplexity: evaluation.perplexity,
    tokens: evaluation.tokens,
    slots: evaluation.slots,
    memoryBytes: Math.max(...blocks.map(({ memoryBytes }) => memoryBytes)) / validBatch,
    byPosition: byPosition(blocks, block, Math.LN2 * bytesPerToken),
    slotsOverTime: thinned(blocks.map(({ position, slots }) => ({ position: position + block, slots }))),
    evaluationMsPerBlock: median(times),
    ...training,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  }
}

/** Bins of positions that double: the first block, the next, the next two, the next four, … */
function byPosition(blocks: readonly EvaluatedBlock[], block: number, natsPerBit: number) {
  const bins = new Map<number, { nats: number; tokens: number; to: number }>()
  for (const { position, tokens, loss } of blocks) {
    const index = Math.floor(position / block)
    const from = index === 0 ? 0 : block * 2 ** Math.floor(Math.log2(index))
    const bin = bins.get(from) ?? { nats: 0, tokens: 0, to: 0 }
    bin.nats += loss * tokens
    bin.tokens += tokens
    bin.to = Math.max(bin.to, position + block)
    bins.set(from, bin)
  }
  return [...bins].map(([from, { nats, tokens, to }]) => ({
    from,
    to,
    bitsPerByte: nats / tokens / natsPerBit,
  }))
}

/** At most a hundred of them, evenly. */
function thinned<T>(values: readonly T[]): T[] {
  const step = Math.ceil(values.length / 100)
  return values.filter((_, index) => index % step === 0 || index === values.length - 1)
}

/** Forward and backward passes over the training text, with a memory that has filled up; and the layers' report. */
async function measureTraining(decoder: Decoder, data: TextData, batch: number, block: number) {
  registerGradients()
  const streams = new Streams(data.train, batch, block)
  let memory: Memory = decoder.initialMemory(batch)
  const read = async (
    body: (inputs: ReturnType<typeof tensor2d>, targets: ReturnType<typeof tensor2d>) => void,
  ) => {
    const next = await streams.next()
    const inputs = tensor2d(next.inputs, [batch, block], 'int32')
    const targets = tensor2d(next.targets, [batch, block], 'int32')
    body(inputs, targets)
    dispose([inputs, targets])
  }
  for (let index = 0, slots = -1; memory.slots !== slots && index < mostBlocksToFill; index++) {
    slots = memory.slots
    await read((inputs) => {
      const result = decoder.forward(inputs, memory)
      dispose([result.logits, result.penalty])
      memory = result.memory
    })
    memory = await decoder.compact(memory)
  }
  const layers = (await decoder.report(memory)).map(
    ({ slots, bytes, attended, flopsPerStep }): LayerFigures => ({
      slots,
      bytes: bytes / batch,
      attended: [...attended],
      flopsPerStep,
    }),
  )
  const step = () =>
    read((inputs, targets) => {
      const result = decoder.gradients(inputs, targets, memory)
      memory = result.memory
      pending = result.loss
      dispose([result.penalty, Object.values(result.gradients)])
    })
  let pending: { data(): Promise<unknown>; dispose(): void } | undefined
  const finish = async () => {
    await pending!.data()
    pending!.dispose()
    memory = await decoder.compact(memory)
  }
  const times: number[] = []
  for (let index = -1; index < timedBlocks; index++) {
    const began = performance.now()
    await step()
    await finish()
    if (index >= 0) times.push(performance.now() - began)
  }
  const { peakBytes } = await profile(async () => {
    await step()
    return null as never
  })
  await finish()
  memory.dispose()
  const trainingMsPerBlock = median(times)
  return {
    layers,
    trainingMsPerBlock,
    trainingTokensPerSecond: (1000 * batch * block) / trainingMsPerBlock,
    peakTensorBytes: peakBytes,
  }
}
