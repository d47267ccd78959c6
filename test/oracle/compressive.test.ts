/** The compressive memory against the float64 oracle, in the variants that the authors' vectors lack. */
import { type CompressiveOptions, compressive } from '@lethe/compressive'
import type { DecoderConfig } from '@lethe/core'
import { describe, expect, test } from 'vitest'
import { type Case, compare, compareUnrolled, fair as fairWithoutEnd, worst, xl } from './compare'
import { type CompressiveRow, compressive as memoryOracle } from './compressive'

type Options = Omit<CompressiveOptions, 'compression' | 'overlap'> & {
  readonly compression: 'mean' | 'max' | 'conv' | 'most-used'
}

const caseOf = (options: Options, fields: Partial<DecoderConfig> = {}): Case => ({
  config: { ...fields, method: compressive(options) },
  oracle: memoryOracle(options),
  stopsGradients: true,
  gradients: ['embedding.weight'],
  ...(options.loss && options.loss !== 'none' && { penaltyAbove: 1e-2 }),
  penaltyWithin: 1e-5,
  // Greater weights than at the start, so that attention is no mean.
  scatter: (name, size, random) => (name.includes('norm') ? undefined : random.normals(size, 0.6)),
  async checkLayer({ tensors }, found) {
    const rows = found as readonly CompressiveRow[]
    const hidden = rows.flatMap((row) => row.hidden.flatMap((slot) => [...slot.hidden]))
    const compressed = rows.flatMap((row) => row.compressed.flat())
    expect(worst(await tensors.hidden!.data(), hidden)).toBeLessThan(1e-5)
    expect(worst(await tensors.compressed!.data(), compressed)).toBeLessThan(1e-5)
  },
})
const fair = { ...fairWithoutEnd, activation: 'gelu', learnedDistances: 9 } as const
const three = { memory: 3, compressed: 2, rate: 2 }
const two = { memory: 2, compressed: 3, rate: 2 }

const cases = {
  'mean, pre-norm and rotary': caseOf({ memory: 4, compressed: 2, rate: 3, compression: 'mean' }),
  'mean, post-norm, learned': caseOf({ memory: 3, compressed: 3, rate: 2, compression: 'mean' }, fair),
  'max, sinusoidal': caseOf({ ...three, rate: 5, compression: 'max' }, xl),
  'conv, no loss': caseOf({ ...two, compression: 'conv', loss: 'none' }),
  'conv, attention, pre-norm and rotary': caseOf({
    ...{ memory: 4, compressed: 3, rate: 3 },
    ...{ compression: 'conv', loss: 'attention' },
  }),
  'conv, attention, post-norm': caseOf(
    { ...two, compression: 'conv', loss: 'attention' },
    { ...fair, beyondLearned: 'clamp', learnedDistances: 6 },
  ),
  'conv, auto-encoding, sinusoidal': caseOf({ ...three, compression: 'conv', loss: 'auto-encoding' }, xl),
  'most-used, pre-norm and rotary': caseOf({
    ...{ memory: 3, compressed: 3, rate: 3 },
    compression: 'most-used',
  }),
  'most-used, post-norm': caseOf({ memory: 4, compressed: 2, rate: 2, compression: 'most-used' }, fair),
}
compare(cases)

describe('gradients through several blocks, the compressed memories learned through', () => {
  test.each([
    ...(['conv, no loss', 'conv, attention, post-norm', 'conv, auto-encoding, sinusoidal'] as const),
    ...(['max, sinusoidal', 'most-used, pre-norm and rotary'] as const),
  ])('%s', (name) => compareUnrolled(cases[name]))
})
