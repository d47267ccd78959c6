/**
 * Text as a source of tokens that is read piece by piece and never whole: the bytes may come from files, a Blob or a
 * string. Where a text has no parts of its own, the first 90 % of the bytes are for training, the last 10 % for
 * validation; the cut is moved back to the start of a character, or to the end of a word where tokens are longer. A
 * byte order mark at the start of a text or file is not part of it.
 */
import { DataError } from './errors'
import type { Tokenizer } from './tokenizers'
import { bytesTokenizer, charactersTokenizer } from './tokenizers'
import { addWords, wordsIn, wordsTokenizer } from './words'

/** Bytes that can be read from anywhere. */
export interface ByteSource {
  readonly length: number
  /** Ascending offsets at which a character never continues: where one file ends and the next begins. */
  readonly edges?: readonly number[]
  /** Where the parts that the text has of its own end: those for training and for validation. The rest is for tests. */
  readonly parts?: { readonly train: number; readonly validation: number }
  /** What else tells this text from others, apart from its length and its first and last megabyte. */
  readonly label?: string
  read(start: number, end: number): Promise<Uint8Array>
}

/** Tokens that can be read from anywhere. */
export interface TokenSource {
  /** Number of tokens. */
  readonly length: number
  /** Every token is less than this. */
  readonly vocabulary: number
  /** Bytes of text that the tokens stand for: what bits per byte divides by. */
  readonly bytes: number
  /** Tells text and tokenizer from others, so that a run is not resumed on other data. */
  readonly identity: string
  read(start: number, end: number): Promise<Int32Array>
}

/** A piece of a text; no word, and no character, goes on in the next one unless it is longer than a kilobyte. */
export interface TextPiece {
  readonly text: string
  /** Of each token in it, the bytes of the piece up to its end. */
  readonly ends: Int32Array
}

/** A part of a text as tokens and as text. */
export interface TextSource extends TokenSource {
  /** The text in order, in pieces of at most 64 KiB. */
  text(): AsyncIterable<string>
  /** The same with where its tokens end. @throws DataError where the tokenizer cannot tell */
  pieces(): AsyncIterable<TextPiece>
}

export type TextPart = 'train' | 'validation' | 'test'

/** A text, cut into parts. */
export interface TextData {
  readonly tokenizer: Tokenizer
  readonly train: TextSource
  readonly validation: TextSource
  /** Only of texts that have parts of their own. */
  readonly test?: TextSource
  /** Bytes of all parts. */
  readonly bytes: number
}

export interface TextOptions {
  /** 'bytes' (default), 'characters' or 'words' (from the training part), or a tokenizer that exists. */
  readonly tokenizer?: 'bytes' | 'characters' | 'words' | Tokenizer
  /** Of 'words': the most words of the vocabulary, `<unk>` and the line break included. Default 32,000. */
  readonly vocabulary?: number | undefined
  /**
   * The part used for training: default 0.9. 0 makes all of the text validation, for a tokenizer that exists. A text
   * with parts of its own keeps those.
   */
  readonly trainFraction?: number
  /**
   * Parts whose tokens are wanted; the others have their text, but no tokens. Default all: each must be read once, to
   * count its tokens, unless they are bytes.
   */
  readonly only?: readonly TextPart[]
}

const identityBytes = 2 ** 20
const pieceBytes = 2 ** 16

/** Splits a text into its parts. All but bytes are looked at once, to count the tokens. */
export async function openBytes(source: ByteSource, options: TextOptions = {}): Promise<TextData> {
  const { tokenizer = 'bytes', trainFraction = 0.9, only = ['train', 'validation', 'test'] } = options
  if (!(trainFraction >= 0 && trainFraction < 1))
    throw new DataError(`trainFraction must be at least 0 and less than 1, not ${trainFraction}`, {
      trainFraction,
    })
  if (source.length === 0)
    throw new DataError('the text is empty: give a text of some thousand bytes', { bytes: 0 })
  const { train, validation } = source.parts ?? {
    train: await cutBefore(source, Math.floor(source.length * trainFraction), tokenizer),
    validation: source.length,
  }
  const ranges: Record<TextPart, Range> = {
    train: { from: 0, to: train },
    validation: { from: train, to: validation },
    test: { from: validation, to: source.length },
  }
  if (train === 0 && (tokenizer === 'characters' || tokenizer === 'words'))
    throw new DataError(
      `there is no text for training to take ${tokenizer} from: give the tokenizer itself, or a trainFraction above 0`,
      { trainFraction },
    )
  const chosen = await tokenizerOf(tokenizer, textOf(source, ranges.train), options.vocabulary)
  const identity = await identify(source)
  const described =
    chosen.name === 'bytes'
      ? identity
      : `${identity}-${hash(new TextEncoder().encode(JSON.stringify(chosen.describe())))}`
  const open = (part: TextPart) =>
    chosen.name === 'bytes'
      ? byteTokens(source, ranges[part], chosen, described)
      : indexedTokens(source, ranges[part], chosen, described, only.includes(part))
  return {
    tokenizer: chosen,
    train: await open('train'),
    validation: await open('validation'),
    ...(source.parts && { test: await open('test') }),
    bytes: source.length,
  }
}

