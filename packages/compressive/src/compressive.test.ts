/** What is remembered, what it costs, and whom its loss reaches. */
import { useBackend } from '@lethe/backends'
import {
  type Block,
  type DecodeMemory,
  Decoder,
  type DecoderConfig,
  type LayerInfo,
  type LayerMemory,
  type Memory,
  Random,
  registerGradients,
} from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type CompressiveOptions, compressive } from '.'

beforeAll(async () => {
  await useBackend('wasm')
  registerGradients()
})

const vocabulary = 11
const sizes = { vocabulary, layers: 2, width: 8, heads: 2, feedForward: 12 }
/** Norms first, rotary positions, an empty memory at first; and as FAIR's, but smooth. */
const modern: Partial<DecoderConfig> = { initialization: 'fair' }
const fair: Partial<DecoderConfig> = {
  ...{ activation: 'gelu', norm: 'layer', normPosition: 'post', positions: 'learned', learnedDistances: 14 },
  ...{ attendSelf: false, initialMemory: 'zeros', initialization: 'fair' },
}
const templates = { modern, fair }
const sized = (fields: Partial<DecoderConfig>, options: CompressiveOptions, seed = 3) =>
  new Decoder({ ...sizes, ...fields, method: compressive(options) }, { seed })

const stream = (() => {
  const random = new Random(5)
  return [0, 1].map(() => Array.from({ length: 80 }, () => random.integer(vocabulary)))
})()
/** Steps from..to of both rows, int32 [2, to - from]. */
const tokens = (from: number, to: number) =>
  tf.tensor2d(
    stream.map((row) => row.slice(from, to)),
    undefined,
    'int32',
  )
/** Reads steps from..to in blocks; the logits of each step. */
async function read(decoder: Decoder, memory: Memory, from: number, to: number, block: number) {
  const logits: number[][] = []
  for (let start = from; start < to; start += block) {
    const result = decoder.forward(tokens(start, Math.min(to, start + block)), memory)
    memory = result.memory
    const values = await result.logits.array()
    values[0]!.forEach((_, step) => {
      logits.push(values.flatMap((row) => row[step]!))
    })
  }
  return { logits, memory }
}
const largest = (a: readonly number[][], b: readonly number[][]) =>
  Math.max(...a.flatMap((row, i) => row.map((value, j) => Math.abs(value - b[i]![j]!))))
const sumOf = async (x: tf.Tensor) => (await tf.sum(x).data())[0]!

describe('every step is in exactly one slot', () => {
  const steps = 48
  const layer = { width: steps, attendSelf: true, layers: 1 } as LayerInfo
  /** One-hot hidden states, so that a slot says which steps it is made of. */
  const blockOf = (memory: LayerMemory, step: number, length: number, initialMemory: 'zeros' | 'empty') => {
    const at = Int32Array.from({ length }, (_, i) => step + i)
    const input = tf.expandDims(tf.cast(tf.oneHot(tf.tensor1d(at), steps), 'float32'), 0) as tf.Tensor3D
    const rest = { batch: 1, length, step, starts: [0], parameters: {}, traced: false }
    return { layer: { ...layer, initialMemory }, memory, input, attended: input, ...rest } as unknown as Block
  }

  test.each([1, 2, 3, 4, 5])('rate %i', async (rate) => {
    for (const initialMemory of ['empty', 'zeros'] as const)
      for (const memory of [1, 4, 6])
        for (const length of [1, 2, 3, 4, 5, 7, 11, 16, steps]) {
          const method = compressive({ memory, compressed: steps, rate, compression: 'mean' })
          let kept = method.initialMemory({ ...layer, initialMemory }, 1)
          for (let step = 0; step < steps; step += length) {
            const block = blockOf(kept, step, Math.min(length, steps - step), initialMemory)
            kept = method.settle(block, { groups: [] }, { attendWith: (hidden) => hidden }).memory
            const read = step + block.length
            const hidden = (kept.tensors.hidden as tf.Tensor3D).arraySync()[0] ?? []
            const compressed = (kept.tensors.compressed as tf.Tensor3D).arraySync()[0] ?? []
            // Where each step is, oldest slot first; the zeros of the first memory are no steps.
            const stepsIn = (slot: number[], share: number) =>
              slot.flatMap((value, at) => (Math.abs(value - share) < 1e-6 ? [at] : []))
            const found = [
              ...compressed.flatMap((slot) => stepsIn(slot, 1 / rate)),
              ...hidden.flatMap((slot) => stepsIn(slot, 1)),
            ]
            expect(found).toEqual(Array.from({ length: read }, (_, at) => at))
            // Nothing but whole groups left, and no more than needed.
            const full = initialMemory === 'zeros' || read >= memory
            if (full)
              expect(hidden.length - memory).toBe((initialMemory === 'zeros' ? read : read - memory) % rate)
            expect(kept.alive).toEqual([hidden.length + compressed.length])
          }
        }
  })
})

