/** Selective Attention against the float64 oracle, in the variants that the golden vectors lack. */
import { useBackend } from '@lethe/backends'
import { Decoder, type DecoderConfig, Random } from '@lethe/core'
import { allocateBudgets, type SelectiveOptions, selective } from '@lethe/selective'
import { evaluate, openString, train } from '@lethe/trainer'
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { type Case, compare, compareUnrolled, fair as fairWithoutEnd, worst, xl } from './compare'
import { range } from './decoder'
import { greedyBudgets, selective as selectiveOracle, type Voted } from './selective'

const caseOf = (options: SelectiveOptions, fields: Partial<DecoderConfig> = {}): Case => {
  const { span = 99, budget } = options
  const zeros = Math.min(span, typeof budget === 'number' ? budget : 99)
  return {
    config: { initialization: 'fair', ...fields, method: selective(options) },
    oracle: selectiveOracle({ ...options, zeros }),
    reset: [1],
    penaltyAbove: 0.02,
    gradients: ['layers.0.attention.norm.scale'],
    async checkLayer({ tensors, alive }, found) {
      const rows = found as Voted[][]
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
    },
  }
}
const fair = { ...fairWithoutEnd, learnedDistances: 9 }
const four = { budget: 4, memoryLoss: 0.3 }

compare({
  'a window, rotary': caseOf({ span: 6, memoryLoss: 0.3 }),
  'a window of zeros at first, without oneself, post-norm': caseOf(
    { span: 5, memoryLoss: 0.3, tau: 0.4 },
    fair,
  ),
  'a budget, head 1, another tau': caseOf({ ...four, head: 1, tau: 2.5 }),
  'a budget of zeros at first, without oneself, post-norm': caseOf(four, fair),
  'budgets per layer, sinusoidal': caseOf(
    { budget: [3, 7], memoryLoss: 0.3 },
    { ...xl, activation: 'swiglu', farthestPosition: 12 },
  ),
  'a budget within a window, beside persistent memory': caseOf({ ...four, span: 8 }, { persistentSlots: 2 }),
})

test('gradients through several blocks: votes of one count in the next, after slots were pruned', () =>
  compareUnrolled({
    ...caseOf(four, fair),
    gradients: ['layers.1.attention.query', 'layers.0.attention.value'],
  }))

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
