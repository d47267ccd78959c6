/**
 * Text to tokens and back. Tokenizers that need no training beyond one look at the text: bytes (256 tokens, any text),
 * characters (a token per Unicode code point of the training text) and words (words.ts). Each is described by a piece
 * of JSON that goes into every checkpoint, so that a checkpoint alone can be asked for text.
 */
import { FormatError } from '@lethe/core'
import { wordsFromList } from './words'

export interface Tokenizer {
  /** 'bytes', 'characters', 'words', or that of one made elsewhere, such as 'bpe'. */
  readonly name: string
  /** Number of different tokens. */
  readonly vocabulary: number
  encode(text: string): Int32Array
  /** Bytes that are no valid UTF-8 and unknown characters become U+FFFD. */
  decode(tokens: ArrayLike<number>): string
  /** Decodes token by token: what `push` returns is always whole characters. */
  decoder(): TokenDecoder
  describe(): TokenizerDescription
  /**
   * Of each token of `encode(text)`, the bytes of the text's UTF-8 form up to its end: what per-word scores need.
   * @throws DataError where the tokens do not add up to the text
   */
  byteEnds?(text: string): Int32Array
}

/** Holds the bytes of an unfinished character back until it is whole. */
export interface TokenDecoder {
  push(token: number): string
  /** What is left: U+FFFD if the last character was cut off, else nothing. */
  end(): string
}

export type TokenizerDescription =
  | { readonly name: 'bytes' }
  | { readonly name: 'characters'; readonly characters: string }
  /** The words with line breaks between them, without `<unk>` and the line break itself. */
  | { readonly name: 'words'; readonly words: string }
  /** The content of a tokenizer.json. */
  | { readonly name: 'bpe'; readonly json: unknown }

/** Makes tokenizers that this entry point does not have, by the name in their description. */
export type TokenizerFactories = Readonly<
  Record<string, (description: TokenizerDescription) => Tokenizer | Promise<Tokenizer>>
>

/** A token per byte of the text's UTF-8 form. */
export function bytesTokenizer(): Tokenizer {
  return {
    name: 'bytes',
    vocabulary: 256,
    encode: (text) => Int32Array.from(new TextEncoder().encode(text)),
    decode: (tokens) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(tokens)),
    decoder() {
      const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
      return {
        push: (token) => decoder.decode(Uint8Array.of(token), { stream: true }),
        end: () => decoder.decode(),
      }
    },
    describe: () => ({ name: 'bytes' }),
    byteEnds: (text) => Int32Array.from(new TextEncoder().encode(text), (_, index) => index + 1),
  }
}

/** The token of every character that is not in the vocabulary. */
export const unknownCharacter = 0

/**
 * A token per Unicode code point: 0 is an unknown character, then those of `text` in ascending order.
 * @param text any text (or iterable of code points) that has every character of the vocabulary at least once.
 */
export function charactersTokenizer(text: string | Iterable<number>): Tokenizer {
  const found = new Set<number>()
  if (typeof text === 'string') for (const character of text) found.add(character.codePointAt(0)!)
  else for (const codePoint of text) found.add(codePoint)
  const codePoints = [...found].sort((a, b) => a - b)
  const tokens = new Map(codePoints.map((codePoint, index) => [codePoint, index + 1]))
  const characters = ['\ufffd', ...codePoints.map((codePoint) => String.fromCodePoint(codePoint))]
  const character = (token: number) => characters[token] ?? '\ufffd'
  return {
    name: 'characters',
    vocabulary: characters.length,
    encode(text) {
      const result = new Int32Array(text.length)
      let count = 0
      for (const character of text)
        result[count++] = tokens.get(character.codePointAt(0)!) ?? unknownCharacter
      return result.slice(0, count)
    },
    decode: (tokens) => Array.from(tokens, character).join(''),
    decoder: () => ({ push: character, end: () => '' }),
    describe: () => ({ name: 'characters', characters: characters.slice(1).join('') }),
    byteEnds(text) {
      let end = 0
      return Int32Array.from(text, (character) => (end += utf8Length(character.codePointAt(0)!)))
    },
  }
}

/** Bytes of a code point in UTF-8 (a lone surrogate is written as U+FFFD). */
const utf8Length = (codePoint: number) =>
  codePoint < 0x80 ? 1 : codePoint < 0x800 ? 2 : codePoint < 0x10000 ? 3 : 4

/**
 * The tokenizer that a checkpoint describes.
 * @throws FormatError where it is none of this entry point
 */
export function tokenizerFromDescription(description: unknown): Tokenizer {
  const { name, ...rest } = (description ?? {}) as Record<string, unknown>
  if (name === 'bytes') return bytesTokenizer()
  if (name === 'characters' && typeof rest.characters === 'string')
    return charactersTokenizer(rest.characters)
  if (name === 'words' && typeof rest.words === 'string')
    return wordsFromList(rest.words === '' ? [] : rest.words.split('\n'))
  if (name === 'bpe')
    throw new FormatError(
      'this is a BPE tokenizer: give its maker with the model, ' +
        "loadModel(model, methods, { bpe: bpeFromDescription }) with bpeFromDescription of '@lethe/trainer/bpe'",
      { name },
    )
  throw new FormatError(
    `this is no description of a tokenizer: ${JSON.stringify(description)?.slice(0, 200)}; ` +
      'known are "bytes", "characters" and "words"',
    { description },
  )
}
