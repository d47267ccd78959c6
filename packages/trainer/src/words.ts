/**
 * Words: what stands between white space, and the line break as a token of its own, as WikiText is read (Merity et al.
 * 2016; Dai et al. 2019). Words outside the vocabulary are `<unk>`, and a `<unk>` in the text is that token.
 */
import { DataError } from './errors'
import type { Tokenizer } from './tokenizers'

/** The token of words that are not in the vocabulary. */
export const unknownWord = 0
/** The token of a line break; others call it `<eos>`. */
export const lineEnd = 1

const unknown = '<unk>'
const wordOrLineEnd = /\n|\S+/g
const word = /\S+/g

/** How often each word occurs. */
export type WordCounts = ReadonlyMap<string, number>

/** Adds the words of a text to the counts; with `lineEnds` also '\n' for each line break. */
export function addWords(counts: Map<string, number>, text: string, lineEnds = false): void {
  for (const found of text.match(lineEnds ? wordOrLineEnd : word) ?? [])
    counts.set(found, (counts.get(found) ?? 0) + 1)
}

/** How many words a text has: runs of anything but white space. */
export function wordsIn(text: string): number {
  return text.match(word)?.length ?? 0
}

export interface WordsOptions {
  /** Most words of the vocabulary, `<unk>` and the line break included: default 32,000. */
  readonly size?: number
  /** Words that occur less often are `<unk>`: default 1. */
  readonly minCount?: number
}

/** The most frequent words: 0 is `<unk>`, 1 the line break, then by falling count; equal counts in code unit order. */
export function wordsTokenizer(counts: WordCounts, options: WordsOptions = {}): Tokenizer {
  const { size = 32_000, minCount = 1 } = options
  if (!(Number.isInteger(size) && size >= 3))
    throw new DataError(`a vocabulary of words needs a size of at least 3, not ${size}`, { size })
  const words = [...counts]
    .filter(([word, count]) => count >= minCount && word !== unknown && word !== '\n')
    .sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1))
    .slice(0, size - 2)
    .map(([word]) => word)
  return wordsFromList(words)
}

/** The tokenizer of these words, whose tokens are 2, 3, … */
export function wordsFromList(words: readonly string[]): Tokenizer {
  const texts = [unknown, '\n', ...words]
  const tokens = new Map(texts.map((word, token) => [word, token]))
  const text = (token: number) => texts[token] ?? unknown
  /** A space between two words; none beside a line break. */
  const joined = (before: number | undefined, token: number) =>
    before === undefined || before === lineEnd || token === lineEnd ? text(token) : ` ${text(token)}`
  return {
    name: 'words',
    vocabulary: texts.length,
    encode(text) {
      const found = text.match(wordOrLineEnd) ?? []
      const result = new Int32Array(found.length)
      for (let at = 0; at < found.length; at++) result[at] = tokens.get(found[at]!) ?? unknownWord
      return result
    },
    decode: (tokens) => Array.from(tokens, (token, index) => joined(tokens[index - 1], token)).join(''),
    decoder() {
      let before: number | undefined
      return {
        push(token) {
          const result = joined(before, token)
          before = token
          return result
        },
        end: () => '',
      }
    },
    describe: () => ({ name: 'words', words: words.join('\n') }),
    byteEnds(text) {
      const ends: number[] = []
      let bytes = 0
      let at = 0
      for (const { 0: found, index } of text.matchAll(wordOrLineEnd)) {
        bytes += byteLength(text.slice(at, index + found.length))
        at = index + found.length
        ends.push(bytes)
      }
      return Int32Array.from(ends)
    },
  }
}

const encoder = new TextEncoder()
const byteLength = (text: string) => encoder.encode(text).length
