/** What the decoder promises beyond the conformance laws: configurations, errors, dropout, state. */
import { useBackend } from '@lethe/backends'
import {
  memory as engineMemory,
  getKernel,
  registerKernel,
  tensor1d,
  tensor2d,
  unregisterKernel,
  zeros,
} from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import type { DecoderConfig } from './config'
import { Decoder } from './decoder'
import { ConfigError, FormatError, MemoryError, ShapeError } from './errors'
import { fixedSpan } from './fixed-span'
import { registerGradients } from './gradients'
import { presets } from './presets'
import { Random } from './random'
import { decodeSafetensors, encodeSafetensors } from './safetensors'
import { heaviestSlots } from './testing/heaviest-slots'

const small = { vocabulary: 7, layers: 2, width: 8, heads: 2, feedForward: 12 } as const
const config = (more: Partial<DecoderConfig> = {}): DecoderConfig => ({
  ...small,
  method: fixedSpan({ span: 6 }),
  ...more,
})
const tokens = (...rows: number[][]) => tensor2d(rows, [rows.length, rows[0]!.length], 'int32')

beforeAll(async () => {
  await useBackend('cpu')
  registerGradients()
})

describe('configuration', () => {
  test.each<[string, Partial<DecoderConfig> & Record<string, unknown>, RegExp]>([
    [
      'sinusoids for slots of any age',
      { positions: 'sinusoidal', method: heaviestSlots({ budget: 4 }) },
      /set farthestPosition/,
    ],
    ['layer drop', { layerDrop: 1 }, /layerDrop must lie in \[0, 1\), not 1/],
    ['width and heads', { width: 10, heads: 4 }, /width 10 is not divisible by 4 heads/],
    ['no layers', { layers: 0 }, /layers must be a whole number from 1 up, not 0/],
    ['a typo', { headsize: 4 }, /unknown field "headsize"/],
    ['a choice', { norm: 'batch' as never }, /norm must be one of layer, rms, not "batch"/],
    ['dropout', { dropout: 1 }, /dropout must lie in \[0, 1\), not 1/],
    ['methods per layer', { method: [fixedSpan({ span: 2 })] }, /1 methods for 2 layers/],
    ['nothing to attend to', { attendSelf: false }, /initialMemory: 'zeros'/],
    ['odd rotary', { width: 6, heads: 2 }, /even headSize, not 3/],
    [
      'endless learned table',
      { positions: 'learned', method: fixedSpan({ span: 2, sameLength: false }) },
      /learnedDistances/,
    ],
    ['a scale that is no number', { embeddingScale: 'sqrt' as never }, /embeddingScale must be a number or/],
    ['a scale of nothing', { embeddingScale: Number.NaN }, /embeddingScale must be .*, not NaN/],
    ['epsilon', { epsilon: Number.NaN }, /epsilon must be a number above 0, not NaN/],
    ['a part of a step', { farthestPosition: 0.5 }, /farthestPosition must be a whole number from 1 up/],
    ['a word for a switch', { tiedOutput: 'false' as never }, /tiedOutput must be true or false, not false/],
    ['another interface', { method: { ...fixedSpan({ span: 2 }), specVersion: 2 as never } }, /version 2/],
  ])('%s is refused before any tensor is made', (_, more, message) => {
    const before = engineMemory().numTensors
    expect(() => new Decoder(config(more))).toThrow(message)
    expect(() => new Decoder(config(more))).toThrow(ConfigError)
    expect(engineMemory().numTensors).toBe(before)
  })

  test('a span that is no count is refused, and what is no option', () => {
    expect(() => fixedSpan({ span: 1.5 })).toThrow(/span must be a whole number from 1 up, not 1.5/)
    expect(() => fixedSpan({ span: 2, samelength: false } as never)).toThrow(/unknown option "samelength"/)
    expect(() => fixedSpan({ span: 2, sameLength: 0 as never })).toThrow(/sameLength must be true or false/)
  })

  test('a description makes the same decoder again', async () => {
    const decoder = new Decoder(config({ ...presets.fair.decoder, dropout: 0.1 }), { seed: 4 })
    const json = JSON.parse(JSON.stringify(decoder.describe()))
    const again = Decoder.fromDescription(json, { 'fixed-span': fixedSpan }, { seed: 4 })
    expect(again.describe()).toEqual(decoder.describe())
    expect(await again.fingerprint()).toBe(await decoder.fingerprint())
    expect(() => Decoder.fromDescription(json, {})).toThrow(/unknown method "fixed-span"/)
    const method = [{ name: 'toString', options: {} }]
    expect(() => Decoder.fromDescription({ ...json, method }, {})).toThrow(/unknown method "toString"/)
    decoder.dispose()
    again.dispose()
  })

  test.each(Object.entries(presets))('preset %s builds and reads', (_, preset) => {
    const shrunk = { layers: 2, width: 8, heads: 2, headSize: 4, feedForward: 12 }
    const decoder = new Decoder(config({ ...preset.decoder, ...shrunk, dropout: 0 }))
    const result = decoder.forward(tokens([1, 2, 3]), decoder.initialMemory(1))
    expect(result.logits.shape).toEqual([1, 3, 7])
    expect(result.logits.dataSync().every(Number.isFinite)).toBe(true)
    for (const value of [result.logits, result.penalty, result.memory, decoder]) value.dispose()
  })

  test('the size of a published configuration', () => {
    const { decoder } = presets['adaptive-span-enwik8']
    // 12 layers of 4·512² + 2·512·2048 and biases: papers.md gives 39M with a span of 8192.
    const perLayer = 4 * 512 * 512 + 2 * 512 * 2048 + 2048 + 512 + 4 * 512
    expect(decoder.layers).toBe(12)
    expect(12 * perLayer).toBeGreaterThan(37e6)
    expect(12 * perLayer).toBeLessThan(39e6)
  })
})