test.each(Object.entries(templates))(
  '%s: alive counts what is valid, also in reset rows',
  async (_, fields) => {
    for (const rate of [1, 2, 3, 5]) {
      const decoder = sized(fields, { memory: 4, compressed: 3, rate, compression: 'mean' })
      let memory = decoder.initialMemory(2)
      for (const [step, block] of [7, 2, 1, 9, 4, 1, 1, 16].entries()) {
        memory = (await read(decoder, memory, 0, block, block)).memory
        if (step % 3 === 1) memory = memory.reset([step % 2])
        for (const { tensors, alive } of memory.layers) {
          const { valid, compressedValid } = tensors as Record<string, tf.Tensor2D>
          const counted = tf.add(tf.sum(valid!, 1), tf.sum(compressedValid!, 1))
          expect([...(await counted.data())]).toEqual(alive)
        }
      }
      expect(memory.slots).toBeLessThanOrEqual(4 + 3 + rate - 1)
      decoder.dispose()
    }
  },
)

test('most-used keeps the steps that got most of the attention they could get', async () => {
  const options = { memory: 2, compressed: 9, rate: 3, compression: 'most-used' } as const
  const decoder = new Decoder({
    ...{ ...sizes, layers: 1, positions: 'none', norm: 'layer', normPosition: 'post' },
    method: compressive(options),
  })
  // Blind queries: all that is seen gets alike, so of eight steps the oldest got most.
  const query = decoder.parameters.get('layers.0.attention.query')!
  query.assign(tf.zerosLike(query))
  const { memory } = await read(decoder, decoder.initialMemory(2), 0, 8, 8)
  const { hidden, compressed, mass, queries } = memory.layers[0]!.tensors as Record<string, tf.Tensor>
  const embedding = (await decoder.parameters.get('embedding.weight')!.array()) as number[][]
  expect(await compressed!.array()).toEqual(stream.map((row) => row.slice(0, 2).map((t) => embedding[t])))
  expect(await hidden!.array()).toEqual(stream.map((row) => row.slice(6, 8).map((t) => embedding[t])))
  // Step 6 was seen by the queries 6 and 7, which saw seven and eight steps.
  expect((await queries!.array()) as number[][]).toEqual([
    [2, 1],
    [2, 1],
  ])
  const received = (await mass!.array()) as number[][]
  expect(received[0]![0]).toBeCloseTo(1 / 7 + 1 / 8, 6)
  expect(received[1]![1]).toBeCloseTo(1 / 8, 6)
  const [report] = await decoder.report(memory)
  const usage = report!.figures.usage as { data: Float32Array }
  expect(usage.data[0]).toBeCloseTo((1 / 7 + 1 / 8) / 2, 6)
  decoder.dispose()
})

describe.each(Object.entries(templates))('the loss in a %s decoder', (_, fields) => {
  const options = { memory: 3, compressed: 3, rate: 2, compression: 'conv' } as const

  test.each([
    ['attention', 1],
    ['attention', 2],
    ['auto-encoding', 1],
    ['auto-encoding', 2],
  ] as const)('%s reaches the compression alone (unroll %i)', async (loss, unroll) => {
    const silent = sized(fields, { ...options, loss: 'none' })
    const decoder = sized(fields, { ...options, loss })
    for (const [name, parameter] of silent.parameters) decoder.parameters.get(name)!.assign(parameter)
    const { memory } = await read(silent, silent.initialMemory(2), 0, 10, 5)
    const [inputs, targets] = [tokens(10, 18), tokens(11, 19)]
    const without = silent.gradients(inputs, targets, memory.clone(), { unroll })
    const withLoss = decoder.gradients(inputs, targets, memory, { unroll })
    expect(await withLoss.loss.array()).toBe(await without.loss.array())
    expect(await without.penalty.array()).toBe(0)
    expect(await withLoss.penalty.array()).toBeGreaterThan(1e-3)
    for (const [name, parameter] of decoder.parameters) {
      const gradient = (await withLoss.gradients[name]!.data()) as Float32Array
      if (name.includes('.method.')) {
        expect(gradient.length).toBe(parameter.size)
        expect(Math.max(...gradient.map(Math.abs)), name).toBeGreaterThan(1e-5)
      } else expect(gradient, name).toEqual(await without.gradients[name]!.data())
    }
    // Without a loss only a later block can reach the convolution.
    expect('layers.0.method.conv.weight' in without.gradients).toBe(unroll === 2)
    for (const used of [silent, decoder]) used.dispose()
  })

  test('the trace has it layer by layer', async () => {
    const decoder = sized(fields, { ...options, loss: 'attention' })
    const { memory } = await read(decoder, decoder.initialMemory(2), 0, 6, 6)
    const { penalty, trace } = decoder.forward(tokens(6, 12), memory, { trace: true })
    const each = await Promise.all(trace!.map(({ reconstruction }) => sumOf(reconstruction!)))
    expect(each.every((error) => error > 0)).toBe(true)
    expect((await penalty.data())[0]).toBeCloseTo(each[0]! + each[1]!, 5)
    decoder.dispose()
  })
})

