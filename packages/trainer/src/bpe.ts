/**
 * Byte-level BPE by a tokenizer.json, as GPT-2, GPT-NeoX, Llama 3, Qwen and others have it, through
 * `@huggingface/tokenizers`: an entry point of its own ('@lethe/trainer/bpe'), so that who does not use it need not
 * install it. Only byte-level BPE: its tokens are bytes, so that no text is lost, and bits per byte mean something.
 *
 * The library cannot train one; with Hugging Face's tokenizers for Python that is a few lines (README).
 */

import { Tokenizer as Library } from '@huggingface/tokenizers'
import { FormatError } from '@lethe/core'
import { DataError } from './errors'
import type { Tokenizer, TokenizerDescription } from './tokenizers'

interface Json {
  readonly model?: { readonly type?: string; readonly vocab?: Readonly<Record<string, number>> }
  readonly added_tokens?: readonly { readonly id: number; readonly content: string }[]
  readonly normalizer?: { readonly type?: string } | null
  readonly decoder?: unknown
  readonly pre_tokenizer?: unknown
}

/** Makes the tokenizer that a checkpoint describes: `loadModel(model, methods, { bpe: bpeFromDescription })`. */
export function bpeFromDescription(description: TokenizerDescription): Tokenizer {
  if (description.name !== 'bpe')
    throw new FormatError(`this describes no BPE tokenizer but "${description.name}"`, {
      name: description.name,
    })
  return bpeTokenizer(description.json)
}

/**
 * @param json the content of a tokenizer.json, as an object
 * @throws FormatError where it is none, or not of byte-level BPE
 */
export function bpeTokenizer(json: unknown): Tokenizer {
  const { model, added_tokens: added = [], normalizer } = (json ?? {}) as Json
  if (model?.type !== 'BPE' || typeof model.vocab !== 'object')
    throw new FormatError(
      `this is no tokenizer.json of a BPE tokenizer: its model is ${JSON.stringify(model?.type ?? null)}`,
      { model: model?.type },
    )
  if (!mentions((json as Json).decoder, 'ByteLevel') || !mentions((json as Json).pre_tokenizer, 'ByteLevel'))
    throw new FormatError(
      'this BPE tokenizer is not byte-level, so texts could lose something: use one like those of GPT-2, Llama 3 or Qwen',
      { decoder: (json as Json).decoder },
    )
  if (normalizer && normalizer.type !== 'NFC')
    throw new FormatError(
      `this tokenizer changes the text first (${normalizer.type}): use one that does not`,
      {
        normalizer: normalizer.type,
      },
    )

  const library = new Library(withoutPrefix(json) as object, {})
  const ids = [...Object.values(model.vocab), ...added.map(({ id }) => id)]
  const vocabulary = ids.reduce((largest, id) => Math.max(largest, id), -1) + 1
  const bytes: Uint8Array[] = Array.from({ length: vocabulary }, () => new Uint8Array(0))
  for (const [token, id] of Object.entries(model.vocab))
    bytes[id] = Uint8Array.from(token, (character) => byteOf.get(character) ?? 0)
  for (const { id, content } of added) bytes[id] = new TextEncoder().encode(content)

  const bytesOf = (token: number) => bytes[token] ?? new TextEncoder().encode('\ufffd')
  const newDecoder = () => new TextDecoder('utf-8', { ignoreBOM: true })
  const encode = (text: string) => Int32Array.from(library.encode(text, { add_special_tokens: false }).ids)
  return {
    name: 'bpe',
    vocabulary,
    encode,
    decode(tokens) {
      const decoder = newDecoder()
      const text = Array.from(tokens, (token) => decoder.decode(bytesOf(token), { stream: true })).join('')
      return text + decoder.decode()
    },
    decoder() {
      const decoder = newDecoder()
      return {
        push: (token) => decoder.decode(bytesOf(token), { stream: true }),
        end: () => decoder.decode(),
      }
    },
    describe: () => ({ name: 'bpe', json }),
    byteEnds(text) {
      let end = 0
      const ends = encode(text).map((token) => (end += bytesOf(token).length))
      const length = new TextEncoder().encode(text).length
      if (end !== length)
        throw new DataError(
          `the tokens of "${text.slice(0, 40)}…" stand for ${end} bytes, not for the ${length} of the text: ` +
            'the tokenizer normalises it, so that its words cannot be found again',
          { tokens: end, text: length },
        )
      return ends
    },
  }
}

/** The byte that each character of a token stands for (GPT-2's alphabet: printable ones stand for themselves). */
const byteOf: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>()
  let next = 256
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad)
    map.set(String.fromCharCode(printable ? byte : next++), byte)
  }
  return map
})()

/** Whether a part of a tokenizer.json, or one in its sequence, is of this type. */
function mentions(part: unknown, type: string): boolean {
  if (Array.isArray(part)) return part.some((each) => mentions(each, type))
  if (typeof part !== 'object' || part === null) return false
  const { type: own, decoders, pretokenizers } = part as Record<string, unknown>
  return own === type || mentions(decoders, type) || mentions(pretokenizers, type)
}

/** The same without a space put before the text: a text is read in pieces, and none is longer than it is. */
function withoutPrefix(json: unknown): unknown {
  return JSON.parse(
    JSON.stringify(json, (key, value) => (key === 'add_prefix_space' && value === true ? false : value)),
  )
}
