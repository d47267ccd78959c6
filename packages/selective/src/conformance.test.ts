/** Selective Attention under the laws of any method. */
import { useBackend } from '@lethe/backends'
import { type ForgettingMethod, sinks } from '@lethe/core'
import { conformanceLaws } from '@lethe/core/testing'
import { beforeAll, describe, test } from 'vitest'
import { selective } from './selective'

const window = () => selective({ span: 7, memoryLoss: 0.1 })
const both = () => selective({ budget: 5, span: 9, memoryLoss: 0.5, tau: 0.3 })
const variants: Record<'cpu' | 'wasm', Record<string, () => ForgettingMethod>> = {
  cpu: { 'a window': window, 'a budget within a window': both },
  wasm: {
    'a window': window,
    'a window below the block': () => selective({ span: 3, head: 1 }),
    'a budget within a window': both,
    'budgets per layer': () => selective({ budget: [4, 8], head: 1, memoryLoss: 0.1 }),
    'sinks around a budget': () => sinks({ count: 2, method: selective({ budget: 5 }) }),
  },
}
const decoder = { learnedDistances: 14 }

describe.each(['cpu', 'wasm'] as const)('selective on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
  })
  describe.each(Object.entries(variants[backend]))('%s', (_, method) => {
    for (const law of conformanceLaws({ method, decoder })) test(law.name, law.check)
  })
})

const backends = { cpu: () => useBackend('cpu'), wasm: () => useBackend('wasm') }
for (const law of conformanceLaws({
  method: () => selective({ budget: 6, memoryLoss: 0.1 }),
  decoder,
  backends,
}))
  if (law.name.includes('backends')) test(law.name, law.check)