async function tokenizerOf(
  tokenizer: NonNullable<TextOptions['tokenizer']>,
  train: AsyncIterable<string>,
  vocabulary: number | undefined,
): Promise<Tokenizer> {
  if (typeof tokenizer === 'object') return tokenizer
  if (tokenizer === 'bytes') return bytesTokenizer()
  if (tokenizer === 'words')
    return wordsTokenizer(await countWords(train), vocabulary === undefined ? {} : { size: vocabulary })
  const codePoints = new Set<number>()
  for await (const text of train) for (const character of text) codePoints.add(character.codePointAt(0)!)
  return charactersTokenizer(codePoints)
}

/** How often each word occurs in a text; with `lineEnds` also '\n' for each line break. */
export async function countWords(
  text: AsyncIterable<string>,
  lineEnds = false,
): Promise<Map<string, number>> {
  const counts = new Map<string, number>()
  for await (const piece of text) addWords(counts, piece, lineEnds)
  return counts
}

/** Words (runs of anything but white space) and characters (code points) of a text. */
export async function measureText(
  text: AsyncIterable<string>,
): Promise<{ readonly words: number; readonly characters: number }> {
  let words = 0
  let characters = 0
  for await (const piece of text) {
    words += wordsIn(piece)
    characters += codePointsIn(piece)
  }
  return { words, characters }
}

function codePointsIn(text: string): number {
  let count = text.length
  for (let at = 0; at + 1 < text.length; at++)
    if ((text.charCodeAt(at) & 0xfc00) === 0xd800 && (text.charCodeAt(at + 1) & 0xfc00) === 0xdc00) count--
  return count
}

/** Splits a text that is there as a string. */
export function openString(text: string, options: TextOptions = {}): Promise<TextData> {
  const bytes = new TextEncoder().encode(text.replace(/^\ufeff/, ''))
  return openBytes({ length: bytes.length, read: async (start, end) => bytes.subarray(start, end) }, options)
}

/** Splits a Blob or a File that a page was given; it is read piece by piece. */
export async function openBlob(blob: Blob, options: TextOptions = {}): Promise<TextData> {
  const readAt = async (start: number, end: number) =>
    new Uint8Array(await blob.slice(start, end).arrayBuffer())
  const mark = byteOrderMark(await readAt(0, 3))
  return openBytes(
    { length: blob.size - mark, read: (start, end) => readAt(start + mark, end + mark) },
    options,
  )
}

/** A text that is there as a string as one source of tokens, for example for evaluation. */
export function textSource(text: string, tokenizer: Tokenizer): TokenSource {
  const own = text.replace(/^\ufeff/, '')
  const tokens = tokenizer.encode(own)
  const bytes = new TextEncoder().encode(own)
  return {
    length: tokens.length,
    vocabulary: tokenizer.vocabulary,
    bytes: bytes.length,
    identity: `${bytes.length}-${hash(bytes)}-${tokenizer.name}`,
    read: async (start, end) => tokens.slice(start, end),
  }
}

/** Length of the UTF-8 byte order mark at the start of these bytes: 3 or 0. */
export function byteOrderMark(bytes: Uint8Array): 0 | 3 {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0
}

