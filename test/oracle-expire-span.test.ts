/** Expire-Span against the float64 oracle, in the variants that the authors' vectors lack. */
import { useBackend } from '@lethe/backends'
import { Decoder, type DecoderConfig, logSoftmax, Random, registerGradients } from '@lethe/core'
import { type ExpireSpanOptions, expireSpan } from '@lethe/expire-span'
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { decoderOracle, gradient, type Parameters, range, readMany, toParameters } from './oracle/decoder'
import { expireSpan as expireOracle } from './oracle/expire-span'

type Options = ExpireSpanOptions & { readonly ramp: number; readonly penalty: number }

const vocabulary = 5
const sizes = { vocabulary, layers: 2, width: 4, heads: 2, feedForward: 4 }
const fair: Partial<DecoderConfig> = {
  ...{ activation: 'relu', norm: 'layer', normPosition: 'post', positions: 'learned', learnedDistances: 5 },
  ...{ attendSelf: false, initialMemory: 'zeros', initialization: 'fair', outputBias: true },
}
const xl: Partial<DecoderConfig> = { positions: 'sinusoidal', norm: 'layer', activation: 'gelu' }
const allAttention = { ...fair, persistentSlots: 3, feedForward: 0, positions: 'none' } as const
const short = { maxSpan: 12, ramp: 3, penalty: 0.05 }

const variants = {
  'per row, pre-norm and rotary': [short],
  'the mean of spans, divided': [{ ...short, loss: 'mean', divider: 2 }],
  shortened: [{ ...short, shorten: true, ramp: 4 }, fair],
  'the mean of spans, shortened, in blocks': [{ ...short, loss: 'mean', shorten: true, deletion: 'blocks' }],
  sinusoidal: [short, xl],
  'a budget': [{ ...short, maxSpan: 20, budget: 4 }],
  'a budget in blocks, zeros at first': [{ ...short, maxSpan: 20, budget: 6, deletion: 'blocks' }, fair],
  'beside persistent memory': [{ ...short, maxSpan: 8 }, allAttention],
} as const satisfies Record<string, readonly [Options, Partial<DecoderConfig>?]>

/** Draws the method's parameters anew: spans that differ from slot to slot. */
function scatter(decoder: Decoder) {
  const random = new Random(11)
  for (const [name, parameter] of decoder.parameters) {
    if (!name.includes('.method.')) continue
    const values = random.uniforms(parameter.size, -1.6, 1)
    tf.tidy(() => parameter.assign(tf.tensor(values, parameter.shape)))
  }
}

const lengths = [5, 1, 4, 7, 3]
const random = new Random(4)
const stream = range(2).map(() => range(21).map(() => random.integer(vocabulary)))
const blocks = lengths.map((length, block) => {
  const from = lengths.slice(0, block).reduce((total, steps) => total + steps, 0)
  const cut = (first: number) => stream.map((row) => row.slice(first, first + length))
  return { tokens: cut(from), targets: cut(from + 1), training: true, draw: 0.25 + 0.15 * block }
})
/** The block whose gradients are compared. */
const learning = 3

const worst = (found: ArrayLike<number>, expected: ArrayLike<number>) => {
  expect(found.length).toBe(expected.length)
  return Math.max(0, ...Array.from(found, (value, at) => Math.abs(value - expected[at]!)))
}
const logProbs = (logits: readonly number[]) => {
  const normaliser = Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0))
  return logits.map((logit) => logit - normaliser)
}
const oracleOf = ({ budget, ...options }: Options) => {
  const zeros = Math.min(options.ramp, budget ?? options.ramp)
  return range(2).map(() => expireOracle({ ...options, zeros, ...(budget !== undefined && { budget }) }))
}

/** The oracle's reading of all blocks, and its gradients of one with the memory before it a constant. */
function expectedOf(config: Decoder['config'], options: Options, parameters: Parameters) {
  const methods = oracleOf(options)
  const { results } = readMany(decoderOracle(config, methods, parameters), blocks)
  const { tokens, ...pass } = blocks[learning]!
  const total = (changed: Parameters) => {
    const before = results[learning - 1]!.state
    const { loss, penalty } = decoderOracle(config, methods, changed).read(tokens, before, pass)
    return loss + penalty
  }
  const own = [...parameters.keys()].filter((name) => name.includes('.method.'))
  const names = ['layers.0.attention.query', 'layers.1.attention.key', ...own]
  return { results, gradients: names.map((name) => [name, gradient(total, parameters, name)] as const) }
}

