/**
 * The backward pass of attention, written out in plain operations: what runs where a backend has no fused kernel. Of all
 * tensors of queries × slots it keeps the weights alone, and those only while they are small; else it weighs again.
 * Large batches are read some rows at a time, so that what is alive at once stays bounded.
 *
 * With W the weights, C the context and a dash for a gradient, for each query:
 *
 *     W' = V'ᵀ C'      L' = W (W' - C·C')      K' = Q L'      Q' = K L'ᵀ      V' = C' W
 *
 * where C·C' is Σ W W' over the slots (Dao et al. 2022, FlashAttention, appendix B.2). A ramp m in W = m S / Σ m S
 * has the gradient L' / m.
 */
import {
  add,
  cast,
  concat,
  div,
  greater,
  lessEqual,
  logicalAnd,
  maximum,
  mul,
  matMul as product,
  reshape,
  slice,
  sub,
  sum,
  type Tensor,
  type Tensor3D,
  tensor1d,
  zerosLike,
} from '@tensorflow/tfjs-core'
import type { NamedTensors } from '../method'
import { indicator } from '../ops/indicator'
import { runningSum } from '../ops/running-sum'
import { scope } from '../ops/scope'
import type { AttentionKernel, FusedResult, ResultGradients } from './attend'
import { positionGradients } from './positions'
import { type AttentionRequest, rowsOf, sliceRows, takeApart } from './request'
import {
  biasedQueries,
  contextOf,
  joinExempt,
  massOf,
  perQuery,
  rampsOf,
  spanShape,
  type Weighed,
  weigh,
} from './weights'

export interface PlainAttentionOptions {
  /** Bytes of weights that are read at a time, if they are more than one row's. */
  readonly atOnce?: number
  /** Bytes of weights up to which they are kept for the backward pass. */
  readonly kept?: number
}

/** Attention in plain operations behind the seam of the fused kernels. */
export function plainAttention({
  atOnce = 2 ** 25,
  kept: keptBytes = 2 ** 27,
}: PlainAttentionOptions = {}): AttentionKernel {
  /** Rows of the batch that are read together: [start, count]. */
  const chunksOf = (request: AttentionRequest): (readonly [number, number])[] => {
    const [batch] = request.queries.shape as [number]
    const count = Math.min(batch, Math.max(1, Math.floor(atOnce / (weightBytes(request) / batch))))
    return Array.from({ length: Math.ceil(batch / count) }, (_, index) => [
      index * count,
      Math.min(count, batch - index * count),
    ])
  }
  return {
    covers: () => true,
    forward(request) {
      const keeps = weightBytes(request) <= keptBytes
      const chunks = chunksOf(request).map(([start, count]) => {
        const result = scope(() => forwardRows(rowsOf(request, start, count)))
        if (!keeps) for (const tensor of result.kept) tensor.dispose()
        return { ...result, kept: keeps ? result.kept : [] }
      })
      return joinResults(chunks)
    },
    backward(request, result, gradients) {
      const chunks = chunksOf(request)
      const each = (result.kept?.length ?? 0) / chunks.length
      const parts = chunks.map(([start, count], index) => {
        const rows = <T extends Tensor>(x: T) => sliceRows(x, start, count)
        return scope(() => {
          const part = rowsOf(request, start, count)
          const kept = result.kept!.slice(index * each, (index + 1) * each)
          const weighed = each > 0 ? asWeighed(part, kept) : weigh(part)
          const { context, during, after } = gradients
          return backwardRows(part, weighed, rows(result.context), {
            context: rows(context),
            ...(during && after && { during: rows(during), after: rows(after) }),
          })
        })
      })
      return joinGradients(parts, takeApart(request).perRow)
    },
  }
}

/** Bytes of the weights of all queries and slots. */
function weightBytes({ queries, keys }: AttentionRequest): number {
  const [batch, heads, , block] = queries.shape as [number, number, number, number]
  return 4 * batch * heads * block * keys.shape[3]!
}

