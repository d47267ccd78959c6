/** The variant of FAIR's code beyond what its vectors (test/golden/compressive-mean) show. */
import { useBackend } from '@lethe/backends'
import {
  ConfigError,
  Decoder,
  type DecoderConfig,
  type Memory,
  MemoryError,
  Random,
  ShapeError,
} from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { compressive } from '.'

beforeAll(async () => {
  await useBackend('wasm')
})

const options = { memory: 8, compressed: 3, rate: 2, compression: 'mean', overlap: true } as const
const sizes = { vocabulary: 11, layers: 2, width: 8, heads: 2, feedForward: 12 }
const fair: Partial<DecoderConfig> = {
  ...{ activation: 'relu', norm: 'layer', normPosition: 'post', positions: 'learned' },
  ...{ attendSelf: false, initialMemory: 'zeros', initialization: 'fair' },
}
const templates: Record<string, Partial<DecoderConfig>> = {
  fair,
  'pre-norm, empty at first, learned': { positions: 'learned', initialization: 'fair' },
  'pre-norm, empty at first, sinusoidal': { positions: 'sinusoidal', initialization: 'fair' },
}
const made = (fields: Partial<DecoderConfig>) =>
  new Decoder({ ...sizes, ...fields, method: compressive(options) }, { seed: 2 })

const random = new Random(6)
const stream = [0, 1].map(() => Array.from({ length: 48 }, () => random.integer(11)))
const tokens = (from: number, to: number, changed?: number) =>
  tf.tensor2d(
    stream.map((row) => row.slice(from, to).map((t, at) => (from + at === changed ? (t + 1) % 11 : t))),
    undefined,
    'int32',
  )
/** The logits of steps from..to, [row][step][token]. */
async function read(
  decoder: Decoder,
  memory: Memory,
  [from, to]: readonly [number, number],
  block: number,
  changed?: number,
) {
  const logits: number[][][] = [[], []]
  for (let start = from; start < to; start += block) {
    const result = decoder.forward(tokens(start, start + block, changed), memory)
    memory = result.memory
    for (const [row, steps] of (await result.logits.array()).entries()) logits[row]!.push(...steps)
  }
  return { logits, memory }
}
const largest = (a: number[][], b: number[][]) => {
  expect(a.length).toBe(b.length)
  return Math.max(...a.flatMap((row, i) => row.map((value, j) => Math.abs(value - b[i]![j]!))))
}

describe.each(Object.entries(templates))('%s', (_, fields) => {
  test('any blocks that are multiples of the rate give the same logits', async () => {
    const decoder = made(fields)
    const whole = await read(decoder, decoder.initialMemory(2), [0, 48], 8)
    for (const block of [2, 4, 6]) {
      const other = await read(decoder, decoder.initialMemory(2), [0, 48], block)
      for (const row of [0, 1]) expect(largest(other.logits[row]!, whole.logits[row]!)).toBeLessThan(2e-5)
    }
    decoder.dispose()
  })

  test('the last block of a stream may be of any length', async () => {
    const decoder = made(fields)
    const whole = await read(decoder, decoder.initialMemory(2), [0, 24], 8)
    for (const last of [1, 3, 5]) {
      const start = await read(decoder, decoder.initialMemory(2), [0, 16], 8)
      const end = await read(decoder, start.memory, [16, 16 + last], last)
      for (const row of [0, 1])
        expect(largest(end.logits[row]!, whole.logits[row]!.slice(16, 16 + last))).toBeLessThan(2e-5)
    }
    decoder.dispose()
  })

  test('a step has no influence on those before it, and some after the memory is past', async () => {
    const decoder = made(fields)
    const one = (await read(decoder, decoder.initialMemory(2), [0, 48], 8)).logits[0]!
    const other = (await read(decoder, decoder.initialMemory(2), [0, 48], 8, 21)).logits[0]!
    expect(largest(one.slice(0, 21), other.slice(0, 21))).toBe(0)
    // One layer sees 8 steps back; pooled ones, 8 + 2 · 4.
    expect(largest(one.slice(21 + 2 * 8 + 1), other.slice(21 + 2 * 8 + 1))).toBeGreaterThan(1e-6)
    decoder.dispose()
  })

  test('a reset row starts anew', async () => {
    const decoder = made(fields)
    const { memory } = await read(decoder, decoder.initialMemory(2), [0, 12], 6)
    const reset = await read(decoder, memory.clone().reset([0]), [12, 36], 6)
    const going = await read(decoder, memory, [12, 36], 6)
    const fresh = await read(decoder, decoder.initialMemory(2), [12, 36], 6)
    expect(largest(reset.logits[0]!, fresh.logits[0]!)).toBeLessThan(2e-5)
    expect(largest(reset.logits[1]!, going.logits[1]!)).toBeLessThan(2e-5)
    for (const { tensors, alive } of reset.memory.layers) {
      const valid = tf.add(tf.sum(tensors.valid!, 1), tf.sum(tensors.compressedValid!, 1))
      expect([...(await valid.data())]).toEqual(alive)
    }
    decoder.dispose()
  })
})

test('what it cannot do is refused, and the memory stays', async () => {
  const decoder = made(fair)
  const memory = decoder.initialMemory(2)
  const input = tokens(0, 10)
  const before = tf.memory().numTensors
  expect(() => decoder.forward(input, memory)).toThrow(ShapeError)
  expect(() => decoder.forward(input, memory)).toThrow(/at most memory \(8\) steps long, not 10/)
  expect(() => decoder.startDecoding(memory)).toThrow(ConfigError)
  expect(() => decoder.startDecoding(memory)).toThrow(/decoder.withMethod\(compressive/)
  expect(memory.disposed).toBe(false)
  expect(tf.memory().numTensors).toBe(before)
  // What the message proposes works.
  const paper = decoder.withMethod(compressive({ ...options, overlap: false }))
  const arena = paper.startDecoding(memory)
  const { logits } = paper.decode(tf.tensor1d([1, 2], 'int32'), arena)
  expect((await logits.data()).every(Number.isFinite)).toBe(true)
  decoder.dispose()
})

test('a block that is no multiple of the rate is the last one', async () => {
  const decoder = made(fair)
  const [first, next] = [tokens(0, 5), tokens(5, 6)]
  const last = decoder.forward(first, decoder.initialMemory(2))
  const before = tf.memory().numTensors
  expect(() => decoder.forward(next, last.memory)).toThrow(MemoryError)
  expect(() => decoder.forward(next, last.memory)).toThrow('multiples of rate (2) steps long, and 5 steps')
  expect(last.memory.disposed).toBe(false)
  expect(tf.memory().numTensors).toBe(before)
  last.memory.dispose()
  tf.dispose([first, next, last.logits, last.penalty])
  decoder.dispose()
})

test('learned positions reach over the memory and one compressed slot more than is stored', () => {
  const decoder = made(fair)
  expect(decoder.config.learnedDistances).toBe(8 + 3 + 1)
  decoder.dispose()
})
