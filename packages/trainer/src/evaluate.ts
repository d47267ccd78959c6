/** Evaluation with carried memory over a whole text, in which every token but the first is predicted once, or a task. */
import { breathe, crossEntropy, type Decoder, negativeLogLikelihood } from '@lethe/core'
import { argMax, dispose, type Tensor, tidy } from '@tensorflow/tfjs-core'
import { type Block, type BlockSource, blockTensors } from './blocks'
import { checkVocabulary, checkWhole } from './checks'
import { blockSource, type Source } from './streams'

export interface EvaluateOptions {
  readonly decoder: Decoder
  readonly source: Source
  /** Streams read side by side, each with its own memory: default 8. */
  readonly batch?: number
  /** Tokens read at a time: default 64. */
  readonly block?: number
  /** Stops by throwing the signal's reason. */
  readonly signal?: AbortSignal | undefined
  /** Told of every block once its loss is there, in order. */
  readonly onBlock?: ((block: EvaluatedBlock) => void) | undefined
  /** Whether `onBlock` is told the loss of each target: default false. */
  readonly eachLoss?: boolean | undefined
}

/** One block of an evaluation, all streams together. */
export interface EvaluatedBlock {
  /** Of its first token in the streams, from 0: so many tokens each stream had read before. */
  readonly position: number
  /** Targets that counted. */
  readonly tokens: number
  /** Mean negative log-likelihood per target, in nats; 0 where none counted. */
  readonly loss: number
  /** Of each target, row-major [batch, block], whether it counted or not; where `eachLoss` asks for them. */
  readonly losses?: Float32Array
  /** Of those targets, how many were the most probable token; only of sources with answers. */
  readonly right?: number
  /** Slots alive after it, mean over layers and rows. */
  readonly slots: number
  /** Bytes allocated for the memory after it. */
  readonly memoryBytes: number
}

/** How far an evaluation is, in tokens read. */
export interface EvaluationProgress {
  readonly tokens: number
  readonly of: number
}

export interface Scores {
  /** Mean negative log-likelihood per target, in nats. */
  readonly loss: number
  /** Per target. */
  readonly perplexity: number
  /** Bits per byte of text: with a token per byte, loss / ln 2. Only of text. */
  readonly bitsPerByte?: number
}

export interface Evaluation extends Scores {
  /** Part of the answers whose most probable token is right; only of sources with answers. */
  readonly accuracy?: number
  /** The part that guessing gets right, beside it. */
  readonly chance?: number
  /** Targets that counted: tokens predicted, or answers given. */
  readonly tokens: number
  /** Slots alive, mean over layers, rows and blocks. */
  readonly slots: number
}

/** Reads all there is and returns the scores; `evaluation` does the same and tells how far it is. */
export async function evaluate(options: EvaluateOptions): Promise<Evaluation> {
  const blocks = evaluation(options)
  for (;;) {
    const next = await blocks.next()
    if (next.done) return next.value
  }
}

/** Each stream is read from an empty memory on, block by block, with the right tokens fed back as in training. */
export async function* evaluation(
  options: EvaluateOptions,
): AsyncGenerator<EvaluationProgress, Evaluation, undefined> {
  const { decoder, batch = 8, block = 64, signal, onBlock, eachLoss = false } = options
  checkWhole('batch', batch)
  checkWhole('block', block)
  const source = blockSource(options.source)
  checkVocabulary(source, decoder)
  const { tokens: of, blocks } = source.evaluation({ batch, block })
  let memory = decoder.initialMemory(batch)
  const sum = { loss: 0, weight: 0, tokens: 0, right: 0, slots: 0, blocks: 0 }
  let read = 0
  // The loss of a block is read while the next one is computed.
  let pending: Promise<void> = Promise.resolve()
  try {
    for await (const next of blocks) {
      signal?.throwIfAborted()
      if (next.resets?.length) memory = memory.reset(next.resets)
      const tensors = blockTensors(next, batch)
      const result = decoder.forward(tensors.inputs, memory)
      memory = result.memory
      const loss = tidy(() =>
        eachLoss
          ? negativeLogLikelihood(result.logits, tensors.targets)
          : crossEntropy(result.logits, tensors.targets, tensors.weights),
      )
      const said = source.chance === undefined ? undefined : tidy(() => argMax(result.logits, -1))
      dispose([result.logits, result.penalty, ...Object.values(tensors)])
      await pending
      memory = await decoder.compact(memory)
      const kept = { slots: memory.slots, memoryBytes: memory.bytes }
      const position = read / batch
      pending = readScores(next, loss, said).then(({ weight, ...scored }) => {
        sum.loss += scored.loss * weight
        sum.weight += weight
        sum.tokens += scored.tokens
        sum.right += scored.right ?? 0
        onBlock?.({ position, ...scored, ...kept })
      })
      pending.catch(() => {}) // thrown where it is awaited; until then Node would end the program for it
      sum.slots += kept.slots
      sum.blocks++
      read += next.inputs.length
      await breathe()
      yield { tokens: read, of }
    }
    await pending
  } finally {
    await pending.catch(() => {})
    memory.dispose()
  }
  const { chance } = source
  return {
    ...scores(sum.loss / sum.weight, source),
    ...(chance !== undefined && { accuracy: sum.right / sum.tokens, chance }),
    tokens: sum.tokens,
    slots: sum.slots / sum.blocks,
  }
}

/** What a mean loss in nats per target amounts to with these data. */
export function scores(loss: number, { bytesPerToken }: BlockSource): Scores {
  return {
    loss,
    perplexity: Math.exp(loss),
    ...(bytesPerToken !== undefined && { bitsPerByte: loss / Math.LN2 / bytesPerToken }),
  }
}

/**
 * Consumes the tensors.
 * @param loss the mean, or that of each target
 */
async function readScores({ targets, weights }: Block, loss: Tensor, said: Tensor | undefined) {
  const [losses, tokens] = await Promise.all([loss.data() as Promise<Float32Array>, said?.data()])
  const each = loss.rank > 0
  loss.dispose()
  said?.dispose()
  const counts = (at: number) => !weights || weights[at]! > 0
  const weight = weights ? weights.reduce((total, each) => total + each, 0) : targets.length
  const sum = (total: number, each: number, at: number) => total + each * (weights?.[at] ?? 1)
  return {
    loss: each ? losses.reduce(sum, 0) / Math.max(weight, Number.MIN_VALUE) : losses[0]!,
    ...(each && { losses }),
    weight,
    tokens: targets.reduce((total, _, at) => total + (counts(at) ? 1 : 0), 0),
    ...(tokens && {
      right: targets.reduce((total, target, at) => total + (counts(at) && tokens[at] === target ? 1 : 0), 0),
    }),
  }
}
