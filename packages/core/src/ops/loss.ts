/**
 * Cross-entropy of next-token prediction. What is kept for the gradient is the logits and two numbers per row, not the
 * probabilities.
 */
import {
  add,
  div,
  exp,
  log,
  max,
  maximum,
  mul,
  ones,
  reshape,
  type Scalar,
  scalar,
  sub,
  sum,
  type Tensor,
} from '@tensorflow/tfjs-core'
import { differentiable } from './differentiable'
import { fused } from './fused'
import { indicator } from './indicator'

/** Less than any sum of weights, and still a normal float32. */
const tiny = 1e-30

/** log softmax over the last axis, composed (tfjs's own kernel is slow on wasm). */
export function logSoftmax(logits: Tensor): Tensor {
  const centred = sub(logits, max(logits, -1, true))
  return sub(centred, log(sum(exp(centred), -1, true)))
}

/**
 * Negative log-likelihood of each target in nats, without a gradient: [batch, block]. `crossEntropy` is its mean.
 * @param logits [batch, block, vocabulary]
 * @param targets int32 [batch, block]
 */
export function negativeLogLikelihood(logits: Tensor, targets: Tensor): Tensor {
  const [loss] = rowLosses(
    reshape(logits, [targets.size, logits.shape[logits.rank - 1]!]),
    reshape(targets, [targets.size]),
  )
  return reshape(loss, targets.shape)
}

/**
 * Mean negative log-likelihood in nats.
 * @param logits [batch, block, vocabulary]
 * @param targets int32 [batch, block]
 * @param weights float32 [batch, block]: a weighted mean instead (0 leaves a position out; with
 *   nothing but zeros the loss is 0)
 */
export function crossEntropy(logits: Tensor, targets: Tensor, weights?: Tensor): Scalar {
  const classes = logits.shape[logits.rank - 1]!
  const rows = targets.size
  return differentiable(
    [logits],
    (save) => {
      const flat = { logits: reshape(logits, [rows, classes]), targets: reshape(targets, [rows]) }
      const [loss, largest, logTotal] = rowLosses(flat.logits, flat.targets)
      const weight = weights
        ? div(reshape(weights, [rows, 1]), maximum(sum(weights), tiny))
        : scalar(1 / rows)
      save([flat.logits, flat.targets, largest, logTotal, weight])
      return sum(mul(loss, weight))
    },
    (dy, saved) => {
      const [flat, targets, largest, logTotal, weight] = saved as [Tensor, Tensor, Tensor, Tensor, Tensor]
      const scale = mul(weight, mul(dy, ones([rows, 1]))) // [rows, 1]
      const [gradient] = fused(
        'LetheCrossEntropyGradient',
        { logits: flat, targets, largest, logTotal, scale },
        {},
      ) ?? [mul(sub(exp(sub(sub(flat, largest), logTotal)), indicator(targets, classes)), scale)]
      return [reshape(gradient, logits.shape)]
    },
  ) as Scalar
}

/** Loss, largest logit and log Σ e^(logit - largest) of each row: [rows, classes], int32 [rows] → three of [rows, 1]. */
const rowLosses = (logits: Tensor, targets: Tensor) =>
  (fused('LetheCrossEntropy', { logits, targets }, {}) as [Tensor, Tensor, Tensor] | undefined) ??
  plain(logits, targets)

function plain(logits: Tensor, targets: Tensor): [Tensor, Tensor, Tensor] {
  const largest = max(logits, -1, true)
  const logTotal = log(sum(exp(sub(logits, largest)), -1, true))
  const chosen = sum(mul(logits, indicator(targets, logits.shape[1]!)), -1, true)
  return [add(sub(largest, chosen), logTotal), largest, logTotal]
}
