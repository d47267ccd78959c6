/** Gradients of any loss of the logits, and of a cross-entropy that leaves everything out. */
import { useBackend } from '@lethe/backends'
import {
  dispose,
  memory as engineMemory,
  mean,
  type Scalar,
  slice,
  square,
  sub,
  sum,
  type Tensor3D,
  tensor2d,
  tidy,
  topk,
  zeros,
} from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { Decoder } from './decoder'
import { ShapeError } from './errors'
import { fixedSpan } from './fixed-span'
import { registerGradients } from './gradients'
import { crossEntropy } from './ops/loss'
import { sinks } from './sinks'
import { heaviestSlots } from './testing/heaviest-slots'

const inputs = () =>
  tensor2d(
    [
      [1, 2, 3, 4],
      [6, 5, 0, 1],
    ],
    [2, 4],
    'int32',
  )

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  const small = { vocabulary: 7, layers: 2, width: 8, heads: 2, feedForward: 12 }
  let decoder: Decoder
  beforeAll(async () => {
    await useBackend(backend)
    registerGradients()
    decoder = new Decoder({ ...small, method: fixedSpan({ span: 3 }) }, { seed: 1 })
  })

  test.each([
    ['a window', fixedSpan({ span: 3 })],
    ['sinks', sinks({ count: 1, method: fixedSpan({ span: 1 }) })],
    ['slots chosen by topk', heaviestSlots({ budget: 1 })],
  ])(
    'the gradient of a loss of one’s own agrees with finite differences, through a memory of %s too',
    async (_, method) => {
      const before = engineMemory().numTensors
      const decoder = new Decoder({ ...small, method }, { seed: 1 })
      const tokens = inputs()
      const lossOf = (logits: Tensor3D) => mean(square(sub(logits, 0.5))) as Scalar
      const { loss, penalty, gradients, memory } = decoder.gradientsOf(
        tokens,
        decoder.initialMemory(2),
        lossOf,
        { unroll: 2 },
      )
      memory.dispose()
      // Read in the same two blocks, from the weights as they are.
      const lossNow = async () => {
        const [first, second] = [tokens, tokens].map((whole, part) =>
          tidy(() => slice(whole, [0, 2 * part], [2, 2])),
        )
        const one = decoder.forward(first!, decoder.initialMemory(2))
        const two = decoder.forward(second!, one.memory)
        const parts = [one.logits, two.logits].map((logits) => tidy(() => lossOf(logits)))
        const values = await Promise.all(parts.map(async (part) => (await part.data())[0]!))
        two.memory.dispose()
        dispose([first!, second!, one.logits, two.logits, one.penalty, two.penalty, ...parts])
        return (values[0]! + values[1]!) / 2
      }
      expect((await loss.data())[0]).toBeCloseTo(await lossNow(), 5)
      for (const [name, at] of [
        ['embedding.weight', 9],
        ['output.weight', 3],
        ['layers.0.attention.key', 11],
      ] as const) {
        const variable = decoder.parameters.get(name)!
        const values = await variable.data()
        const moved = async (by: number) => {
          const next = Float32Array.from(values)
          next[at]! += by
          tidy(() => variable.assign(tensor2d(next, variable.shape as [number, number])))
          return lossNow()
        }
        const numeric = ((await moved(3e-3)) - (await moved(-3e-3))) / 6e-3
        await moved(0)
        expect((await gradients[name]!.data())[at]).toBeCloseTo(numeric, 3)
      }
      dispose([tokens, loss, penalty, gradients])
      decoder.dispose()
      expect(engineMemory().numTensors).toBe(before)
    },
  )

  test('gradients() is the gradient of the cross-entropy', async () => {
    const [tokens, targets] = [inputs(), inputs()]
    const one = decoder.gradients(tokens, targets, decoder.initialMemory(2))
    const other = decoder.gradientsOf(tokens, decoder.initialMemory(2), (logits) =>
      crossEntropy(logits, targets),
    )
    expect(await other.loss.data()).toEqual(await one.loss.data())
    for (const [name, gradient] of Object.entries(one.gradients))
      expect(await other.gradients[name]!.data()).toEqual(await gradient.data())
    for (const { memory, ...rest } of [one, other]) {
      memory.dispose()
      dispose([rest.loss, rest.penalty, rest.gradients])
    }
    dispose([tokens, targets])
  })

  test('where every weight is 0 the loss is 0, and so are its gradients', async () => {
    const [tokens, weights] = [inputs(), zeros([2, 4])]
    const result = decoder.gradients(tokens, tokens, decoder.initialMemory(2), { weights })
    expect((await result.loss.data())[0]).toBeCloseTo(0)
    for (const gradient of Object.values(result.gradients))
      expect((await gradient.data()).every((value) => value === 0)).toBe(true)
    result.memory.dispose()
    dispose([tokens, weights, result.loss, result.penalty, result.gradients])
  })

  test('what does not fit is refused, and the memory stays', () => {
    const memory = decoder.initialMemory(2)
    const tokens = inputs()
    const lossOf = (logits: Tensor3D) => mean(logits) as Scalar
    const before = engineMemory().numTensors
    expect(() => decoder.gradientsOf(tokens, memory, lossOf, { unroll: 3 })).toThrow(ShapeError)
    const perRow = (logits: Tensor3D) => mean(logits, [1, 2]) as Scalar
    expect(() => decoder.gradientsOf(tokens, memory, perRow)).toThrow(/must be a scalar, not \[2\]/)
    const largest = (logits: Tensor3D) => sum(topk(logits).values) as Scalar
    expect(() => decoder.gradientsOf(tokens, memory, largest)).toThrow(/TopK has no gradient/)
    expect(engineMemory().numTensors).toBe(before)
    expect(memory.disposed).toBe(false)
    memory.dispose()
    tokens.dispose()
  })
})
