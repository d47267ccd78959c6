import { expect, test } from 'vitest'
import { tokenizerFromDescription } from './tokenizers'
import { addWords, lineEnd, unknownWord, wordsIn, wordsTokenizer } from './words'

const text = ' the cat saw the dog \n the <unk> saw\n'
const counted = (text: string) => {
  const counts = new Map<string, number>()
  addWords(counts, text)
  return counts
}

test('words in falling order of their counts, after <unk> and the line break', () => {
  const tokenizer = wordsTokenizer(counted(text))
  expect(tokenizer.vocabulary).toBe(2 + 4)
  // the 3 times, saw twice, cat and dog once each.
  expect([...tokenizer.encode(text)]).toEqual([2, 4, 3, 2, 5, lineEnd, 2, unknownWord, 3, lineEnd])
  expect(tokenizer.decode(tokenizer.encode(text))).toBe('the cat saw the dog\nthe <unk> saw\n')
})

test('a limit and a least count leave out the rarest words', () => {
  expect(wordsTokenizer(counted(text), { size: 4 }).encode('the cat saw')).toEqual(Int32Array.of(2, 0, 3))
  expect(wordsTokenizer(counted(text), { minCount: 2 }).vocabulary).toBe(4)
  expect(() => wordsTokenizer(counted(text), { size: 2 })).toThrow(/size of at least 3, not 2/)
})

test('token by token it says the same as at once', () => {
  const tokenizer = wordsTokenizer(counted(text))
  const tokens = tokenizer.encode(text)
  const decoder = tokenizer.decoder()
  const pieces = Array.from(tokens, (token) => decoder.push(token))
  expect(pieces.join('') + decoder.end()).toBe(tokenizer.decode(tokens))
})

test('a description makes the same tokenizer again', () => {
  for (const counts of [counted(text), new Map<string, number>()]) {
    const tokenizer = wordsTokenizer(counts)
    const again = tokenizerFromDescription(JSON.parse(JSON.stringify(tokenizer.describe())))
    expect(again.vocabulary).toBe(tokenizer.vocabulary)
    expect(again.encode(text)).toEqual(tokenizer.encode(text))
  }
})

test('tokens end where their words end, in bytes', () => {
  const tokenizer = wordsTokenizer(counted('é'))
  expect([...tokenizer.byteEnds!('é  虫\n\n x ')]).toEqual([2, 7, 8, 9, 11])
})

test('words are counted as what stands between white space', () => {
  expect(wordsIn('')).toBe(0)
  expect(wordsIn(' \n\t ')).toBe(0)
  expect(wordsIn("It's  one-two,\nthree\u00a0four ")).toBe(4)
  const counts = new Map<string, number>()
  addWords(counts, 'a\n\na b\n', true)
  expect(Object.fromEntries(counts)).toEqual({ a: 2, b: 1, '\n': 3 })
})
