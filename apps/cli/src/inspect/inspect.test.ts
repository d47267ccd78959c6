/** What `lethe inspect` shows, beside what the model did when it read the whole text as one block. */
import { disposeBackend, useBackend } from '@lethe/backends'
import { Decoder, type DecoderConfig, presets } from '@lethe/core'
import { bytesTokenizer } from '@lethe/trainer'
import { dispose, memory, type Tensor, tensor, tensor2d, tidy } from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type MethodSettings, methodOf } from '../methods'
import { leftOf } from './strength'
import { traceText } from './trace'

const tokenizer = bytesTokenizer()
const text = 'Lethe, l’oubli: a river whose water makes one forget.'
const tokens = tokenizer.encode(text)
const block = 8

beforeAll(() => useBackend('cpu'))
afterAll(() => disposeBackend())

function decoderWith(
  name: string,
  settings: Partial<MethodSettings>,
  more: Partial<DecoderConfig> = {},
): Decoder {
  const config: DecoderConfig = {
    ...presets.modern.decoder,
    vocabulary: 256,
    layers: 2,
    width: 16,
    heads: 2,
    feedForward: 16,
    method: methodOf(name, { span: 24, block, ...settings }),
    ...more,
  }
  const decoder = new Decoder(config, { seed: 5 })
  // Lives and spans that differ.
  tidy(() => {
    for (const [key, variable] of decoder.parameters)
      if (key.includes('.method.'))
        variable.assign(
          tensor(
            Float32Array.from(
              { length: variable.size },
              (_, index) => 0.4 + 0.3 * Math.sin(index + key.length),
            ),
            variable.shape,
          ),
        )
  })
  return decoder
}

/** The trace of one block that is the whole text. */
async function whole(decoder: Decoder, layer: number, name: string): Promise<Tensor> {
  await decoder.afterUpdate()
  return tidy(() => {
    const inputs = tensor2d(tokens, [1, tokens.length], 'int32')
    const start = decoder.initialMemory(1)
    const { trace, memory } = decoder.forward(inputs, start, { trace: true })
    memory.dispose()
    return trace![layer]![name]!.clone()
  })
}

/** The logits after each token of a text that is read block by block. */
async function logitsOf(decoder: Decoder, read: Int32Array): Promise<Float32Array[]> {
  const rows: Float32Array[] = []
  let memory = decoder.initialMemory(1)
  for (let from = 0; from < read.length; from += block) {
    const part = read.subarray(from, from + block)
    const inputs = tensor2d(part, [1, part.length], 'int32')
    const result = decoder.forward(inputs, memory)
    const logits = (await result.logits.data()) as Float32Array
    for (let i = 0; i < part.length; i++) rows.push(logits.subarray(256 * i, 256 * (i + 1)))
    dispose([inputs, result.logits, result.penalty])
    memory = await decoder.compact(result.memory)
  }
  memory.dispose()
  return rows
}

