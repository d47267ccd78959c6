/** Decoders that share their weights and remember in other ways. */
import { useBackend } from '@lethe/backends'
import { dispose, memory as engineMemory, mul, sub, tensor1d, tensor2d, tidy } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { Decoder } from './decoder'
import { ConfigError } from './errors'
import { fixedSpan } from './fixed-span'
import { registerGradients } from './gradients'
import type { ForgettingMethod, ParameterSpec } from './method'

const small = { vocabulary: 7, layers: 2, width: 8, heads: 2, feedForward: 12 } as const
const decoderOf = (method: ForgettingMethod) => new Decoder({ ...small, method }, { seed: 1 })
const tokens = (...rows: number[][]) => tensor2d(rows, [rows.length, rows[0]!.length], 'int32')

/** A fixed span with a parameter that its plan reads; `seen` gets every plan that a block was read with. */
function planned(span: number, shape = [1], seen: unknown[] = []): ForgettingMethod {
  const inner = fixedSpan({ span })
  const scale: ParameterSpec = { shape, initializer: { kind: 'constant', value: 2 }, clamp: [0, 3] }
  return {
    ...inner,
    name: 'planned',
    parameters: () => ({ scale }),
    prepare: async (_, { scale }) => (await scale!.data())[0],
    recall: (block) => {
      seen.push(block.plan)
      return inner.recall(block)
    },
  }
}

async function logitsOf(decoder: Decoder) {
  const input = tokens([1, 2, 3, 4, 5])
  const result = decoder.forward(input, decoder.initialMemory(1))
  const values = await result.logits.data()
  for (const value of [input, result.logits, result.penalty, result.memory]) value.dispose()
  return values
}

/** One step down the gradient of all parameters. */
async function train(decoder: Decoder) {
  const [inputs, targets] = [tokens([1, 2, 3, 4]), tokens([2, 3, 4, 5])]
  const step = decoder.gradients(inputs, targets, decoder.initialMemory(1))
  for (const [name, gradient] of Object.entries(step.gradients)) {
    const parameter = decoder.parameters.get(name)!
    tidy(() => parameter.assign(sub(parameter, mul(gradient, 0.5))))
  }
  dispose([inputs, targets, step.loss, step.penalty, step.gradients])
  step.memory.dispose()
  await decoder.afterUpdate()
}

beforeAll(async () => {
  await useBackend('cpu')
  registerGradients()
})

