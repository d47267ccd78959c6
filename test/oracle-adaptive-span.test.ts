/** Adaptive-Span against the float64 oracle, in the variants that the authors' vectors lack. */
import { type AdaptiveSpanOptions, adaptiveSpan } from '@lethe/adaptive-span'
import { useBackend } from '@lethe/backends'
import { Decoder, type DecoderConfig, logSoftmax, Random, registerGradients } from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { adaptiveSpan as spanOracle } from './oracle/adaptive-span'
import { decoderOracle, gradient, type Parameters, range, readMany, toParameters } from './oracle/decoder'

type Options = AdaptiveSpanOptions & { readonly ramp: number; readonly penalty: number }

const vocabulary = 5
const sizes = { vocabulary, layers: 2, width: 4, heads: 2, feedForward: 4 }
const fair: Partial<DecoderConfig> = {
  ...{ activation: 'relu', norm: 'layer', normPosition: 'post', positions: 'learned' },
  ...{ attendSelf: false, initialMemory: 'zeros', initialization: 'fair', outputBias: true },
}
const xl: Partial<DecoderConfig> = { positions: 'sinusoidal', norm: 'layer', activation: 'gelu' }
const allAttention = { ...fair, persistentSlots: 3, feedForward: 0 }

const variants = {
  'static, pre-norm and rotary, trimmed': [{ maxSpan: 12, ramp: 3, penalty: 0.02, trimStep: 2, growth: 1 }],
  'static, sinusoidal': [{ maxSpan: 9, ramp: 2, penalty: 0.02 }, xl],
  'static, per layer': [{ maxSpan: 9, ramp: 4, penalty: 0.02, per: 'layer', trimStep: 1, growth: 0 }],
  'dynamic, pre-norm and rotary': [{ maxSpan: 9, ramp: 3, penalty: 0.02, dynamic: true }],
  'dynamic, per layer, post-norm': [
    { maxSpan: 7, ramp: 2, penalty: 0.02, dynamic: true, per: 'layer' },
    fair,
  ],
  'dynamic, beside persistent memory': [{ maxSpan: 9, ramp: 3, penalty: 0.02, dynamic: true }, allAttention],
} as const satisfies Record<string, readonly [Options, Partial<DecoderConfig>?]>

/** Draws the method's parameters anew: different spans for every head and query, static ones up to this share. */
function scatter(decoder: Decoder, longest = 1) {
  const random = new Random(11)
  for (const [name, parameter] of decoder.parameters) {
    if (!name.includes('.method.')) continue
    const [low, high] = name.endsWith('span') ? [0.05, longest] : [-1.5, 1]
    const values = random.uniforms(parameter.size, low, high)
    tf.tidy(() => parameter.assign(tf.tensor(values, parameter.shape)))
  }
}

const lengths = [5, 1, 4, 7, 3]
const random = new Random(4)
const stream = range(2).map(() => range(21).map(() => random.integer(vocabulary)))
const blocks = lengths.map((length, block) => {
  const from = lengths.slice(0, block).reduce((total, steps) => total + steps, 0)
  const cut = (first: number) => stream.map((row) => row.slice(first, first + length))
  return { tokens: cut(from), targets: cut(from + 1) }
})

const worst = (found: ArrayLike<number>, expected: ArrayLike<number>) => {
  expect(found.length).toBe(expected.length)
  return Math.max(0, ...Array.from(found, (value, at) => Math.abs(value - expected[at]!)))
}
const logProbs = (logits: readonly number[]) => {
  const normaliser = Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0))
  return logits.map((logit) => logit - normaliser)
}

