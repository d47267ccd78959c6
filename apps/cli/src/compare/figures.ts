/** What a trained model remembers, how well it predicts with it, and what that costs: measured on its own text. */
import type { Decoder, Memory } from '@lethe/core'
import { registerGradients } from '@lethe/core'
import {
  blockSource,
  blockTensors,
  type EvaluatedBlock,
  type Evaluation,
  evaluate,
  measureText,
  type Source,
  type TextScores,
  textScores,
} from '@lethe/trainer'
import { dispose, profile } from '@tensorflow/tfjs-core'
import { median } from '../commands/bench/statistics'
import type { RunData } from '../data'

/** Scores are of the whole validation part, memory carried from block to block. */
export interface Figures extends Evaluation {
  /** Of a text, per word and character. */
  readonly text?: TextScores
  readonly parameters: number
  /** Most bytes of one stream's memory. */
  readonly memoryBytes: number
  /** Of the targets that come after so many tokens of their stream: [from, to). */
  readonly byPosition: readonly PositionFigures[]
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

export interface PositionFigures extends Pick<Evaluation, 'loss' | 'bitsPerByte' | 'accuracy'> {
  readonly from: number
  readonly to: number
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
  readonly data: Pick<RunData, 'train' | 'validation' | 'text'>
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
  const text = data.text?.validation.text()
  const training = await measureTraining(decoder, data.train, batch, block)
  return {
    parameters: decoder.parameterCount,
    ...evaluation,
    ...(text && { text: textScores(evaluation, await measureText(text)) }),
    memoryBytes: Math.max(...blocks.map(({ memoryBytes }) => memoryBytes)) / validBatch,
    byPosition: byPosition(blocks, block, blockSource(data.validation).bytesPerToken),
    slotsOverTime: thinned(blocks.map(({ position, slots }) => ({ position: position + block, slots }))),
    evaluationMsPerBlock: median(times),
    ...training,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  }
}

/** Bins of positions that double: the first block, the next, the next two, the next four, … Those without targets are left out. */
function byPosition(
  blocks: readonly EvaluatedBlock[],
  block: number,
  bytesPerToken: number | undefined,
): PositionFigures[] {
  const bins = new Map<number, { nats: number; tokens: number; right: number | undefined; to: number }>()
  for (const { position, tokens, loss, right } of blocks) {
    if (tokens === 0) continue
    const index = Math.floor(position / block)
    const from = index === 0 ? 0 : block * 2 ** Math.floor(Math.log2(index))
    const bin = bins.get(from) ?? { nats: 0, tokens: 0, right: undefined, to: 0 }
    bin.nats += loss * tokens
    bin.tokens += tokens
    if (right !== undefined) bin.right = (bin.right ?? 0) + right
    bin.to = Math.max(bin.to, position + block)
    bins.set(from, bin)
  }
  return [...bins].map(([from, { nats, tokens, right, to }]) => ({
    from,
    to,
    loss: nats / tokens,
    ...(bytesPerToken !== undefined && { bitsPerByte: nats / tokens / Math.LN2 / bytesPerToken }),
    ...(right !== undefined && { accuracy: right / tokens }),
  }))
}

/** At most a hundred of them, evenly. */
function thinned<T>(values: readonly T[]): T[] {
  const step = Math.ceil(values.length / 100)
  return values.filter((_, index) => index % step === 0 || index === values.length - 1)
}

/** Forward and backward passes over the training text, with a memory that has filled up; and the layers' report. */
async function measureTraining(decoder: Decoder, source: Source, batch: number, block: number) {
  registerGradients()
  const stream = blockSource(source).stream({ batch, block })
  let memory: Memory = decoder.initialMemory(batch)
  const read = async (body: (tensors: ReturnType<typeof blockTensors>) => void) => {
    const next = await stream.next()
    if (next.resets?.length) memory = memory.reset(next.resets)
    const tensors = blockTensors(next, batch)
    body(tensors)
    dispose(Object.values(tensors))
  }
  for (let index = 0, slots = -1; memory.slots !== slots && index < mostBlocksToFill; index++) {
    slots = memory.slots
    await read(({ inputs }) => {
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
    read(({ inputs, targets, weights }) => {
      const result = decoder.gradients(inputs, targets, memory, weights && { weights })
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