/** What a chunk leaves behind, and what its backward pass wants to see again. */
function forwardRows(request: AttentionRequest): FusedResult & { readonly kept: readonly Tensor[] } {
  const { wants } = request
  const weighed = weigh(request)
  const { weights, persistent, total, votes, selection } = weighed
  return {
    context: contextOf(request, weighed),
    ...(wants.mass && { mass: massOf(weighed) }),
    ...(wants.selection && selection && { selection }),
    kept: [weights, persistent, total, votes].filter((x) => x !== undefined),
  }
}

/** The tensors that `forwardRows` kept, by their names again. */
function asWeighed({ terms, persistent }: AttentionRequest, kept: readonly Tensor[]): Weighed {
  const [weights, ...rest] = kept as [Tensor, ...Tensor[]]
  return {
    weights,
    ...(persistent && { persistent: rest.shift()! }),
    ...(terms.some((term) => 'ramp' in term) && { total: rest.shift()! }),
    ...(rest.length > 0 && { votes: rest.shift()! }),
  }
}

function joinResults(chunks: readonly (FusedResult & { readonly kept: readonly Tensor[] })[]): FusedResult {
  if (chunks.length === 1) return chunks[0]!
  const join = <T extends Tensor>(get: (chunk: FusedResult) => T | undefined) =>
    get(chunks[0]!) && concat(chunks.map((chunk) => get(chunk)!))
  const mass = join(({ mass }) => mass)
  const during = join(({ selection }) => selection?.during)
  const after = join(({ selection }) => selection?.after)
  return {
    context: join(({ context }) => context)!,
    ...(mass && { mass }),
    ...(during && after && { selection: { during, after } }),
    kept: chunks.flatMap(({ kept }) => kept),
  }
}

/** Rows one after the other; what belongs to all rows adds up. */
function joinGradients(parts: readonly NamedTensors[], perRow: ReadonlySet<string>): NamedTensors {
  if (parts.length === 1) return parts[0]!
  return Object.fromEntries(
    Object.keys(parts[0]!).map((name) => {
      const all = parts.map((part) => part[name]!)
      return [name, perRow.has(name) ? concat(all) : all.reduce((a, b) => add(a, b))]
    }),
  )
}