/** The oracle's reading of all blocks, and its gradients of the fourth with the memory before it a constant. */
function expectedOf(config: Decoder['config'], options: Options, parameters: Parameters) {
  const methods = range(2).map(() => spanOracle(options))
  const { results } = readMany(decoderOracle(config, methods, parameters), blocks)
  const { tokens, targets } = blocks[3]!
  const total = (changed: Parameters) => {
    const { loss, penalty } = decoderOracle(config, methods, changed).read(tokens, results[2]!.state, {
      targets,
    })
    return loss + penalty
  }
  const own = [...parameters.keys()].filter((name) => name.includes('.method.'))
  const names = ['layers.0.attention.query', 'layers.1.attention.key', ...own]
  return { results, gradients: names.map((name) => [name, gradient(total, parameters, name)] as const) }
}

describe.each(Object.entries(variants))('%s', (_, [options, fields = {}]) => {
  // The oracle is slow, so both backends share what it found: the weights are the same.
  let expected: ReturnType<typeof expectedOf> | undefined

  test.each(['cpu', 'wasm'] as const)('on %s', async (backend) => {
    await useBackend(backend)
    registerGradients()
    const decoder = new Decoder({ ...sizes, ...fields, method: adaptiveSpan(options) }, { seed: 5 })
    scatter(decoder, 'trimStep' in options ? 0.5 : 1)
    await decoder.afterUpdate()
    expected ??= expectedOf(decoder.config, options, toParameters(await decoder.exportParameters()))

    let memory = decoder.initialMemory(2)
    for (const [block, { tokens, targets }] of blocks.entries()) {
      const { logits, penalty, state } = expected.results[block]!
      const [inputs, outputs] = [tokens, targets].map((rows) => tf.tensor2d(rows, undefined, 'int32'))
      if (block === 3) {
        const { gradients } = decoder.gradients(inputs!, outputs!, memory.clone())
        for (const [name, gradient] of expected.gradients)
          expect(worst(await gradients[name]!.data(), gradient), name).toBeLessThan(2e-5)
      }
      const result = decoder.forward(inputs!, memory)
      const found = await tf.tidy(() => logSoftmax(result.logits)).data()
      expect(worst(found, logits.flat().flatMap(logProbs))).toBeLessThan(1e-5)
      expect(worst(await result.penalty.data(), [penalty])).toBeLessThan(1e-6)
      memory = result.memory
      for (const [layer, { tensors }] of memory.layers.entries())
        expect(tensors.hidden!.shape[1]).toBe((state.layers[layer]![0] as unknown[]).length)
    }
    decoder.dispose()
  })
})

test('gradients through several blocks: the mean over them, memories learned through', async () => {
  await useBackend('wasm')
  registerGradients()
  const options = { maxSpan: 8, ramp: 3, penalty: 0.02, dynamic: true }
  const decoder = new Decoder({ ...sizes, method: adaptiveSpan(options) }, { seed: 6 })
  scatter(decoder)
  const parameters = toParameters(await decoder.exportParameters())
  const cut = (from: number) =>
    range(3).map((block) => stream.map((row) => row.slice(from + 4 * block, from + 4 * block + 4)))
  const targets = cut(1)
  const three = cut(0).map((tokens, block) => ({ tokens, targets: targets[block]! }))
  const total = (changed: Parameters) =>
    readMany(decoderOracle(decoder.config, [spanOracle(options), spanOracle(options)], changed), three).total
  const [inputs, outputs] = [0, 1].map((from) =>
    tf.tensor2d(
      stream.map((row) => row.slice(from, from + 12)),
      undefined,
      'int32',
    ),
  )
  const { loss, penalty, gradients } = decoder.gradients(inputs!, outputs!, decoder.initialMemory(2), {
    unroll: 3,
  })
  const found = (await loss.data())[0]! + (await penalty.data())[0]!
  expect(Math.abs(found - total(parameters))).toBeLessThan(1e-5)
  for (const name of ['layers.0.method.weight', 'layers.1.method.bias', 'layers.0.attention.value'])
    expect(worst(await gradients[name]!.data(), gradient(total, parameters, name)), name).toBeLessThan(2e-5)
})
