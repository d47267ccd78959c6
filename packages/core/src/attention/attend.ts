/**
 * The one attention of Lethe, and the seam behind which a backend's fused kernel can take over:
 *
 *     weight(t, i) ∝ m(t, i) · exp((q_t·k_i + position(t, i)) / √d − b(t, i))
 *
 * over groups of slots side by side in one softmax, with persistent slots beside them. The version here is made of
 * plain operations: the oracle of every fused kernel, and what runs where there is none.
 */
import {
  add,
  cast,
  clipByValue,
  concat,
  cumsum,
  div,
  getBackend,
  greater,
  less,
  mul,
  ones,
  relu,
  reshape,
  slice,
  softmax,
  sub,
  sum,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  tensor,
  zeros,
} from '@tensorflow/tfjs-core'
import type { NamedTensors, Term } from '../method'
import { differentiableAll, stopGradient } from '../ops/differentiable'
import { matMul } from '../ops/matmul'
import { distances, masked, windowMask } from './distance'
import { positionLogits } from './positions'
import { type AttentionGroup, type AttentionRequest, type AttentionResult, takeApart } from './request'

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

/** Puts a backend's fused kernel behind the seam (null takes it away). */
export function setAttentionKernel(backend: string, kernel: AttentionKernel | null): void {
  if (kernel) attentionKernels().set(backend, kernel)
  else attentionKernels().delete(backend)
}

/** Attention by the backend's fused kernel where there is one for this request, else by plain operations. */
export function attend(request: AttentionRequest): AttentionResult {
  checkSpans(request)
  const kernel = attentionKernels().get(getBackend())
  return kernel?.covers(request) ? attendFused(kernel, request) : attendPlain(request)
}

function checkSpans({ queries, terms }: AttentionRequest): void {
  const heads = queries.shape[1]!
  for (const term of terms)
    if (term.kind === 'head-span' && term.span.rank !== 3 && term.span.size !== 1 && term.span.size !== heads)
      throw new RangeError(`a head-span term needs 1 or ${heads} spans, not ${term.span.size}`)
}