describe('a trace', () => {
  // In one layer, another token in its place makes a difference to just those steps that attend to it.
  const fair = { attendSelf: false, initialMemory: 'zeros' } as const
  test.each<[string, Partial<MethodSettings>, Partial<DecoderConfig>]>([
    ['fixed-span', { span: 9 }, {}],
    ['fixed-span', { span: 9 }, fair],
    ['fixed-span', { span: 9, sinks: 2 }, {}],
    ['adaptive-span', { ramp: 6 }, {}],
    ['adaptive-span', { ramp: 6 }, fair],
    ['adaptive-span', { ramp: 6, dynamic: true }, {}],
    ['compressive', { span: 6, rate: 3, compressed: 4 }, {}],
    ['compressive', { span: 6, rate: 3, compressed: 4, compression: 'mean' }, fair],
    ['compressive', { span: 6, rate: 3, compressed: 4, sinks: 2 }, {}],
    [
      'compressive',
      { span: 8, rate: 2, compressed: 5, authors: true },
      { positions: 'learned', learnedDistances: 24 },
    ],
  ])('of %s with %j says which steps a token matters to', async (name, settings, more) => {
    const decoder = decoderWith(name, settings, { layers: 1, ...more })
    const trace = await traceText(decoder, tokenizer, tokens, block)
    const before = await logitsOf(decoder, tokens)
    const strengths = new Set<number>()
    for (let token = 0; token < tokens.length; token += 5) {
      const after = await logitsOf(decoder, tokens.with(token, 7))
      for (let step = token + 1; step < tokens.length; step++) {
        const { strength } = leftOf(trace, trace.layers[0]!, 'mean', step, token)
        strengths.add(strength)
        const difference = after[step]!.reduce((most, value, i) => {
          return Math.max(most, Math.abs(value - before[step]![i]!))
        }, 0)
        expect([token, step, difference > 1e-6]).toEqual([token, step, strength > 0])
      }
    }
    expect(strengths.size).toBeGreaterThan(1)
    decoder.dispose()
  })

  test('has every character once, and the surprise that evaluation measures', async () => {
    const decoder = decoderWith('fixed-span', {})
    const before = memory().numTensors
    const trace = await traceText(decoder, tokenizer, tokens, block)
    expect(memory().numTensors).toBe(before)
    expect(trace.texts.join('')).toBe(text)
    expect(trace.texts).toHaveLength(tokens.length)
    const inputs = tensor2d(tokens.subarray(0, -1), [1, tokens.length - 1], 'int32')
    const targets = tensor2d(tokens.subarray(1), [1, tokens.length - 1], 'int32')
    const result = decoder.evaluate(inputs, targets, decoder.initialMemory(1))
    const [loss] = await result.loss.data()
    const mean = trace.bits.slice(1).reduce<number>((sum, bits) => sum + bits!, 0) / (tokens.length - 1)
    expect(mean * Math.LN2).toBeCloseTo(loss!, 5)
    result.memory.dispose()
    dispose([inputs, targets, result.loss])
    decoder.dispose()
  })

  test('of a fixed span ends with the span', async () => {
    const decoder = decoderWith('fixed-span', {})
    const trace = await traceText(decoder, tokenizer, tokens, block)
    const strengths = [0, 24, 25].map(
      (distance) => leftOf(trace, trace.layers[0]!, 'mean', 40, 40 - distance).strength,
    )
    expect(strengths).toEqual([1, 1, 0])
    expect(leftOf(trace, trace.layers[0]!, 'mean', 4, 5).state).toBe('ahead')
    decoder.dispose()
  })

  test('of Expire-Span has the masks that attention was multiplied with', async () => {
    const decoder = decoderWith('expire-span', { ramp: 6 })
    const trace = await traceText(decoder, tokenizer, tokens, block)
    for (const layer of [0, 1]) {
      const mask = await whole(decoder, layer, 'mask')
      const values = await mask.data()
      let faded = 0
      for (let step = 0; step < tokens.length; step++)
        for (let token = 0; token <= step; token++) {
          const { strength } = leftOf(trace, trace.layers[layer]!, 'mean', step, token)
          const expected = values[step * tokens.length + token]!
          // Lives are shown to a tenth of a step.
          expect(Math.abs(strength - expected)).toBeLessThan(0.02)
          if (expected > 0 && expected < 1) faded++
        }
      expect(faded).toBeGreaterThan(10)
      mask.dispose()
    }
    decoder.dispose()
  })

  test('of Adaptive-Span has the spans of its heads', async () => {
    const decoder = decoderWith('adaptive-span', { ramp: 6 })
    const trace = await traceText(decoder, tokenizer, tokens, block)
    const [layer] = trace.layers
    const spans = await decoder.parameters.get('layers.0.method.span')!.data()
    for (const head of [0, 1]) {
      const span = 24 * spans[head]!
      for (let distance = 0; distance < 24; distance++)
        expect(leftOf(trace, layer!, head, 40, 40 - distance).strength).toBeCloseTo(
          Math.min(1, Math.max(0, 1 + (span - distance) / 6)),
          1,
        )
    }
    const both = [0, 1].map((head) => leftOf(trace, layer!, head, 40, 25).strength)
    expect(leftOf(trace, layer!, 'mean', 40, 25).strength).toBeCloseTo((both[0]! + both[1]!) / 2, 10)
    decoder.dispose()
  })

  test('of Selective Attention has the votes', async () => {
    const decoder = decoderWith('selective', { span: 64 })
    const trace = await traceText(decoder, tokenizer, tokens, block)
    const [layer] = trace.layers
    const F = await whole(decoder, 0, 'F')
    const values = await F.data()
    if (layer!.kind !== 'votes') throw new Error(layer!.kind)
    expect(layer!.snapshots.at(-1)!.step).toBe(tokens.length - 1)
    for (const snapshot of layer!.snapshots)
      snapshot.tokens.forEach((token, index) => {
        expect(snapshot.votes[index]).toBeCloseTo(values[snapshot.step * tokens.length + token]!, 1)
      })
    F.dispose()
    decoder.dispose()
  })

  test('of a budget says when a token was pruned, and holds no more', async () => {
    const decoder = decoderWith('selective', { span: 64, budget: 12 })
    const trace = await traceText(decoder, tokenizer, tokens, block)
    const [layer] = trace.layers
    const last = tokens.length - 1
    const held = Array.from(tokens.keys()).filter(
      (token) => leftOf(trace, layer!, 'mean', last, token).state !== 'forgotten',
    )
    // Those of the last, shorter block are beside the budget until it is over.
    expect(held.length).toBeLessThanOrEqual(12 + block)
    expect(held.length).toBeGreaterThanOrEqual(12)
    decoder.dispose()
  })

  test('of the Compressive Transformer passes from whole to compressed to gone, block by block', async () => {
    const decoder = decoderWith('compressive', { span: 8, rate: 2, compressed: 8 })
    const trace = await traceText(decoder, tokenizer, tokens, block)
    // The block of step 50 began at 48, with 8 steps and 8 slots of 2 before it.
    const states = [50, 40, 39, 24, 23].map(
      (token) => leftOf(trace, trace.layers[0]!, 'mean', 50, token).state,
    )
    expect(states).toEqual(['held', 'held', 'compressed', 'compressed', 'forgotten'])
    decoder.dispose()
  })

  test('votes beside sinks are refused', async () => {
    const decoder = decoderWith('selective', { sinks: 2 })
    await expect(traceText(decoder, tokenizer, tokens, block)).rejects.toThrow(
      'inspect a run without --sinks',
    )
    decoder.dispose()
  })

  test('sinks always stay', async () => {
    const decoder = decoderWith('fixed-span', { sinks: 2 })
    const trace = await traceText(decoder, tokenizer, tokens, block)
    const states = [1, 2].map((token) => leftOf(trace, trace.layers[0]!, 'mean', 50, token).state)
    expect(states).toEqual(['held', 'forgotten'])
    decoder.dispose()
  })
})
