/** How strongly each query attends to each slot, in plain, differentiable operations. */
import {
  add,
  cast,
  clipByValue,
  concat,
  div,
  greater,
  less,
  max,
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
import type { Term } from '../method'
import { stopGradient } from '../ops/differentiable'
import { matMul } from '../ops/matmul'
import { runningSum } from '../ops/running-sum'
import { scope } from '../ops/scope'
import { distances, masked, seesSome, windowMask } from './distance'
import { positionLogits } from './positions'
import type { AttentionGroup, AttentionRequest } from './request'

/** The weights of all slots, before they are put to use. */
export interface Weighed {
  /** [batch, heads, block, slots]: they sum to 1, together with those of the persistent slots, or else to `total`. */
  readonly weights: Tensor
  /** [batch, heads, block, persistent slots] */
  readonly persistent?: Tensor
  /** [batch, heads, block, 1], where a ramp takes part. */
  readonly total?: Tensor
  /** The votes cast in this block [batch, block, slots], and what they come to. */
  readonly votes?: Tensor
  readonly selection?: { readonly during: Tensor3D; readonly after: Tensor2D }
}

/** How strongly each query attends to each slot. Nothing else is left behind. */
export const weigh = (request: AttentionRequest): Weighed => scope(() => weighAll(request))

function weighAll(request: AttentionRequest): Weighed {
  const { keys, scale, groups, terms, persistent } = request
  const [, , , block] = request.queries.shape as [number, number, number, number]
  const slots = keys.shape[3]!
  let logits = scope(() => scoresOf(request))
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
    const unturned = mul(persistent.queries ?? request.queries, scale)
    const joined = softmax(concat([logits, matMul(unturned, keysOfAll, { transposeA: true })], 3))
    const [batch, heads] = joined.shape as [number, number]
    weights = slice(joined, [0, 0, 0, 0], [batch, heads, block, slots])
    persistentWeights = slice(joined, [0, 0, 0, slots], [batch, heads, block, joined.shape[3]! - slots])
  } else {
    weights = softmax(logits)
    // A softmax over nothing would be one over what may not be attended to.
    if (forbidden && !strength && !allSeeSome(groups, block))
      weights = mul(weights, max(allowedBy(forbidden), -1, true))
  }

  let total: Tensor | undefined
  if (strength) {
    weights = mul(weights, strength)
    total = sum(weights, -1, true)
    if (persistentWeights) total = add(total, sum(persistentWeights, -1, true))
    total = add(total, 1e-8)
  }
  return {
    weights,
    ...(persistentWeights && { persistent: persistentWeights }),
    ...(total && { total }),
    ...(selected && {
      votes: selected.votes,
      selection: { during: selected.during, after: selected.after },
    }),
  }
}

/**
 * Products of the queries with keys and with keys of distances, [batch, heads, block, slots]. Positions come first: they
 * take several tensors of that size on the way, which are gone before the others are made.
 */
function scoresOf(request: AttentionRequest): Tensor {
  const { queries, keys, groups } = request
  const [batch, heads, , block] = queries.shape as [number, number, number, number]
  const positional = scope(() =>
    joinGroups(
      groups.map((group) =>
        group.positions
          ? scope(() => positionLogits(biasedQueries(request, 'position'), group.positions!, group))
          : null,
      ),
      groups,
      [batch, heads, block],
    ),
  )
  const ofContent = matMul(biasedQueries(request, 'content'), keys, { transposeA: true })
  return positional ? add(ofContent, positional) : ofContent
}

/** The scaled queries of the content or of the positional part, with their bias [batch, heads, headSize, block]. */
export function biasedQueries({ queries, queryBias, scale }: AttentionRequest, part: 'content' | 'position') {
  const bias = queryBias?.[part]
  return mul(bias ? add(queries, reshape(bias, [1, ...bias.shape, 1])) : queries, scale)
}

