import { readFileSync } from 'node:fs'
import { useBackend } from '@lethe/backends'
import {
  attendPlain,
  type Block,
  ConfigError,
  Decoder,
  type DecoderConfig,
  decodeSafetensors,
  type ForgettingMethod,
  fixedSpan,
  fromStateDict,
  type LayerInfo,
  type Memory,
  presets,
  Random,
  registerGradients,
  toStateDict,
} from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { type AdaptiveSpanOptions, adaptiveSpan, type SpanPlan } from './adaptive-span'

beforeAll(async () => {
  await useBackend('cpu')
  registerGradients()
})

const sizes = { vocabulary: 7, layers: 2, width: 8, heads: 2, feedForward: 12 }
const build = (method: DecoderConfig['method'], fields: Partial<DecoderConfig> = {}) =>
  new Decoder({ ...presets.fair.decoder, ...sizes, dropout: 0, method, ...fields }, { seed: 3 })

const info: LayerInfo = {
  ...{ index: 1, layers: 2, width: 8, heads: 2, headSize: 4, persistentSlots: 0 },
  ...{ attendSelf: false, initialMemory: 'zeros' },
}

/** Sets z' of a layer. */
const setSpans = (decoder: Decoder, layer: number, shares: number[]) =>
  tf.tidy(() => decoder.parameters.get(`layers.${layer}.method.span`)!.assign(tf.tensor1d(shares)))

const tokensOf = (steps: number, seed = 1) => {
  const random = new Random(seed)
  return tf.tensor2d(
    Int32Array.from({ length: 2 * steps }, () => random.integer(sizes.vocabulary)),
    [2, steps],
    'int32',
  )
}

/** Reads one block; frees what it used. */
async function read(decoder: Decoder, memory: Memory, steps: number, seed = 1) {
  const tokens = tokensOf(steps, seed)
  const { logits, penalty, memory: next } = decoder.forward(tokens, memory)
  const values = { logits: [...(await logits.data())], penalty: (await penalty.data())[0]! }
  tf.dispose([tokens, logits, penalty])
  return { ...values, memory: next }
}

const slotsOf = (memory: Memory) => memory.layers.map(({ tensors }) => tensors.hidden!.shape[1]!)

const largest = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  expect(a.length).toBe(b.length)
  return Math.max(...Array.from(a, (value, at) => Math.abs(value - b[at]!)))
}

/** The plan for these z'. */
const planOf = async (method: ForgettingMethod, shares: number[]) => {
  const span = tf.tensor1d(shares)
  const plan = (await method.prepare!(info, { span })) as SpanPlan
  span.dispose()
  return plan
}

/**
 * How strongly each distance is attended to [heads][distance - nearest], for equal logits, up to a factor per head:
 * what core's attention makes of the method's term.
 */
function strengths(method: ForgettingMethod, distances: number, shares: number[], nearest: 0 | 1) {
  return tf.tidy(() => {
    const recall = method.recall({
      layer: { ...info, attendSelf: nearest === 0 },
      memory: { tensors: { hidden: tf.zeros([1, distances, 8]) }, alive: [distances] },
      attended: tf.zeros([1, 1, 8]),
      length: 1,
      parameters: { span: tf.tensor1d(shares) },
      plan: undefined,
      remembered: (hidden: tf.Tensor3D) => ({ hidden, constant: true }),
    } as unknown as Block)
    const { distance, window } = recall.groups[0]!
    const { context } = attendPlain({
      queries: tf.zeros([1, 2, distances + 1, 1]),
      keys: tf.zeros([1, 2, distances + 1, distances + 1]),
      values: tf.tile(tf.reshape(tf.eye(distances + 1), [1, 1, distances + 1, distances + 1]), [1, 2, 1, 1]),
      scale: 1,
      groups: [{ slots: distances + 1, distance, nearest, farthest: window!.farthest! }],
      terms: recall.terms!,
      wants: {},
    })
    const weights = tf.reverse(tf.reshape(context, [2, distances + 1]), 1).arraySync() as number[][]
    return weights.map((row) => row.slice(nearest))
  })
}

const normalised = (mask: number[]) => mask.map((m) => m / mask.reduce((sum, other) => sum + other, 0))

