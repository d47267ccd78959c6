import { useBackend } from '@lethe/backends'
import { Decoder, fixedSpan } from '@lethe/core'
import { memory } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import type { GenerateOptions } from './generate'
import { generate } from './generate'
import { likeliest } from './sampling'
import { bytesTokenizer, charactersTokenizer } from './tokenizers'
import { wordsFromList } from './words'

const make = (vocabulary: number) =>
  new Decoder(
    { vocabulary, layers: 2, width: 8, heads: 2, feedForward: 16, method: fixedSpan({ span: 10 }) },
    { seed: 5 },
  )

async function run(options: GenerateOptions) {
  const tokens: number[] = []
  let text = ''
  for await (const part of generate(options)) {
    tokens.push(part.token)
    text += part.text
  }
  return { tokens, text }
}

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
  })

  test('the same seed gives the same text, another seed another one, and nothing leaks', async () => {
    const decoder = make(256)
    const tokenizer = bytesTokenizer()
    const before = memory().numTensors
    const options = {
      decoder,
      tokenizer,
      prompt: 'a prompt longer than the span',
      tokens: 30,
      block: 8,
      temperature: 0.9,
    }
    const first = await run({ ...options, seed: 1 })
    expect(await run({ ...options, seed: 1 })).toEqual(first)
    expect(await run({ ...options, seed: 2 })).not.toEqual(first)
    expect(first.tokens).toHaveLength(30)
    expect(first.text).toBe(tokenizer.decode(first.tokens))
    for await (const { text } of generate(options)) if (text) break
    expect(memory().numTensors).toBe(before)
    decoder.dispose()
  })

  test('float16 weights are refused where there are no kernels for them, and so is what is no format', async () => {
    const decoder = make(256)
    const tokenizer = bytesTokenizer()
    const before = memory().numTensors
    await expect(run({ decoder, tokenizer, weights: 'float16' })).rejects.toThrow(
      `the backend ${backend} has no`,
    )
    await expect(run({ decoder, tokenizer, weights: 'f16' as never })).rejects.toThrow(
      'float32 or float16, not f16',
    )
    expect(memory().numTensors).toBe(before)
    decoder.dispose()
  })

  test('greedy tokens are those that reading the whole text anew finds likeliest', async () => {
    const decoder = make(5)
    const tokenizer = charactersTokenizer('abcd')
    const prompt = 'abcdabc'
    const { tokens, text } = await run({ decoder, tokenizer, prompt, tokens: 12, block: 3, temperature: 0 })
    const read = [...tokenizer.encode(prompt)]
    const { tensor2d } = await import('@tensorflow/tfjs-core')
    for (const token of tokens) {
      const result = decoder.forward(tensor2d(read, [1, read.length], 'int32'), decoder.initialMemory(1))
      const logits = await result.logits.data()
      expect(token).toBe(likeliest(logits.slice(-5)))
      read.push(token)
    }
    expect(text).toBe(tokenizer.decode(tokens))
    decoder.dispose()
  })
})

test('words follow the prompt as they follow each other; white space alone is no prompt', async () => {
  await useBackend('cpu')
  const decoder = make(4)
  const tokenizer = wordsFromList(['the', 'river'])
  const options = { decoder, tokenizer, tokens: 8, temperature: 0 }
  const { tokens, text } = await run({ ...options, prompt: 'the river' })
  expect(`the river${text}`).toBe(tokenizer.decode([2, 3, ...tokens]))
  expect(await run({ ...options, prompt: '  ' })).toEqual(await run({ ...options, prompt: '\n' }))
  decoder.dispose()
})

test('a signal ends the text early; wrong options are refused', async () => {
  await useBackend('cpu')
  const decoder = make(256)
  const tokenizer = bytesTokenizer()
  const controller = new AbortController()
  let count = 0
  for await (const _ of generate({ decoder, tokenizer, tokens: 100, signal: controller.signal }))
    if (++count === 3) controller.abort()
  expect(count).toBe(3)
  await expect(run({ decoder, tokenizer: charactersTokenizer('ab') })).rejects.toThrow(
    /tokenizer has 3 tokens, the decoder 256/,
  )
  await expect(run({ decoder, tokenizer, temperature: -1 })).rejects.toThrow(/temperature/)
  await expect(run({ decoder, tokenizer, tokens: 1.5 })).rejects.toThrow(/tokens must be/)
  await expect(run({ decoder, tokenizer, block: 0 })).rejects.toThrow(/block must be a whole number/)
  decoder.dispose()
})
