/** Layer norm and RMS norm over the last axis. What is kept for the gradient is x itself and a number or two per row. */
import { add, mean, mul, rsqrt, square, sub, type Tensor } from '@tensorflow/tfjs-core'
import { differentiable } from './differentiable'
import { fused } from './fused'
import { sumRows } from './matmul'

/** y = (x - mean) / sqrt(variance + epsilon) · scale + bias, over the last axis; scale and bias [width]. */
export function layerNorm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: number): Tensor {
  return differentiable(
    [x, scale, bias],
    (save) => {
      const [y, middle, inverse] = fused('LetheLayerNorm', { x, scale, bias }, { epsilon }) ?? plain()
      save([x, scale, middle, inverse])
      return y
    },
    (dy, saved) => {
      const [x, scale, middle, inverse] = saved as [Tensor, Tensor, Tensor, Tensor]
      const gradients = fused('LetheLayerNormGradient', { dy, x, scale, mean: middle, inverse }, {})
      if (gradients) return gradients
      const normal = mul(sub(x, middle), inverse)
      const weighted = mul(dy, scale)
      const rest = sub(sub(weighted, mean(weighted, -1, true)), along(weighted, normal))
      return [mul(inverse, rest), sumRows(mul(dy, normal)), sumRows(dy)]
    },
  )
  function plain(): [Tensor, Tensor, Tensor] {
    const middle = mean(x, -1, true)
    const centred = sub(x, middle)
    const inverse = rsqrt(add(mean(square(centred), -1, true), epsilon))
    return [add(mul(mul(centred, inverse), scale), bias), middle, inverse]
  }
}

/** y = x / sqrt(mean(x²) + epsilon) · scale, over the last axis; scale [width]. Zhang, Sennrich 2019. */
export function rmsNorm(x: Tensor, scale: Tensor, epsilon: number): Tensor {
  return differentiable(
    [x, scale],
    (save) => {
      const [y, inverse] = fused('LetheRmsNorm', { x, scale }, { epsilon }) ?? plain()
      save([x, scale, inverse])
      return y
    },
    (dy, saved) => {
      const [x, scale, inverse] = saved as [Tensor, Tensor, Tensor]
      const gradients = fused('LetheRmsNormGradient', { dy, x, scale, inverse }, {})
      if (gradients) return gradients
      const normal = mul(x, inverse)
      const weighted = mul(dy, scale)
      return [mul(inverse, sub(weighted, along(weighted, normal))), sumRows(mul(dy, normal))]
    },
  )
  function plain(): [Tensor, Tensor] {
    const inverse = rsqrt(add(mean(square(x), -1, true), epsilon))
    return [mul(mul(x, inverse), scale), inverse]
  }
}

/** The part of `weighted` that lies in the direction of the normalised row. */
const along = (weighted: Tensor, normal: Tensor): Tensor => mul(normal, mean(mul(weighted, normal), -1, true))
