/** The compressive memory against the float64 oracle, in the variants that the authors' vectors lack. */
import { useBackend } from '@lethe/backends'
import { type CompressiveOptions, compressive } from '@lethe/compressive'
import { Decoder, type DecoderConfig, logSoftmax, Random, registerGradients } from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { type CompressiveRow, compressive as memoryOracle } from './oracle/compressive'
import { decoderOracle, gradient, type Parameters, range, readMany, toParameters } from './oracle/decoder'

type Options = Omit<CompressiveOptions, 'compression' | 'overlap'> & {
  readonly compression: 'mean' | 'max' | 'conv' | 'most-used'
}

const vocabulary = 5
const sizes = { vocabulary, layers: 2, width: 4, heads: 2, feedForward: 4 }
const fair: Partial<DecoderConfig> = {
  ...{ activation: 'gelu', norm: 'layer', normPosition: 'post', positions: 'learned', learnedDistances: 9 },
  ...{ attendSelf: false, initialMemory: 'zeros', initialization: 'fair', outputBias: true },
}
const xl: Partial<DecoderConfig> = { positions: 'sinusoidal', norm: 'layer', activation: 'gelu' }

const variants: Record<string, readonly [Options, Partial<DecoderConfig>?]> = {
  'mean, pre-norm and rotary': [{ memory: 4, compressed: 2, rate: 3, compression: 'mean' }],
  'mean, post-norm, learned': [{ memory: 3, compressed: 3, rate: 2, compression: 'mean' }, fair],
  'max, sinusoidal': [{ memory: 3, compressed: 2, rate: 5, compression: 'max' }, xl],
  'conv, no loss': [{ memory: 2, compressed: 3, rate: 2, compression: 'conv', loss: 'none' }],
  'conv, attention, pre-norm and rotary': [
    { memory: 4, compressed: 3, rate: 3, compression: 'conv', loss: 'attention' },
  ],
  'conv, attention, post-norm': [
    { memory: 2, compressed: 3, rate: 2, compression: 'conv', loss: 'attention' },
    { ...fair, beyondLearned: 'clamp', learnedDistances: 6 },
  ],
  'conv, auto-encoding, sinusoidal': [
    { memory: 3, compressed: 2, rate: 2, compression: 'conv', loss: 'auto-encoding' },
    xl,
  ],
  'most-used, pre-norm and rotary': [{ memory: 3, compressed: 3, rate: 3, compression: 'most-used' }],
  'most-used, post-norm': [{ memory: 4, compressed: 2, rate: 2, compression: 'most-used' }, fair],
}

/** Blocks of these lengths one after the other, of two rows. */
function blocksOf(lengths: readonly number[]) {
  const random = new Random(4)
  const stream = range(2).map(() => range(40).map(() => random.integer(vocabulary)))
  return lengths.map((length, block) => {
    const from = lengths.slice(0, block).reduce((total, steps) => total + steps, 0)
    const cut = (first: number) => stream.map((row) => row.slice(first, first + length))
    return { tokens: cut(from), targets: cut(from + 1) }
  })
}
const blocks = blocksOf([5, 1, 4, 7, 3])
const learnt = 3

/** Greater weights than at the start, so that attention is no mean. */
function scatter(decoder: Decoder) {
  const random = new Random(11)
  for (const [name, parameter] of decoder.parameters)
    if (!name.includes('norm'))
      tf.tidy(() => parameter.assign(tf.tensor(random.normals(parameter.size, 0.6), parameter.shape)))
}

const device = (rows: readonly (readonly number[])[]) =>
  tf.tensor2d(
    rows.map((row) => [...row]),
    undefined,
    'int32',
  )
const worst = (found: ArrayLike<number>, expected: ArrayLike<number>) => {
  expect(found.length).toBe(expected.length)
  return Math.max(0, ...Array.from(found, (value, at) => Math.abs(value - expected[at]!)))
}
const logProbs = (logits: readonly number[]) => {
  const normaliser = Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0))
  return logits.map((logit) => logit - normaliser)
}
const namesOf = (parameters: Parameters) => [
  'embedding.weight',
  'layers.0.attention.query',
  'layers.1.attention.key',
  ...[...parameters.keys()].filter((name) => name.includes('.method.')),
]

