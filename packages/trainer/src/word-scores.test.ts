import { useBackend } from '@lethe/backends'
import { Decoder, fixedSpan } from '@lethe/core'
import { memory, tensor2d } from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { bpeTokenizer } from './bpe'
import fixture from './bpe.fixture.json'
import { evaluate } from './evaluate'
import { countWords, measureText, openBytes, openString, type TextOptions } from './text'
import { frequencyBuckets, TokenLosses, textScores } from './word-scores'

const text = 'the cat saw lethe.\n the dog, été saw the cat\n'.repeat(30)
const counts = new Map([
  ['the', 10_001],
  ['cat', 10_000],
  ['saw', 1000],
  ['dog,', 999],
  ['été', 100],
  ['\n', 50_000],
])

/** All of a text as its training part. */
async function wholeText(text: string, options: TextOptions = {}) {
  const bytes = new TextEncoder().encode(text)
  const parts = { train: bytes.length, validation: bytes.length }
  const read = async (start: number, end: number) => bytes.subarray(start, end)
  return openBytes({ length: bytes.length, parts, read }, options)
}

/** Losses of 1 for each byte of a token's stretch of the text, so that a word's loss is its bytes and spaces. */
async function byteLosses(source: Awaited<ReturnType<typeof openString>>['validation']) {
  const losses: number[] = []
  for await (const { ends } of source.pieces())
    for (const [index, end] of ends.entries()) losses.push(end - (ends[index - 1] ?? 0))
  return Float32Array.from(losses)
}

describe.each(['bytes', 'characters', bpeTokenizer(fixture.tokenizer)] as const)('%#', (tokenizer) => {
  test('a word’s loss is the sum of its tokens’, white space before it included', async () => {
    const { train } = await wholeText(text, { tokenizer })
    const buckets = await frequencyBuckets(train, await byteLosses(train), counts)
    expect(buckets.map(({ from, below, words }) => [from, below, words])).toEqual([
      [10_001, Number.POSITIVE_INFINITY, 3 * 30],
      [1000, 10_001, 4 * 30],
      [100, 1000, 2 * 30],
      [0, 100, 30],
    ])
    // 'the' begins a text of lines: 3 bytes once, '\n the' 5, '\nthe' 4, ' the' 4.
    expect(buckets[0]!.loss * 90).toBeCloseTo(3 + 29 * 4 + 30 * 5 + 30 * 4, 6)
    expect(buckets[1]!.loss).toBe(4)
    expect(buckets[2]!.loss * 60).toBeCloseTo(30 * (5 + 6), 6)
    expect(buckets[3]!.loss).toBe(7)
    expect(buckets[3]!.perplexity).toBeCloseTo(Math.exp(7), 6)
  })
})

test('where tokens are words, line breaks are words too, and <unk> counts as the word it stands for', async () => {
  const { train, tokenizer } = await wholeText(text, { tokenizer: 'words', vocabulary: 4 })
  expect(tokenizer.vocabulary).toBe(4)
  const losses = Float32Array.from({ length: train.length }, () => 2)
  const buckets = await frequencyBuckets(train, losses, counts, true)
  expect(buckets.map(({ words }) => words)).toEqual([30 * 3 + 60, 30 * 4, 30 * 2, 30])
  for (const { loss } of buckets) expect(loss).toBe(2)
})

test('losses of another text are refused; no words, no perplexity', async () => {
  const { train } = await openString('a b c d e f')
  await expect(frequencyBuckets(train, new Float32Array(3), counts)).rejects.toThrow(
    /the text has 9 tokens, and there are 3 losses/,
  )
  expect((await frequencyBuckets(train, new Float32Array(9), counts))[0]).toMatchObject({
    words: 0,
    perplexity: Number.NaN,
  })
})

test('per word and per character', async () => {
  const { train } = await openString('éé bb cc dd ee')
  const counted = await measureText(train.text())
  expect(counted).toEqual({ words: 4, characters: 12 })
  const { wordPerplexity, bitsPerCharacter } = textScores(
    { loss: 2, tokens: 10, perplexity: 0, slots: 0 },
    counted,
  )
  expect(wordPerplexity).toBeCloseTo(Math.exp(5), 10)
  expect(bitsPerCharacter).toBeCloseTo(20 / Math.LN2 / 12, 10)
  expect((await countWords(train.text())).get('éé')).toBe(1)
})

test.each([1, 3, 4])('the losses of tokens are collected in order, from %i streams', async (batch) => {
  await useBackend('cpu')
  const decoder = new Decoder(
    { vocabulary: 256, layers: 1, width: 8, heads: 1, feedForward: 8, method: fixedSpan({ span: 9 }) },
    { seed: 2 },
  )
  await decoder.afterUpdate()
  const { train } = await openString('once more unto the breach, dear friends')
  const before = memory().numTensors
  const collected = new TokenLosses(train, batch)
  const result = await evaluate({
    decoder,
    source: train,
    batch,
    block: 4,
    onBlock: collected.add,
    eachLoss: true,
  })
  const plain = await evaluate({ decoder, source: train, batch, block: 4 })
  expect(memory().numTensors).toBe(before)
  expect(result.loss).toBeCloseTo(plain.loss, 5)
  // Each stream alone, in one block, by the softmax of its logits.
  const tokens = await train.read(0, train.length)
  const expected = [0]
  const lengths = Array.from({ length: batch }, (_, row) =>
    Math.floor((train.length - 1 + batch - 1 - row) / batch),
  )
  expect(lengths.reduce((a, b) => a + b)).toBe(train.length - 1)
  let start = 0
  for (const length of lengths) {
    const input = tensor2d(tokens.subarray(start, start + length), [1, length], 'int32')
    const { logits, memory: kept } = decoder.forward(input, decoder.initialMemory(1))
    const rows = (await logits.array()) as number[][][]
    for (const [index, row] of rows[0]!.entries()) {
      const total = row.reduce((sum, logit) => sum + Math.exp(logit), 0)
      expected.push(Math.log(total) - row[tokens[start + index + 1]!]!)
    }
    kept.dispose()
    start += length
  }
  expect(collected.losses.length).toBe(expected.length)
  for (const [index, loss] of collected.losses.entries()) expect(loss).toBeCloseTo(expected[index]!, 4)
  decoder.dispose()
})
