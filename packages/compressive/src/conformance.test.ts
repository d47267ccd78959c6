/** The laws of every method, for each way of compressing, on every backend that is there. */
import { useBackend } from '@lethe/backends'
import { sinks } from '@lethe/core'
import { conformanceLaws } from '@lethe/core/testing'
import { beforeAll, describe, test } from 'vitest'
import { compressive } from '.'

// Rows are reset at step 24, a multiple of each rate here: only then are their groups those of a new stream.
const variants = {
  mean: () => compressive({ memory: 4, compressed: 3, rate: 2, compression: 'mean' }),
  'mean of one step each': () => compressive({ memory: 5, compressed: 4, rate: 1, compression: 'mean' }),
  'max of more steps than a block has': () =>
    compressive({ memory: 3, compressed: 1, rate: 8, compression: 'max' }),
  'conv, attention': () => compressive({ memory: 4, compressed: 3, rate: 3 }),
  'conv, auto-encoding': () => compressive({ memory: 5, compressed: 2, rate: 2, loss: 'auto-encoding' }),
  'dilated, attention': () => compressive({ memory: 4, compressed: 3, rate: 3, compression: 'dilated' }),
  // Of two groups evicted at a time a row that was reset has one.
  'most-used': () => compressive({ memory: 8, compressed: 3, rate: 3, compression: 'most-used' }),
  'sinks around it': () =>
    sinks({ count: 2, method: compressive({ memory: 4, compressed: 3, rate: 2, compression: 'mean' }) }),
  'sinks around most-used': () =>
    sinks({ count: 1, method: compressive({ memory: 4, compressed: 3, rate: 4, compression: 'most-used' }) }),
}
const decoder = { learnedDistances: 20 }
type Variant = keyof typeof variants

describe.each([
  ['wasm', Object.keys(variants) as Variant[]],
  // The same operations in plain JavaScript, which takes three times as long.
  ['cpu', ['conv, attention', 'most-used'] satisfies Variant[]],
] as const)('compressive on %s', (backend, names) => {
  beforeAll(async () => {
    await useBackend(backend)
  })
  describe.each(names)('%s', (name) => {
    for (const law of conformanceLaws({ method: variants[name], decoder, penaltyReaches: 'own' }))
      test(law.name, law.check)
  })
})

const backends = { cpu: () => useBackend('cpu'), wasm: () => useBackend('wasm') }
describe.each(Object.entries(variants))('%s', (_, method) => {
  const laws = conformanceLaws({ method, decoder, backends })
  for (const law of laws.filter(({ name }) => name.includes('backends'))) test(law.name, law.check)
})
