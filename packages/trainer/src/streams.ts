/**
 * Tokens as contiguous streams, one per row of the batch, in which each block goes on where the last one ended.
 *
 * To train on, N tokens are cut into `batch` equal streams: row r starts at r · floor(N / batch), and a row's memory is
 * what came just before. At the end of the streams (less than a block and its last target is left) all rows start over,
 * and the memory is carried on across that seam: the model then reads on as if the text were repeated.
 *
 * To evaluate on, every token but the first is a target exactly once: the streams differ in length by at most one.
 */
import type { Block, BlockShape, BlockSource, BlockStream, EvaluationBlocks } from './blocks'
import { CheckpointError, DataError } from './errors'
import type { TokenSource } from './text'

/** What can be trained and evaluated on. */
export type Source = TokenSource | BlockSource

/** Tokens as blocks; blocks as they are. */
export function blockSource(source: Source): BlockSource {
  if ('stream' in source) return source
  return {
    vocabulary: source.vocabulary,
    identity: source.identity,
    length: source.length,
    bytesPerToken: source.bytes / source.length,
    stream: (shape, position) => new TokenStreams(source, shape, position),
    evaluation: (shape) => evaluationOf(source, shape),
  }
}

/** Blocks of each row read from the source at once. */
const blocksAhead = 64

class TokenStreams implements BlockStream {
  private at: number
  /** Tokens of each stream. */
  private readonly length: number
  private window: Int32Array[] = []
  private windowStart = 0
  private windowEnd = 0

  constructor(
    private readonly source: TokenSource,
    private readonly shape: BlockShape,
    position: unknown = 0,
  ) {
    const { batch, block } = shape
    this.length = Math.floor(source.length / batch)
    if (this.length < block + 1)
      throw new DataError(
        `the training text is too short: it has ${source.length} tokens, and ${batch} rows of one block need ` +
          `${batch * (block + 1)} (batch ${batch} x (block ${block} + 1)): give more text, or a smaller batch or block`,
        { tokens: source.length, batch, block, needed: batch * (block + 1) },
      )
    if (!Number.isInteger(position) || (position as number) < 0 || (position as number) > this.length)
      throw new CheckpointError(
        `a position in this text is a whole number from 0 to ${this.length}, not ${JSON.stringify(position)}: resume with the same data`,
        { position, length: this.length },
      )
    this.at = position as number
  }

  /** Where in its stream each row is. */
  get position(): number {
    return this.at
  }

  async next(): Promise<Block> {
    const { batch, block } = this.shape
    if (this.at + block + 1 > this.length) this.at = 0
    if (this.at < this.windowStart || this.at + block + 1 > this.windowEnd) await this.fill(this.at)
    const inputs = new Int32Array(batch * block)
    const targets = new Int32Array(batch * block)
    const from = this.at - this.windowStart
    for (const [row, tokens] of this.window.entries()) {
      inputs.set(tokens.subarray(from, from + block), row * block)
      targets.set(tokens.subarray(from + 1, from + block + 1), row * block)
    }
    this.at += block
    return { inputs, targets }
  }

  private async fill(position: number): Promise<void> {
    const { batch, block } = this.shape
    const end = Math.min(this.length, position + blocksAhead * block + 1)
    const window: Int32Array[] = []
    for (let row = 0; row < batch; row++) {
      const start = row * this.length
      window.push(await this.source.read(start + position, start + end))
    }
    this.window = window
    this.windowStart = position
    this.windowEnd = end
  }
}

/** Where the streams of an evaluation start in a text, how long they are, and how many have one token more. */
export function evaluationStreams(tokens: number, batch: number) {
  const length = Math.floor((tokens - 1) / batch)
  const longer = (tokens - 1) % batch
  const starts = Array.from({ length: batch }, (_, row) => row * length + Math.min(row, longer))
  return { length, longer, starts }
}

/** A last shorter block reads what is left of all streams, and one more token of the longer ones comes after it. */
function evaluationOf(source: TokenSource, { batch, block }: BlockShape): EvaluationBlocks {
  const total = source.length - 1
  if (total < batch)
    throw new DataError(
      `the text to evaluate is too short: it has ${source.length} tokens, and ${batch} streams need ` +
        `${batch + 1}: give more text or fewer streams`,
      { tokens: source.length, batch },
    )
  const { length, longer, starts } = evaluationStreams(source.length, batch)

  async function* blocks(): AsyncGenerator<Block> {
    for (let position = 0; position < length; position += block)
      yield readRows(source, starts, position, Math.min(block, length - position))
    if (longer > 0)
      yield {
        ...(await readRows(source, starts, length, 1)),
        weights: Float32Array.from(starts, (_, row) => (row < longer ? 1 : 0)),
      }
  }
  return { tokens: batch * (length + (longer > 0 ? 1 : 0)), blocks: blocks() }
}

/** Inputs and targets [rows, width] from the given place of each stream. */
async function readRows(
  source: TokenSource,
  starts: readonly number[],
  position: number,
  width: number,
): Promise<Block> {
  const inputs = new Int32Array(starts.length * width)
  const targets = new Int32Array(starts.length * width)
  for (const [row, start] of starts.entries()) {
    const from = start + position
    const tokens = await source.read(from, Math.min(source.length, from + width + 1))
    inputs.set(tokens.subarray(0, width), row * width)
    targets.set(tokens.subarray(1, width + 1), row * width)
  }
  return { inputs, targets }
}
