/**
 * The compressive memory of the authors' code of Expire-Span's baseline (facebookresearch/transformer-sequential), mean
 * pooling only: the oldest steps of the memory are pooled in the block that still attends to them, so they are seen
 * twice, and compressed slots move on by one every `rate` queries. A block that is no multiple of `rate` may
 * be the last of a stream; groups would be out of step after it.
 */
import {
  type Block,
  joinSlots,
  MemoryError,
  type Recall,
  type Settled,
  ShapeError,
  slotsFrom,
} from '@lethe/core'
import { ones, type Tensor2D, type Tensor3D } from '@tensorflow/tfjs-core'
import { compress } from './compress'
import { newestOf, type Sizes, slotsInUse } from './slots'

/** Query i sees `compressed` + 1 compressed slots from the ⌊i / rate⌋-th on, and the `memory` steps before it. */
export function recallOverlapping(block: Block, { memory, compressed, rate }: Sizes): Recall {
  const { length, layer, batch, step } = block
  if (step % rate !== 0)
    throw new MemoryError(
      `with overlap: true blocks are multiples of rate (${rate}) steps long, and ${step} steps have been read: only the last block of a stream may be shorter`,
      { step, rate },
    )
  if (length > memory)
    throw new ShapeError(
      `with overlap: true a block may be at most memory (${memory}) steps long, not ${length}`,
      { block: length, memory },
    )
  const tensors = block.memory.tensors
  const [hidden, before] = [tensors.hidden, tensors.compressed] as [Tensor3D, Tensor3D]
  const valid = tensors.valid as Tensor2D
  const count = Math.min(Math.ceil(length / rate), Math.floor(hidden.shape[1] / rate)) * rate
  const oldest = { hidden: slotsFrom(hidden, 0, count), valid: slotsFrom(valid, 0, count) }
  const pooled = compress('mean', rate, oldest, {})
  const carry = {
    compressed: joinSlots(before, pooled.hidden) as Tensor3D,
    compressedValid: joinSlots(tensors.compressedValid!, pooled.valid) as Tensor2D,
  }
  return {
    groups: [
      {
        pieces: [block.remembered(carry.compressed)],
        distance: { kind: 'contiguous', first: memory + 1 + before.shape[1], queriesPerStep: rate },
        window: { nearest: memory + 1, farthest: memory + 1 + compressed },
        valid: carry.compressedValid,
        condensed: true,
      },
      {
        pieces: [block.remembered(hidden), { hidden: block.attended, constant: false }],
        distance: { kind: 'contiguous', first: hidden.shape[1] },
        window: { nearest: layer.attendSelf ? 0 : 1, farthest: memory },
        valid: joinSlots(valid, ones([batch, length])) as Tensor2D,
      },
    ],
    carry,
  }
}

/** The newest of both stores. */
export function settleOverlapping(block: Block, { carry }: Recall, sizes: Sizes): Settled {
  const { memory, layer, input, batch, length, step, starts } = block
  const steps = ones([batch, length])
  const tensors = {
    hidden: newestOf(joinSlots(memory.tensors.hidden!, input), sizes.memory),
    valid: newestOf(joinSlots(memory.tensors.valid!, steps), sizes.memory),
    compressed: newestOf(carry!.compressed!, sizes.compressed),
    compressedValid: newestOf(carry!.compressedValid!, sizes.compressed),
  }
  const [hidden, compressed] = [tensors.hidden.shape[1]!, tensors.compressed.shape[1]!]
  const alive = starts.map((start) => slotsInUse(layer, sizes, step + length - start, hidden, compressed))
  return { memory: { tensors, alive } }
}
