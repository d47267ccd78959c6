/**
 * The training text as contiguous streams, one per row of the batch: N tokens are cut into `batch` equal streams, row
 * r starts at r · floor(N / batch), and each block goes on where the last one ended, so that a row's memory is what
 * came just before. At the end of the streams (less than a block and its last target is left) all rows start over,
 * and the memory is carried on across that seam: the model then reads on as if the text were repeated.
 */
import { DataError } from './errors'
import type { TokenSource } from './text'

/** Blocks of each row read from the source at once. */
const blocksAhead = 64

export interface Block {
  /** Row-major [batch, block]. */
  readonly inputs: Int32Array
  /** The same, one token later. */
  readonly targets: Int32Array
}

export class Streams {
  /** Where in its stream each row is: the data cursor. */
  position = 0
  /** Tokens of each stream. */
  readonly length: number
  private window: Int32Array[] = []
  private windowStart = 0
  private windowEnd = 0

  constructor(
    private readonly source: TokenSource,
    private readonly batch: number,
    private readonly block: number,
  ) {
    this.length = Math.floor(source.length / batch)
    if (this.length < block + 1)
      throw new DataError(
        `the training text is too short: it has ${source.length} tokens, and ${batch} rows of one block need ` +
          `${batch * (block + 1)} (batch ${batch} x (block ${block} + 1)): give more text, or a smaller batch or block`,
        { tokens: source.length, batch, block, needed: batch * (block + 1) },
      )
  }

  async next(): Promise<Block> {
    const { batch, block } = this
    if (this.position + block + 1 > this.length) this.position = 0
    const { position } = this
    if (position < this.windowStart || position + block + 1 > this.windowEnd) await this.fill(position)
    const inputs = new Int32Array(batch * block)
    const targets = new Int32Array(batch * block)
    const from = position - this.windowStart
    for (let row = 0; row < batch; row++) {
      inputs.set(this.window[row]!.subarray(from, from + block), row * block)
      targets.set(this.window[row]!.subarray(from + 1, from + block + 1), row * block)
    }
    this.position += block
    return { inputs, targets }
  }

  private async fill(position: number): Promise<void> {
    const end = Math.min(this.length, position + blocksAhead * this.block + 1)
    const window: Int32Array[] = []
    for (let row = 0; row < this.batch; row++) {
      const start = row * this.length
      window.push(await this.source.read(start + position, start + end))
    }
    this.window = window
    this.windowStart = position
    this.windowEnd = end
  }
}
