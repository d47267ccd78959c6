/** What a trained model remembers, how well it predicts or acts with it, and what that costs: on its own text, task or world. */
import type { Decoder, GradientResult, Memory } from '@lethe/core'
import { Random, registerGradients } from '@lethe/core'
import {
  type Block,
  blockSource,
  type EvaluatedBlock,
  type Evaluation,
  evaluate,
  gradientsOf,
  isRolloutSource,
  measureText,
  type Rollout,
  type RolloutEvaluation,
  type RolloutSource,
  type Source,
  type TextScores,
  type TrainingSource,
  textScores,
} from '@lethe/trainer'
import { dispose, profile, tensor2d } from '@tensorflow/tfjs-core'
import { median } from '../commands/bench/statistics'
import type { RunData } from '../data'
import type { Measured } from './quality'

/** What the other one has, not there. */
type Without<T, Of> = { readonly [name in Exclude<keyof T, keyof Of>]?: undefined }

/** Scores are of the whole validation part, memory carried from block to block; in a world, of episodes. */
export type Figures = Measurements &
  (
    | (Evaluation & Without<RolloutEvaluation, Evaluation>)
    | (RolloutEvaluation & Without<Evaluation, RolloutEvaluation>)
  )

interface Measurements {
  /** Of a text, per word and character. */
  readonly text?: TextScores
  readonly parameters: number
  /** Most bytes of one stream's memory. */
  readonly memoryBytes: number
  /** Of the targets that come after so many tokens of their stream: [from, to). None in a world. */
  readonly byPosition: readonly PositionFigures[]
  /** Slots alive after so many tokens, or steps of the world, mean over layers and rows. */
  readonly slotsOverTime: readonly { readonly position: number; readonly slots: number }[]
  readonly layers: readonly LayerFigures[]
  /** Medians: one block of the evaluation (of a world: acting for one), and one forward and backward pass, of the run's own batch. */
  readonly evaluationMsPerBlock: number
  readonly trainingMsPerBlock: number
  readonly trainingTokensPerSecond: number
  /** Most bytes of tensors during a forward and backward pass. */
  readonly peakTensorBytes: number
  readonly peakRssBytes: number
}

export interface PositionFigures extends Measured {
  readonly loss: number
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
/** Acting takes longer than reading. */
const mostRolloutsToFill = 8

/** Measures a trained model; leaves its weights as they are. */
export async function measure(options: MeasureOptions): Promise<Figures> {
  const { decoder, data, batch, block } = options
  // What shapes depend on (trimmed spans) is read from the weights before the first memory is made.
  await decoder.afterUpdate()
  const { validation } = data
  const found = isRolloutSource(validation)
    ? await measureEpisodes(options, validation)
    : await measureReading(options, validation)
  const { memoryBytes, acting, ...training } = await measureTraining(decoder, data.train, batch, block)
  return {
    ...('memoryBytes' in found ? found : { ...found, memoryBytes, evaluationMsPerBlock: median(acting) }),
    parameters: decoder.parameterCount,
    ...training,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  }
}

async function measureEpisodes({ decoder, validBatch }: MeasureOptions, validation: RolloutSource) {
  const slotsOverTime: { position: number; slots: number }[] = []
  const evaluation = await validation.evaluate({
    decoder,
    episodes: validBatch,
    onStep: ({ step, slots }) => slotsOverTime.push({ position: step, slots }),
  })
  return { ...evaluation, byPosition: [], slotsOverTime: thinned(slotsOverTime) }
}

async function measureReading({ decoder, data, block, validBatch }: MeasureOptions, validation: Source) {
  const blocks: EvaluatedBlock[] = []
  const times: number[] = []
  let last = performance.now()
  const evaluation = await evaluate({
    decoder,
    source: validation,
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
  return {
    ...evaluation,
    ...(text && { text: textScores(evaluation, await measureText(text)) }),
    memoryBytes: Math.max(...blocks.map(({ memoryBytes }) => memoryBytes)) / validBatch,
    byPosition: byPosition(blocks, block, blockSource(validation).bytesPerToken),
    slotsOverTime: thinned(blocks.map(({ position, slots }) => ({ position: position + block, slots }))),
    evaluationMsPerBlock: median(times),
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

/** Forward and backward passes over what the run trains on, with a memory that has filled up; and the layers' report. */
async function measureTraining(decoder: Decoder, source: TrainingSource, batch: number, block: number) {
  registerGradients()
  const random = new Random(0)
  const acting: number[] = []
  let memory: Memory = decoder.initialMemory(batch)
  let memoryBytes = 0
  const stream = isRolloutSource(source)
    ? source.stream({ batch, block })
    : blockSource(source).stream({ batch, block })
  const next = async (): Promise<Block | Rollout> => {
    if (!('play' in stream)) return stream.next()
    const began = performance.now()
    const rollout = await stream.play({ decoder, memory, random })
    acting.push(performance.now() - began)
    return rollout
  }
  const compact = async () => {
    memory = await decoder.compact(memory)
    memoryBytes = Math.max(memoryBytes, memory.bytes / batch)
  }

  const most = isRolloutSource(source) ? mostRolloutsToFill : mostBlocksToFill
  for (let index = 0, slots = -1; memory.slots !== slots && index < most; index++) {
    slots = memory.slots
    const { inputs: tokens, resets } = await next()
    const inputs = tensor2d(tokens, [batch, tokens.length / batch], 'int32')
    const result = decoder.forward(inputs, resets?.length ? memory.reset(resets) : memory)
    dispose([inputs, result.logits, result.penalty])
    memory = result.memory
    await compact()
  }
  const layers = (await decoder.report(memory)).map(
    ({ slots, bytes, attended, flopsPerStep }): LayerFigures => ({
      slots,
      bytes: bytes / batch,
      attended: [...attended],
      flopsPerStep,
    }),
  )
  const pass = (read: Block | Rollout) => {
    const result = gradientsOf(decoder, read, memory)
    memory = result.memory
    dispose([result.penalty, Object.values(result.gradients)])
    return result.loss
  }
  const finish = async (loss: GradientResult['loss']) => {
    await loss.data()
    loss.dispose()
    await compact()
  }
  const times: number[] = []
  let tokens = 0
  for (let index = -1; index < timedBlocks; index++) {
    const read = await next()
    tokens = read.inputs.length
    const began = performance.now()
    await finish(pass(read))
    if (index >= 0) times.push(performance.now() - began)
  }
  const read = await next()
  let loss: GradientResult['loss'] | undefined
  const { peakBytes } = await profile(() => {
    loss = pass(read)
    return null as never
  })
  await finish(loss!)
  memory.dispose()
  const trainingMsPerBlock = median(times)
  return {
    layers,
    memoryBytes,
    acting,
    trainingMsPerBlock,
    trainingTokensPerSecond: (1000 * tokens) / trainingMsPerBlock,
    peakTensorBytes: peakBytes,
  }
}
