/** Cross-entropy of next-token prediction, with a backward pass of its own. */
import {
  div,
  exp,
  log,
  max,
  mul,
  neg,
  reshape,
  type Scalar,
  scalar,
  sub,
  sum,
  type Tensor,
} from '@tensorflow/tfjs-core'
import { differentiable } from './differentiable'
import { indicator } from './indicator'

/** log softmax over the last axis, composed (tfjs's own kernel is slow on wasm). */
export function logSoftmax(logits: Tensor): Tensor {
  const centred = sub(logits, max(logits, -1, true))
  return sub(centred, log(sum(exp(centred), -1, true)))
}

/**
 * Mean negative log-likelihood in nats.
 * @param logits [batch, block, vocabulary]
 * @param targets int32 [batch, block]
 * @param weights float32 [batch, block]: a weighted mean instead (0 leaves a position out)
 */
export function crossEntropy(logits: Tensor, targets: Tensor, weights?: Tensor): Scalar {
  const vocabulary = logits.shape[logits.rank - 1]!
  const rows = targets.size
  return differentiable(
    [logits],
    (save) => {
      const hot = indicator(reshape(targets, [rows]), vocabulary)
      const logprobs = logSoftmax(reshape(logits, [rows, vocabulary]))
      const weight = weights ? div(reshape(weights, [rows, 1]), sum(weights)) : scalar(1 / rows)
      save([logprobs, hot, weight])
      return neg(sum(mul(sum(mul(logprobs, hot), -1, true), weight)))
    },
    (dy, saved) => {
      const [logprobs, hot, weight] = saved as [Tensor, Tensor, Tensor]
      return [reshape(mul(sub(exp(logprobs), hot), mul(weight, dy)), logits.shape)]
    },
  ) as Scalar
}
