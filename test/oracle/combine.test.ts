/** Core's `combine` against the float64 oracle: methods over the slots that another one keeps. */
import { adaptiveSpan } from '@lethe/adaptive-span'
import { combine, type DecoderConfig, type ForgettingMethod, fixedSpan, sinks } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import { test } from 'vitest'
import { adaptiveSpan as adaptiveOracle } from './adaptive-span'
import { combine as combineOracle } from './combine'
import { type Case, compare, compareUnrolled, fair, xl } from './compare'
import { fixedSpan as fixedOracle, type MethodOracle } from './decoder'
import { expireSpan as expireOracle } from './expire-span'
import { selective as selectiveOracle } from './selective'
import { sinks as sinksOracle } from './sinks'

const expire = { maxSpan: 12, ramp: 4, penalty: 0.05, loss: 'ramp' } as const
/** Fades to nothing beyond its longest span. */
const adaptive = { maxSpan: 6, ramp: 5, penalty: 0.05 }
const dynamic = { ...adaptive, dynamic: true }

const caseOf = (
  method: ForgettingMethod,
  oracle: MethodOracle,
  fields: Partial<DecoderConfig> = {},
): Case => ({
  config: { initialization: 'fair', ...fields, method },
  oracle,
  reset: [1],
  penaltyAbove: 1e-2,
  pass: (block) => ({ training: true, draw: 0.25 + 0.15 * block }),
  scatter(name, size, random) {
    if (!name.includes('.method.')) return undefined
    return name.endsWith('span') ? random.uniforms(size, 0.3, 1) : random.uniforms(size, -1.2, 1)
  },
})
const learned = { ...fair, learnedDistances: 9 }
const shorten = { ...expire, shorten: true }
const expiring = {
  method: combine({ keeper: fixedSpan({ span: 6 }), overlays: [expireSpan(expire)] }),
  oracle: combineOracle(fixedOracle(6), { 'expire-span': expireOracle(expire) }),
}
const both = {
  method: combine({ keeper: expireSpan(expire), overlays: [adaptiveSpan(dynamic)] }),
  oracle: combineOracle(expireOracle({ ...expire, zeros: 4 }), {
    'adaptive-span': adaptiveOracle({ ...dynamic, window: false }),
  }),
}

compare({
  'Expire-Span under Adaptive-Span': caseOf(
    combine({ keeper: expireSpan(expire), overlays: [adaptiveSpan(adaptive)] }),
    combineOracle(expireOracle(expire), { 'adaptive-span': adaptiveOracle({ ...adaptive, window: false }) }),
  ),
  'Expire-Span under dynamic Adaptive-Span, post-norm': caseOf(both.method, both.oracle, learned),
  'a fixed span whose slots expire, sinusoidal': caseOf(expiring.method, expiring.oracle, xl),
  'a fixed span whose slots expire shortened, by the mean of spans, post-norm': caseOf(
    combine({ keeper: fixedSpan({ span: 6 }), overlays: [expireSpan({ ...shorten, loss: 'mean' })] }),
    combineOracle(fixedOracle(6), { 'expire-span': expireOracle({ ...shorten, loss: 'mean' }) }),
    learned,
  ),
  'a fixed span under both': caseOf(
    combine({ keeper: fixedSpan({ span: 8 }), overlays: [expireSpan(expire), adaptiveSpan(dynamic)] }),
    combineOracle(fixedOracle(8), {
      'expire-span': expireOracle(expire),
      'adaptive-span': adaptiveOracle({ ...dynamic, window: false }),
    }),
  ),
  'Selective Attention with a budget under Adaptive-Span': caseOf(
    combine({ keeper: selective({ budget: 4, memoryLoss: 0.3 }), overlays: [adaptiveSpan(adaptive)] }),
    combineOracle(selectiveOracle({ budget: 4, memoryLoss: 0.3 }), {
      'adaptive-span': adaptiveOracle({ ...adaptive, window: false }),
    }),
  ),
  'sinks around a fixed span whose slots expire': caseOf(
    sinks({ count: 2, method: expiring.method }),
    sinksOracle(2, expiring.oracle),
  ),
})

test('gradients through several blocks reach the parameters of all', () =>
  compareUnrolled(caseOf(both.method, both.oracle, learned)))
