/** Core's `sinks` around methods against the float64 oracle: the first steps in blocks of any lengths, also anew. */
import { adaptiveSpan } from '@lethe/adaptive-span'
import { type DecoderConfig, type ForgettingMethod, fixedSpan, sinks } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import { expect } from 'vitest'
import { adaptiveSpan as adaptiveOracle } from './adaptive-span'
import { type Case, compare, fair, worst } from './compare'
import { fixedSpan as fixedOracle, type MethodOracle, sum } from './decoder'
import { expireSpan as expireOracle } from './expire-span'
import { selective as selectiveOracle } from './selective'
import { type SinksRow, sinks as sinksOracle } from './sinks'

const adaptive = { maxSpan: 7, ramp: 3, penalty: 0.05 }
const expire = { maxSpan: 9, ramp: 3, penalty: 0.05, loss: 'ramp' } as const
const votes = { memoryLoss: 0.3 }

interface Inner {
  readonly method: ForgettingMethod
  readonly oracle: MethodOracle
  readonly count?: number
  readonly penaltyAbove?: number
  /** Whether slots die anywhere, so that places may be empty, and whether the host knows how many. */
  readonly scattered?: 'counted' | 'on the device'
}
const inner: Record<string, Inner> = {
  'a fixed span': { method: fixedSpan({ span: 3 }), oracle: fixedOracle(3) },
  'a fixed span, more sinks than the first blocks have': {
    ...{ method: fixedSpan({ span: 2 }), oracle: fixedOracle(2), count: 8 },
  },
  'Adaptive-Span': {
    ...{ method: adaptiveSpan(adaptive), oracle: adaptiveOracle(adaptive), penaltyAbove: 1e-2 },
  },
  'Expire-Span': {
    method: expireSpan(expire),
    oracle: expireOracle({ ...expire, zeros: 3 }),
    ...{ penaltyAbove: 1e-3, scattered: 'counted' },
  },
  'Expire-Span with a budget, by the mean of spans': {
    method: expireSpan({ ...expire, budget: 4, loss: 'mean' }),
    oracle: expireOracle({ ...expire, budget: 4, loss: 'mean', zeros: 3 }),
    ...{ penaltyAbove: 1e-3, scattered: 'counted' },
  },
  'Selective Attention in a window': {
    method: selective({ ...votes, span: 6 }),
    oracle: selectiveOracle({ ...votes, span: 6, zeros: 6 }),
    ...{ penaltyAbove: 1e-2, scattered: 'on the device' },
  },
  'Selective Attention with a budget': {
    method: selective({ ...votes, budget: 4 }),
    oracle: selectiveOracle({ ...votes, budget: 4, zeros: 4 }),
    ...{ penaltyAbove: 1e-2, scattered: 'counted', count: 3 },
  },
}

const caseOf = ({ method, oracle, count = 2, ...given }: Inner, fields: Partial<DecoderConfig>): Case => ({
  config: { initialization: 'fair', ...fields, method: sinks({ count, method }) },
  oracle: sinksOracle(count, oracle),
  // The second row begins anew in the midst of the others.
  reset: [1],
  ...(given.penaltyAbove && { penaltyAbove: given.penaltyAbove }),
  scatter(name, size, random) {
    if (!name.includes('.method.')) return undefined
    return name.endsWith('span') ? random.uniforms(size, 0.05, 0.8) : random.uniforms(size, -1.6, 1)
  },
  async checkLayer({ tensors, alive }, found) {
    const rows = found as SinksRow[]
    const kept = rows.flatMap((row) => {
      const states = row.sinks.flatMap(({ hidden }) => [...hidden])
      return [...states, ...new Array<number>((count - row.sinks.length) * 4).fill(0)]
    })
    expect(worst(await tensors.sink!.data(), kept)).toBeLessThan(1e-5)
    if (!given.scattered) return
    const counts = rows.map((row) => (row.inner as unknown[]).length)
    const valid = [...(await tensors.valid!.data())]
    const places = valid.length / counts.length
    expect(counts.map((_, b) => sum(valid.slice(b * places, (b + 1) * places)))).toEqual(counts)
    // On the host a window may count sinks as long as zeros lie before them.
    if (given.scattered === 'counted') expect(alive).toEqual(counts)
  },
})

const rotary = {}
const learned = { ...fair, learnedDistances: 9 }
const oneself = { attendSelf: true, initialMemory: 'empty' } as const
const others = { attendSelf: false, initialMemory: 'zeros' } as const
const styles: Record<string, Partial<DecoderConfig>> = {
  rotary: { ...rotary, ...oneself },
  'rotary, without oneself, zeros at first': { ...rotary, ...others },
  learned: { ...learned, ...oneself },
  'learned, the farthest for all beyond, without oneself': { ...learned, ...others, beyondLearned: 'clamp' },
}

compare(
  Object.fromEntries(
    Object.entries(inner).flatMap(([name, given]) =>
      Object.entries(styles).map(([style, fields]) => [`${name}, ${style}`, caseOf(given, fields)]),
    ),
  ),
)