/** The oracle's reading of all blocks, and its gradients of one with the memory before it a constant. */
function expectedOf(config: Decoder['config'], options: Options, parameters: Parameters) {
  const methods = range(2).map(() => memoryOracle(options))
  const { results } = readMany(decoderOracle(config, methods, parameters), blocks)
  const { tokens, targets } = blocks[learnt]!
  const before = results[learnt - 1]!.state
  const total = (changed: Parameters) => {
    const { loss, penalty } = decoderOracle(config, methods, changed, parameters).read(tokens, before, {
      targets,
    })
    return loss + penalty
  }
  const gradients = namesOf(parameters).map((name) => [name, gradient(total, parameters, name)] as const)
  return { results, gradients }
}

describe.each(Object.entries(variants))('%s', (_, [options, fields = {}]) => {
  // The oracle is slow, so both backends share what it found: the weights are the same.
  let expected: ReturnType<typeof expectedOf> | undefined

  test.each(['cpu', 'wasm'] as const)('on %s', async (backend) => {
    await useBackend(backend)
    registerGradients()
    const decoder = new Decoder({ ...sizes, ...fields, method: compressive(options) }, { seed: 5 })
    scatter(decoder)
    expected ??= expectedOf(decoder.config, options, toParameters(await decoder.exportParameters()))

    let memory = decoder.initialMemory(2)
    for (const [block, { tokens, targets }] of blocks.entries()) {
      const { logits, penalty, state } = expected.results[block]!
      if (block === learnt) {
        const { gradients } = decoder.gradients(device(tokens), device(targets), memory.clone())
        for (const [name, gradient] of expected.gradients) {
          const found = (await gradients[name]?.data()) ?? new Float32Array(gradient.length)
          expect(worst(found, gradient), name).toBeLessThan(2e-5)
        }
      }
      const result = decoder.forward(device(tokens), memory)
      const found = await tf.tidy(() => logSoftmax(result.logits)).data()
      expect(worst(found, logits.flat().flatMap(logProbs))).toBeLessThan(1e-5)
      expect(worst(await result.penalty.data(), [penalty])).toBeLessThan(1e-5)
      if (options.loss && options.loss !== 'none' && block === learnt) expect(penalty).toBeGreaterThan(1e-2)
      memory = result.memory
      for (const [layer, { tensors }] of memory.layers.entries()) {
        const rows = state.layers[layer] as readonly CompressiveRow[]
        const hidden = rows.flatMap((row) => row.hidden.flatMap((slot) => [...slot.hidden]))
        const compressed = rows.flatMap((row) => row.compressed.flat())
        expect(worst(await tensors.hidden!.data(), hidden)).toBeLessThan(1e-5)
        expect(worst(await tensors.compressed!.data(), compressed)).toBeLessThan(1e-5)
      }
    }
    decoder.dispose()
  })
})

describe('gradients through several blocks, the compressed memories learned through', () => {
  const own = ['conv, no loss', 'conv, attention, post-norm', 'conv, auto-encoding, sinusoidal']
  const unrolled = blocksOf([4, 4, 4])

  test.each([...own, 'max, sinusoidal', 'most-used, pre-norm and rotary'])('%s', async (name) => {
    await useBackend('wasm')
    registerGradients()
    const [options, fields = {}] = variants[name]!
    const decoder = new Decoder({ ...sizes, ...fields, method: compressive(options) }, { seed: 5 })
    scatter(decoder)
    const parameters = toParameters(await decoder.exportParameters())
    const oracle = (changed: Parameters) => {
      const methods = range(2).map(() => memoryOracle(options))
      return readMany(decoderOracle(decoder.config, methods, changed, parameters), unrolled)
    }
    const joined = (part: 'tokens' | 'targets') =>
      device(range(2).map((row) => unrolled.flatMap((block) => block[part][row]!)))
    const { gradients, loss, penalty } = decoder.gradients(
      joined('tokens'),
      joined('targets'),
      decoder.initialMemory(2),
      { unroll: 3 },
    )
    const expected = oracle(parameters)
    expect(worst(await loss.data(), [expected.loss])).toBeLessThan(1e-5)
    expect(worst(await penalty.data(), [expected.penalty])).toBeLessThan(1e-5)
    for (const parameter of namesOf(parameters)) {
      const wanted = gradient((changed) => oracle(changed).total, parameters, parameter)
      expect(worst(await gradients[parameter]!.data(), wanted), parameter).toBeLessThan(2e-5)
      expect(Math.max(...wanted.map(Math.abs)), parameter).toBeGreaterThan(1e-4)
    }
    decoder.dispose()
  })
})
