/** Non-linearities, with backward passes of their own where tfjs's composed form is slow or keeps too much. */
import { add, erf, exp, mul, sigmoid, square, sub, type Tensor } from '@tensorflow/tfjs-core'
import { differentiable } from './differentiable'

/** Exact GELU: x · Φ(x). Hendrycks, Gimpel 2016. */
export function gelu(x: Tensor): Tensor {
  return differentiable(
    [x],
    (save) => {
      const cumulative = mul(add(erf(mul(x, Math.SQRT1_2)), 1), 0.5)
      save([x, cumulative])
      return mul(x, cumulative)
    },
    (dy, saved) => {
      const [x, cumulative] = saved as [Tensor, Tensor]
      const density = mul(exp(mul(square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI))
      return [mul(dy, add(cumulative, mul(x, density)))]
    },
  )
}

/** SiLU: x · sigmoid(x), the gate of SwiGLU. Shazeer 2020. */
export function silu(x: Tensor): Tensor {
  return differentiable(
    [x],
    (save) => {
      const gate = sigmoid(x)
      save([x, gate])
      return mul(x, gate)
    },
    (dy, saved) => {
      const [x, gate] = saved as [Tensor, Tensor]
      return [mul(dy, mul(gate, add(mul(x, sub(1, gate)), 1)))]
    },
  )
}
