/** Selective Attention against the float64 oracle, in the variants that the golden vectors lack. */
import { useBackend } from '@lethe/backends'
import { Decoder, type DecoderConfig, logSoftmax, Random, registerGradients } from '@lethe/core'
import { allocateBudgets, type SelectiveOptions, selective } from '@lethe/selective'
import { evaluate, openString, train } from '@lethe/trainer'
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import {
  decoderOracle,
  gradient,
  type Parameters,
  range,
  readMany,
  type State,
  toParameters,
} from './oracle/decoder'
import { greedyBudgets, selective as selectiveOracle, type Voted } from './oracle/selective'

const vocabulary = 5
const sizes = { vocabulary, layers: 2, width: 4, heads: 2, feedForward: 4, initialization: 'fair' } as const
const fair: Partial<DecoderConfig> = {
  ...{ activation: 'relu', norm: 'layer', normPosition: 'post', positions: 'learned' },
  ...{ attendSelf: false, initialMemory: 'zeros', outputBias: true, learnedDistances: 9 },
}
const xl: Partial<DecoderConfig> = { positions: 'sinusoidal', farthestPosition: 12, norm: 'layer' }

const variants = {
  'a window, rotary': [{ span: 6, memoryLoss: 0.3 }],
  'a window of zeros at first, without oneself, post-norm': [{ span: 5, memoryLoss: 0.3, tau: 0.4 }, fair],
  'a budget, head 1, another tau': [{ budget: 4, head: 1, memoryLoss: 0.3, tau: 2.5 }],
  'a budget of zeros at first, without oneself, post-norm': [{ budget: 4, memoryLoss: 0.3 }, fair],
  'budgets per layer, sinusoidal': [{ budget: [3, 7], memoryLoss: 0.3 }, xl],
  'a budget within a window, beside persistent memory': [
    { budget: 4, span: 8, memoryLoss: 0.3 },
    { persistentSlots: 2 },
  ],
} as const satisfies Record<string, readonly [SelectiveOptions, Partial<DecoderConfig>?]>

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
const toTensors = (...all: (readonly (readonly number[])[])[]) =>
  all.map((rows) => tf.tensor2d(rows as number[][], undefined, 'int32'))
const methodsOf = (options: SelectiveOptions) => {
  const zeros = Math.min(options.span ?? 99, typeof options.budget === 'number' ? options.budget : 99)
  return range(2).map(() => selectiveOracle({ ...options, zeros }))
}

/** The oracle's reading of all blocks, the second row reset before the fourth, and its gradients of that. */
function expectedOf(config: Decoder['config'], options: SelectiveOptions, parameters: Parameters) {
  const methods = methodsOf(options)
  const oracle = decoderOracle(config, methods, parameters)
  const { results, state } = readMany(oracle, blocks.slice(0, 3))
  const fresh = oracle.start(2)
  const reset: State = {
    steps: [state.steps[0]!, 0],
    layers: state.layers.map((rows, layer) => [rows[0], fresh.layers[layer]![1]]),
  }
  const { tokens, targets } = blocks[3]!
  const total = (changed: Parameters) => {
    const { loss, penalty } = decoderOracle(config, methods, changed).read(tokens, reset, { targets })
    return loss + penalty
  }
  const names = ['layers.0.attention.query', 'layers.1.attention.key', 'layers.0.attention.norm.scale']
  return {
    results: [...results, ...readMany(oracle, blocks.slice(3), reset).results],
    gradients: names.map((name) => [name, gradient(total, parameters, name)] as const),
  }
}

