/** Layer drop: what a pass that skips a layer does all the same. */
import { useBackend } from '@lethe/backends'
import {
  dispose,
  memory as engineMemory,
  mean,
  mul,
  type Scalar,
  square,
  sum,
  tensor2d,
} from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import type { DecoderConfig } from './config'
import { Decoder } from './decoder'
import { ConfigError } from './errors'
import { fixedSpan } from './fixed-span'
import { registerGradients } from './gradients'
import type { ForgettingMethod } from './method'
import { Random } from './random'

/** A fixed span with a parameter whose penalty is `scale · mean input²`, and which asks attention for `wants`. */
function priced(wants?: { readonly mass: boolean }): ForgettingMethod {
  const inner = fixedSpan({ span: 4 })
  return {
    ...inner,
    name: 'priced',
    parameters: () => ({ scale: { shape: [1], initializer: { kind: 'constant', value: 0.5 } } }),
    recall: (block) => ({ ...inner.recall(block), ...(wants && { wants }) }),
    settle: (block, recall, outcome) => ({
      ...inner.settle(block, recall, outcome),
      penalty: sum(mul(block.parameters.scale!, mean(square(block.input)))) as Scalar,
      ...(outcome.mass && { trace: { mass: outcome.mass } }),
    }),
  }
}

const small = { vocabulary: 7, width: 8, heads: 2, feedForward: 12, outputBias: true } as const
const config = (more: Partial<DecoderConfig> = {}): DecoderConfig => ({
  ...{ ...small, layers: 3, layerDrop: 0.5, method: priced() },
  ...more,
})
/** Draws below the rate skip a layer: one for each layer and pass, in order. */
const skipping = (...skips: readonly boolean[]) => {
  const left = [...skips]
  return { random: { uniform: () => (left.shift()! ? 0.49 : 0.5) } as unknown as Random, draw: 0.5, left }
}
const tokens = (...rows: number[][]) => tensor2d(rows, [rows.length, rows[0]!.length], 'int32')

/** The same network without the layers that `skips` names. */
async function without(decoder: Decoder, skips: readonly boolean[]) {
  const kept = skips.flatMap((skip, layer) => (skip ? [] : [layer]))
  const shorter = new Decoder({ ...config(), layers: kept.length, layerDrop: 0 })
  const weights = await decoder.exportParameters()
  const own = [...shorter.parameters.keys()].map((name) => {
    const source = name.replace(/^layers\.(\d+)/, (_, layer) => `layers.${kept[Number(layer)]}`)
    return [name, weights.get(source)!] as const
  })
  shorter.importParameters(new Map(own))
  return { shorter, kept }
}

beforeAll(async () => {
  await useBackend('cpu')
  registerGradients()
})

