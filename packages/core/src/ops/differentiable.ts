/** An operation with a backward pass of its own. */
import { clone, customGrad, type GradSaveFunc, type Tensor, tidy } from '@tensorflow/tfjs-core'

/**
 * Runs `forward` and records `backward` as its gradient. `backward` gets the gradient of the result and the tensors
 * that `forward` saved, and returns one gradient per input; what it makes on the way, and what was saved, is freed
 * at once and not at the end of the whole backward pass.
 */
export function differentiable(
  inputs: readonly Tensor[],
  forward: (save: GradSaveFunc) => Tensor,
  backward: (dy: Tensor, saved: Tensor[]) => Tensor[],
): Tensor {
  return customGrad((...args: (Tensor | GradSaveFunc)[]) => ({
    value: forward(args[args.length - 1] as GradSaveFunc),
    gradFunc: (dy: Tensor, saved: Tensor[]) => {
      const gradients = tidy(() => backward(dy, saved))
      for (const tensor of saved) tensor.dispose()
      return gradients
    },
  }))(...inputs)
}

/**
 * The same values, as a constant: no gradient flows back. Nor does it try to: what x was made from is not asked for a
 * gradient on this way, so that it may go through operations that have none (topk).
 */
export function stopGradient<T extends Tensor>(x: T): T {
  return differentiable(
    [],
    () => clone(x),
    () => [],
  ) as T
}