describe('options', () => {
  test.each<[Partial<AdaptiveSpanOptions>, RegExp]>([
    [{ maxSpan: 0 }, /maxSpan must be a whole number from 1 up, not 0/],
    [{ maxSpan: 2.5 }, /maxSpan .* not 2.5/],
    [{ maxSpan: undefined as never }, /maxSpan .* not undefined/],
    [{ ramp: 0 }, /ramp must be a whole number from 1 up, not 0/],
    [{ ramp: Number.NaN }, /ramp .* not NaN/],
    [{ penalty: -1e-6 }, /penalty must be a finite number from 0 up, not -0.000001/],
    [{ penalty: Number.POSITIVE_INFINITY }, /penalty .* not Infinity/],
    [{ per: 'model' as never }, /per must be 'head' or 'layer', not model/],
    [{ dynamic: 1 as never }, /dynamic must be true or false, not 1/],
    [{ initialSpan: 11 }, /initialSpan must be between 0 and maxSpan 10, not 11/],
    [{ initialSpan: -1 }, /initialSpan .* not -1/],
    [{ trimStep: 0 }, /trimStep must be a whole number from 1 up, not 0/],
    [{ growth: -1 }, /growth must be a whole number from 0 up, not -1/],
    [{ dynamic: true, initialSpan: 4 }, /initialSpan belongs to static spans: leave it out/],
    [{ dynamic: true, trimStep: 4 }, /trimStep belongs to static spans/],
    [{ dynamic: true, growth: 4 }, /growth belongs to static spans/],
    [{ trim: 4 } as never, /unknown option "trim" of adaptive-span; known are maxSpan, ramp, penalty, per/],
  ])('%o is refused', (options, message) => {
    const before = tf.memory().numTensors
    const make = () => adaptiveSpan({ maxSpan: 10, ...options })
    expect(make).toThrow(ConfigError)
    expect(make).toThrow(message)
    expect(tf.memory().numTensors).toBe(before)
  })

  test.each<AdaptiveSpanOptions>([
    { maxSpan: 10 },
    { maxSpan: 10, dynamic: true, per: 'layer' },
    { maxSpan: 10, ramp: 3, penalty: 0, per: 'layer', initialSpan: 2.5, trimStep: 2, growth: 0 },
  ])('%o comes back from its description', (options) => {
    const decoder = build(adaptiveSpan(options))
    const description = JSON.parse(JSON.stringify(decoder.describe()))
    expect(description.method[0].options).toMatchObject(options)
    const again = Decoder.fromDescription(description, { 'adaptive-span': adaptiveSpan })
    expect(again.describe()).toEqual(decoder.describe())
    decoder.dispose()
    again.dispose()
  })

  test('spans start where they are told to', async () => {
    const startOf = async (options: AdaptiveSpanOptions, name: string) => {
      const decoder = build(adaptiveSpan(options))
      const values = [...(await decoder.parameters.get(`layers.1.method.${name}`)!.data())]
      decoder.dispose()
      return values
    }
    expect(await startOf({ maxSpan: 10 }, 'span')).toEqual([0, 0])
    expect(await startOf({ maxSpan: 10, initialSpan: 2.5, per: 'layer' }, 'span')).toEqual([0.25])
    expect(await startOf({ maxSpan: 10, dynamic: true }, 'bias')).toEqual([-4, -4])
    expect(await startOf({ maxSpan: 10, dynamic: true, per: 'layer' }, 'weight')).toEqual(
      new Array(8).fill(0),
    )
  })
})