describe('withMethod', () => {
  test('reads with the same weights, remembering what the other method does', async () => {
    const decoder = decoderOf(fixedSpan({ span: 6 }))
    const shorter = decoder.withMethod(fixedSpan({ span: 2 }))
    const alike = new Decoder({ ...small, method: fixedSpan({ span: 2 }) }, { seed: 1 })
    expect(shorter.parameters).toBe(decoder.parameters)
    expect(await logitsOf(shorter)).toEqual(await logitsOf(alike))
    expect(await logitsOf(shorter)).not.toEqual(await logitsOf(decoder))
    for (const value of [alike, decoder]) value.dispose()
  })

  test('trains both, whichever is trained', async () => {
    const decoder = decoderOf(fixedSpan({ span: 6 }))
    const other = decoder.withMethod(fixedSpan({ span: 2 }))
    const third = other.withMethod(fixedSpan({ span: 6 }))
    for (const trained of [decoder, other, third]) {
      const [before, fingerprint] = [await logitsOf(decoder), await decoder.fingerprint()]
      await train(trained)
      expect(await decoder.fingerprint()).not.toBe(fingerprint)
      expect(await other.fingerprint()).toBe(await decoder.fingerprint())
      expect(await logitsOf(decoder)).not.toEqual(before)
      expect(await logitsOf(third)).toEqual(await logitsOf(decoder))
    }
    decoder.dispose()
  })

  test('makes no weights, and disposing of it leaves them alone', async () => {
    const before = engineMemory().numTensors
    const decoder = decoderOf(fixedSpan({ span: 6 }))
    const weights = engineMemory().numTensors
    const logits = await logitsOf(decoder)
    const other = decoder.withMethod(fixedSpan({ span: 2 }))
    const third = other.withMethod(fixedSpan({ span: 3 }))
    expect(engineMemory().numTensors).toBe(weights)
    other.dispose()
    expect(await logitsOf(decoder)).toEqual(logits)
    third.dispose()
    expect(await logitsOf(decoder)).toEqual(logits)
    decoder.dispose()
    expect(engineMemory().numTensors).toBe(before)
  })

  test('refuses methods with other parameters, before any tensor is made', () => {
    const decoder = decoderOf(fixedSpan({ span: 6 }))
    const own = decoderOf(planned(6))
    const before = engineMemory().numTensors
    for (const [from, method, message] of [
      [decoder, planned(6), /"layers.0.method.scale" of shape \[none\], the methods given have \[1\]/],
      [
        own,
        fixedSpan({ span: 6 }),
        /"layers.0.method.scale" of shape \[1\], the methods given have \[none\]/,
      ],
      [own, planned(6, [2]), /"layers.0.method.scale" of shape \[1\], the methods given have \[2\]/],
      [own, [planned(6), fixedSpan({ span: 6 })], /"layers.1.method.scale"/],
      [own, [planned(6)], /1 methods for 2 layers/],
    ] as const) {
      expect(() => from.withMethod(method)).toThrow(message)
      expect(() => from.withMethod(method)).toThrow(ConfigError)
    }
    expect(engineMemory().numTensors).toBe(before)
    own.withMethod(planned(2)).dispose()
    for (const value of [decoder, own]) value.dispose()
  })

  test('a table of learned positions stays as long as it is', () => {
    const decoder = new Decoder({ ...small, positions: 'learned', method: fixedSpan({ span: 3 }) })
    const longer = decoder.withMethod(fixedSpan({ span: 9 }))
    expect(longer.config.learnedDistances).toBe(4)
    decoder.dispose()
  })

  const changes: readonly [string, (decoder: Decoder) => Promise<void>][] = [
    ['an update', train],
    [
      'an import',
      async (decoder) => {
        const other = new Decoder(decoder.config, { seed: 9 })
        decoder.importParameters(await other.exportParameters())
        other.dispose()
      },
    ],
  ]
  describe.each(changes)('%s of the weights by one', (_, change) => {
    test.each([
      ['the first', 0],
      ['the second', 1],
    ])('%s: keys and values of the old ones are refused by both', async (_, changed) => {
      const decoder = decoderOf(fixedSpan({ span: 6 }))
      const both = [decoder, decoder.withMethod(fixedSpan({ span: 2 }))]
      const token = tensor1d([1], 'int32')
      const arenas = both.map((one) => one.startDecoding(one.initialMemory(1)))
      await change(both[changed]!)
      for (const [index, one] of both.entries()) {
        expect(() => one.decode(token, arenas[index]!)).toThrow(/made by other weights/)
        arenas[index]!.dispose()
      }
      token.dispose()
      decoder.dispose()
    })

    test.each([
      ['the first', 0],
      ['the second', 1],
    ])('%s: no plan of the old ones is used by either', async (_, changed) => {
      const seen: unknown[] = []
      const decoder = decoderOf(planned(6, [1], seen))
      const both = [decoder, decoder.withMethod(planned(2, [1], seen))]
      const scale = decoder.parameters.get('layers.0.method.scale')!
      tidy(() => scale.assign(tensor1d([1])))
      for (const one of both) await one.afterUpdate()
      for (const one of both) await logitsOf(one)
      expect(seen).toContain(1)
      tidy(() => scale.assign(tensor1d([2.5])))
      await change(both[changed]!)
      seen.length = 0
      for (const one of both) await logitsOf(one)
      const value = (await scale.data())[0]
      expect(seen.length).toBe(4)
      // A plan may be missing, but is not that of other weights.
      for (const plan of [seen[0], seen[2]]) expect([undefined, value]).toContain(plan)
      decoder.dispose()
    })
  })
})
