/** Non-linearities. What is kept for the gradient is what goes in, and nothing in between. ReLU is part of a product. */
import { add, erf, exp, mul, sigmoid, square, step, sub, type Tensor } from '@tensorflow/tfjs-core'
import { differentiable } from './differentiable'
import { fused } from './fused'

/** dx, from what ReLU returned: dy where that is above 0. */
export const reluGradient = (dy: Tensor, y: Tensor): Tensor =>
  fused('LetheReluGradient', { dy, y }, {})?.[0] ?? mul(dy, step(y))

/** Φ(x), the normal distribution's cumulative function. */
const cumulative = (x: Tensor) => mul(add(erf(mul(x, Math.SQRT1_2)), 1), 0.5)

/** Exact GELU: x · Φ(x). Hendrycks, Gimpel 2016. */
export function gelu(x: Tensor): Tensor {
  return differentiable(
    [x],
    (save) => {
      save([x])
      const [y] = fused('LetheGelu', { x }, {}) ?? [mul(x, cumulative(x))]
      return y
    },
    (dy, saved) => {
      const [x] = saved as [Tensor]
      const gradient = fused('LetheGeluGradient', { dy, x }, {})
      if (gradient) return gradient
      const density = mul(exp(mul(square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI))
      return [mul(dy, add(cumulative(x), mul(x, density)))]
    },
  )
}

/** SwiGLU: gate · sigmoid(gate) · x; both of one shape. Shazeer 2020. */
export function swiglu(gate: Tensor, x: Tensor): Tensor {
  return differentiable(
    [gate, x],
    (save) => {
      save([gate, x])
      const [y] = fused('LetheSwiglu', { gate, x }, {}) ?? [mul(mul(gate, sigmoid(gate)), x)]
      return y
    },
    (dy, saved) => {
      const [gate, x] = saved as [Tensor, Tensor]
      const gradients = fused('LetheSwigluGradient', { dy, gate, x }, {})
      if (gradients) return gradients
      const open = sigmoid(gate)
      const slope = mul(open, add(mul(gate, sub(1, open)), 1))
      return [mul(mul(dy, x), slope), mul(dy, mul(gate, open))]
    },
  )
}