describe('formulas', () => {
  test('the mask by hand: full within the span, then down over the ramp', () => {
    const method = adaptiveSpan({ maxSpan: 8, ramp: 4 })
    // z = 2 and 0.8. A step that does not attend to itself counts the one before it as distance 0.
    const masks = [
      [1, 1, 1, 0.75, 0.5, 0.25, 0, 0],
      [1, 0.95, 0.7, 0.45, 0.2, 0, 0, 0],
    ]
    for (const nearest of [0, 1] as const) {
      const found = strengths(method, 8, [0.25, 0.1], nearest)
      for (const [head, mask] of masks.entries())
        expect(largest(found[head]!, normalised(nearest === 1 ? mask : [...mask, 0]))).toBeLessThan(1e-6)
    }
  })

  test('the plan by hand', async () => {
    const plan = (shares: number[], options: Partial<AdaptiveSpanOptions> = {}) =>
      planOf(adaptiveSpan({ maxSpan: 100, ramp: 10, trimStep: 8, growth: 5, ...options }), shares)
    // Of 100 steps 31 + 10 are looked at: 59 are left out, 56 in steps of 8.
    expect(await plan([0.305, 0.2])).toEqual({ longest: 41, trim: 56, slots: 49 })
    expect(await plan([0, 0])).toEqual({ longest: 10, trim: 88, slots: 17 })
    expect(await plan([0.95, 0])).toEqual({ longest: 100, trim: 0, slots: 100 })
    expect(await plan([0, 1])).toEqual({ longest: 100, trim: 0, slots: 100 })
    expect(await plan([0.9], { trimStep: 64, per: 'layer' })).toEqual({ longest: 100, trim: 0, slots: 100 })
    // As float32 has it, 0.07 · 100 is 7, not 7.0000001.
    expect((await plan([0.07, 0.07])).longest).toBe(17)
    // At least one distance stays.
    expect(await plan([0, 0], { maxSpan: 1, ramp: 1, trimStep: 1 })).toEqual({
      longest: 1,
      trim: 0,
      slots: 1,
    })
  })

  test('static penalty: λ · S · mean of the shares, over all layers', async () => {
    const decoder = build(adaptiveSpan({ maxSpan: 10, ramp: 2, penalty: 0.3 }))
    setSpans(decoder, 0, [0.2, 0.4])
    setSpans(decoder, 1, [0, 0.1])
    const { penalty, memory } = await read(decoder, decoder.initialMemory(2), 3)
    memory.dispose()
    expect(penalty).toBeCloseTo(0.3 * 10 * (0.3 + 0.05), 6)
    decoder.dispose()
  })

  test('dynamic spans and their penalty, by hand', async () => {
    const decoder = build(adaptiveSpan({ maxSpan: 10, ramp: 2, penalty: 0.3, dynamic: true }), { layers: 1 })
    const weight = Float32Array.from({ length: 16 }, (_, at) => Math.sin(at))
    tf.tidy(() => {
      decoder.parameters.get('layers.0.method.weight')!.assign(tf.tensor2d(weight, [8, 2]))
      decoder.parameters.get('layers.0.method.bias')!.assign(tf.tensor1d([-1, 0.5]))
    })
    const tokens = tokensOf(3)
    const result = decoder.forward(tokens, decoder.initialMemory(2), { trace: true })
    const found = (await result.trace![0]!.span!.array()) as number[][][] // [batch, heads, block]
    const table = (await decoder.parameters.get('embedding.weight')!.array()) as number[][]
    const read = (await tokens.array()) as number[][]
    let total = 0
    for (const [row, steps] of read.entries())
      for (const [step, token] of steps.entries())
        for (const [head, bias] of [-1, 0.5].entries()) {
          const logit = table[token]!.reduce((sum, x, f) => sum + x * weight[2 * f + head]!, bias)
          const span = 10 / (1 + Math.exp(-logit))
          expect(found[row]![head]![step]).toBeCloseTo(span, 4)
          total += span
        }
    expect((await result.penalty.data())[0]).toBeCloseTo((0.3 * total) / 12, 4)
    tf.dispose([tokens, result.logits, result.penalty, ...Object.values(result.trace![0]!)])
    result.memory.dispose()
    decoder.dispose()
  })

  test('over the slots of another method: the same term and penalty', async () => {
    const method = adaptiveSpan({ maxSpan: 10, ramp: 3, penalty: 0.5 })
    const parameters = { span: tf.tensor1d([0.2, 0.6]) }
    const slots = { layer: info, parameters, queries: tf.zeros([1, 2, 8]) }
    const { terms, penalty } = method.overlay!(slots as never)
    expect(terms).toMatchObject([{ kind: 'head-span', ramp: 3 }])
    expect(largest(await (terms[0] as { span: tf.Tensor }).span.data(), [2, 6])).toBeLessThan(1e-6)
    expect((await penalty!.data())[0]).toBeCloseTo(0.5 * 4, 6)
  })
})

