/** Text from a decoder: the prompt is read by blocks, then one token after the other at constant cost. */
import type { Decoder } from '@lethe/core'
import { breathe, Random } from '@lethe/core'
import { slice, tensor1d, tensor2d, tidy } from '@tensorflow/tfjs-core'
import { checkWhole } from './checks'
import { DataError, OptionError } from './errors'
import type { SamplingOptions } from './sampling'
import { checkSampling, sampleToken } from './sampling'
import type { Tokenizer } from './tokenizers'

/** Tokens after which the memory gives back the places of slots that died. */
const compactEvery = 64

export interface GenerateOptions extends SamplingOptions {
  readonly decoder: Decoder
  readonly tokenizer: Tokenizer
  /** The text to go on from; where it has no tokens, a line break. */
  readonly prompt?: string
  /** How many tokens to generate: default 200. */
  readonly tokens?: number
  /** Default 0. */
  readonly seed?: number
  /** Tokens of the prompt read at a time: default 64. */
  readonly block?: number
  /**
   * What tokens are decoded with: float16 is a copy with half the bytes to read for each, where the backend has kernels for it
   * (WebGPU), and less exact. Default float32.
   */
  readonly weights?: 'float32' | 'float16' | undefined
  /** Ends the text early, without an error. */
  readonly signal?: AbortSignal | undefined
}

export interface GeneratedToken {
  readonly token: number
  /** The characters that this token completed; empty in the middle of a UTF-8 sequence. */
  readonly text: string
  /** Bytes allocated for the memory that the token was drawn from. */
  readonly memoryBytes: number
}

/** Yields token by token; the texts together are the generated text, without the prompt. */
export async function* generate(options: GenerateOptions): AsyncGenerator<GeneratedToken, void, undefined> {
  const { decoder, tokenizer, tokens = 200, seed = 0, block = 64, weights = 'float32', signal } = options
  checkSampling(options)
  checkWhole('tokens', tokens, 0)
  checkWhole('block', block)
  if (weights !== 'float32' && weights !== 'float16')
    throw new OptionError(`weights must be float32 or float16, not ${weights}`, { weights })
  if (tokenizer.vocabulary !== decoder.config.vocabulary)
    throw new DataError(
      `the tokenizer has ${tokenizer.vocabulary} tokens, the decoder ${decoder.config.vocabulary}: use the one it was trained with`,
      { tokenizer: tokenizer.vocabulary, decoder: decoder.config.vocabulary },
    )
  const random = new Random(seed)
  const given = tokenizer.encode(options.prompt ?? '')
  const prompt = given.length > 0 ? given : tokenizer.encode('\n')
  if (tokens === 0) return
  // First of all, as it refuses backends that cannot serve it.
  const float16 = weights === 'float16' ? await decoder.float16Weights() : undefined

  let reading = decoder.initialMemory(1)
  let logits: Float32Array
  try {
    let position = 0
    do {
      const part = prompt.subarray(position, position + block)
      const input = tensor2d(part, [1, part.length], 'int32')
      const result = decoder.forward(input, reading)
      reading = await decoder.compact(result.memory)
      position += part.length
      const last = tidy(() => slice(result.logits, [0, part.length - 1, 0], [1, 1, -1]))
      for (const used of [input, result.logits, result.penalty]) used.dispose()
      logits = (await last.data()) as Float32Array
      last.dispose()
      await breathe()
    } while (position < prompt.length && !signal?.aborted)
  } catch (error) {
    reading.dispose()
    float16?.dispose()
    throw error
  }

  let memory = decoder.startDecoding(reading)
  try {
    const text = tokenizer.decoder()
    // What a token reads like may depend on the one before: a word follows a space.
    for (const token of prompt) text.push(token)
    for (let count = 1; count <= tokens && !signal?.aborted; count++) {
      const token = sampleToken(logits, options, random)
      const last = count === tokens
      yield { token, text: text.push(token) + (last ? text.end() : ''), memoryBytes: memory.bytes }
      if (last) break
      const input = tensor1d([token], 'int32')
      const result = decoder.decode(input, memory, { weights: float16 })
      memory = count % compactEvery === 0 ? await decoder.compactDecoding(result.memory) : result.memory
      input.dispose()
      logits = (await result.logits.data()) as Float32Array
      result.logits.dispose()
      await breathe()
    }
  } finally {
    memory.dispose()
    float16?.dispose()
  }
}
