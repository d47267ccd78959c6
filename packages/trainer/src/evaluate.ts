/** Evaluation over a whole text with carried memory: every token but the first is predicted exactly once. */
import { breathe, type Decoder } from '@lethe/core'
import { dispose, tensor2d } from '@tensorflow/tfjs-core'
import { DataError } from './errors'
import type { TokenSource } from './text'

export interface EvaluateOptions {
  readonly decoder: Decoder
  readonly source: TokenSource
  /** Streams read side by side, each with its own memory: default 8. */
  readonly batch?: number
  /** Tokens read at a time: default 64. */
  readonly block?: number
  /** Stops by throwing the signal's reason. */
  readonly signal?: AbortSignal | undefined
  /** Told of every block once its loss is there, in the order of the text. */
  readonly onBlock?: ((block: EvaluatedBlock) => void) | undefined
}

/** One block of an evaluation, all streams together. */
export interface EvaluatedBlock {
  /** Of its first token in the streams, from 0: so many tokens each stream had read before. */
  readonly position: number
  readonly tokens: number
  /** Mean negative log-likelihood per token, in nats. */
  readonly loss: number
  /** Slots alive after it, mean over layers and rows. */
  readonly slots: number
  /** Bytes allocated for the memory after it. */
  readonly memoryBytes: number
}

/** How far an evaluation is. */
export interface EvaluationProgress {
  readonly tokens: number
  readonly of: number
}

export interface Evaluation {
  /** Mean negative log-likelihood per token, in nats. */
  readonly loss: number
  /** Bits per byte of text: with a token per byte, loss / ln 2. */
  readonly bitsPerByte: number
  /** Per token. */
  readonly perplexity: number
  /** Tokens predicted. */
  readonly tokens: number
  /** Slots alive, mean over layers, rows and blocks. */
  readonly slots: number
}

/** Reads a whole text and returns its scores; `evaluation` does the same and tells how far it is. */
export async function evaluate(options: EvaluateOptions): Promise<Evaluation> {
  const blocks = evaluation(options)
  for (;;) {
    const next = await blocks.next()
    if (next.done) return next.value
  }
}

/**
 * The text's tokens but the first are cut into `batch` streams that differ in length by at most one; each is read from
 * an empty memory on, block by block, and a last shorter block reads what is left.
 */
export async function* evaluation(
  options: EvaluateOptions,
): AsyncGenerator<EvaluationProgress, Evaluation, undefined> {
  const { decoder, source, batch = 8, block = 64, signal, onBlock } = options
  const total = source.length - 1
  if (total < batch)
    throw new DataError(
      `the text to evaluate is too short: it has ${source.length} tokens, and ${batch} streams need at least ` +
        `${batch + 1}: give more text or fewer streams`,
      { tokens: source.length, batch },
    )
  const length = Math.floor(total / batch)
  const longer = total % batch
  const starts = Array.from({ length: batch }, (_, row) => row * length + Math.min(row, longer))

  // The last block has one token, which only the longer streams have.
  const blocks: { position: number; width: number; rows: number }[] = []
  for (let position = 0; position < length; position += block)
    blocks.push({ position, width: Math.min(block, length - position), rows: batch })
  if (longer > 0) blocks.push({ position: length, width: 1, rows: longer })

  let memory = decoder.initialMemory(batch)
  let sum = 0
  let done = 0
  let slots = 0
  // The loss of a block is read while the next one is computed.
  let pending: Promise<void> = Promise.resolve()
  try {
    for (const { position, width, rows } of blocks) {
      signal?.throwIfAborted()
      const [inputs, targets] = await readRows(source, starts, position, width)
      const weights = rows < batch ? tensor2d(starts.map((_, row) => [row < rows ? 1 : 0])) : undefined
      const result = decoder.evaluate(inputs, targets, memory, weights && { weights })
      memory = result.memory
      dispose([inputs, targets, ...(weights ? [weights] : [])])
      await pending
      memory = await decoder.compact(memory)
      const kept = { slots: memory.slots, memoryBytes: memory.bytes }
      const tokens = width * rows
      pending = result.loss.data().then(([loss]) => {
        sum += loss! * tokens
        result.loss.dispose()
        onBlock?.({ position, tokens, loss: loss!, ...kept })
      })
      slots += kept.slots
      done += tokens
      await breathe()
      yield { tokens: done, of: total }
    }
    await pending
  } finally {
    await pending.catch(() => {})
    memory.dispose()
  }
  return { ...scores(sum / total, source), tokens: total, slots: slots / blocks.length }
}

/** What a mean loss in nats per token amounts to on this text. */
export function scores(loss: number, source: TokenSource) {
  const bytesPerToken = source.bytes / source.length
  return { loss, bitsPerByte: loss / Math.LN2 / bytesPerToken, perplexity: Math.exp(loss) }
}

/** Inputs and targets [rows, width] from the given place of each stream. */
async function readRows(source: TokenSource, starts: readonly number[], position: number, width: number) {
  const inputs = new Int32Array(starts.length * width)
  const targets = new Int32Array(starts.length * width)
  for (const [row, start] of starts.entries()) {
    const from = start + position
    const tokens = await source.read(from, Math.min(source.length, from + width + 1))
    inputs.set(tokens.subarray(0, width), row * width)
    targets.set(tokens.subarray(1, width + 1), row * width)
  }
  const shape: [number, number] = [starts.length, width]
  return [tensor2d(inputs, shape, 'int32'), tensor2d(targets, shape, 'int32')] as const
}