describe.each(['adaptive-span', 'adaptive-span-layer', 'persistent-memory-adaptive-span'])(
  "the authors' %s",
  (name) => {
    const path = new URL(`../../../test/golden/${name}.safetensors`, import.meta.url)
    const { tensors, metadata } = decodeSafetensors(readFileSync(path), name)
    const config = JSON.parse(metadata.config!)
    const perLayer = config.adapt_span_layer === true
    const options: AdaptiveSpanOptions = perLayer
      ? {
          ...{ maxSpan: config.attn_lim, ramp: config.adapt_span_len },
          ...{ per: 'layer', trimStep: config.adapt_span_trim_step },
        }
      : { maxSpan: config.attn_span, ramp: config.adapt_span_params.adapt_span_ramp }
    const source = perLayer ? 'mask.size_ratio' : '_mask.current_val'

    test.each([0, 1])('plan and mask of layer %i', async (layer) => {
      const method = adaptiveSpan(options)
      const shares = [...tensors.get(`param/layers.${layer}.attn.attn.adaptive_span.${source}`)!.data]
      const internal = (what: string) => tensors.get(`internals/layer${layer}/${what}`)!.data
      expect(await planOf(method, shares)).toEqual({
        longest: internal('max_span')[0],
        trim: internal('trim_len')[0],
        slots: internal('cache_size')[0],
      })
      const found = strengths(method, options.maxSpan, shares, 1)
      for (const [head, weights] of found.entries()) {
        const from = perLayer ? 0 : head * options.maxSpan
        const mask = [...internal('mask').slice(from, from + options.maxSpan)].reverse()
        expect(largest(weights, normalised(mask))).toBeLessThan(1e-6)
      }
    })
  },
)

