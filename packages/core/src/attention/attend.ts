/**
 * The one attention of Lethe, and the seam behind which a backend's fused kernel can take over:
 *
 *     weight(t, i) ∝ m(t, i) · exp((q_t·k_i + position(t, i)) / √d − b(t, i))
 *
 * over groups of slots side by side in one softmax, with persistent slots beside them. Where there is no such kernel,
 * plain operations compute (weights.ts, with their gradient in backward.ts).
 */
import { getBackend, mul, softmax, type Tensor, type Tensor2D, type Tensor3D } from '@tensorflow/tfjs-core'
import type { NamedTensors } from '../method'
import { differentiableAll, stopGradient } from '../ops/differentiable'
import { matMul } from '../ops/matmul'
import { plainAttention } from './backward'
import { type AttentionRequest, type AttentionResult, takeApart } from './request'
import { contextOf, massOf, weigh } from './weights'

/** What a fused kernel leaves behind: the results, and what its own backward pass wants to see again. */
export interface FusedResult extends AttentionResult {
  /** Small against queries × slots: a row's maximum and sum, say. */
  readonly kept?: readonly Tensor[]
}

/** Gradients of the results that have any. */
export interface ResultGradients {
  /** [batch, heads, headSize, block] */
  readonly context: Tensor
  /** Where `wants.selection`. */
  readonly during?: Tensor3D
  readonly after?: Tensor2D
}

/** Attention of a backend's own, forward and backward, in which no queries × slots tensor is kept. */
export interface AttentionKernel {
  /** Whether it takes this request; others go to the plain operations. */
  covers(request: AttentionRequest): boolean
  forward(request: AttentionRequest): FusedResult
  /**
   * @param result what `forward` gave for the same request
   * @returns a gradient for each tensor of `takeApart(request).learning`, by its name
   */
  backward(request: AttentionRequest, result: FusedResult, gradients: ResultGradients): NamedTensors
}

/** By backend, in one place for all copies of this package, where a backend's package may put its own without importing
 *  this one. The number is the version of `AttentionKernel`. */
const seam = Symbol.for('lethe.attention-kernels.1')
const realm = globalThis as unknown as Record<symbol, Map<string, AttentionKernel> | undefined>

function attentionKernels(): Map<string, AttentionKernel> {
  realm[seam] ??= new Map()
  return realm[seam]
}

const plain = /* @__PURE__ */ plainAttention()

/**
 * Puts a backend's fused kernel behind the seam (null takes it away).
 * @returns the one that was there, so that it can be put back
 */
export function setAttentionKernel(backend: string, kernel: AttentionKernel | null): AttentionKernel | null {
  const kernels = attentionKernels()
  const before = kernels.get(backend) ?? null
  if (kernel) kernels.set(backend, kernel)
  else kernels.delete(backend)
  return before
}

/** Attention by the backend's fused kernel where there is one for this request, else by plain operations. */
export function attend(request: AttentionRequest): AttentionResult {
  checkSpans(request)
  const kernel = attentionKernels().get(getBackend())
  return attendBy(kernel?.covers(request) ? kernel : plain, request)
}

function checkSpans({ queries, terms }: AttentionRequest): void {
  const heads = queries.shape[1]!
  for (const term of terms)
    if (term.kind === 'head-span' && term.span.rank !== 3 && term.span.size !== 1 && term.span.size !== heads)
      throw new RangeError(`a head-span term needs 1 or ${heads} spans, not ${term.span.size}`)
}

/** Records a kernel's backward pass as the gradient of its forward pass. */
export function attendBy(kernel: AttentionKernel, request: AttentionRequest): AttentionResult {
  const parts = takeApart(request)
  const learning = Object.keys(parts.learning)
  const names = [...learning, ...Object.keys(parts.constant)]
  const tensors = Object.values({ ...parts.learning, ...parts.constant })
  const selects = request.wants.selection && request.terms.some(({ kind }) => kind === 'selection')
  const results = differentiableAll(
    Object.values(parts.learning),
    (save) => {
      const { context, mass, selection, kept = [] } = kernel.forward(request)
      const results = [context, selection?.during, selection?.after, mass].filter((x) => x !== undefined)
      save([...tensors, ...results, ...kept])
      return results
    },
    (dys, saved) => {
      const again = parts.with(Object.fromEntries(names.map((name, index) => [name, saved[index]!])))
      const rest = saved.slice(names.length)
      const gradients = kernel.backward(
        again,
        { ...named(rest.slice(0, dys.length)), kept: rest.slice(dys.length) },
        { context: dys[0]!, ...named(dys).selection },
      )
      return learning.map((name) => gradients[name]!)
    },
  )
  const named = ([context, ...others]: readonly Tensor[]): AttentionResult => {
    const [during, after] = selects ? others.splice(0, 2) : []
    const [mass] = others
    return {
      context: context!,
      ...(mass && { mass: mass as Tensor2D }),
      ...(during && { selection: { during: during as Tensor3D, after: after as Tensor2D } }),
    }
  }
  const { mass, ...result } = named(results)
  return mass ? { ...result, mass: stopGradient(mass) } : result
}

/** Attention in plain operations that tfjs itself differentiates: the oracle of every backward pass written by hand. */
export function attendPlain(request: AttentionRequest): AttentionResult {
  const weighed = weigh(request)
  const context = contextOf(request, weighed)
  const { wants } = request
  const mass = wants.mass ? stopGradient(massOf(weighed)) : undefined
  const selection = wants.selection ? weighed.selection : undefined
  return { context, ...(mass && { mass }), ...(selection && { selection }) }
}

/** Attention by content alone with every slot visible: `Outcome.attendWith`. */
export function attendByContent(queries: Tensor, keys: Tensor, values: Tensor, scale: number): Tensor {
  const weights = softmax(matMul(mul(queries, scale), keys, { transposeA: true }))
  return matMul(values, weights, { transposeB: true })
}