describe('stacks', () => {
  test('layers may have different methods, and the memory says so', () => {
    const decoder = new Decoder(config({ method: [fixedSpan({ span: 2 }), fixedSpan({ span: 5 })] }))
    let memory = decoder.initialMemory(1)
    for (let block = 0; block < 3; block++) {
      const result = decoder.forward(tokens([1, 2, 3, 4]), memory)
      memory = result.memory
      result.logits.dispose()
      result.penalty.dispose()
    }
    expect(memory.layers.map(({ tensors }) => tensors.hidden!.shape)).toEqual([
      [1, 2, 8],
      [1, 5, 8],
    ])
    expect(memory.slots).toBe(3.5)
    expect(memory.bytes).toBe(7 * 8 * 4)
    memory.dispose()
    decoder.dispose()
  })

  test('the output layer can be the embedding', () => {
    const tied = new Decoder(config({ tiedOutput: true, outputBias: true }))
    expect([...tied.parameters.keys()]).not.toContain('output.weight')
    const [inputs, targets] = [tokens([1, 2]), tokens([2, 3])]
    const result = tied.gradients(inputs, targets, tied.initialMemory(1))
    expect(Object.keys(result.gradients)).toHaveLength(tied.parameters.size)
    for (const value of [inputs, targets, result.loss, result.penalty, result.memory, tied]) value.dispose()
    for (const value of Object.values(result.gradients)) value.dispose()
  })
})

test('a backend without a segment sum gives the same gradient of the embedding', async () => {
  const decoder = new Decoder(config())
  const [inputs, targets] = [tokens([1, 2, 1, 5]), tokens([2, 1, 5, 0])]
  const gradient = async () => {
    const step = decoder.gradients(inputs, targets, decoder.initialMemory(1))
    const values = await step.gradients['embedding.weight']!.data()
    for (const value of [step.loss, step.penalty, step.memory, ...Object.values(step.gradients)])
      value.dispose()
    return Array.from(values)
  }
  const expected = await gradient()
  const kernel = getKernel('UnsortedSegmentSum', 'cpu')
  unregisterKernel('UnsortedSegmentSum', 'cpu')
  const found = await gradient()
  registerKernel(kernel)
  found.forEach((value, index) => {
    expect(value).toBeCloseTo(expected[index]!, 6)
  })
  for (const value of [inputs, targets, decoder]) value.dispose()
})

