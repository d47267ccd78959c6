import { expect, test } from 'vitest'
import { bytesTokenizer, charactersTokenizer, tokenizerFromDescription, unknownCharacter } from './tokenizers'

const text = 'Ein Käfer, 虫, 🪲 — ok\n'

test('bytes are the text’s UTF-8 form', () => {
  const tokenizer = bytesTokenizer()
  expect([...tokenizer.encode('é')]).toEqual([0xc3, 0xa9])
  expect(tokenizer.decode(tokenizer.encode(text))).toBe(text)
})

test.each([bytesTokenizer(), charactersTokenizer(text)])(
  '$name stream whole characters only',
  (tokenizer) => {
    const decoder = tokenizer.decoder()
    const pieces = [...tokenizer.encode(text)].map((token) => decoder.push(token))
    expect(pieces.join('') + decoder.end()).toBe(text)
    for (const piece of pieces) expect(piece).not.toContain('\ufffd')
  },
)

test('a cut-off character is shown as U+FFFD at the end, a byte order mark survives', () => {
  const decoder = bytesTokenizer().decoder()
  expect(decoder.push(0xf0) + decoder.push(0x9f)).toBe('')
  expect(decoder.end()).toBe('\ufffd')
  expect(bytesTokenizer().decode([0xef, 0xbb, 0xbf, 65])).toBe('\ufeffA')
})

test('characters are code points in ascending order after the unknown one', () => {
  const tokenizer = charactersTokenizer('cab🪲a')
  expect(tokenizer.vocabulary).toBe(5)
  expect([...tokenizer.encode('abc🪲z')]).toEqual([1, 2, 3, 4, unknownCharacter])
  expect(tokenizer.decode([1, 4, 0, 99])).toBe('a🪲\ufffd\ufffd')
})

test('a description makes the same tokenizer again', () => {
  for (const tokenizer of [bytesTokenizer(), charactersTokenizer(text)]) {
    const again = tokenizerFromDescription(JSON.parse(JSON.stringify(tokenizer.describe())))
    expect(again.vocabulary).toBe(tokenizer.vocabulary)
    expect(again.encode(text)).toEqual(tokenizer.encode(text))
  }
  expect(() => tokenizerFromDescription({ name: 'words' })).toThrow(/no description of a tokenizer/)
})
