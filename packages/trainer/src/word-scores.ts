/**
 * Scores per word and per character, which hold whatever the tokens are, and by how rare a word is.
 *
 * Per word as for PG-19 (Rae et al. 2020, Section 4): e to the total loss over the number of words of the text as it
 * was, before any tokenizer. By frequency as in Table 7 there: the words of the evaluated text by how often each occurs
 * in the training text; the loss of a word is the sum of those of its tokens.
 */
import { DataError } from './errors'
import type { EvaluatedBlock, Evaluation } from './evaluate'
import { evaluationStreams } from './streams'
import type { TextSource } from './text'
import type { WordCounts } from './words'

export interface TextScores {
  /** Runs of anything but white space in the evaluated text. */
  readonly words: number
  /** Code points of it. */
  readonly characters: number
  /** e to the loss per word. */
  readonly wordPerplexity: number
  readonly bitsPerCharacter: number
}

/**
 * What an evaluation of a whole text amounts to per word and per character. As in all such figures, the first token,
 * which nothing predicts, is missing from the loss.
 * @param text what `measureText` counted
 */
export function textScores(
  { loss, tokens }: Evaluation,
  { words, characters }: Pick<TextScores, 'words' | 'characters'>,
): TextScores {
  const total = loss * tokens
  return {
    words,
    characters,
    wordPerplexity: Math.exp(total / words),
    bitsPerCharacter: total / Math.LN2 / characters,
  }
}

/** The losses of a text's tokens, in order, collected from an evaluation with `eachLoss`. */
export class TokenLosses {
  /** Of each token in nats; of the first one 0. */
  readonly losses: Float32Array
  private readonly starts: readonly number[]

  /** @param batch streams of the evaluation */
  constructor(source: TextSource, batch: number) {
    this.losses = new Float32Array(source.length)
    this.starts = evaluationStreams(source.length, batch).starts
  }

  /** To be the evaluation's `onBlock`. */
  readonly add = ({ position, losses, tokens }: EvaluatedBlock): void => {
    const { length: batch } = this.starts
    const width = losses!.length / batch
    // Streams that have ended are the last ones.
    for (let row = 0; row < Math.ceil(tokens / width); row++)
      this.losses.set(losses!.subarray(row * width, (row + 1) * width), this.starts[row]! + position + 1)
  }
}

export interface FrequencyBucket {
  /** Occurrences in the training text: least, and the first number that is too many. */
  readonly from: number
  readonly below: number
  /** Words of the evaluated text whose frequency is that. */
  readonly words: number
  /** Nats per word. */
  readonly loss: number
  readonly perplexity: number
}

/** Rae et al. 2020, Table 7: more than 10,000, 1,000 to 10,000, 100 to 1,000, fewer than 100. */
const bounds = [Number.POSITIVE_INFINITY, 10_001, 1000, 100, 0]

/**
 * Perplexity by how often a word occurs in the training text, most frequent first.
 *
 * The loss of a word is the sum of those of its tokens; white space before it belongs to it, as in the tokens of
 * byte-level BPE. Where tokens are words, so is each line break.
 * @param losses of the tokens of the source, in order: those of `TokenLosses`
 * @param counts of the training text: `countWords(train.text(), …)`, with line ends where tokens are words
 * @throws DataError where the tokenizer cannot tell where its tokens end
 */
export async function frequencyBuckets(
  source: TextSource,
  losses: Float32Array,
  counts: WordCounts,
  lineEnds = false,
): Promise<FrequencyBucket[]> {
  const sums = bounds.slice(1).map(() => ({ words: 0, loss: 0 }))
  const pattern = lineEnds ? /\n|\S+/g : /\S+/g
  let token = 0
  for await (const { text, ends } of source.pieces()) {
    // Of this piece: the next token, and the bytes up to the end of the word at hand.
    let next = 0
    let bytes = 0
    let at = 0
    for (const { 0: word, index } of text.matchAll(pattern)) {
      bytes += encoder.encode(text.slice(at, index + word.length)).length
      at = index + word.length
      let loss = 0
      // A token that goes on beyond the word counts where it ends.
      for (; next < ends.length && ends[next]! <= bytes; next++) loss += losses[token + next]!
      const count = counts.get(word) ?? 0
      const sum = sums[bounds.findIndex((below) => count >= below) - 1]!
      sum.words++
      sum.loss += loss
    }
    token += ends.length
  }
  if (token !== losses.length)
    throw new DataError(
      `the text has ${token} tokens, and there are ${losses.length} losses: give those of the same text`,
      { tokens: token, losses: losses.length },
    )
  return sums.map(({ words, loss }, bucket) => ({
    from: bounds[bucket + 1]!,
    below: bounds[bucket]!,
    words,
    loss: words === 0 ? 0 : loss / words,
    perplexity: words === 0 ? Number.NaN : Math.exp(loss / words),
  }))
}

const encoder = new TextEncoder()