test('the loss leaves out rows that evict empty places', async () => {
  const decoder = sized(modern, { memory: 4, compressed: 3, rate: 2 })
  // Twice the same row, of which one is reset: what is left is the other's error, and so was their mean.
  const twice = (from: number, to: number) => tf.gather(tokens(from, to), tf.tensor1d([0, 0], 'int32'))
  const { memory } = decoder.forward(twice(0, 7), decoder.initialMemory(2))
  const both = decoder.forward(twice(7, 12), memory.clone())
  // The reset row evicts five empty places and one step.
  const one = decoder.forward(twice(7, 12), memory.reset([1]))
  const expected = (await both.penalty.data())[0]!
  expect(expected).toBeGreaterThan(1e-3)
  expect((await one.penalty.data())[0]).toBeCloseTo(expected, 6)
  decoder.dispose()
})

describe('gradients through two blocks', () => {
  const variants = {
    conv: { memory: 3, compressed: 3, rate: 2, compression: 'conv', loss: 'none' },
    dilated: { memory: 2, compressed: 3, rate: 3, compression: 'dilated', loss: 'none' },
    'most-used': { memory: 3, compressed: 3, rate: 2, compression: 'most-used' },
  } as const
  test.each([
    ['conv', 'modern'],
    ['dilated', 'fair'],
    ['most-used', 'modern'],
  ] as const)('%s in a %s decoder agree with finite differences', async (name, template) => {
    const decoder = sized(templates[template], variants[name])
    const { memory } = await read(decoder, decoder.initialMemory(2), 0, 9, 3)
    const [inputs, targets] = [tokens(9, 17), tokens(10, 18)]
    const { gradients } = decoder.gradients(inputs, targets, memory.clone(), { unroll: 2 })
    const loss = async () => {
      const result = tf.tidy(() => decoder.gradients(inputs, targets, memory.clone(), { unroll: 2 }).loss)
      return (await result.data())[0]!
    }
    for (const [name, parameter] of decoder.parameters) {
      const gradient = gradients[name]!
      const norm = (await tf.norm(gradient).data())[0]!
      const original = parameter.clone()
      const at = (distance: number) => {
        tf.tidy(() => parameter.assign(tf.add(original, tf.mul(gradient, distance / norm))))
        return loss()
      }
      const step = 4e-3
      const slope = ((await at(step)) - (await at(-step))) / (2 * step)
      parameter.assign(original)
      expect(Math.abs(slope - norm), name).toBeLessThan(1e-3 + 0.05 * norm)
      if (name.includes('.method.')) expect(norm, name).toBeGreaterThan(1e-5)
    }
    decoder.dispose()
  })

  test('the loss is the mean over the blocks, and one block is what it was', async () => {
    const decoder = sized(modern, variants.conv)
    const { memory } = await read(decoder, decoder.initialMemory(2), 0, 9, 3)
    const [inputs, targets] = [tokens(9, 17), tokens(10, 18)]
    const two = decoder.gradients(inputs, targets, memory.clone(), { unroll: 2 })
    const first = decoder.evaluate(tokens(9, 13), tokens(10, 14), memory.clone())
    const second = decoder.evaluate(tokens(13, 17), tokens(14, 18), first.memory)
    const mean = ((await first.loss.array()) + (await second.loss.array())) / 2
    expect(await two.loss.array()).toBeCloseTo(mean, 5)
    for (const [layer, { tensors }] of two.memory.layers.entries())
      expect(await tensors.compressed!.array()).toEqual(
        await second.memory.layers[layer]!.tensors.compressed!.array(),
      )
    const plain = decoder.gradients(inputs, targets, memory.clone())
    const one = decoder.gradients(inputs, targets, memory, { unroll: 1 })
    for (const name of Object.keys(plain.gradients))
      expect(await one.gradients[name]!.data()).toEqual(await plain.gradients[name]!.data())
    expect(Object.keys(one.gradients)).not.toContain('layers.0.method.conv.weight')
    decoder.dispose()
  })
})