describe('dropout', () => {
  test('is drawn from the seed, off in evaluation, and needs a generator', async () => {
    const decoder = new Decoder(config({ dropout: 0.5 }))
    const input = tokens([1, 2, 3, 4])
    const logits = async (options: Parameters<Decoder['forward']>[2]) => {
      const result = decoder.forward(input, decoder.initialMemory(1), options)
      const values = await result.logits.data()
      for (const value of [result.logits, result.penalty, result.memory]) value.dispose()
      return values
    }
    const train = (seed: number) => logits({ training: true, random: new Random(seed) })
    expect(await train(1)).toEqual(await train(1))
    expect(await train(1)).not.toEqual(await train(2))
    expect(await logits({})).toEqual(await logits({ random: new Random(5) }))
    expect(await train(1)).not.toEqual(await logits({}))
    await expect(logits({ training: true })).rejects.toThrow(/random generator/)
    input.dispose()
    decoder.dispose()
  })
})

describe('wrong input', () => {
  test('leaves the memory as it was', async () => {
    const decoder = new Decoder(config())
    const memory = decoder.initialMemory(2)
    expect(() => decoder.forward(tokens([1, 2]), memory)).toThrow(ShapeError)
    expect(() => decoder.forward(tokens([1, 2]), memory)).toThrow(/int32 \[2, block\], not int32 \[1,2\]/)
    expect(() => decoder.forward(tensor2d([[1], [2]]), memory)).toThrow(/not float32/)
    expect(() => decoder.evaluate(tokens([1], [2]), tokens([1, 2], [1, 2]), memory)).toThrow(
      /targets must be/,
    )
    const two = tokens([1, 2], [1, 2])
    for (const weights of [zeros([2]), zeros([4, 1]), zeros([2, 1, 2])])
      for (const read of ['evaluate', 'gradients'] as const)
        expect(() => decoder[read](two, two, memory, { weights })).toThrow(/weights must be \[2,2\] like/)
    expect(memory.disposed).toBe(false)
    expect(() => memory.reset([2])).toThrow(/row 2 of a memory with 2 rows/)
    memory.dispose()
    expect(() => decoder.forward(tokens([1], [2]), memory)).toThrow(MemoryError)
    expect(() => decoder.startDecoding(memory)).toThrow(MemoryError)
    await expect(decoder.report(memory)).rejects.toThrow(MemoryError)
    await expect(decoder.compact(memory)).rejects.toThrow(MemoryError)
    expect(() => memory.clone()).toThrow(/disposed of or already used/)
    expect(() => decoder.initialMemory(0)).toThrow(/batch must be/)
    decoder.dispose()
  })

  test('weights and memories of another decoder are refused, and nothing changes', async () => {
    const decoder = new Decoder(config(), { seed: 1 })
    const wider = new Decoder(config({ width: 16 }))
    const before = await decoder.fingerprint()
    expect(() => decoder.importParameters(new Map())).toThrow(/lack "embedding.weight" \[7,8\]/)
    const foreign = await wider.exportParameters()
    expect(() => decoder.importParameters(foreign)).toThrow(/has shape \[7,16\] in the weights and \[7,8\]/)
    expect(await decoder.fingerprint()).toBe(before)
    const step = wider.forward(tokens([1, 2]), wider.initialMemory(1))
    const bytes = await step.memory.serialize()
    expect(() => decoder.restoreMemory(bytes)).toThrow(/of shape \[1,2,16\], the decoder needs/)
    expect(() => wider.restoreMemory(bytes.subarray(0, bytes.length - 4))).toThrow(/cut off/)
    expect(() => decoder.forward(tokens([1]), wider.initialMemory(1))).toThrow(/states of width 16/)
    // Another method's slots may mean something else: heaviest slots have gaps between them.
    const heaviest = decoder.withMethod(heaviestSlots({ budget: 3 }))
    const scattered = heaviest.initialMemory(1)
    const refused = /layer 0 of the memory was kept by heaviest-slots, in the decoder it is fixed-span's/
    expect(() => decoder.forward(tokens([1]), scattered)).toThrow(refused)
    const saved = await scattered.serialize()
    expect(() => decoder.restoreMemory(saved)).toThrow(refused)
    expect(() => decoder.restoreMemory(saved)).toThrow(MemoryError)
    const arena = await heaviest.startDecoding(scattered).serialize()
    await expect(decoder.restoreDecodeMemory(arena)).rejects.toThrow(refused)
    for (const value of [step.logits, step.penalty, step.memory, decoder, wider]) value.dispose()
  })

  test.each<[string, Record<string, unknown> | null, RegExp]>([
    ['nothing', null, /batch and step \[null,null\]/],
    ['no rows', { batch: 0 }, /batch and step \[0,3\]/],
    ['half a step', { step: 1.5 }, /batch and step \[1,1.5\]/],
    ['a start too many', { starts: [0, 0] }, /starts \[0,0\]/],
    ['a start that is to come', { starts: [4] }, /starts \[4\]/],
    ['no counts', { alive: [[1], ['1']] }, /alive \[\[1\],\["1"\]\]/],
    ['counts of other rows', { alive: [[1], [1, 1]] }, /alive/],
  ])('a memory whose description has %s is refused', async (_, wrong, message) => {
    const decoder = new Decoder(config())
    const step = decoder.forward(tokens([1, 2, 3]), decoder.initialMemory(1))
    const file = decodeSafetensors(await step.memory.serialize())
    const right = JSON.parse(file.metadata.memory!)
    const description = JSON.stringify(wrong && { ...right, ...wrong })
    const bytes = encodeSafetensors({ ...file, metadata: { ...file.metadata, memory: description } })
    expect(() => decoder.restoreMemory(bytes)).toThrow(FormatError)
    expect(() => decoder.restoreMemory(bytes)).toThrow(message)
    for (const value of [step.logits, step.penalty, step.memory, decoder]) value.dispose()
  })

  test('a token that is no token leaves keys and values as they were', async () => {
    const decoder = new Decoder(config())
    const arena = decoder.startDecoding(decoder.initialMemory(1))
    const [wrong, right] = [tensor1d([7], 'int32'), tensor1d([6], 'int32')]
    expect(() => decoder.decode(wrong, arena)).toThrow(/7 is not in \[0, 6\]/)
    const step = decoder.decode(right, arena)
    for (const value of [wrong, right, step.logits, step.memory, decoder]) value.dispose()
  })

  test('keys and values of other weights are refused', async () => {
    const decoder = new Decoder(config())
    const arena = decoder.startDecoding(decoder.initialMemory(1))
    const bytes = await arena.serialize()
    const token = tensor1d([1], 'int32')
    const restored = await decoder.restoreDecodeMemory(bytes)
    const first = decoder.decode(token, arena)
    const second = decoder.decode(token, restored)
    expect(second.logits.dataSync()).toEqual(first.logits.dataSync())
    const hidden = decoder.initialMemory(1)
    await expect(decoder.restoreDecodeMemory(await hidden.serialize())).rejects.toThrow(/startDecoding/)
    expect(() => decoder.restoreMemory(bytes)).toThrow(/cannot stand in/)
    await decoder.afterUpdate()
    expect(() => decoder.decode(token, second.memory)).toThrow(/made by other weights/)
    await expect(second.memory.serialize()).rejects.toThrow(/made by other weights/)
    decoder.importParameters(await new Decoder(config(), { seed: 9 }).exportParameters())
    await expect(decoder.restoreDecodeMemory(bytes)).rejects.toThrow(/made by other weights/)
    for (const value of [first.logits, first.memory, second.logits, second.memory, hidden, token])
      value.dispose()
    decoder.dispose()
  })
})