/** The values by their weights, [batch, heads, headSize, block]. */
export function contextOf(
  { values, persistent, dropout }: AttentionRequest,
  { weights, persistent: ofPersistent, total }: Weighed,
): Tensor {
  let context = matMul(values, dropout ? mul(weights, dropout) : weights, { transposeB: true })
  if (persistent && ofPersistent) {
    const valuesOfAll = reshape(persistent.values, [1, ...persistent.values.shape])
    context = add(context, matMul(valuesOfAll, ofPersistent, { transposeB: true }))
  }
  return total ? div(context, perQuery(total)) : context
}

/** [batch, heads, block, 1] → [batch, heads, 1, block]. */
export const perQuery = (x: Tensor): Tensor => reshape(x, [x.shape[0]!, x.shape[1]!, 1, x.shape[2]!])

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

/** Whether every query has a slot to attend to, as far as the host knows. */
const allSeeSome = (groups: readonly AttentionGroup[], block: number) =>
  groups.some((group) => !group.valid && seesSome(group, block))

/** [batch, slots] → [batch, 1, 1, slots]. */
const asColumns = (x: Tensor2D): Tensor => reshape(x, [x.shape[0], 1, 1, x.shape[1]])

/** Which slots no term applies to, [batch, 1, 1, slots]; null where terms apply to all. */
export function joinExempt(groups: readonly AttentionGroup[]): Tensor | null {
  const batch = groups.find(({ exempt }) => exempt)?.exempt?.shape[0]
  if (batch === undefined) return null
  const parts = groups.map(({ exempt, slots }) => exempt ?? (zeros([batch, slots]) as Tensor2D))
  return asColumns((parts.length === 1 ? parts[0]! : concat(parts, 1)) as Tensor2D)
}

/** 1 where `combinedMask` has 0, else 0. */
const allowedBy = (forbidden: Tensor) => cast(greater(forbidden, masked / 2), 'float32')

/** A term that fades with the distance. */
type RampTerm = Extract<Term, { ramp: number }>

/** (reach - distance) / ramp + 1 of every ramp, broadcastable to [batch, heads, block, slots]; m is what 0..1 leaves. */
export function rampsOf(terms: readonly Term[], groups: readonly AttentionGroup[], block: number) {
  const fading = terms.filter((term): term is RampTerm => 'ramp' in term)
  const distance = fading.length > 0 ? joinDistances(groups, block) : undefined
  return fading.map((term) => {
    const reach = reachOf(term, groups[0]!.nearest)
    return { term, ramp: add(mul(sub(reach, distance!), 1 / term.ramp), 1) }
  })
}

/** The distance at which a ramp begins to fall, broadcastable to [batch, heads, block, slots]. */
function reachOf(term: RampTerm, nearest: number): Tensor {
  if (term.kind === 'slot-life') return asColumns(term.life)
  return add(reshape(term.span, spanShape(term.span)), nearest)
}

/** A head-span among [batch, heads, block, slots]. */
export const spanShape = (span: Tensor): number[] =>
  span.rank === 3 ? [...span.shape, 1] : [1, span.size, 1, 1]

/** The product of all ramps m, broadcastable to [batch, heads, block, slots]; null where no term has one. */
function strengthOf(terms: readonly Term[], groups: readonly AttentionGroup[], block: number): Tensor | null {
  const factors = rampsOf(terms, groups, block).map(({ ramp }) => clipByValue(ramp, 0, 1))
  return factors.length > 0 ? factors.reduce((a, b) => mul(a, b)) : null
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
  const before = runningSum(votes as Tensor3D, true) // over queries
  const during = add(before, carried) as Tensor3D // [batch, block, slots]
  const after = add(sum(votes, 1), term.carried) as Tensor2D
  return { during, after, votes, penalty: reshape(during, [batch, 1, block, slots]) }
}

/** [batch, slots]: attention summed over queries, mean over heads. */
export const massOf = ({ weights, total }: Weighed): Tensor2D =>
  mul(sum(total ? div(weights, total) : weights, [1, 2]), 1 / weights.shape[1]!) as Tensor2D
