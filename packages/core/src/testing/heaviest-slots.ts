/**
 * A forgetting method for tests only: keeps the `budget` slots whose first feature is largest. Slots die in the
 * middle, different ones in each row, so that everything core offers to methods with scattered survivors is used.
 */
import {
  mul,
  reshape,
  reverse,
  slice,
  sub,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  topk,
  zeros,
} from '@tensorflow/tfjs-core'
import type { ForgettingMethod } from '../method'
import {
  joinSlots,
  keepSlots,
  scatteredEnter,
  scatteredGroups,
  scatteredNext,
  scatteredStart,
} from '../slots'

/** [batch, slots, width] → the first feature [batch, slots]. */
const firstFeature = (hidden: Tensor3D): Tensor2D =>
  hidden.shape[1] === 0
    ? zeros([hidden.shape[0], 0])
    : reshape(slice(hidden, [0, 0, 0], [-1, -1, 1]), hidden.shape.slice(0, 2) as [number, number])

/** The weight, and among equals (zeros at the start) the youngest. */
const worthOf = (weight: Tensor, age: Tensor): Tensor2D => sub(weight, mul(age, 1e-3))

export function heaviestSlots({ budget }: { readonly budget: number }): ForgettingMethod {
  return {
    specVersion: 1,
    name: 'heaviest-slots',
    options: { budget },
    decides: 'block',
    reach: () => Number.POSITIVE_INFINITY,
    capacity: () => budget,
    initialMemory: (layer, batch) => scatteredStart(layer, batch, budget),
    recall: (block) => ({ groups: scatteredGroups(block) }),
    settle: (block) => {
      const next = scatteredNext(block)
      const { age, valid } = next.tensors as Record<string, Tensor>
      if (age!.shape[1]! <= budget) return { memory: next }
      const remembered = block.memory.tensors.hidden as Tensor3D
      const weight = joinSlots(
        firstFeature(remembered.shape[1] > 0 ? block.normalise(remembered) : remembered),
        firstFeature(block.attended),
      )
      // The heaviest come first, so empty places have to be turned to the front: they are the lightest.
      const worth = sub(worthOf(weight, age!), mul(sub(1, valid!), 1e6))
      const { indices } = topk(worth, budget)
      const alive = next.alive.map((count) => Math.min(budget, count))
      return { memory: keepSlots(next, reversed(indices as Tensor2D), alive, 0) }
    },
    decode: {
      capacity: () => budget + 1,
      enter: scatteredEnter,
      describe: (hidden) => ({ weight: firstFeature(hidden) }),
      worth: ({ state, age }) => worthOf(state.weight!, age),
    },
  }
}

const reversed = (index: Tensor2D): Tensor2D => reverse(index, 1)
