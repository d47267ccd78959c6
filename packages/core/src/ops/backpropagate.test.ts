/** Gradients as tfjs's own, in less memory. */
import { useBackend } from '@lethe/backends'
import {
  add,
  engine,
  grads,
  memory,
  mul,
  relu,
  type Scalar,
  split,
  square,
  sum,
  type Tensor,
  tensor1d,
  tidy,
  tile,
  topk,
} from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { registerGradients } from '../gradients'
import { backpropagate, recordFor } from './backpropagate'
import { differentiable } from './differentiable'

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
    registerGradients()
  })

  test.each<[string, (a: Tensor, b: Tensor) => Tensor]>([
    ['an input that is used twice', (a, b) => sum(mul(add(a, a), b))],
    ['a result that is used twice', (a, b) => tidy(() => sum(mul(relu(mul(a, b)), square(mul(a, b)))))],
    ['one of several results', (a, b) => sum(mul(split(mul(a, b), 2)[1]!, 3))],
    ['one of several large results', (a, b) => sum(mul(split(tile(mul(a, b), [2 ** 13]), 2)[1]!, 3))],
    ['what has no influence', (a, b) => add(sum(a), mul(sum(square(b)), 0))],
    // The gradient is the same tensor for both.
    [
      'a gradient that is handed on',
      (a, b) =>
        sum(
          differentiable(
            [a, b],
            () => add(a, b),
            (dy) => [dy, dy],
          ),
        ),
    ],
  ])('%s', async (_, loss) => {
    const xs = [tensor1d([1, -2, 3, 4]), tensor1d([0.5, 2, -1, 1])] as const
    const expected = grads(loss as never)([...xs])
    const before = memory().numTensors
    const { value, gradients } = backpropagate(() => loss(...xs) as Scalar, xs)
    expect(memory().numTensors).toBe(before + 3)
    for (const [index, gradient] of gradients.entries())
      expect(await gradient!.data()).toEqual(await expected[index]!.data())
    for (const one of [value, ...gradients, ...expected, ...xs]) one!.dispose()
  })

  test('intermediate gradients are freed on the way', () => {
    const x = tensor1d(new Float32Array(1000))
    let most = 0
    const links = 50
    const step = (y: Tensor) =>
      differentiable(
        [y],
        () => add(y, 1),
        (dy) => {
          most = Math.max(most, memory().numTensors)
          return [mul(dy, 1)]
        },
      )
    const before = memory().numTensors
    const { value, gradients } = backpropagate(() => {
      let y: Tensor = x
      for (let link = 0; link < links; link++) y = step(y)
      return sum(y) as Scalar
    }, [x])
    expect(most - before).toBeLessThan(8)
    for (const one of [value, ...gradients, x]) one!.dispose()
  })

  test('what was saved for results that nobody learns through is freed at once', async () => {
    const x = tensor1d([1, 2, 3])
    const before = memory().numTensors
    let after = 0
    const { value, gradients } = backpropagate(() => {
      const { y } = recordFor(
        (made) => [made.y],
        () => tidy(() => ({ y: relu(x), z: square(square(mul(x, x))) })),
      )
      after = memory().numTensors
      return sum(mul(y, y)) as Scalar
    }, [x])
    // y, z, and what ReLU saves.
    expect(after).toBe(before + 3)
    expect([...(await gradients[0]!.data())]).toEqual([2, 4, 6])
    expect(memory().numTensors).toBe(before + 2)
    for (const one of [value, ...gradients, x]) one!.dispose()
  })

  test.each<[string, (x: Tensor) => Tensor, string]>([
    [
      'in the loss',
      () => {
        throw new Error('no loss')
      },
      'no loss',
    ],
    [
      'in a gradient',
      (x) =>
        sum(
          differentiable(
            [x],
            () => square(x),
            () => {
              throw new Error('no slope')
            },
          ),
        ),
      'no slope',
    ],
    ['for want of a gradient', (x) => sum(topk(square(x), 2).values), 'TopK has no gradient'],
  ])('an error %s leaves nothing behind', (_, loss, message) => {
    const x = tensor1d([1, 2, 3])
    const before = memory().numTensors
    expect(() => backpropagate(() => loss(mul(x, x)) as Scalar, [x])).toThrow(message)
    expect(memory().numTensors).toBe(before)
    expect((engine() as unknown as { isTapeOn(): boolean }).isTapeOn()).toBe(false)
    x.dispose()
  })

  test('inside of another gradient it says that it cannot', () => {
    const x = tensor1d([1])
    expect(() => grads((y: Tensor) => backpropagate(() => sum(y) as Scalar, [y]).value)([x])).toThrow(
      'Gradients of',
    )
    x.dispose()
  })
})