describe('a larger compressed memory at evaluation', () => {
  const options = { memory: 4, compressed: 2, rate: 2 } as const
  const larger = compressive({ ...options, compressed: 9 })

  test.each(['modern', 'fair', 'fair, clamped'])('%s', async (name) => {
    const fields =
      name === 'modern' ? modern : { ...fair, ...(name !== 'fair' && { beyondLearned: 'clamp' }) }
    const trained = sized(fields as Partial<DecoderConfig>, options)
    const evaluated = trained.withMethod(larger)
    // The same as one that was built so, with as many learned positions.
    const built = new Decoder({ ...trained.config, method: larger })
    built.importParameters(await trained.exportParameters())
    const found = await read(evaluated, evaluated.initialMemory(2), 0, 40, 5)
    const expected = await read(built, built.initialMemory(2), 0, 40, 5)
    expect(largest(found.logits, expected.logits)).toBe(0)
    expect(found.memory.layers[0]!.tensors.compressed!.shape[1]).toBe(9)
    const small = await read(trained, trained.initialMemory(2), 0, 40, 5)
    expect(largest(found.logits.slice(30), small.logits.slice(30))).toBeGreaterThan(1e-4)
    const streamed = evaluated.startDecoding(evaluated.initialMemory(2))
    expect(streamed.capacity).toBeLessThanOrEqual(4 + 2 + 9)
    // A memory made in training goes on, and grows.
    const grown = await read(evaluated, small.memory, 40, 60, 5)
    expect(grown.memory.layers[1]!.tensors.compressed!.shape[1]).toBe(9)
    // With fewer steps as they are the others are compressed by the next block, not by decoding.
    const fewer = trained.withMethod(compressive({ ...options, memory: 2 }))
    expect(() => fewer.startDecoding(grown.memory)).toThrow(/4 steps .* fewer than 4: read a block .* first/)
    const { memory } = await read(fewer, grown.memory, 60, 61, 1)
    fewer.startDecoding(memory).dispose()
    trained.dispose()
    built.dispose()
  })
})

