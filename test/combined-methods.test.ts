/** Methods together: another one per layer, sinks around each, several over the same slots. All obey the same laws. */
import { adaptiveSpan } from '@lethe/adaptive-span'
import { useBackend } from '@lethe/backends'
import { compressive } from '@lethe/compressive'
import { ConfigError, combine, Decoder, fixedSpan, sinks, wrappers } from '@lethe/core'
import { type ConformanceOptions, conformanceLaws } from '@lethe/core/testing'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import { beforeAll, describe, expect, test } from 'vitest'

const adaptive = () =>
  adaptiveSpan({ maxSpan: 12, ramp: 4, penalty: 1e-2, initialSpan: 3.3, trimStep: 1, growth: 2 })
const expire = () => expireSpan({ maxSpan: 12, ramp: 4, penalty: 1e-2, initialPercentage: 0.4 })

const methods: Record<string, ConformanceOptions['method']> = {
  'a fixed span below Expire-Span': () => [fixedSpan({ span: 5 }), expire()],
  'Adaptive-Span below Selective Attention': () => [adaptive(), selective({ budget: 6 })],
  'a compressive memory above a fixed span': () => [
    fixedSpan({ span: 6 }),
    compressive({ memory: 4, compressed: 3, rate: 2, compression: 'mean' }),
  ],
  'sinks around Expire-Span': () => sinks({ count: 2, method: expire() }),
  'sinks around Expire-Span with a budget': () =>
    sinks({ count: 2, method: expireSpan({ maxSpan: 12, ramp: 4, initialPercentage: 0.4, budget: 5 }) }),
  'sinks around Adaptive-Span': () => sinks({ count: 2, method: adaptive() }),
  'sinks around a compressive memory': () =>
    sinks({ count: 2, method: compressive({ memory: 4, compressed: 3, rate: 2, compression: 'mean' }) }),
  'sinks around Selective Attention': () => sinks({ count: 3, method: selective({ budget: 6 }) }),
  'Expire-Span and Adaptive-Span over the same slots': () =>
    combine({ keeper: expire(), overlays: [adaptive()] }),
  'a fixed span whose slots expire': () => combine({ keeper: fixedSpan({ span: 10 }), overlays: [expire()] }),
  'a compressive memory whose slots expire': () =>
    combine({
      keeper: compressive({ memory: 4, compressed: 3, rate: 2, compression: 'mean' }),
      overlays: [expire()],
    }),
  'Selective Attention under Adaptive-Span': () =>
    combine({ keeper: selective({ budget: 8 }), overlays: [adaptive()] }),
  'sinks around a combination': () =>
    sinks({ count: 2, method: combine({ keeper: expire(), overlays: [adaptive()] }) }),
}

describe('together', () => {
  beforeAll(async () => {
    await useBackend('wasm')
  })
  describe.each(Object.entries(methods))('%s', (_, method) => {
    for (const law of conformanceLaws({ method, decoder: { learnedDistances: 14 } }))
      test(law.name, law.check)
  })
})

describe('wrappers', () => {
  beforeAll(async () => {
    await useBackend('cpu')
  })
  const config = { vocabulary: 7, layers: 2, width: 8, heads: 2, positions: 'rotary' } as const

  test('a decoder is made again from its description, wrappers and what is in them included', () => {
    const method = sinks({ count: 2, method: combine({ keeper: expire(), overlays: [adaptive()] }) })
    const decoder = new Decoder({ ...config, method })
    const description = JSON.parse(JSON.stringify(decoder.describe()))
    const again = Decoder.fromDescription(description, {
      'expire-span': expireSpan,
      'adaptive-span': adaptiveSpan,
      ...wrappers,
    })
    expect(JSON.parse(JSON.stringify(again.describe()))).toEqual(description)
    expect([...again.parameters.keys()]).toEqual([...decoder.parameters.keys()])
    expect(() => Decoder.fromDescription(description, { 'expire-span': expireSpan, ...wrappers })).toThrow(
      /adaptive-span/,
    )
    for (const made of [decoder, again]) made.dispose()
  })

  test.each([
    [
      'no count',
      () => sinks({ count: 0, method: expire() }),
      /count must be a whole number from 1 up, not 0/,
    ],
    ['half a count', () => sinks({ count: 1.5, method: expire() }), /not 1.5/],
    ['no method', () => sinks({ count: 1, method: undefined as never }), /need a method/],
    ['no overlay', () => combine({ keeper: expire(), overlays: [] }), /at least one overlay/],
    [
      'an overlay that needs its own slots',
      () => combine({ keeper: expire(), overlays: [selective({ span: 4 })] }),
      /selective cannot judge/,
    ],
    ['one name twice', () => combine({ keeper: expire(), overlays: [expire()] }), /combined with itself/],
  ])('%s is refused', (_, make, message) => {
    expect(make).toThrow(message)
    expect(make).toThrow(ConfigError)
  })

  test('a stack refuses a method for each of another number of layers', () => {
    expect(() => new Decoder({ ...config, method: [expire()] })).toThrow(/1 methods for 2 layers/)
  })
})