describe.each(Object.entries(variants))('%s', (_, [options, fields = {}]) => {
  // The oracle is slow, so both backends share what it found: the weights are the same.
  let expected: ReturnType<typeof expectedOf> | undefined

  test.each(['cpu', 'wasm'] as const)('on %s', async (backend) => {
    await useBackend(backend)
    registerGradients()
    const decoder = new Decoder({ ...sizes, ...fields, method: selective(options) }, { seed: 5 })
    expected ??= expectedOf(decoder.config, options, toParameters(await decoder.exportParameters()))

    let memory = decoder.initialMemory(2)
    for (const [block, { tokens, targets }] of blocks.entries()) {
      const { logits, penalty, state } = expected.results[block]!
      const [inputs, outputs] = toTensors(tokens, targets)
      if (block === 3) {
        memory = memory.reset([1])
        const { gradients } = decoder.gradients(inputs!, outputs!, memory.clone())
        for (const [name, gradient] of expected.gradients)
          expect(worst(await gradients[name]!.data(), gradient), name).toBeLessThan(2e-5)
      }
      const result = decoder.forward(inputs!, memory)
      const found = await tf.tidy(() => logSoftmax(result.logits)).data()
      expect(worst(found, logits.flat().flatMap(logProbs))).toBeLessThan(1e-5)
      expect(worst(await result.penalty.data(), [penalty])).toBeLessThan(1e-6)
      memory = result.memory
      for (const [layer, { tensors, alive }] of memory.layers.entries()) {
        const rows = state.layers[layer] as Voted[][]
        expect(alive).toEqual(rows.map((row) => row.length))
        for (const [name, of] of [
          ['age', ({ age }: Voted) => age],
          ['F', ({ votes }: Voted) => votes],
          ['bos', ({ first }: Voted) => Number(first)],
        ] as const) {
          const slots = tensors[name]!.shape[1]!
          const values = [...(await tensors[name]!.data())]
          for (const [b, row] of rows.entries())
            expect(
              worst(values.slice((b + 1) * slots - row.length, (b + 1) * slots), row.map(of)),
            ).toBeLessThan(1e-5)
        }
      }
    }
    decoder.dispose()
  })
})

test('gradients through several blocks: votes of one count in the next, after slots were pruned', async () => {
  await useBackend('wasm')
  registerGradients()
  const options = { budget: 4, memoryLoss: 0.3 }
  const decoder = new Decoder({ ...sizes, ...fair, method: selective(options) }, { seed: 6 })
  const parameters = toParameters(await decoder.exportParameters())
  const cut = (from: number) =>
    range(3).map((block) => stream.map((row) => row.slice(from + 4 * block, from + 4 * block + 4)))
  const targets = cut(1)
  const three = cut(0).map((tokens, block) => ({ tokens, targets: targets[block]! }))
  const total = (changed: Parameters) =>
    readMany(decoderOracle(decoder.config, methodsOf(options), changed), three).total
  const [inputs, outputs] = toTensors(
    stream.map((row) => row.slice(0, 12)),
    stream.map((row) => row.slice(1, 13)),
  )
  const { loss, penalty, gradients } = decoder.gradients(inputs!, outputs!, decoder.initialMemory(2), {
    unroll: 3,
  })
  const found = (await loss.data())[0]! + (await penalty.data())[0]!
  expect(Math.abs(found - total(parameters))).toBeLessThan(1e-5)
  for (const name of ['layers.0.attention.query', 'layers.1.attention.query', 'layers.0.attention.value'])
    expect(worst(await gradients[name]!.data(), gradient(total, parameters, name)), name).toBeLessThan(2e-5)
})

test('budgets of a trained decoder: the loop of the oracle, and worth more than equal ones', async () => {
  await useBackend('wasm')
  // Names are said once and asked for later: what lies between can be forgotten.
  const draw = new Random(7)
  const text = range(260)
    .map(() => {
      const name = 'abcdefgh'[draw.integer(8)]
      return `${name}:${'.'.repeat(4 + draw.integer(5))}?${name}\n`
    })
    .join('')
  const { train: source, validation, tokenizer } = await openString(text)
  const decoder = new Decoder({
    ...{ vocabulary: tokenizer.vocabulary, layers: 2, width: 16, heads: 2, feedForward: 32 },
    method: selective({ budget: 16, memoryLoss: 0.1 }),
  })
  const steps = { steps: 60, batch: 8, block: 16, learningRate: 1e-2, warmup: 5 }
  for await (const _ of train({ decoder, train: source, ...steps })) {
    // only its weights matter
  }
  const lossOf = async (budget: readonly number[]) => {
    const pruned = decoder.withMethod(selective({ budget: [...budget] }))
    return (await evaluate({ decoder: pruned, source: validation!, batch: 2, block: 8 })).loss
  }
  const search = { layers: 2, full: 12, step: 4, evaluate: lossOf, target: { total: 12 } }
  const before = tf.memory().numTensors
  const { budgets, loss, path } = await allocateBudgets(search)
  expect(tf.memory().numTensors).toBe(before)
  expect(budgets).toEqual(await greedyBudgets(search))
  expect(path.length).toBe(3)
  expect(loss).toBe(await lossOf(budgets))
  expect(loss).toBeLessThan(Math.log(tokenizer.vocabulary))
  expect(loss).toBeLessThanOrEqual(Math.max(await lossOf([8, 4]), await lossOf([4, 8])))
  decoder.dispose()
})
