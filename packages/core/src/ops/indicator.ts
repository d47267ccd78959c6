/** One-hot rows as floats. */
import {
  cast,
  equal,
  expandDims,
  oneHot,
  type Tensor,
  type Tensor1D,
  type Tensor2D,
} from '@tensorflow/tfjs-core'

/**
 * 1 at each index, 0 elsewhere: int32 [...] → float32 [..., depth]; indices outside 0..depth-1 give zeros.
 * (tfjs's wasm kernel writes integers whatever dtype is asked for, hence the cast; and it knows no depth of 1.)
 */
export const indicator = (indices: Tensor, depth: number): Tensor =>
  cast(
    depth === 1 ? expandDims(equal(indices, 0), -1) : oneHot(indices as Tensor1D | Tensor2D, depth),
    'float32',
  )
