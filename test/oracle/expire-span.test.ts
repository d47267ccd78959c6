/** Expire-Span against the float64 oracle, in the variants that the authors' vectors lack. */
import type { DecoderConfig } from '@lethe/core'
import { type ExpireSpanOptions, expireSpan } from '@lethe/expire-span'
import { expect, test } from 'vitest'
import { type Case, compare, compareUnrolled, fair as fairWithoutEnd, xl } from './compare'
import { expireSpan as expireOracle } from './expire-span'

type Options = ExpireSpanOptions & { readonly ramp: number; readonly penalty: number }

const caseOf = (options: Options, fields: Partial<DecoderConfig> = {}): Case => {
  const { budget, ...rest } = options
  const zeros = Math.min(options.ramp, budget ?? options.ramp)
  return {
    config: { ...fields, method: expireSpan(options) },
    oracle: expireOracle({ ...rest, zeros, ...(budget !== undefined && { budget }) }),
    penaltyAbove: 1e-3,
    pass: (block) => ({ training: true, draw: 0.25 + 0.15 * block }),
    // Spans that differ from slot to slot.
    scatter: (name, size, random) => (name.includes('.method.') ? random.uniforms(size, -1.6, 1) : undefined),
    async checkLayer({ tensors, alive }, found) {
      const rows = found as { age: number }[][]
      expect(alive).toEqual(rows.map(({ length }) => length))
      const [age, places] = [await tensors.age!.data(), tensors.age!.shape[1]!]
      rows.forEach((slots, row) => {
        const newest = age.slice((row + 1) * places - slots.length, (row + 1) * places)
        expect([...newest]).toEqual(slots.map((slot) => slot.age))
      })
    },
  }
}
const short = { maxSpan: 12, ramp: 3, penalty: 0.05, loss: 'ramp' } as const
const long = { ...short, maxSpan: 20 }
const fair = { ...fairWithoutEnd, learnedDistances: 5 }
const allAttention = { ...fair, persistentSlots: 3, feedForward: 0, positions: 'none' } as const

compare({
  'per row, pre-norm and rotary': caseOf(short),
  'the mean of spans, divided': caseOf({ ...short, loss: 'mean', divider: 2 }),
  shortened: caseOf({ ...short, shorten: true, ramp: 4 }, fair),
  'the mean of spans, shortened, in blocks': caseOf({
    ...short,
    loss: 'mean',
    shorten: true,
    deletion: 'blocks',
  }),
  sinusoidal: caseOf(short, xl),
  'a budget': caseOf({ ...long, maxSpan: 16, ramp: 6, budget: 4 }),
  'a budget in blocks, zeros at first': caseOf({ ...long, budget: 6, deletion: 'blocks' }, fair),
  'beside persistent memory': caseOf({ ...short, maxSpan: 8 }, allAttention),
})

test('gradients through several blocks: spans learn from what later blocks see of them', () =>
  compareUnrolled({
    ...caseOf({ ...short, maxSpan: 10, ramp: 4 }),
    gradients: ['layers.0.attention.value'],
  }))
