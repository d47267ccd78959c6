/** A memory of streaming decode is written into where it lies, but for what a clone of it holds. */
import { useBackend } from '@lethe/backends'
import { dispose, tensor1d, memory as tensorMemory } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import type { DecodeMemory } from './decode'
import { Decoder } from './decoder'
import { fixedSpan } from './fixed-span'

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
  })

  const decoderOf = () =>
    new Decoder({ vocabulary: 7, width: 8, heads: 2, layers: 2, method: fixedSpan({ span: 5 }) })

  /** Reads tokens one by one; logits of all of them, and the memory after them. */
  async function read(decoder: Decoder, tokens: readonly number[], start: DecodeMemory) {
    let memory = start
    const logits: number[] = []
    for (const token of tokens) {
      const input = tensor1d([token], 'int32')
      const step = decoder.decode(input, memory)
      logits.push(...(await step.logits.data()))
      dispose([input, step.logits])
      memory = step.memory
    }
    return { logits, memory }
  }

  test('branches of one memory do not see each other', async () => {
    const decoder = decoderOf()
    const start = () => decoder.startDecoding(decoder.initialMemory(1))
    const before = tensorMemory().numTensors
    const { memory: stem } = await read(decoder, [1, 2, 3, 4, 5, 6], start())
    const fork = stem.clone()
    const other = stem.clone()
    const [first, second] = [await read(decoder, [1, 1, 1], stem), await read(decoder, [2, 5, 2], fork)]
    for (const [tokens, branch] of [
      [[1, 1, 1], first],
      [[2, 5, 2], second],
      [[6], await read(decoder, [6], other)],
    ] as const) {
      const alone = await read(decoder, [1, 2, 3, 4, 5, 6, ...tokens], start())
      expect(branch.logits).toEqual(alone.logits.slice(6 * 7))
      branch.memory.dispose()
      alone.memory.dispose()
    }
    expect(tensorMemory().numTensors).toBe(before)
    decoder.dispose()
  })

  test('a memory whose step fails half-way is not used again', async () => {
    const decoder = decoderOf()
    const { memory } = await read(decoder, [1, 2, 3], decoder.startDecoding(decoder.initialMemory(1)))
    const before = tensorMemory().numTensors
    const held = [...Object.values(memory.layers[0]!.tensors), ...Object.values(memory.layers[1]!.tensors)]
      .length
    const failing = vi.spyOn(decoder as unknown as { output(): never }, 'output').mockImplementation(() => {
      throw new Error('no room')
    })
    const token = tensor1d([4], 'int32')
    expect(() => decoder.decode(token, memory)).toThrow('no room')
    failing.mockRestore()
    expect(memory.disposed).toBe(true)
    expect(() => decoder.decode(token, memory)).toThrow('disposed of')
    token.dispose()
    expect(tensorMemory().numTensors).toBe(before - held)
    decoder.dispose()
  })
})