describe('what is remembered', () => {
  const options = { maxSpan: 24, ramp: 2, trimStep: 4, growth: 3 }

  test('the newest slots by the longest span of the layer, and some to grow', async () => {
    const decoder = build(adaptiveSpan(options), { initialMemory: 'empty', attendSelf: true })
    setSpans(decoder, 0, [0.25, 0.1]) // longest 6 + 2: of 24, 16 are trimmed, 8 + 3 kept
    setSpans(decoder, 1, [0, 0.5]) // longest 12 + 2: 8 trimmed, 16 + 3 kept
    await decoder.afterUpdate()
    const { memory } = await read(decoder, decoder.initialMemory(2), 30)
    expect(slotsOf(memory)).toEqual([11, 19])
    expect(memory.slots).toBe(15)
    const tokens = tokensOf(30)
    const expected = tf.tidy(() =>
      tf.gather(decoder.parameters.get('embedding.weight')!, tf.slice(tokens, [0, 19], [2, 11])),
    )
    expect(await memory.layers[0]!.tensors.hidden!.data()).toEqual(await expected.data())
    tf.dispose([tokens, expected])
    memory.dispose()
    decoder.dispose()
  })

  test('grows and shrinks as spans change', async () => {
    const decoder = build(adaptiveSpan(options))
    const first = decoder.initialMemory(2)
    expect(slotsOf(first)).toEqual([24, 24]) // before anything is known of the spans
    const lengths: number[][] = []
    let memory = first
    for (const share of [0, 0, 0.5, 0.5, 0.5, 1, 1, 0.1]) {
      for (const layer of [0, 1]) setSpans(decoder, layer, [share, 0])
      await decoder.afterUpdate()
      const next = await read(decoder, memory, 5)
      expect(next.logits.every(Number.isFinite)).toBe(true)
      memory = next.memory
      lengths.push(slotsOf(memory))
    }
    const kept = [7, 7, 12, 17, 19, 24, 24, 11]
    expect(lengths).toEqual(kept.map((slots) => [slots, slots]))
    memory.dispose()
    decoder.dispose()
  })

  test('a memory too short for spans that grew: what is there is attended to', async () => {
    const decoder = build(adaptiveSpan(options))
    await decoder.afterUpdate()
    const { memory } = await read(decoder, decoder.initialMemory(2), 9)
    expect(slotsOf(memory)).toEqual([7, 7])
    for (const layer of [0, 1]) setSpans(decoder, layer, [0.9, 0.7])
    await decoder.afterUpdate()
    // The same weights over the same slots, without any plan.
    const untrimmed = decoder.withMethod(adaptiveSpan({ ...options, trimStep: 1000 }))
    const copy = memory.clone()
    const expected = await read(untrimmed, copy, 6)
    const found = await read(decoder, memory, 6)
    expect(found.logits).toEqual(expected.logits)
    expect(slotsOf(found.memory)).toEqual([13, 13])
    found.memory.dispose()
    expected.memory.dispose()
    decoder.dispose()
  })

  test('imported weights are not trimmed by the spans that were there before', async () => {
    const method = adaptiveSpan({ ...options, growth: 0 })
    const [decoder, other] = [build(method), build(method)]
    await decoder.afterUpdate()
    for (const layer of [0, 1]) setSpans(other, layer, [0.5, 1])
    const weights = await other.exportParameters()
    decoder.importParameters(weights)
    const [found, expected] = await Promise.all(
      [decoder, other].map((one) => read(one, one.initialMemory(2), 9)),
    )
    expect(found!.logits).toEqual(expected!.logits)
    found!.memory.dispose()
    expected!.memory.dispose()
    decoder.dispose()
    other.dispose()
  })

  test.each(['fair', 'modern'] as const)(
    'trimming changes neither logits nor gradients: %s',
    async (preset) => {
      const both = [1, 1000].map((trimStep) => {
        const fields = { ...presets[preset].decoder, dropout: 0 }
        const decoder = build(adaptiveSpan({ ...options, growth: 0, trimStep }), fields)
        setSpans(decoder, 0, [0.3, 0.06])
        setSpans(decoder, 1, [0.11, 0.41])
        return decoder
      })
      const results = []
      for (const decoder of both) {
        await decoder.afterUpdate()
        let memory = decoder.initialMemory(2)
        const logits: number[] = []
        for (const steps of [7, 1, 13, 4]) {
          const next = await read(decoder, memory, steps, steps)
          memory = next.memory
          logits.push(...next.logits)
        }
        const slots = slotsOf(memory)
        const tokens = tokensOf(6)
        const step = decoder.gradients(tokens, tokens, memory)
        const gradients = new Map<string, number[]>()
        for (const [name, gradient] of Object.entries(step.gradients))
          gradients.set(name, [...(await gradient.data())])
        tf.dispose([tokens, step.loss, step.penalty, ...Object.values(step.gradients)])
        step.memory.dispose()
        results.push({ slots, logits, gradients })
        decoder.dispose()
      }
      const [trimmed, whole] = results as [(typeof results)[0], (typeof results)[0]]
      expect(trimmed.slots).toEqual([10, 12])
      expect(whole.slots).toEqual([24, 24])
      expect(largest(trimmed.logits, whole.logits)).toBeLessThan(1e-5)
      for (const [name, gradient] of whole.gradients)
        expect(largest(trimmed.gradients.get(name)!, gradient), name).toBeLessThan(1e-5)
    },
  )

  test('a reset row starts anew without making the memory longer', async () => {
    for (const initialMemory of ['zeros', 'empty'] as const) {
      const decoder = build(adaptiveSpan(options), { initialMemory, attendSelf: true })
      await decoder.afterUpdate()
      const { memory } = await read(decoder, decoder.initialMemory(2), 9)
      const reset = memory.reset([1])
      expect(slotsOf(reset)).toEqual([7, 7])
      expect(reset.layers[0]!.alive).toEqual(initialMemory === 'zeros' ? [7, 7] : [7, 0])
      const [kept, gone] = (await reset.layers[1]!.tensors.hidden!.array()) as number[][][]
      expect(kept!.flat().some((x) => x !== 0)).toBe(true)
      expect(gone!.flat().every((x) => x === 0)).toBe(true)
      reset.dispose()
      decoder.initialMemory(2).reset([0]).dispose()
      decoder.dispose()
    }
  })

  test('in one stack with other methods', async () => {
    const decoder = build([adaptiveSpan(options), fixedSpan({ span: 5 })])
    setSpans(decoder, 0, [0.25, 0.1])
    await decoder.afterUpdate()
    expect([...decoder.parameters.keys()].filter((name) => name.includes('method'))).toEqual([
      'layers.0.method.span',
    ])
    let { memory } = await read(decoder, decoder.initialMemory(2), 9)
    expect(slotsOf(memory)).toEqual([11, 5])
    const copy = memory.clone()
    const blocks = await read(decoder, memory, 4, 2)
    let arena = decoder.startDecoding(copy)
    const tokens = await (tokensOf(4, 2).array() as Promise<number[][]>)
    const steps: number[][] = []
    for (let step = 0; step < 4; step++) {
      const token = tf.tensor1d(
        tokens.map((row) => row[step]!),
        'int32',
      )
      const result = decoder.decode(token, arena)
      arena = result.memory
      steps.push([...(await result.logits.data())])
    }
    for (const [step, logits] of steps.entries())
      for (const row of [0, 1])
        expect(
          largest(
            logits.slice(row * 7, row * 7 + 7),
            blocks.logits.slice((row * 4 + step) * 7, (row * 4 + step + 1) * 7),
          ),
        ).toBeLessThan(2e-5)
    arena.dispose()
    memory = blocks.memory
    memory.dispose()
    decoder.dispose()
  })
})

