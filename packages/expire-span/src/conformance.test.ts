/** The laws of core for Expire-Span in all its forms. */
import { useBackend } from '@lethe/backends'
import { type ForgettingMethod, sinks } from '@lethe/core'
import { conformanceLaws } from '@lethe/core/testing'
import { beforeAll, describe, test } from 'vitest'
import { expireSpan } from '.'
import { livelySpans } from './lively'

const short = { maxSpan: 8, ramp: 4, initialPercentage: 0.4, penalty: 0.01 }
const spansThatDiffer = () => livelySpans(short)
const budget = () => livelySpans({ ...short, budget: 5 })

const variants: Record<'cpu' | 'wasm', Record<string, () => ForgettingMethod>> = {
  cpu: { 'spans that differ': spansThatDiffer },
  wasm: {
    'as it starts, all spans equal': () => expireSpan(short),
    'the loss of the paper, shortened, divided': () =>
      livelySpans({ ...short, loss: 'mean', shorten: true, divider: 3 }, 2),
    'the loss of the code, shortened, deletion in blocks': () =>
      livelySpans({ ...short, shorten: true, deletion: 'blocks' }),
    'a budget': budget,
    'a budget below ramp and block': () => livelySpans({ ...short, budget: 3, deletion: 'blocks' }),
    'sinks around a budget': () => sinks({ count: 2, method: livelySpans({ ...short, budget: 4 }) }),
  },
}
const decoder = { learnedDistances: 9 }

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
  })
  describe.each(Object.entries(variants[backend]))('%s', (_, method) => {
    for (const law of conformanceLaws({ method, decoder })) test(law.name, law.check)
  })
})

const sinusoidal = { ...decoder, positions: 'sinusoidal' } as const
for (const { name, check } of conformanceLaws({ method: spansThatDiffer, decoder: sinusoidal }))
  if (/other blocks|streaming decode/.test(name)) test(`sinusoidal positions: ${name}`, check)

const backends = { cpu: () => useBackend('cpu'), wasm: () => useBackend('wasm') }
for (const law of conformanceLaws({ method: spansThatDiffer, decoder, backends }))
  if (law.name.includes('backends')) test(law.name, law.check)
