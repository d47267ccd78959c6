/** Adaptive-Span against the float64 oracle, in the variants that the authors' vectors lack. */
import { type AdaptiveSpanOptions, adaptiveSpan } from '@lethe/adaptive-span'
import type { DecoderConfig } from '@lethe/core'
import { expect, test } from 'vitest'
import { adaptiveSpan as spanOracle } from './adaptive-span'
import { type Case, compare, compareUnrolled, fair, xl } from './compare'

type Options = AdaptiveSpanOptions & { readonly ramp: number; readonly penalty: number }

const caseOf = (options: Options, fields: Partial<DecoderConfig> = {}): Case => ({
  config: { ...fields, method: adaptiveSpan(options) },
  oracle: spanOracle(options),
  penaltyAbove: 0.02,
  // Different spans for every head and query; where some are trimmed, short ones.
  scatter(name, size, random) {
    if (!name.includes('.method.')) return undefined
    const [low, high] = name.endsWith('span') ? [0.05, 'trimStep' in options ? 0.5 : 1] : [-1.5, 1]
    return random.uniforms(size, low, high)
  },
  checkLayer({ tensors }, rows) {
    expect(tensors.hidden!.shape[1]).toBe((rows[0] as unknown[]).length)
  },
})
const nine = { maxSpan: 9, ramp: 3, penalty: 0.02 }

compare({
  'static, pre-norm and rotary, trimmed': caseOf({ ...nine, maxSpan: 12, trimStep: 2, growth: 1 }),
  'static, sinusoidal': caseOf({ ...nine, ramp: 2 }, xl),
  'static, per layer': caseOf({ ...nine, ramp: 4, per: 'layer', trimStep: 1, growth: 0 }),
  'dynamic, pre-norm and rotary': caseOf({ ...nine, dynamic: true }),
  'dynamic, per layer, post-norm': caseOf(
    { maxSpan: 7, ramp: 2, penalty: 0.02, dynamic: true, per: 'layer' },
    fair,
  ),
  'dynamic, beside persistent memory': caseOf(
    { ...nine, dynamic: true },
    { ...fair, persistentSlots: 3, feedForward: 0 },
  ),
})

test('gradients through several blocks: the mean over them, memories learned through', () =>
  compareUnrolled({
    ...caseOf({ ...nine, maxSpan: 8, dynamic: true }),
    gradients: ['layers.0.attention.value'],
  }))