describe('training', () => {
  test('spans are clamped to [0, maxSpan] after an update, and the memory follows', async () => {
    const decoder = build(adaptiveSpan({ maxSpan: 24, ramp: 2, trimStep: 4, growth: 0, initialSpan: 12 }))
    await decoder.afterUpdate()
    const tokens = tokensOf(6)
    const step = decoder.gradients(tokens, tokens, decoder.initialMemory(2))
    // A step of plain descent, far too long on purpose: one head up, one down, wherever their gradients point.
    for (const layer of [0, 1]) {
      const name = `layers.${layer}.method.span`
      expect((await step.gradients[name]!.data()).every((x) => x !== 0)).toBe(true)
      const parameter = decoder.parameters.get(name)!
      tf.tidy(() => parameter.assign(tf.sub(parameter, tf.mul(tf.sign(step.gradients[name]!), [3, -3]))))
    }
    const moved = await Promise.all(
      [0, 1].map((layer) => decoder.parameters.get(`layers.${layer}.method.span`)!.data()),
    )
    expect(moved.every((spans) => spans.every((z) => z < 0 || z > 1))).toBe(true)
    await decoder.afterUpdate()
    for (const [layer, spans] of moved.entries()) {
      const clamped = await decoder.parameters.get(`layers.${layer}.method.span`)!.data()
      expect([...clamped]).toEqual([...spans].map((z) => (z > 0 ? 1 : 0)))
    }
    tf.dispose([tokens, step.loss, step.penalty, ...Object.values(step.gradients)])
    const { memory } = await read(decoder, step.memory, 30)
    expect(slotsOf(memory)).toEqual(moved.map((spans) => (spans.some((z) => z > 0) ? 24 : 4)))
    memory.dispose()
    decoder.dispose()
  })

  test('where the mask is flat, the penalty alone moves spans: by λ · S / heads', async () => {
    const decoder = build(adaptiveSpan({ maxSpan: 20, ramp: 2, penalty: 0.01 }))
    // Beyond the clamp, so that no distance lies on the ramp.
    for (const layer of [0, 1]) setSpans(decoder, layer, [1.2, 1.2])
    const tokens = tokensOf(3)
    const step = decoder.gradients(tokens, tokens, decoder.initialMemory(2))
    for (const layer of [0, 1]) {
      const gradient = await step.gradients[`layers.${layer}.method.span`]!.data()
      expect(largest(gradient, [0.1, 0.1])).toBeLessThan(1e-6)
    }
    tf.dispose([tokens, step.loss, step.penalty, ...Object.values(step.gradients)])
    step.memory.dispose()
    decoder.dispose()
  })
})

