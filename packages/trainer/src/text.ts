/**
 * Text as a source of tokens that is read piece by piece and never whole: the bytes may come from files, a Blob or a
 * string. The first 90 % of the bytes are for training, the last 10 % for validation; the cut is moved back to the
 * start of a character. A byte order mark at the start of a text or file is not part of it.
 */
import { DataError } from './errors'
import type { Tokenizer } from './tokenizers'
import { bytesTokenizer, charactersTokenizer } from './tokenizers'

/** Bytes that can be read from anywhere. */
export interface ByteSource {
  readonly length: number
  /** Ascending offsets at which a character never continues: where one file ends and the next begins. */
  readonly edges?: readonly number[]
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

/** A text, cut into two parts. */
export interface TextData {
  readonly tokenizer: Tokenizer
  readonly train: TokenSource
  readonly validation: TokenSource
  /** Bytes of both parts. */
  readonly bytes: number
}

export interface TextOptions {
  /** 'bytes' (default), 'characters' (from the training part), or a tokenizer that exists. */
  readonly tokenizer?: 'bytes' | 'characters' | Tokenizer
  /** The part used for training: default 0.9. 0 makes all of the text validation, for a tokenizer that exists. */
  readonly trainFraction?: number
}

const identityBytes = 2 ** 20
const chunkBytes = 2 ** 16

/** Splits a text into training and validation parts. Characters are looked at once, to count them. */
export async function openBytes(source: ByteSource, options: TextOptions = {}): Promise<TextData> {
  const { tokenizer = 'bytes', trainFraction = 0.9 } = options
  if (!(trainFraction >= 0 && trainFraction < 1))
    throw new DataError(`trainFraction must be at least 0 and less than 1, not ${trainFraction}`, {
      trainFraction,
    })
  if (trainFraction === 0 && tokenizer === 'characters')
    throw new DataError(
      'with trainFraction 0 there is no text to take characters from: give the tokenizer itself',
      {
        trainFraction,
      },
    )
  if (source.length === 0)
    throw new DataError('the text is empty: give a text of some thousand bytes', { bytes: 0 })
  const cut = await characterStart(source, Math.floor(source.length * trainFraction))
  const identity = await identify(source)
  if (tokenizer === 'bytes' || (typeof tokenizer === 'object' && tokenizer.name === 'bytes'))
    return {
      tokenizer: typeof tokenizer === 'object' ? tokenizer : bytesTokenizer(),
      train: byteTokens(source, 0, cut, identity),
      validation: byteTokens(source, cut, source.length, identity),
      bytes: source.length,
    }

  const index = await indexCharacters(source, cut)
  const actual = typeof tokenizer === 'object' ? tokenizer : charactersTokenizer(index.trainCharacters)
  const described = `${identity}-${hash(new TextEncoder().encode(JSON.stringify(actual.describe())))}`
  return {
    tokenizer: actual,
    train: characterTokens(source, index.train, cut, actual, described),
    validation: characterTokens(source, index.validation, source.length - cut, actual, described),
    bytes: source.length,
  }
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
  const tokens = tokenizer.encode(text.replace(/^\ufeff/, ''))
  const bytes = new TextEncoder().encode(text)
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
  const label = source.label ? `-${hash(new TextEncoder().encode(source.label))}` : ''
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

function byteTokens(source: ByteSource, from: number, to: number, identity: string): TokenSource {
  return {
    length: to - from,
    vocabulary: 256,
    bytes: to - from,
    identity: `${identity}-bytes`,
    read: async (start, end) => Int32Array.from(await source.read(from + start, from + end)),
  }
}

/** A run of whole characters: where its bytes are, and the number of its first character within the part. */
interface Chunk {
  readonly from: number
  readonly to: number
  readonly first: number
  readonly count: number
}

async function indexCharacters(source: ByteSource, cut: number) {
  const borders = [...new Set([...(source.edges ?? []), cut, source.length])].sort((a, b) => a - b)
  const parts: { train: Chunk[]; validation: Chunk[] } = { train: [], validation: [] }
  const trainCharacters = new Set<number>()
  let from = 0
  for (const border of borders)
    while (from < border) {
      const to = from + chunkBytes < border ? await characterStart(source, from + chunkBytes) : border
      const part = from < cut ? parts.train : parts.validation
      let count = 0
      for (const character of decodeUtf8(await source.read(from, to))) {
        if (from < cut) trainCharacters.add(character.codePointAt(0)!)
        count++
      }
      const before = part.at(-1)
      part.push({ from, to, first: before ? before.first + before.count : 0, count })
      from = to
    }
  return { ...parts, trainCharacters }
}

const decodeUtf8 = (bytes: Uint8Array) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)

function characterTokens(
  source: ByteSource,
  chunks: readonly Chunk[],
  bytes: number,
  tokenizer: Tokenizer,
  identity: string,
): TokenSource {
  const last = chunks.at(-1)
  return {
    length: last ? last.first + last.count : 0,
    vocabulary: tokenizer.vocabulary,
    bytes,
    identity: `${identity}-characters`,
    async read(start, end) {
      const result = new Int32Array(Math.max(0, end - start))
      for (let at = findChunk(chunks, start); at < chunks.length && chunks[at]!.first < end; at++) {
        const { from, to, first } = chunks[at]!
        const tokens = tokenizer.encode(decodeUtf8(await source.read(from, to)))
        const low = Math.max(0, start - first)
        result.set(tokens.subarray(low, Math.max(low, end - first)), Math.max(0, first - start))
      }
      return result
    },
  }
}

/** The chunk that holds character `position`: binary search. */
function findChunk(chunks: readonly Chunk[], position: number): number {
  let low = 0
  let high = chunks.length - 1
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if (chunks[middle]!.first <= position) low = middle
    else high = middle - 1
  }
  return low
}
