/**
 * A forgetting method for tests only: keeps the `budget` slots whose first feature is largest. Slots die in the
 * middle, different ones in each row, so that everything core offers to methods with scattered survivors is used.
 */
import {
  add,
  concat,
  mul,
  ones,
  range,
  reshape,
  slice,
  sub,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  tile,
  topk,
  zeros,
} from '@tensorflow/tfjs-core'
import type { ForgettingMethod, LayerInfo, LayerMemory } from '../method'
import { pickSlots } from '../slots'

/** [batch, slots, width] → the first feature [batch, slots]. */
const firstFeature = (hidden: Tensor3D): Tensor2D =>
  reshape(slice(hidden, [0, 0, 0], [-1, -1, 1]), hidden.shape.slice(0, 2) as [number, number])

/** The weight, and among equals (zeros at the start) the youngest. */
const worthOf = (weight: Tensor, age: Tensor): Tensor2D => sub(weight, mul(age, 1e-3))

export function heaviestSlots({ budget }: { readonly budget: number }): ForgettingMethod {
  const initialMemory = ({ width, initialMemory }: LayerInfo, batch: number): LayerMemory => {
    const slots = initialMemory === 'zeros' ? budget : 0
    const ages = slots > 0 ? reshape(range(slots, 0, -1, 'float32'), [1, slots]) : zeros([1, 0])
    return {
      tensors: {
        hidden: zeros([batch, slots, width]),
        age: slots > 0 ? tile(ages, [batch, 1]) : zeros([batch, 0]),
        valid: slots > 0 ? ones([batch, slots]) : zeros([batch, 0]),
      },
      alive: new Array(batch).fill(slots),
    }
  }
  return {
    specVersion: 1,
    name: 'heaviest-slots',
    options: { budget },
    decides: 'block',
    reach: () => Number.POSITIVE_INFINITY,
    capacity: () => budget,
    initialMemory,
    recall: (block) => {
      const { hidden, age, valid } = block.memory.tensors as Record<string, Tensor>
      const now = { pieces: [{ hidden: block.attended, constant: false }], distance: contiguousFromNow }
      if (hidden!.shape[1] === 0) return { groups: [now] }
      const remembered = block.remembered(hidden as Tensor3D)
      return {
        groups: [
          {
            pieces: [remembered],
            distance: { kind: 'scattered', age: age as Tensor2D },
            valid: valid as Tensor2D,
          },
          now,
        ],
      }
    },
    settle: (block) => {
      const { batch, length, memory, input, attended } = block
      const { hidden, age, valid } = memory.tensors as Record<string, Tensor>
      const join = (old: Tensor, now: Tensor) => (old.shape[1] === 0 ? now : concat([old, now], 1))
      const blockAges = tile(reshape(range(0, -length, -1, 'float32'), [1, length]), [batch, 1])
      const all = {
        hidden: join(hidden!, input),
        age: add(join(age!, blockAges), length),
        valid: join(valid!, ones([batch, length])),
      }
      const alive = memory.alive.map((count) => Math.min(budget, count + length))
      if (all.hidden.shape[1]! <= budget) return { memory: { tensors: all, alive } }
      const weight = join(
        hidden!.shape[1] === 0 ? zeros([batch, 0]) : firstFeature(block.normalise(hidden as Tensor3D)),
        firstFeature(attended),
      )
      const { indices } = topk(sub(worthOf(weight, all.age), mul(sub(1, all.valid), 1e6)), budget)
      const tensors = Object.fromEntries(
        Object.entries(all).map(([name, value]) => [name, pickSlots(value, indices as Tensor2D)]),
      )
      return { memory: { tensors, alive } }
    },
    decode: {
      capacity: () => budget + 1,
      enter: (_, { tensors }) => ({
        hidden: tensors.hidden as Tensor3D,
        age: sub(tensors.age!, 1) as Tensor2D,
        valid: tensors.valid as Tensor2D,
      }),
      describe: (hidden) => ({ weight: firstFeature(hidden) }),
      worth: ({ state, age }) => worthOf(state.weight!, age),
    },
  }
}

const contiguousFromNow = { kind: 'contiguous', first: 0 } as const
