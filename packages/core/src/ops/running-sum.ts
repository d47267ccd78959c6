/** Sums along a block's steps. */
import { cumsum, reverse, type Tensor3D } from '@tensorflow/tfjs-core'
import { differentiable } from './differentiable'
import { fused } from './fused'

/**
 * The sum over the steps up to each, or, exclusive, before it. A step that is not finite spoils, on some backends, the
 * sums of all steps.
 * @param x [batch, steps, columns]
 */
export function runningSum(x: Tensor3D, exclusive: boolean): Tensor3D {
  const sums = (of: Tensor3D, backwards: boolean) => {
    const [computed] = fused('LetheRunningSum', { x: of }, { exclusive, backwards }) ?? []
    if (computed) return computed as Tensor3D
    // By turning round: webgpu compiles a reversed cumsum for the first length it meets, and then uses it for all.
    return backwards ? reverse(cumsum(reverse(of, 1), 1, exclusive), 1) : cumsum(of, 1, exclusive)
  }
  return differentiable(
    [x],
    () => sums(x, false),
    (dy) => [sums(dy as Tensor3D, true)],
  ) as Tensor3D
}