describe('a skipped layer', () => {
  test.each([[[true, false, false]], [[false, true, false]], [[false, false, true]], [[true, false, true]]])(
    '%j: its output is its input, its memory and penalty go on',
    async (skips) => {
      const decoder = new Decoder(config(), { seed: 3 })
      const { shorter, kept } = await without(decoder, skips)
      const blocks = [tokens([1, 2, 3], [4, 5, 6]), tokens([0, 6, 2], [2, 2, 1])]
      const [memories, references] = [decoder, shorter].map((one) => [one.initialMemory(2)])
      for (const block of blocks) {
        const { left, ...pass } = skipping(...skips)
        const found = decoder.forward(block, memories!.at(-1)!, { training: true, ...pass })
        expect(left).toEqual([])
        const expected = shorter.forward(block, references!.at(-1)!)
        expect(await found.logits.data()).toEqual(await expected.logits.data())
        // A layer remembers its input and is priced for it; that of a skipped one is the input of the next.
        let penalty = 0
        for (const [layer, { tensors, alive }] of found.memory.layers.entries()) {
          const next = kept.findIndex((other) => other >= layer)
          const values = await tensors.hidden!.data()
          expect(alive).toEqual(found.memory.step > 3 ? [4, 4] : [3, 3])
          if (next >= 0) expect(values).toEqual(await expected.memory.layers[next]!.tensors.hidden!.data())
          const [batch, slots, width] = tensors.hidden!.shape as [number, number, number]
          const read = [...values].filter((_, at) => Math.floor(at / width) % slots >= slots - 3)
          penalty += (0.5 * read.reduce((total, x) => total + x * x, 0)) / (batch * 3 * width)
        }
        expect((await found.penalty.data())[0]).toBeCloseTo(penalty, 5)
        memories!.push(found.memory)
        references!.push(expected.memory)
        dispose([found.logits, found.penalty, expected.logits, expected.penalty])
      }
      dispose(blocks)
      for (const value of [memories!.at(-1)!, references!.at(-1)!, decoder, shorter]) value.dispose()
    },
  )

  test('learns nothing, but for what its penalty learns; the others learn as without it', async () => {
    const before = engineMemory().numTensors
    const decoder = new Decoder(config(), { seed: 3 })
    const { shorter } = await without(decoder, [false, true, false])
    const [inputs, targets] = [tokens([1, 2, 3]), tokens([2, 3, 4])]
    const pass = skipping(false, true, false)
    const { gradients, ...found } = decoder.gradients(inputs, targets, decoder.initialMemory(1), pass)
    const names = Object.keys(gradients)
    expect(names.filter((name) => name.startsWith('layers.1.'))).toEqual(['layers.1.method.scale'])
    const others = [...decoder.parameters.keys()].filter((name) => !name.startsWith('layers.1.'))
    expect(names.filter((name) => !name.startsWith('layers.1.')).sort()).toEqual(others.sort())
    const reference = shorter.gradients(inputs, targets, shorter.initialMemory(1))
    expect(await found.loss.data()).toEqual(await reference.loss.data())
    // Above it only the loss counts.
    for (const name of ['attention.query', 'feedForward.out'])
      expect(await gradients[`layers.2.${name}`]!.data()).toEqual(
        await reference.gradients[`layers.1.${name}`]!.data(),
      )
    dispose([inputs, targets, gradients, reference.gradients])
    for (const { loss, penalty, memory } of [found, reference])
      for (const value of [loss, penalty, memory]) value.dispose()
    for (const value of [decoder, shorter]) value.dispose()
    expect(engineMemory().numTensors).toBe(before)
  })

  test('its memory is its own, also where a method keeps the input as it is', async () => {
    const inner = fixedSpan({ span: 4 })
    const settle: ForgettingMethod['settle'] = ({ input, memory, length }) => ({
      memory: { tensors: { hidden: input }, alive: memory.alive.map(() => length) },
    })
    const decoder = new Decoder(config({ method: { ...inner, name: 'input', settle } }))
    const input = tokens([1, 2, 3], [4, 5, 6])
    const pass = { training: true, ...skipping(true, true, false) }
    const first = decoder.forward(input, decoder.initialMemory(2), pass)
    const memory = first.memory.reset([1])
    expect(await memory.layers[1]!.tensors.hidden!.data()).toEqual(
      await memory.layers[0]!.tensors.hidden!.data(),
    )
    for (const value of [input, first.logits, first.penalty, memory, decoder]) value.dispose()
  })

  test('attends for a method that wants to know what is attended to', async () => {
    const decoder = new Decoder(config({ method: priced({ mass: true }) }), { seed: 3 })
    const input = tokens([1, 2, 3, 4])
    const read = (...skips: boolean[]) =>
      decoder.forward(input, decoder.initialMemory(1), { training: true, trace: true, ...skipping(...skips) })
    const [all, skipped] = [read(false, false, false), read(true, false, false)]
    expect(await skipped.trace![0]!.mass!.data()).toEqual(await all.trace![0]!.mass!.data())
    expect(await skipped.logits.data()).not.toEqual(await all.logits.data())
    for (const { logits, penalty, memory, trace } of [all, skipped]) {
      dispose([logits, penalty, ...trace!])
      memory.dispose()
    }
    input.dispose()
    decoder.dispose()
  })
})

describe('which layers are skipped', () => {
  const logitsOf = async (decoder: Decoder, options: Parameters<Decoder['forward']>[2]) => {
    const input = tokens([1, 2, 3, 4])
    const result = decoder.forward(input, decoder.initialMemory(1), options)
    const values = await result.logits.data()
    for (const value of [input, result.logits, result.penalty, result.memory]) value.dispose()
    return values
  }

  test('is drawn from the seed, about as often as said, and never in evaluation', async () => {
    const decoder = new Decoder(config({ layerDrop: 0.25 }), { seed: 3 })
    const train = (seed: number) => logitsOf(decoder, { training: true, random: new Random(seed) })
    const whole = await logitsOf(decoder, {})
    const passes: string[] = []
    for (let seed = 0; seed < 100; seed++) passes.push(String(await train(seed)))
    for (const seed of [0, 1, 2]) expect(String(await train(seed))).toBe(passes[seed])
    const unskipped = passes.filter((logits) => logits === String(whole)).length / passes.length
    // 0.75³ = 0.42
    expect(unskipped).toBeGreaterThan(0.3)
    expect(unskipped).toBeLessThan(0.55)
    // Of the eight choices all but the least likely ones.
    expect(new Set(passes).size).toBeGreaterThanOrEqual(7)
    expect(await logitsOf(decoder, { random: new Random(5) })).toEqual(whole)
    decoder.dispose()
  })

  test('needs a generator, and a rate below 1', async () => {
    const decoder = new Decoder(config())
    await expect(logitsOf(decoder, { training: true })).rejects.toThrow(/random generator/)
    for (const layerDrop of [1, -0.1, Number.NaN]) {
      expect(() => new Decoder(config({ layerDrop }))).toThrow(/layerDrop must lie in \[0, 1\), not/)
      expect(() => new Decoder(config({ layerDrop }))).toThrow(ConfigError)
    }
    decoder.dispose()
  })
})