describe('streaming decode', () => {
  const placesOf = (arena: { layers: readonly { tensors: { readonly [name: string]: tf.Tensor } }[] }) =>
    arena.layers.map(({ tensors }) => tensors.age!.shape[1])

  test('the arena is as long as the longest span wants, and stays within the bound of the README', async () => {
    const decoder = build(adaptiveSpan({ maxSpan: 400, ramp: 2, trimStep: 4, growth: 64 }))
    setSpans(decoder, 0, [0.02, 0.01]) // longest 8 + 2: window 12
    setSpans(decoder, 1, [0, 0.2]) // longest 80 + 2: window 84
    await decoder.afterUpdate()
    const { memory } = await read(decoder, decoder.initialMemory(2), 40)
    expect(slotsOf(memory)).toEqual([12 + 64, 84 + 64])
    expect(memory.bytes).toBeLessThanOrEqual(4 * 2 * 8 * (12 + 64 + 84 + 64))
    let arena = decoder.startDecoding(memory)
    for (let step = 0; step < 3; step++) {
      const token = tf.tensor1d([1, 2], 'int32')
      const result = decoder.decode(token, arena)
      arena = result.memory
      tf.dispose([token, result.logits])
    }
    expect(placesOf(arena)).toEqual([13, 85])
    // Keys, values, age and validity per place; and learned positions per distance.
    const bound = [13, 85].reduce((sum, places) => sum + 4 * (2 * places * (2 * 8 + 2) + 4 * places), 0)
    expect(arena.bytes).toBeLessThanOrEqual(bound)
    const restored = await decoder.restoreDecodeMemory(await arena.serialize())
    expect(restored.bytes).toBe(arena.bytes)
    arena.dispose()
    restored.dispose()
    decoder.dispose()
  })

  test('an arena goes on in a decoder of the same weights that has no plan yet', async () => {
    const decoder = build(adaptiveSpan({ maxSpan: 40, ramp: 2, trimStep: 4, growth: 0, initialSpan: 5 }))
    await decoder.afterUpdate()
    const { memory } = await read(decoder, decoder.initialMemory(2), 20)
    const arena = decoder.startDecoding(memory)
    const again = build(adaptiveSpan({ maxSpan: 40, ramp: 2, trimStep: 4, growth: 0, initialSpan: 5 }))
    const restored = await again.restoreDecodeMemory(await arena.serialize())
    const token = tf.tensor1d([1, 2], 'int32')
    const [one, other] = [decoder.decode(token, arena), again.decode(token, restored)]
    expect(await other.logits.data()).toEqual(await one.logits.data())
    tf.dispose([token, one.logits, other.logits])
    one.memory.dispose()
    other.memory.dispose()
    decoder.dispose()
    again.dispose()
  })
})

describe('figures for a reader', () => {
  test('static: spans in steps, slots and operations per step', async () => {
    const decoder = build(adaptiveSpan({ maxSpan: 20, ramp: 3 }))
    setSpans(decoder, 0, [0.25, 0.95])
    const memory = decoder.initialMemory(2)
    const before = tf.memory().numTensors
    const [first, second] = await decoder.report(memory)
    expect(tf.memory().numTensors).toBe(before)
    expect(first!.figures.span).toEqual({ shape: [2], data: Float32Array.from([5, 19]) })
    expect(first!.attended).toEqual([8, 20])
    expect(second!.attended).toEqual([3, 3])
    // 3 products (keys, positions, values) of 4 features, 2 operations each, for every slot attended to.
    expect(first!.flopsPerStep - second!.flopsPerStep).toBe(2 * 3 * 4 * (28 - 6))
    memory.dispose()
    decoder.dispose()
  })

  test.each(['pre', 'post'] as const)('dynamic: the mean over what is remembered, %s-norm', async (norm) => {
    const method = adaptiveSpan({ maxSpan: 6, ramp: 3, dynamic: true, per: 'layer' })
    const decoder = build(method, { normPosition: norm, initialMemory: 'empty', attendSelf: true })
    const random = new Random(2)
    tf.tidy(() => {
      for (const layer of [0, 1]) {
        const weight = decoder.parameters.get(`layers.${layer}.method.weight`)!
        weight.assign(tf.tensor2d(random.normals(8), [8, 1]))
      }
    })
    const figuresOf = async (memory: Memory) => {
      const before = tf.memory().numTensors
      const layers = await decoder.report(memory)
      expect(tf.memory().numTensors).toBe(before)
      return layers.map(({ figures, attended }) => ({
        span: (figures.span as { data: Float32Array }).data,
        attended,
      }))
    }
    const empty = decoder.initialMemory(2)
    const start = 6 / (1 + Math.exp(4))
    for (const { span, attended } of await figuresOf(empty)) {
      expect(largest(span, [start])).toBeLessThan(1e-6)
      expect(largest(attended, [start + 3, start + 3])).toBeLessThan(1e-6)
    }
    const tokens = tokensOf(5)
    const { logits, penalty, trace, memory } = decoder.forward(tokens, empty, { trace: true })
    const spans = await Promise.all(trace!.map(async ({ span }) => [...(await span!.data())])) // [row, 1, step]
    const mean = (values: number[]) => values.reduce((sum, z) => sum + z, 0) / values.length
    for (const [layer, { span, attended }] of (await figuresOf(memory)).entries()) {
      expect(span[0]).toBeCloseTo(mean(spans[layer]!), 4)
      expect(attended[1]).toBeCloseTo(mean(spans[layer]!.map((z) => Math.min(6, z + 3))), 4)
    }
    const reset = memory.reset([1])
    for (const [layer, { span }] of (await figuresOf(reset)).entries())
      expect(span[0]).toBeCloseTo(mean(spans[layer]!.slice(0, 5)), 4)
    tf.dispose([tokens, logits, penalty, ...trace!.map(({ span }) => span!)])
    reset.dispose()
    decoder.dispose()
  })
})

