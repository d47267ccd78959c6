/**
 * Attention by plain operations that keeps no queries × slots tensor: the backward pass computes them again. For
 * backends without a fused kernel of their own; costs a second forward pass.
 */
import { add, engine, mul, type Scalar, sum, type Tensor, zerosLike } from '@tensorflow/tfjs-core'
import type { NamedTensors } from '../method'
import type { AttentionKernel, ResultGradients } from './attend'
import { attendPlain } from './attend'
import { type AttentionRequest, takeApart } from './request'

/** The plain operations behind the seam of the fused kernels. */
export const recomputedAttention: AttentionKernel = {
  covers: () => true,
  forward: attendPlain,
  backward: (request, _result, gradients) => gradientsOf(request, gradients),
}

function gradientsOf(request: AttentionRequest, { context, during, after }: ResultGradients): NamedTensors {
  const parts = takeApart({ ...request, wants: { selection: during !== undefined } })
  const names = Object.keys(parts.learning)
  const loss = (...tensors: Tensor[]): Scalar => {
    const learning = Object.fromEntries(names.map((name, index) => [name, tensors[index]!]))
    const result = attendPlain(parts.with({ ...parts.constant, ...learning }))
    const total = sum(mul(result.context, context))
    if (!result.selection) return total as Scalar
    const votes = add(sum(mul(result.selection.during, during!)), sum(mul(result.selection.after, after!)))
    return add(total, votes) as Scalar
  }
  const gradients = withinGradient(() =>
    engine().gradients(() => loss(...Object.values(parts.learning)), Object.values(parts.learning)),
  )
  return Object.fromEntries(
    names.map((name, index) => [name, gradients[index] ?? zerosLike(parts.learning[name]!)]),
  )
}

/** Takes a gradient inside another one's backward pass, where tfjs would lose the outer tape. */
function withinGradient(body: () => { grads: Tensor[] }): Tensor[] {
  const { state } = engine() as unknown as { state: { activeTape: unknown; gradientDepth: number } }
  const outer = state.activeTape
  try {
    return body().grads
  } finally {
    state.activeTape = outer
  }
}