/** The gradients of one chunk, by the names of `takeApart`. */
function backwardRows(
  request: AttentionRequest,
  { weights, persistent: ofPersistent, total, votes }: Weighed,
  context: Tensor,
  dy: ResultGradients,
): NamedTensors {
  const { keys, values, scale, groups, terms, persistent, queryBias, dropout } = request
  const [, , , block] = request.queries.shape as [number, number, number, number]
  const gradients: Record<string, Tensor> = {}

  const perWeight = total ? div(dy.context, perQuery(total)) : dy.context // [batch, heads, headSize, block]
  const along = sum(mul(perWeight, context), 2, true) // [batch, heads, 1, block]
  const across = reshape(along, [along.shape[0]!, along.shape[1]!, block, 1])
  const ofLogits = scope(() => {
    const ofWeights = product(perWeight, values, true, false)
    return mul(weights, sub(dropout ? mul(ofWeights, dropout) : ofWeights, across))
  }) // [batch, heads, block, slots]
  gradients.values = product(perWeight, dropout ? mul(weights, dropout) : weights)

  const exempt = joinExempt(groups)
  terms.forEach((term, index) => {
    if (term.kind !== 'bias') return
    const reached = exempt ? mul(ofLogits, sub(1, exempt)) : ofLogits
    gradients[`terms.${index}.bias`] = reduceTo(reached, term.bias.shape)
  })
  for (const { term, ramp } of rampsOf(terms, groups, block)) {
    // Where the ramp is neither at 0 nor at 1; its ends count as PyTorch counts them.
    const within = cast(logicalAnd(greater(ramp, 0), lessEqual(ramp, 1)), 'float32')
    const perRamp = div(within, mul(maximum(ramp, 1e-30), term.ramp))
    const slope = exempt ? mul(perRamp, sub(1, exempt)) : perRamp
    const ofReach = mul(reduceTo(ofLogits, slope.shape), slope)
    const name = `terms.${terms.indexOf(term)}`
    if (term.kind === 'slot-life') {
      const [batch, slots] = term.life.shape
      gradients[`${name}.life`] = reshape(reduceTo(ofReach, [batch, 1, 1, slots]), [batch, slots])
    } else gradients[`${name}.span`] = reshape(reduceTo(ofReach, spanShape(term.span)), term.span.shape)
  }
  let ofScores = ofLogits
  terms.forEach((term, index) => {
    if (term.kind !== 'selection' || !votes) return
    const { carried, ofHead } = selectionGradients(ofLogits, votes, dy)
    gradients[`terms.${index}.carried`] = carried
    ofScores = add(ofLogits, atHead(ofHead, term.head, ofLogits.shape[1]!))
  })

  gradients.keys = product(biasedQueries(request, 'content'), ofScores)
  const ofContent = product(keys, ofScores, false, true) // [batch, heads, headSize, block]
  let ofPositions: Tensor | undefined
  let start = 0
  const positioned = biasedQueries(request, 'position')
  groups.forEach((group, index) => {
    const { slots, positions } = group
    if (positions) {
      const { queries, rows } = scope(() => {
        const own =
          groups.length === 1
            ? ofScores
            : slice(ofScores, [0, 0, 0, start], [...ofScores.shape.slice(0, 3), slots])
        return positionGradients(own, positioned, positions, group)
      })
      gradients[`groups.${index}.rows`] = rows
      ofPositions = ofPositions ? add(ofPositions, queries) : queries
    }
    start += slots
  })
  if (queryBias) {
    const biasGradient = (x: Tensor, bias: Tensor) => mul(reshape(sum(x, [0, 3]), bias.shape), scale)
    gradients['queryBias.content'] = biasGradient(ofContent, queryBias.content)
    gradients['queryBias.position'] = ofPositions
      ? biasGradient(ofPositions, queryBias.position)
      : zerosLike(queryBias.position)
  }
  let ofQueries = ofPositions ? add(ofContent, ofPositions) : ofContent

  if (persistent && ofPersistent) {
    const batchOfAll = (x: Tensor) => reshape(x, [1, ...x.shape])
    const unturned = mul(persistent.queries ?? request.queries, scale)
    const ofWeights = product(perWeight, batchOfAll(persistent.values), true, false)
    const ofLogits = mul(ofPersistent, sub(ofWeights, across))
    gradients['persistent.values'] = sum(product(perWeight, ofPersistent), 0)
    gradients['persistent.keys'] = sum(product(unturned, ofLogits), 0)
    const ofUnturned = product(batchOfAll(persistent.keys), ofLogits, false, true)
    if (persistent.queries) gradients['persistent.queries'] = mul(ofUnturned, scale)
    else ofQueries = add(ofQueries, ofUnturned)
  }
  gradients.queries = mul(ofQueries, scale)
  return gradients
}

/** Gradients of F: of what it starts with, and of the logits that voted [batch, block, slots]. */
function selectionGradients(ofLogits: Tensor, votes: Tensor, { during, after }: ResultGradients) {
  const fromLogits = sum(ofLogits, 1)
  const ofDuring = (during ? sub(during, fromLogits) : mul(fromLogits, -1)) as Tensor3D
  const total = sum(ofDuring, 1) // [batch, slots]
  const carried = after ? add(total, after) : total
  // A vote counts for all later queries, and for those to come.
  const upTo = runningSum(ofDuring, false)
  const ofVotes = sub(reshape(carried, [carried.shape[0]!, 1, carried.shape[1]!]), upTo)
  return { carried, ofHead: mul(ofVotes, cast(greater(votes, 0), 'float32')) }
}

/** [batch, block, slots] at one head, zeros at the others. */
function atHead(x: Tensor, head: number, heads: number): Tensor {
  const [batch, block, slots] = x.shape as [number, number, number]
  const only = reshape(indicator(tensor1d([head], 'int32'), heads), [1, heads, 1, 1])
  return mul(reshape(x, [batch, 1, block, slots]), only)
}

/** Sums over the axes where `shape`, aligned at its end, has 1 or nothing. */
function reduceTo(x: Tensor, shape: readonly number[]): Tensor {
  const aligned = [...new Array<number>(x.rank - shape.length).fill(1), ...shape]
  const axes = aligned.flatMap((size, axis) => (size === 1 && x.shape[axis] !== 1 ? [axis] : []))
  return reshape(axes.length > 0 ? sum(x, axes, true) : x, [...shape])
}