/** Records a kernel's backward pass as the gradient of its forward pass. */
function attendFused(kernel: AttentionKernel, request: AttentionRequest): AttentionResult {
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

/** Attention in plain, differentiable operations. */
export function attendPlain(request: AttentionRequest): AttentionResult {
  const { keys, values, scale, groups, terms, persistent, wants } = request
  const [, , , block] = request.queries.shape as [number, number, number, number]
  const slots = keys.shape[3]!

  const queries = mul(request.queries, scale)
  const biased = (bias: Tensor | undefined) =>
    bias ? add(queries, mul(reshape(bias, [1, ...bias.shape, 1]), scale)) : queries
  const content = matMul(biased(request.queryBias?.content), keys, { transposeA: true })
  let logits = content // [batch, heads, block, slots]
  const positional = joinGroups(
    groups.map((group) =>
      group.positions ? positionLogits(biased(request.queryBias?.position), group.positions, group) : null,
    ),
    groups,
    [content.shape[0]!, content.shape[1]!, block],
  )
  if (positional) logits = add(logits, positional)

  const forbidden = combinedMask(groups, block)
  const exempt = joinExempt(groups)
  const selected = selectionOf(request, logits, forbidden, exempt)
  if (selected) logits = sub(logits, selected.penalty)
  for (const term of terms)
    if (term.kind === 'bias') logits = add(logits, exempt ? mul(term.bias, sub(1, exempt)) : term.bias)
  let strength = strengthOf(terms, groups, block)
  if (strength && exempt) strength = add(mul(strength, sub(1, exempt)), exempt)
  if (strength) {
    // Zero, not only far below the rest: a query to whom all is forgotten must not see what it may not attend to.
    if (forbidden) strength = mul(strength, allowedBy(forbidden))
    // What is fully forgotten leaves the softmax, too, so that the rest keeps its precision.
    const gone = stopGradient(mul(sub(1, cast(greater(strength, 0), 'float32')), masked))
    logits = add(logits, gone)
  } else if (forbidden) logits = add(logits, forbidden)

  let persistentWeights: Tensor | undefined
  let weights: Tensor
  if (persistent) {
    const keysOfAll = reshape(persistent.keys, [1, ...persistent.keys.shape])
    const unturned = persistent.queries ? mul(persistent.queries, scale) : queries
    const joined = softmax(concat([logits, matMul(unturned, keysOfAll, { transposeA: true })], 3))
    const [batch, heads] = joined.shape as [number, number]
    weights = slice(joined, [0, 0, 0, 0], [batch, heads, block, slots])
    persistentWeights = slice(joined, [0, 0, 0, slots], [batch, heads, block, joined.shape[3]! - slots])
  } else weights = softmax(logits)

  if (strength) {
    weights = mul(weights, strength)
    let total = sum(weights, -1, true)
    if (persistentWeights) total = add(total, sum(persistentWeights, -1, true))
    total = add(total, 1e-8)
    weights = div(weights, total)
    if (persistentWeights) persistentWeights = div(persistentWeights, total)
  }

  const mass = wants.mass ? massOf(stopGradient(weights)) : undefined
  if (request.dropout) weights = mul(weights, request.dropout)
  let context = matMul(values, weights, { transposeB: true })
  if (persistent && persistentWeights) {
    const valuesOfAll = reshape(persistent.values, [1, ...persistent.values.shape])
    context = add(context, matMul(valuesOfAll, persistentWeights, { transposeB: true }))
  }
  const selection =
    wants.selection && selected ? { during: selected.during, after: selected.after } : undefined
  return { context, ...(mass && { mass }), ...(selection && { selection }) }
}

/** Positional logits of all groups along the slot axis, zeros where a group has none; null where none has. */
function joinGroups(
  parts: readonly (Tensor | null)[],
  groups: readonly AttentionGroup[],
  [batch, heads, block]: [number, number, number],
): Tensor | null {
  if (parts.every((part) => part === null)) return null
  if (parts.length === 1) return parts[0]!
  return concat(
    parts.map((part, index) => part ?? zeros([batch, heads, block, groups[index]!.slots])),
    3,
  )
}

/** 0 where a query may attend to a slot, `masked` elsewhere: [1 | batch, 1, block | 1, slots]; null if all may. */
function combinedMask(groups: readonly AttentionGroup[], block: number): Tensor | null {
  const parts = groups.map((group) => {
    const window = windowMask(group, block)
    const masks: Tensor[] = window ? [tensor(window, [1, 1, block, group.slots])] : []
    if (group.distance.kind === 'scattered') {
      const distance = distances(group, block)
      if (!((group.distance.youngest ?? Number.NEGATIVE_INFINITY) >= group.nearest))
        masks.push(mul(cast(less(distance, group.nearest), 'float32'), masked))
      if (Number.isFinite(group.farthest)) {
        const far = mul(cast(greater(distance, group.farthest), 'float32'), masked)
        masks.push(group.exempt ? mul(far, sub(1, asColumns(group.exempt))) : far)
      }
    }
    if (group.valid) {
      const batch = group.valid.shape[0]
      masks.push(reshape(mul(sub(1, group.valid), masked), [batch, 1, 1, group.slots]))
    }
    return masks.length === 0 ? null : masks.reduce((a, b) => add(a, b))
  })
  if (parts.every((part) => part === null)) return null
  if (parts.length === 1) return parts[0]!
  const batch = Math.max(...parts.map((part) => part?.shape[0] ?? 1))
  const whole = (part: Tensor | null, { slots }: AttentionGroup) =>
    part ? add(part, zeros([batch, 1, block, slots])) : zeros([batch, 1, block, slots])
  return concat(
    parts.map((part, index) => whole(part, groups[index]!)),
    3,
  )
}

/** [batch, slots] → [batch, 1, 1, slots]. */
const asColumns = (x: Tensor2D): Tensor => reshape(x, [x.shape[0], 1, 1, x.shape[1]])

/** Which slots no term applies to, [batch, 1, 1, slots]; null where terms apply to all. */
function joinExempt(groups: readonly AttentionGroup[]): Tensor | null {
  const batch = groups.find(({ exempt }) => exempt)?.exempt?.shape[0]
  if (batch === undefined) return null
  const parts = groups.map(({ exempt, slots }) => exempt ?? (zeros([batch, slots]) as Tensor2D))
  return asColumns((parts.length === 1 ? parts[0]! : concat(parts, 1)) as Tensor2D)
}

/** 1 where `combinedMask` has 0, else 0. */
const allowedBy = (forbidden: Tensor) => cast(greater(forbidden, masked / 2), 'float32')

/** The product of all ramps m, broadcastable to [batch, heads, block, slots]; null where no term has one. */
function strengthOf(terms: readonly Term[], groups: readonly AttentionGroup[], block: number): Tensor | null {
  let strength: Tensor | null = null
  let distance: Tensor | null = null
  for (const term of terms) {
    if (term.kind !== 'slot-life' && term.kind !== 'head-span') continue
    distance ??= joinDistances(groups, block)
    let reach: Tensor
    if (term.kind === 'slot-life') {
      const [batch, slots] = term.life.shape
      reach = reshape(term.life, [batch, 1, 1, slots])
    } else {
      const perQuery = term.span.rank === 3
      const shape = perQuery ? [...term.span.shape, 1] : [1, term.span.size, 1, 1]
      reach = add(reshape(term.span, shape), groups[0]!.nearest)
    }
    const ramp = clipByValue(add(mul(sub(reach, distance), 1 / term.ramp), 1), 0, 1)
    strength = strength ? mul(strength, ramp) : ramp
  }
  return strength
}

function joinDistances(groups: readonly AttentionGroup[], block: number): Tensor {
  const parts = groups.map((group) => distances(group, block))
  if (parts.length === 1) return parts[0]!
  const batch = Math.max(...parts.map((part) => part.shape[0]!))
  return concat(
    parts.map((part, index) =>
      part.shape[0] === batch ? part : add(part, zeros([batch, 1, block, groups[index]!.slots])),
    ),
    3,
  )
}

/**
 * Selective Attention: F from the logits of one head. Leviathan, Kalman, Matias 2024, section 3: votes
 * S = ReLU(logits), none on exempt slots, on oneself or on the future; F counts the votes of strictly earlier queries.
 */
function selectionOf(
  request: AttentionRequest,
  logits: Tensor,
  forbidden: Tensor | null,
  unvoted: Tensor | null,
) {
  const term = request.terms.find((candidate) => candidate.kind === 'selection')
  if (!term) return null
  const [batch, , block, slots] = logits.shape as [number, number, number, number]
  const head = reshape(slice(logits, [0, term.head, 0, 0], [batch, 1, block, slots]), [batch, block, slots])
  // 1 where a vote counts: the pair may attend, the slot is not the query itself and not exempt.
  const allowed = forbidden
    ? allowedBy(reshape(forbidden, [forbidden.shape[0]!, forbidden.shape[2]!, slots]))
    : ones([1, 1, slots])
  const distance = joinDistances(request.groups, block)
  const notSelf = cast(greater(reshape(distance, [distance.shape[0]!, block, slots]), 0), 'float32')
  let counted = mul(mul(allowed, notSelf), reshape(sub(1, term.exempt), [batch, 1, slots]))
  if (unvoted) counted = mul(counted, reshape(sub(1, unvoted), [batch, 1, slots]))
  const votes = mul(relu(head), stopGradient(counted)) // [batch, block, slots]
  const carried = reshape(term.carried, [batch, 1, slots])
  const before = cumsum(votes, 1, true) // over queries
  const during = add(before, carried) as Tensor3D // [batch, block, slots]
  const after = add(sum(votes, 1), term.carried) as Tensor2D
  return { during, after, penalty: reshape(during, [batch, 1, block, slots]) }
}

/** [batch, slots]: attention summed over queries, mean over heads. */
const massOf = (weights: Tensor): Tensor2D => mul(sum(weights, [1, 2]), 1 / weights.shape[1]!) as Tensor2D

/** Attention by content alone with every slot visible: `Outcome.attendWith`. */
export function attendByContent(queries: Tensor, keys: Tensor, values: Tensor, scale: number): Tensor {
  const weights = softmax(matMul(mul(queries, scale), keys, { transposeA: true }))
  return matMul(values, weights, { transposeB: true })
}
