/** The methods of core under the conformance kit, on every backend that is there. */
import { useBackend } from '@lethe/backends'
import { beforeAll, describe, test } from 'vitest'
import { fixedSpan } from './fixed-span'
import { sinks } from './sinks'
import { conformanceLaws } from './testing'
import { heaviestSlots } from './testing/heaviest-slots'

const methods = {
  'every query sees as much': () => fixedSpan({ span: 8 }),
  'later queries see more': () => fixedSpan({ span: 8, sameLength: false }),
  'a span below the block': () => fixedSpan({ span: 3 }),
  'slots that die in the middle': () => heaviestSlots({ budget: 6 }),
  'sinks around a window': () => sinks({ count: 2, method: fixedSpan({ span: 5 }) }),
  'sinks around later queries that see more': () =>
    sinks({ count: 2, method: fixedSpan({ span: 5, sameLength: false }) }),
  'sinks around slots that die': () => sinks({ count: 3, method: heaviestSlots({ budget: 5 }) }),
}

describe.each(['cpu', 'wasm'] as const)('methods on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
  })
  describe.each(Object.entries(methods))('%s', (_, method) => {
    for (const law of conformanceLaws({ method, decoder: { learnedDistances: 14 } }))
      test(law.name, law.check)
  })
})

// Persistent slots have no position: where a query stands in its block makes no difference to them.
describe('beside persistent slots', () => {
  beforeAll(async () => {
    await useBackend('wasm')
  })
  const decoder = { learnedDistances: 14, persistentSlots: 3 }
  for (const law of conformanceLaws({ method: methods['every query sees as much'], decoder }))
    test(law.name, law.check)
})

const backends = { cpu: () => useBackend('cpu'), wasm: () => useBackend('wasm') }
for (const law of conformanceLaws({ method: methods['every query sees as much'], backends }).filter(
  ({ name }) => name.includes('backends'),
))
  test(law.name, law.check)
