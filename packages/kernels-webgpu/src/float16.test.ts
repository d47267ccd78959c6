/** Weights in float16, on Chromium's software driver: rounding, products and decoding beside float64 and the cpu backend. */
import { existsSync } from 'node:fs'
import { type BackendInfo, disposeBackend, useBackend } from '@lethe/backends'
import { Decoder, type DecoderConfig, type Float16Weights, fixedSpan, fused } from '@lethe/core'
import { memory, tensor, tensor1d } from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'
const missing = !existsSync(softwareVulkan)

/** The number that these 16 bits are. */
function numberOf(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023]
  const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15)
  return bits & 0x8000 ? -size : size
}

/** All from 0 to 65504, in order: a number's place is its bits. */
const numbers = Array.from({ length: 0x7c00 }, (_, bits) => numberOf(bits))

/** The float16 nearest to x, of two the even one, looked up among all of them. */
function rounded(x: number): number {
  let [low, high] = [0, numbers.length - 1]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (numbers[middle]! <= Math.abs(x)) low = middle
    else high = middle
  }
  const [below, above] = [Math.abs(x) - numbers[low]!, numbers[high]! - Math.abs(x)]
  return Math.sign(x) * numbers[below < above || (below === above && low % 2 === 0) ? low : high]!
}

const wave = (size: number, phase: number, scale = 1) =>
  Float32Array.from(
    { length: size },
    (_, i) => scale * (Math.sin(1.7 * i + phase) + Math.cos(0.31 * i * phase)),
  )

describe.skipIf(missing)('float16 weights on webgpu', () => {
  let info: BackendInfo
  beforeAll(async () => {
    info = await useBackend('webgpu', { softwareVulkan })
  })
  afterAll(() => disposeBackend())

  test('are rounded to the nearest', async () => {
    const middles = [0, 1, 2, 3, 1023, 1024, 1025, 0x3c00, 0x3c01, 0x7bfe].map(
      (bits) => (numbers[bits]! + numbers[bits + 1]!) / 2,
    )
    const near = middles.flatMap((x) => [x, x * (1 + 2 ** -20), x * (1 - 2 ** -20), -x])
    const values = [0, 1, -2, 65504, -65504, 1e-9, ...near, ...wave(100, 1), ...wave(99, 2, 1e-4)]
    const columns = 7
    const x = tensor(values, [values.length / columns, columns])
    const [packed] = fused('LetheToFloat16', { x }, {})!
    expect([packed.dtype, ...packed.shape]).toEqual(['int32', values.length / columns, 4])
    const words = await packed.data()
    info.throwIfFailed()
    for (const [i, value] of values.entries()) {
      const [row, column] = [Math.floor(i / columns), i % columns]
      const word = words[row * 4 + (column >> 1)]!
      expect(numberOf((column % 2 === 0 ? word : word >> 16) & 0xffff), String(value)).toBe(rounded(value))
    }
    for (let row = 0; row < x.shape[0]!; row++) expect(words[row * 4 + 3]! >>> 16).toBe(0)
    x.dispose()
    packed.dispose()
  })

  test.each([
    { rows: 1, inner: 100, columns: 40, transpose: false },
    { rows: 5, inner: 30, columns: 37, transpose: false },
    { rows: 1, inner: 44, columns: 33, transpose: true },
  ])('$rows × $inner × $columns, transposed: $transpose', async ({ rows, inner, columns, transpose }) => {
    const before = memory().numTensors
    const [a, b] = [wave(rows * inner, 1), wave(inner * columns, 2)]
    const [x, matrix] = [tensor(a, [rows, inner]), tensor(b, transpose ? [columns, inner] : [inner, columns])]
    const [packed] = fused('LetheToFloat16', { x: matrix }, {})!
    const [y] = fused('LetheFloat16Product', { x, packed }, { columns, transpose })!
    expect(y.shape).toEqual([rows, columns])
    const values = await y.data()
    info.throwIfFailed()
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) {
        let sum = 0
        for (let k = 0; k < inner; k++)
          sum += a[row * inner + k]! * rounded(b[transpose ? column * inner + k : k * columns + column]!)
        expect(Math.abs(values[row * columns + column]! - sum), `${row}, ${column}`).toBeLessThan(2e-5)
      }
    for (const one of [x, matrix, packed, y]) one.dispose()
    expect(memory().numTensors).toBe(before)
  })

  test('many rows, and widths that cannot be read by fours, are left to float32', () => {
    const packed = tensor([0, 0, 0, 0], [2, 2], 'int32')
    const decline = (shape: number[], columns: number, transpose: boolean) => {
      const x = tensor(wave(shape[0]! * shape[1]!, 1), shape)
      expect(fused('LetheFloat16Product', { x, packed }, { columns, transpose })).toBe(undefined)
      x.dispose()
    }
    decline([9, 2], 4, false)
    decline([1, 3], 2, true)
    packed.dispose()
  })

  const shape = { vocabulary: 21, width: 16, heads: 2, layers: 2, method: fixedSpan({ span: 6 }) }
  const configs: Record<string, DecoderConfig> = {
    'own output, biases': { ...shape, outputBias: true, feedForwardBias: true },
    'tied output': { ...shape, tiedOutput: true },
  }

  /** Logits of a stream that is decoded from its first token on. */
  async function decode(decoder: Decoder, tokens: readonly number[], weights?: Float16Weights) {
    let state = decoder.startDecoding(decoder.initialMemory(1))
    const logits: number[] = []
    for (const token of tokens) {
      const input = tensor1d([token], 'int32')
      const step = decoder.decode(input, state, { weights })
      state = step.memory
      logits.push(...(await step.logits.data()))
      input.dispose()
      step.logits.dispose()
    }
    state.dispose()
    return logits
  }

  // The cpu backend gets matrices that were rounded here; of the embedding, which is also looked up, both do.
  test.each(Object.entries(configs))('decoding: %s', async (_, config) => {
    const tokens = [3, 1, 20, 7, 7, 0, 12, 5, 16, 2]
    const before = memory().numTensors
    const decoder = new Decoder(config, { seed: 3 })
    const parameters = await decoder.exportParameters()
    const round = (name: string) => {
      const one = parameters.get(name)!
      parameters.set(name, { ...one, data: one.data.map(rounded) as Float32Array })
    }
    round('embedding.weight')
    decoder.importParameters(parameters)
    const weights = await decoder.float16Weights()
    const logits = await decode(decoder, tokens, weights)
    weights.dispose()
    decoder.dispose()
    info.throwIfFailed()
    expect(memory().numTensors).toBe(before)

    await useBackend('cpu')
    const reference = new Decoder(config)
    const apart = async () => {
      reference.importParameters(parameters)
      const expected = await decode(reference, tokens)
      return Math.max(...expected.map((value, i) => Math.abs(value - logits[i]!)))
    }
    expect(await apart()).toBeGreaterThan(1e-4)
    for (const [name, { shape }] of parameters) if (shape.length === 2) round(name)
    expect(await apart()).toBeLessThan(1e-5)
    reference.dispose()
    await useBackend('webgpu', { softwareVulkan })
  })
})
