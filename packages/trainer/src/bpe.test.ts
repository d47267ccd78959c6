/** Against the encodings of Python's tokenizers (bpe.fixture.json says how they were made). */
import { describe, expect, test } from 'vitest'
import { bpeFromDescription, bpeTokenizer } from './bpe'
import fixture from './bpe.fixture.json'
import { openString } from './text'
import { tokenizerFromDescription } from './tokenizers'

const tokenizer = bpeTokenizer(fixture.tokenizer)

test.each(fixture.encodings)('$text', ({ text, ids }) => {
  expect(tokenizer.vocabulary).toBe(384)
  expect([...tokenizer.encode(text)]).toEqual(ids)
  expect(tokenizer.decode(ids)).toBe(text)
  const decoder = tokenizer.decoder()
  const pieces = ids.map((token) => decoder.push(token))
  expect(pieces.join('') + decoder.end()).toBe(text)
  for (const piece of pieces) expect(piece).not.toContain('\ufffd')
})

test('tokens end at bytes of the text that are theirs', () => {
  const { text, ids } = fixture.encodings[1]!
  const bytes = new TextEncoder().encode(text)
  const ends = [...tokenizer.byteEnds!(text)]
  expect(ends.at(-1)).toBe(bytes.length)
  // Each token alone stands for its stretch of the text, where that is whole characters.
  for (const [index, end] of ends.entries()) {
    const alone = tokenizer.decode([ids[index]!])
    const part = new TextDecoder().decode(bytes.subarray(ends[index - 1] ?? 0, end))
    if (!alone.includes('\ufffd')) expect(part).toBe(alone)
  }
})

test('a description makes the same tokenizer again, and says what is needed', () => {
  const description = JSON.parse(JSON.stringify(tokenizer.describe()))
  const { text, ids } = fixture.encodings[0]!
  expect([...bpeFromDescription(description).encode(text)]).toEqual(ids)
  expect(() => tokenizerFromDescription(description)).toThrow(/bpeFromDescription of '@lethe\/trainer\/bpe'/)
  expect(() => bpeFromDescription({ name: 'bytes' })).toThrow(/no BPE tokenizer but "bytes"/)
})

test('a text that is read in pieces has the tokens of the whole', async () => {
  const line = 'What say you, sir? I do beseech your grace to hear me; good my lord, speak on.\n\n  '
  const text = line.repeat(2000)
  const { train, validation } = await openString(text, { tokenizer })
  const whole = [...tokenizer.encode(text.slice(0, train.bytes))]
  expect([...(await train.read(0, train.length))]).toEqual(whole)
  expect(validation.bytes + train.bytes).toBe(text.length)
  for (const start of [0, 25_000, 51_234])
    expect([...(await train.read(start, start + 99))]).toEqual(whole.slice(start, start + 99))
})

describe('is refused', () => {
  const changed = (change: object) => ({ ...fixture.tokenizer, ...change })
  test.each([
    [null, /its model is null/],
    [{ model: { type: 'Unigram' } }, /its model is "Unigram"/],
    [changed({ decoder: { type: 'Metaspace' } }), /not byte-level/],
    [changed({ normalizer: { type: 'Lowercase' } }), /changes the text first \(Lowercase\)/],
  ] as [unknown, RegExp][])('%#', (json, message) => {
    expect(() => bpeTokenizer(json)).toThrow(message)
  })
})

test('a space before the text is not made up', () => {
  const prefixed = {
    ...fixture.tokenizer,
    pre_tokenizer: { ...fixture.tokenizer.pre_tokenizer, add_prefix_space: true },
  }
  const { text, ids } = fixture.encodings[0]!
  expect([...bpeTokenizer(prefixed).encode(text)]).toEqual(ids)
})