describe("the authors' state-dicts", () => {
  const there = 'layers.1.attn.attn.adaptive_span'
  test.each([
    ['adaptive-span', 'head', 0, [`${there}._mask.current_val`], [2, 1, 1]],
    [
      ...(['adaptive-span', 'head', 3] as const),
      [`${there}._mask.current_val`, 'layers.1.attn.attn.persistent_memory.adaptive_span._mask.current_val'],
      [2, 1, 1],
    ],
    ['adaptive-span', 'layer', 0, [`${there}._mask.current_val`], [1, 1, 1]],
    ['transformer-sequential', 'layer', 0, [`${there}.mask.size_ratio`], [1]],
    ['transformer-sequential', 'head', 0, [`${there}.mask.size_ratio`], [2, 1, 1]],
  ] as const)('%s, per %s, %i persistent slots', async (family, per, persistentSlots, names, shape) => {
    const decoder = build(adaptiveSpan({ maxSpan: 10, per }), { persistentSlots })
    setSpans(decoder, 1, per === 'head' ? [0.25, 0.5] : [0.25])
    const ours = await decoder.exportParameters()
    const theirs = toStateDict(family, decoder.config, ours)
    const spans = [...theirs].filter(([name]) => /adaptive_span/.test(name) && name.startsWith('layers.1.'))
    expect(spans.map(([name]) => name)).toEqual(names)
    for (const [, { shape: found, data }] of spans) {
      expect(found).toEqual(shape)
      expect([...data]).toEqual(per === 'head' ? [0.25, 0.5] : [0.25])
    }
    const back = fromStateDict(family, decoder.config, theirs)
    expect(new Map([...back].sort())).toEqual(new Map([...ours].sort()))
    decoder.dispose()
  })

  test('dynamic spans have no place there', () => {
    expect(adaptiveSpan({ maxSpan: 4, dynamic: true }).stateDict!('adaptive-span', info)).toEqual({})
  })
})

test('nothing leaks: prepare, update, passes, report, decode', async () => {
  for (const method of [
    adaptiveSpan({ maxSpan: 12, ramp: 2, trimStep: 2 }),
    adaptiveSpan({ maxSpan: 6, dynamic: true }),
  ]) {
    const decoder = build(method)
    const before = tf.memory().numTensors
    await decoder.afterUpdate()
    expect(tf.memory().numTensors).toBe(before)
    const tokens = tokensOf(5)
    const traced = decoder.forward(tokens, decoder.initialMemory(2), { trace: true })
    tf.dispose([tokens, traced.logits, traced.penalty, ...traced.trace!.map((trace) => trace.span!)])
    await decoder.report(traced.memory)
    const arena = decoder.startDecoding(traced.memory.reset([0]))
    const token = tf.tensor1d([1, 2], 'int32')
    const { logits, memory } = decoder.decode(token, arena)
    tf.dispose([token, logits])
    memory.dispose()
    expect(tf.memory().numTensors).toBe(before)
    decoder.dispose()
  }
})
