/** Methods together: another one per layer, sinks around each, several over the same slots. All obey the same laws. */
import { adaptiveSpan } from '@lethe/adaptive-span'
import { useBackend } from '@lethe/backends'
import { compressive } from '@lethe/compressive'
import {
  ConfigError,
  combine,
  Decoder,
  type ForgettingMethod,
  fixedSpan,
  newestSlots,
  sinks,
  wrappers,
} from '@lethe/core'
import { type ConformanceOptions, conformanceLaws } from '@lethe/core/testing'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import { tensor2d } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'

const adaptive = () =>
  adaptiveSpan({ maxSpan: 12, ramp: 4, penalty: 1e-2, initialSpan: 3.3, trimStep: 1, growth: 2 })
const expire = () => expireSpan({ maxSpan: 12, ramp: 4, penalty: 1e-2, initialPercentage: 0.4 })
/** Some slots long before a memory of four steps or a budget of six gives them up, others long after. */
const expireSoon = (): ForgettingMethod => {
  const method = expireSpan({ maxSpan: 24, ramp: 2, penalty: 1e-2, initialPercentage: 0.1 })
  return {
    ...method,
    parameters: (layer) => ({
      ...method.parameters!(layer),
      weight: { shape: [layer.width, 1], initializer: { kind: 'normal', deviation: 1.5 } },
    }),
  }
}

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
  // Sinks outlive what an overlay says of them.
  'a fixed span and sinks, whose slots expire': () =>
    combine({ keeper: sinks({ count: 2, method: fixedSpan({ span: 8 }) }), overlays: [expire()] }),
  'a compressive memory whose slots expire': () =>
    combine({
      keeper: compressive({ memory: 4, compressed: 3, rate: 2, compression: 'mean' }),
      overlays: [expireSoon()],
    }),
  'Selective Attention whose slots expire': () =>
    combine({ keeper: selective({ budget: 6 }), overlays: [expireSoon()] }),
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
    [
      'sinks around sinks',
      () => {
        const keeper = sinks({ count: 2, method: adaptive() })
        return sinks({ count: 1, method: combine({ keeper, overlays: [expire()] }) })
      },
      /sinks around the method already/,
    ],
    ['no overlays', () => combine({ keeper: expire() } as never), /at least one overlay/],
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

  test("mean dynamic spans over another method's memory are those of the steps remembered", async () => {
    const keeper = compressive({ memory: 6, compressed: 4, rate: 2, compression: 'mean' })
    const overlays = [adaptiveSpan({ maxSpan: 100, dynamic: true })]
    const decoder = new Decoder({ ...config, method: combine({ keeper, overlays }) })
    const tokens = tensor2d([new Array(20).fill(1), new Array(20).fill(2)], [2, 20], 'int32')
    const { logits, penalty, memory } = decoder.forward(tokens, decoder.initialMemory(2))
    for (const { figures } of await decoder.report(memory))
      for (const span of (figures['adaptive-span.span'] as { data: Float32Array }).data)
        expect(span).toBeCloseTo(100 / (1 + Math.exp(4)), 4)
    for (const value of [tokens, logits, penalty, memory, decoder]) value.dispose()
  })

  test('reports count what sinks and a keeper of spans attend to', async () => {
    const stack = [
      sinks({ count: 2, method: adaptive() }),
      combine({ keeper: adaptive(), overlays: [expire()] }),
    ]
    const decoder = new Decoder({ ...config, method: stack })
    const tokens = tensor2d([[1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5]], [1, 12], 'int32')
    const { logits, penalty, memory } = decoder.forward(tokens, decoder.initialMemory(1))
    const [first, second] = await decoder.report(memory)
    // Spans of 3.3 and ramps of 4 steps.
    for (const slots of first!.attended) expect(slots).toBeCloseTo(2 + 7.3, 5)
    for (const slots of second!.attended) expect(slots).toBeCloseTo(7.3, 5)
    for (const made of [tokens, logits, penalty, memory, decoder]) made.dispose()
  })

  test('a keeper moves into the streaming decoder by its own plan', async () => {
    const plans: unknown[] = []
    const { decode, ...rest } = adaptive()
    const enter: typeof decode.enter = (_, memory, { plan }) => {
      plans.push(plan)
      return newestSlots(memory)
    }
    const method = combine({ keeper: { ...rest, decode: { ...decode, enter } }, overlays: [expire()] })
    const decoder = new Decoder({ ...config, method })
    await decoder.afterUpdate()
    decoder.startDecoding(decoder.initialMemory(1)).dispose()
    const plan = { longest: 8, trim: 4, slots: 10 }
    expect(plans).toEqual([plan, plan])
    decoder.dispose()
  })

  test('a stack refuses a method for each of another number of layers', () => {
    expect(() => new Decoder({ ...config, method: [expire()] })).toThrow(/1 methods for 2 layers/)
  })
})