describe('streaming decode', () => {
  const options = { memory: 5, compressed: 3, rate: 3 } as const
  const goOn = async (decoder: Decoder, start: DecodeMemory, from: number, to: number) => {
    let arena = start
    const logits: number[][] = []
    for (let step = from; step < to; step++) {
      const token = tf.tensor1d(
        stream.map((row) => row[step]!),
        'int32',
      )
      const result = decoder.decode(token, arena)
      arena = result.memory
      logits.push(((await result.logits.array()) as number[][]).flat())
    }
    return { logits, arena }
  }
  const decode = (decoder: Decoder, memory: Memory, from: number, to: number) =>
    goOn(decoder, decoder.startDecoding(memory), from, to)

  test.each(['mean', 'max', 'conv', 'dilated', 'most-used'] as const)(
    '%s: goes on as blocks of one step from a memory with reset rows, wherever they were reset',
    async (compression) => {
      for (const [fields, at] of [
        [modern, 2],
        [modern, 13],
        [fair, 7],
      ] as const) {
        const decoder = sized(fields, { ...options, compression })
        const { memory } = await read(decoder, decoder.initialMemory(2), 0, at, 4)
        const { memory: reset } = await read(decoder, memory.reset([1]), at, at + 3, 3)
        const blocks = await read(decoder, reset.clone(), at + 3, 32, 1)
        const streamed = await decode(decoder, reset, at + 3, 32)
        expect(largest(streamed.logits, blocks.logits)).toBeLessThan(2e-5)
        expect(await streamed.arena.countSlots()).toBe(blocks.memory.slots)
        const { layers } = blocks.memory
        const ofRow = (row: number) => layers.map(({ alive, beside = 0 }) => alive[row]! + beside)
        for (const [row, count] of (await streamed.arena.countSlotsByRow()).entries())
          expect(count).toBeCloseTo(ofRow(row).reduce((a, b) => a + b) / layers.length, 5)
        decoder.dispose()
      }
    },
  )

  test.each(['learned', 'sinusoidal', 'none'] as const)('with %s positions', async (positions) => {
    for (const farther of [
      {},
      { beyondLearned: 'clamp', learnedDistances: 7, farthestPosition: 7 },
    ] as const) {
      const decoder = sized({ positions, learnedDistances: 12, ...farther }, options)
      const blocks = await read(decoder, decoder.initialMemory(2), 0, 30, 1)
      const { logits } = await decode(decoder, decoder.initialMemory(2), 0, 30)
      expect(largest(logits, blocks.logits)).toBeLessThan(2e-5)
      decoder.dispose()
    }
  })

  test.each([false, true])(
    'compacted, cloned and restored it goes on alike; all forgotten: %s',
    async (forget) => {
      const decoder = sized(modern, { ...options, memory: 66 })
      const { memory } = await read(decoder, decoder.initialMemory(2), 0, 70, 70)
      const start = forget ? memory.reset([0, 1]) : memory
      const blocks = await read(decoder, start.clone(), 0, 80, 1)
      const compacted = await decoder.compactDecoding(decoder.startDecoding(start))
      expect(compacted.capacity).toBe((forget ? 64 : 66 + 3) + 3)
      const { logits, arena } = await goOn(decoder, compacted, 0, 40)
      const copy = arena.clone()
      const restored = await decoder.restoreDecodeMemory(await arena.serialize())
      for (const each of [arena, copy, restored]) {
        const rest = await goOn(decoder, each, 40, 80)
        expect(largest([...logits, ...rest.logits], blocks.logits)).toBeLessThan(2e-5)
        expect(await rest.arena.countSlots()).toBe(blocks.memory.slots)
      }
      decoder.dispose()
    },
  )

  test('its bytes and those between blocks stay under the bound of the README', async () => {
    const { layers, width, heads } = sizes
    const inner = heads * (width / heads)
    const batch = 2
    for (const compression of ['conv', 'most-used'] as const) {
      const decoder = sized(modern, { ...options, compression, memory: 70 })
      const [memory, rate, compressed] = [70, options.rate, options.compressed]
      const figures = compression === 'most-used' ? 2 : 0
      const between =
        4 * batch * layers * ((memory + rate - 1) * (width + 1 + figures) + compressed * (width + 1))
      const rotary = compressed * inner
      const arena =
        4 *
        batch *
        layers *
        ((memory + rate + compressed) * (2 * inner + 2 + figures) + (memory + rate) * width + rotary)
      let most = 0
      let before = decoder.initialMemory(2)
      for (let from = 0; from < 80; from += 16) {
        before = (await read(decoder, before, from, from + 16, 16)).memory
        most = Math.max(most, before.bytes)
      }
      expect(most).toBeLessThanOrEqual(between)
      expect(most).toBeGreaterThan(0.9 * between)
      const { arena: early } = await decode(decoder, decoder.initialMemory(2), 0, 8)
      expect(early.bytes).toBeLessThan(arena)
      const late = await decode(decoder, before, 0, 12)
      expect(late.arena.bytes).toBe(arena)
      decoder.dispose()
    }
  })
})

describe('public calls', () => {
  let before = 0
  beforeEach(() => {
    before = tf.memory().numTensors
  })

  test('report: the range in steps, and what is there', async () => {
    const decoder = sized(modern, { memory: 4, compressed: 3, rate: 5, compression: 'most-used' })
    const inputs = tokens(0, 16)
    const { memory, logits, penalty } = decoder.forward(inputs, decoder.initialMemory(2))
    const reports = await decoder.report(memory)
    expect(reports[1]).toMatchObject({
      method: 'compressive',
      slots: 8,
      attended: [8, 8],
      figures: { range: 2 * (4 + 5 * 3), recent: 6, compressed: 2, usage: { shape: [2, 6] } },
    })
    for (const used of [inputs, logits, penalty, memory, decoder]) used.dispose()
    expect(tf.memory().numTensors).toBe(before)
  })

  test('making a method makes no tensor', () => {
    const method = compressive({ memory: 4, compressed: 3, rate: 5 })
    expect(method.capacity({} as LayerInfo, 16)).toBe(4 + 3 + 4)
    expect(Object.keys(method.parameters!({ width: 8 } as LayerInfo))).toEqual(['conv.weight', 'conv.bias'])
    expect(tf.memory().numTensors).toBe(before)
  })
})
