/**
 * Layer norm and RMS norm over the last axis, each with a backward pass of its own (fewer kernels and fewer kept
 * tensors than the composed operations).
 */
import { add, mean, mul, rsqrt, square, sub, type Tensor } from '@tensorflow/tfjs-core'
import { differentiable } from './differentiable'
import { sumRows } from './matmul'

/** y = (x - mean) / sqrt(variance + epsilon) · scale + bias, over the last axis; scale and bias [width]. */
export function layerNorm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: number): Tensor {
  return differentiable(
    [x, scale, bias],
    (save) => {
      const centred = sub(x, mean(x, -1, true))
      const inverse = rsqrt(add(mean(square(centred), -1, true), epsilon))
      const normal = mul(centred, inverse)
      save([normal, inverse, scale])
      return add(mul(normal, scale), bias)
    },
    (dy, saved) => {
      const [normal, inverse, scale] = saved as [Tensor, Tensor, Tensor]
      const weighted = mul(dy, scale)
      const along = mul(normal, mean(mul(weighted, normal), -1, true))
      const dx = mul(inverse, sub(sub(weighted, mean(weighted, -1, true)), along))
      return [dx, sumRows(mul(dy, normal)), sumRows(dy)]
    },
  )
}

/** y = x / sqrt(mean(x²) + epsilon) · scale, over the last axis; scale [width]. Zhang, Sennrich 2019. */
export function rmsNorm(x: Tensor, scale: Tensor, epsilon: number): Tensor {
  return differentiable(
    [x, scale],
    (save) => {
      const inverse = rsqrt(add(mean(square(x), -1, true), epsilon))
      const normal = mul(x, inverse)
      save([normal, inverse, scale])
      return mul(normal, scale)
    },
    (dy, saved) => {
      const [normal, inverse, scale] = saved as [Tensor, Tensor, Tensor]
      const weighted = mul(dy, scale)
      const dx = mul(inverse, sub(weighted, mul(normal, mean(mul(weighted, normal), -1, true))))
      return [dx, sumRows(mul(dy, normal))]
    },
  )
}