/** 53 bits that differ between different bytes (cyrb53, public domain): tells texts apart, not meant against attackers. */
function hash(bytes: Uint8Array): string {
  let low = 0xdeadbeef
  let high = 0x41c6ce57
  for (let i = 0; i < bytes.length; i++) {
    low = Math.imul(low ^ bytes[i]!, 2654435761)
    high = Math.imul(high ^ bytes[i]!, 1597334677)
  }
  low = Math.imul(low ^ (low >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909)
  high = Math.imul(high ^ (high >>> 16), 2246822507) ^ Math.imul(low ^ (low >>> 13), 3266489909)
  return (4294967296 * (2097151 & high) + (low >>> 0)).toString(16).padStart(14, '0')
}

async function identify(source: ByteSource): Promise<string> {
  const first = await source.read(0, Math.min(source.length, identityBytes))
  const last = await source.read(Math.max(0, source.length - identityBytes), source.length)
  const parts = source.parts && `${source.parts.train},${source.parts.validation}`
  const told = [source.label, parts].filter((text) => text !== undefined).join(';')
  const label = told ? `-${hash(new TextEncoder().encode(told))}` : ''
  return `${source.length}-${hash(first)}-${hash(last)}${label}`
}

const continues = (byte: number) => (byte & 0xc0) === 0x80

/** The last offset up to `offset` at which a character starts (or `offset` itself where the bytes are no UTF-8). */
async function characterStart(source: ByteSource, offset: number): Promise<number> {
  if (offset <= 0 || offset >= source.length) return offset
  const from = Math.max(0, offset - 3)
  const bytes = await source.read(from, offset + 1)
  for (let at = offset; at >= from; at--) if (!continues(bytes[at - from]!)) return at
  return offset
}

/** Bytes of a source. */
interface Range {
  readonly from: number
  readonly to: number
}

/**
 * The pieces of a range: at most 64 KiB each, ending where a file ends or before a single space, which is where
 * words, and the pieces that byte-level BPE works on, end. Without one near enough, before other white space, and without
 * any at the start of a character.
 */
async function* piecesOf(source: ByteSource, { from, to }: Range): AsyncGenerator<Range & { text: string }> {
  const borders = [...(source.edges ?? []).filter((edge) => edge > from && edge < to), to]
  for (const border of borders)
    while (from < border) {
      const end = from + pieceBytes < border ? await wordEnd(source, from + pieceBytes) : border
      yield { from, to: end, text: decodeUtf8(await source.read(from, end)) }
      from = end
    }
}

/** How far back a word's end is looked for. */
const longestWord = 1024

async function wordEnd(source: ByteSource, offset: number): Promise<number> {
  if (offset <= 0 || offset >= source.length) return offset
  const from = Math.max(0, offset - longestWord)
  const bytes = await source.read(from, offset + 1)
  let otherwise: number | undefined
  for (let at = offset - from - 1; at > 0; at--) {
    if (!isSpace(bytes[at]!) || isSpace(bytes[at - 1]!)) continue
    if (bytes[at] === 0x20 && !isSpace(bytes[at + 1]!)) return from + at
    otherwise ??= from + at
  }
  return otherwise ?? characterStart(source, offset)
}

/** Where the training part ends: no token is cut in two. */
function cutBefore(
  source: ByteSource,
  offset: number,
  tokenizer: NonNullable<TextOptions['tokenizer']>,
): Promise<number> {
  const name = typeof tokenizer === 'object' ? tokenizer.name : tokenizer
  return name === 'bytes' || name === 'characters' ? characterStart(source, offset) : wordEnd(source, offset)
}

const isSpace = (byte: number) => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d)

async function* textOf(source: ByteSource, range: Range): AsyncGenerator<string> {
  for await (const { text } of piecesOf(source, range)) yield text
}

const decodeUtf8 = (bytes: Uint8Array) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)

function byteTokens(source: ByteSource, range: Range, tokenizer: Tokenizer, identity: string): TextSource {
  const { from, to } = range
  return {
    length: to - from,
    vocabulary: tokenizer.vocabulary,
    bytes: to - from,
    identity: `${identity}-bytes`,
    read: async (start, end) => Int32Array.from(await source.read(from + start, from + end)),
    text: () => textOf(source, range),
    async *pieces() {
      for await (const { from, to, text } of piecesOf(source, range))
        yield { text, ends: Int32Array.from({ length: to - from }, (_, index) => index + 1) }
    },
  }
}

/** A piece, with the number of its first token within the part. */
interface IndexedPiece extends Range {
  readonly first: number
  readonly count: number
}

/** Pieces whose tokens are kept: as many as there may be streams. */
const piecesKept = 64

async function indexedTokens(
  source: ByteSource,
  range: Range,
  tokenizer: Tokenizer,
  identity: string,
  wanted: boolean,
): Promise<TextSource> {
  const index: IndexedPiece[] = []
  let length = 0
  if (wanted)
    for await (const { from, to, text } of piecesOf(source, range)) {
      const count = tokenizer.encode(text).length
      if (count > 0) index.push({ from, to, first: length, count })
      length += count
    }
  const kept = new Map<IndexedPiece, Int32Array>()
  const tokensOf = async (piece: IndexedPiece) => {
    const tokens = kept.get(piece) ?? tokenizer.encode(decodeUtf8(await source.read(piece.from, piece.to)))
    // The last one used is the last to go.
    kept.delete(piece)
    kept.set(piece, tokens)
    if (kept.size > piecesKept) kept.delete(kept.keys().next().value!)
    return tokens
  }
  return {
    length,
    vocabulary: tokenizer.vocabulary,
    bytes: range.to - range.from,
    identity: `${identity}-${tokenizer.name}`,
    async read(start, end) {
      const result = new Int32Array(Math.max(0, end - start))
      for (let at = findPiece(index, start); at < index.length && index[at]!.first < end; at++) {
        const piece = index[at]!
        const tokens = await tokensOf(piece)
        const low = Math.max(0, start - piece.first)
        const part = tokens.subarray(low, Math.max(low, end - piece.first))
        result.set(part, Math.max(0, piece.first - start))
      }
      return result
    },
    text: () => textOf(source, range),
    async *pieces() {
      if (!tokenizer.byteEnds)
        throw new DataError(
          `the tokenizer "${tokenizer.name}" cannot tell where its tokens end in the text`,
          {
            tokenizer: tokenizer.name,
          },
        )
      for await (const { text } of piecesOf(source, range)) yield { text, ends: tokenizer.byteEnds(text) }
    },
  }
}

/** The piece that holds token `position`: binary search. */
function findPiece(pieces: readonly IndexedPiece[], position: number): number {
  let low = 0
  let high = pieces.length - 1
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if (pieces[middle]!.first <= position) low = middle
    else high = middle - 1
  }
  return low
}
