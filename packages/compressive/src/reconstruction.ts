/**
 * Losses that train the compression alone (Rae et al. 2020, section 3.2 and Algorithm 2): what compressed slots still
 * tell of the steps that they were made of. Nothing here reaches the rest of the network.
 */
import { linear, type NamedTensors, type Outcome, stopGradient } from '@lethe/core'
import {
  div,
  maximum,
  mean,
  min,
  mul,
  reshape,
  type Scalar,
  square,
  sub,
  sum,
  type Tensor,
  type Tensor3D,
} from '@tensorflow/tfjs-core'
import type { Compressed, Evicted } from './compress'

export type ReconstructionLoss = 'none' | 'auto-encoding' | 'attention'

/**
 * Mean squared error over the rows of the batch that have no empty places among the evicted.
 * @param evicted constant
 * @param compressed made of them
 */
export function reconstructionError(
  loss: Exclude<ReconstructionLoss, 'none'>,
  evicted: Evicted,
  compressed: Compressed,
  attendWith: Outcome['attendWith'],
  parameters: NamedTensors,
): Scalar {
  const [wanted, found] =
    loss === 'attention'
      ? [attendWith(evicted.hidden), attendWith(compressed.hidden)]
      : [evicted.hidden, decoded(compressed.hidden, parameters)]
  const batch = wanted.shape[0]!
  const errors = reshape(square(sub(stopGradient(wanted), found)), [batch, wanted.size / batch])
  const whole = min(evicted.valid, 1) // [batch]
  return div(sum(mul(mean(errors, 1), whole)), maximum(sum(whole), 1)) as Scalar
}

/** Each compressed slot as the steps that it stands for: [batch, groups, width] → [batch, groups · rate, width]. */
function decoded(compressed: Tensor3D, parameters: NamedTensors): Tensor {
  const [batch, groups, width] = compressed.shape
  const steps = linear(compressed, parameters['decode.weight']!, parameters['decode.bias'])
  return reshape(steps, [batch, (groups * steps.shape[2]!) / width, width])
}