const device = (rows: readonly (readonly number[])[]) => tf.tensor2d(rows as number[][], undefined, 'int32')

describe.each(Object.entries(variants))('%s', (_, [options, fields = {}]) => {
  // The oracle is slow, so both backends share what it found: the weights are the same.
  let expected: ReturnType<typeof expectedOf> | undefined

  test.each(['cpu', 'wasm'] as const)('on %s', async (backend) => {
    await useBackend(backend)
    registerGradients()
    const decoder = new Decoder({ ...sizes, ...fields, method: expireSpan(options) }, { seed: 5 })
    scatter(decoder)
    expected ??= expectedOf(decoder.config, options, toParameters(await decoder.exportParameters()))

    let memory = decoder.initialMemory(2)
    for (const [block, { tokens, targets, training, draw }] of blocks.entries()) {
      const { logits, penalty, state } = expected.results[block]!
      const [inputs, outputs] = [device(tokens), device(targets)]
      if (block === learning) {
        const step = decoder.gradients(inputs, outputs, memory.clone(), { draw })
        for (const [name, gradient] of expected.gradients)
          expect(worst(await step.gradients[name]!.data(), gradient), name).toBeLessThan(2e-5)
        for (const value of [step.loss, step.penalty, step.memory, ...Object.values(step.gradients)])
          value.dispose()
      }
      const result = decoder.forward(inputs, memory, { training, draw })
      const found = tf.tidy(() => logSoftmax(result.logits))
      expect(worst(await found.data(), logits.flat().flatMap(logProbs))).toBeLessThan(1e-5)
      expect(worst(await result.penalty.data(), [penalty])).toBeLessThan(1e-5)
      for (const value of [inputs, outputs, found, result.logits, result.penalty]) value.dispose()
      memory = await decoder.compact(result.memory)
      for (const [layer, { tensors, alive }] of memory.layers.entries()) {
        const rows = state.layers[layer] as { age: number }[][]
        expect(alive).toEqual(rows.map(({ length }) => length))
        const [age, places] = [await tensors.age!.data(), tensors.age!.shape[1]!]
        rows.forEach((slots, row) => {
          const newest = age.slice((row + 1) * places - slots.length, (row + 1) * places)
          expect([...newest]).toEqual(slots.map((slot) => slot.age))
        })
      }
    }
    memory.dispose()
    decoder.dispose()
  })
})

test('gradients through several blocks: spans learn from what later blocks see of them', async () => {
  await useBackend('wasm')
  registerGradients()
  const options = { maxSpan: 10, ramp: 4, penalty: 0.05 }
  const decoder = new Decoder({ ...sizes, method: expireSpan(options) }, { seed: 6 })
  scatter(decoder)
  const parameters = toParameters(await decoder.exportParameters())
  const cut = (from: number) =>
    range(3).map((block) => stream.map((row) => row.slice(from + 4 * block, from + 4 * block + 4)))
  const targets = cut(1)
  const three = cut(0).map((tokens, block) => ({ tokens, targets: targets[block]! }))
  const total = (changed: Parameters) =>
    readMany(decoderOracle(decoder.config, oracleOf(options), changed), three).total
  const [inputs, outputs] = [0, 1].map((from) => device(stream.map((row) => row.slice(from, from + 12))))
  const step = decoder.gradients(inputs!, outputs!, decoder.initialMemory(2), { unroll: 3 })
  const found = (await step.loss.data())[0]! + (await step.penalty.data())[0]!
  expect(Math.abs(found - total(parameters))).toBeLessThan(1e-5)
  for (const name of ['layers.0.method.weight', 'layers.1.method.bias', 'layers.0.attention.value'])
    expect(worst(await step.gradients[name]!.data(), gradient(total, parameters, name)), name).toBeLessThan(
      2e-5,
    )
  const used = [step.loss, step.penalty, step.memory, ...Object.values(step.gradients)]
  for (const value of [inputs!, outputs!, ...used, decoder]) value.dispose()
})
