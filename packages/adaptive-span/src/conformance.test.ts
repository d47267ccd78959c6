/** Adaptive-Span under core's laws for all methods. Spans start between whole steps, where masks have no kink. */
import { useBackend } from '@lethe/backends'
import { combine, type ForgettingMethod, fixedSpan, sinks } from '@lethe/core'
import { conformanceLaws } from '@lethe/core/testing'
import { beforeAll, describe, test } from 'vitest'
import { type AdaptiveSpanOptions, adaptiveSpan } from './adaptive-span'

/** Dynamic spans whose weights start at random, so that they differ from query to query. */
function scattered(options: AdaptiveSpanOptions): ForgettingMethod {
  const method = adaptiveSpan({ ...options, dynamic: true })
  return {
    ...method,
    parameters: (layer) => {
      const { weight, bias } = method.parameters!(layer)
      return {
        weight: { ...weight!, initializer: { kind: 'normal', deviation: 0.5 } },
        bias: { ...bias!, initializer: { kind: 'normal', deviation: 1 } },
      }
    },
  }
}

const trimmed = () => adaptiveSpan({ maxSpan: 12, ramp: 2, initialSpan: 2.6, trimStep: 1, growth: 0 })
const dynamic = () => scattered({ maxSpan: 8, ramp: 3, penalty: 0.01 })
const methods = {
  // The ramp reaches beyond maxSpan, where nothing is attended to.
  'nothing trimmed': () => adaptiveSpan({ maxSpan: 8, ramp: 3, initialSpan: 6.4, penalty: 0.01 }),
  'trimmed to the step': trimmed,
  'one span per layer, trimmed in steps, room to grow': () =>
    adaptiveSpan({ maxSpan: 14, ramp: 2, initialSpan: 1.3, trimStep: 4, growth: 3, per: 'layer' }),
  'dynamic spans': dynamic,
  'sinks around it': () => sinks({ count: 2, method: trimmed() }),
  'over the slots of another': () => combine({ keeper: fixedSpan({ span: 9 }), overlays: [dynamic()] }),
}

const laws = (chosen: Readonly<Record<string, () => ForgettingMethod>>) =>
  describe.each(Object.entries(chosen))('%s', (_, method) => {
    // Beyond the table, sinks share its last entry.
    const decoder = { beyondLearned: 'clamp', learnedDistances: 14 } as const
    for (const law of conformanceLaws({ method, decoder })) test(law.name, law.check)
  })

describe('adaptive-span on wasm', () => {
  beforeAll(async () => {
    await useBackend('wasm')
  })
  laws(methods)
})

describe('adaptive-span on cpu', () => {
  beforeAll(async () => {
    await useBackend('cpu')
  })
  laws({ trimmed, dynamic })
})

const backends = { cpu: () => useBackend('cpu'), wasm: () => useBackend('wasm') }
test.each(Object.entries(methods))('%s: the backends agree', async (_, method) => {
  const decoder = { learnedDistances: 14 }
  const law = conformanceLaws({ method, backends, decoder }).find(({ name }) => name.includes('backends'))
  await law!.check()
})
