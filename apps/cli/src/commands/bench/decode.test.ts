/** What the decode benchmark claims of long contexts: a stream that begins late is the stream that read everything. */
import { useBackend } from '@lethe/backends'
import { Random } from '@lethe/core'
import { dispose, tensor1d, tensor2d, memory as tensorMemory } from '@tensorflow/tfjs-core'
import { beforeAll, expect, test } from 'vitest'
import type { Given } from '../../options'
import { decoderOf, settingsOf } from '../../settings'
import { emptyMemory, rememberedTokens } from './decode'

beforeAll(async () => {
  await useBackend('cpu')
})

const sizes: Given = { layers: 2, width: 8, heads: 2, 'feed-forward': 8, span: 8, block: 4 }

test.each<Given>([
  { method: 'fixed-span' },
  { method: 'fixed-span', preset: 'fair' },
  { method: 'adaptive-span', ramp: 2, 'initial-span': 3 },
  { method: 'expire-span', ramp: 2, 'initial-span': 5 },
  { method: 'compressive', rate: 2, compressed: 3 },
  { method: 'selective' },
])('$method $preset: what is remembered does not depend on what is out of reach', async (given) => {
  const settings = settingsOf({ ...sizes, ...given })
  const decoder = decoderOf(settings, 16)
  await decoder.afterUpdate()
  const needed = decoder.config.layers * rememberedTokens(settings)
  // A whole number of blocks and of what is compressed together.
  const late = 64
  const length = Math.ceil((late + needed) / 4) * 4
  const random = new Random(3)
  const text = Array.from({ length: length + 3 }, () => random.integer(16))
  const before = tensorMemory().numTensors
  /** Logits of the last three tokens of the stream that begins at `start`. */
  const logitsFrom = async (start: number) => {
    let memory = await emptyMemory(decoder, start)
    expect(memory.step).toBe(start)
    for (let step = start; step < length; step += 4) {
      const tokens = tensor2d(text.slice(step, step + 4), [1, 4], 'int32')
      const result = decoder.forward(tokens, memory)
      dispose([tokens, result.logits, result.penalty])
      memory = await decoder.compact(result.memory)
    }
    let arena = decoder.startDecoding(memory)
    const logits: number[] = []
    for (const token of text.slice(length)) {
      const tokens = tensor1d([token], 'int32')
      const result = decoder.decode(tokens, arena)
      arena = result.memory
      logits.push(...(await result.logits.data()))
      dispose([tokens, result.logits])
    }
    expect(arena.step).toBe(length + 3)
    arena.dispose()
    return logits
  }
  const [whole, begunLate] = [await logitsFrom(0), await logitsFrom(late)]
  for (const [index, value] of whole.entries()) expect(begunLate[index]).toBeCloseTo(value, 4)
  // One that begins too late is another stream.
  const tooLate = await logitsFrom(length - 4)
  expect(Math.max(...whole.map((value, index) => Math.abs(tooLate[index]! - value)))).toBeGreaterThan(1e-3)
  expect(tensorMemory().numTensors).toBe(before)
  decoder.dispose()
})
