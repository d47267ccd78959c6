/** Shared machinery of methods whose survivors are scattered: picking slots, each row of the batch its own. */
import {
  add,
  cast,
  gather,
  reshape,
  type Tensor,
  type Tensor1D,
  type Tensor2D,
  tensor,
} from '@tensorflow/tfjs-core'

/** Slots of x [batch, slots, ...] by index [batch, count]: [batch, count, ...]. */
export function pickSlots(x: Tensor, index: Tensor2D): Tensor {
  const [batch, slots, ...rest] = x.shape as [number, number, ...number[]]
  const count = index.shape[1]
  const start = tensor(
    Int32Array.from({ length: batch }, (_, row) => row * slots),
    [batch, 1],
    'int32',
  )
  const flat = cast(reshape(add(index, start), [batch * count]), 'int32') as Tensor1D
  return reshape(gather(reshape(x, [batch * slots, ...rest]), flat), [batch, count, ...rest])
}
