/** An operation with a backward pass of its own. */
import { clone, customGrad, engine, type GradSaveFunc, type Tensor, tidy } from '@tensorflow/tfjs-core'

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

/** What tfjs's customGrad calls, which takes but one result; its type is private. */
interface Engine {
  runKernelFunc(params: {
    readonly inputs: Readonly<Record<string, Tensor>>
    readonly forwardFunc: (backend: unknown, save: GradSaveFunc) => Tensor[]
    readonly backwardsFunc: (dys: Tensor | Tensor[], saved: Tensor[]) => Record<string, () => Tensor>
  }): Tensor[]
}

/**
 * `differentiable` for several results. A result that nothing was made of has zeros for its gradient.
 * Constants among the results must be made so by the caller (`stopGradient`).
 */
export function differentiableAll(
  inputs: readonly Tensor[],
  forward: (save: GradSaveFunc) => Tensor[],
  backward: (dys: readonly Tensor[], saved: Tensor[]) => readonly Tensor[],
): Tensor[] {
  return (engine() as unknown as Engine).runKernelFunc({
    inputs: Object.fromEntries(inputs.map((input, index) => [index, input])),
    forwardFunc: (_, save) => forward(save),
    backwardsFunc: (dys, saved) => {
      const gradients = tidy(() => backward(Array.isArray(dys) ? dys : [dys], saved) as Tensor[])
      for (const tensor of saved) tensor.dispose()
      return Object.fromEntries(gradients.map((gradient, index) => [index, () => gradient]))
    },
  })
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
