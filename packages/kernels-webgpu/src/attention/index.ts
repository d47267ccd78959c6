/** Attention for core's seam: what is covered, and the forward and backward passes of a request. */
import type { AttentionKernel, AttentionRequest } from '@lethe/core'
import { reshape, slice, type Tensor, type Tensor2D, type Tensor3D } from '@tensorflow/tfjs-core'
import { gradientsOf } from './backward'
import { massOf } from './backward/mass'
import { attendInParts, combine } from './forward'
import { type Inputs, pack, packForTiles } from './pack'
import { boundBeside, type Plan, planOf } from './plan'
import { countVotes } from './votes'

/** Buffers that a shader may bind besides its queries, keys, values, slots and result, where a device allows eight. */
const mostBeside = 3
/** A thread holds an eighth of a query's features. */
const mostFeatures = 256

/**
 * Everything but a `bias` term, two terms of one kind, and all of positions, selection, persistent slots and dropout
 * at once: those go to the plain operations.
 */
function covers(request: AttentionRequest): boolean {
  const kinds = request.terms.map(({ kind }) => kind)
  if (kinds.includes('bias') || new Set(kinds).size < kinds.length) return false
  const [batch, , size] = request.queries.shape as [number, number, number, number]
  if (size > mostFeatures || request.keys.shape[3] === 0 || request.keys.shape[0] !== batch) return false
  const plan = planOf(request)
  const heads = new Set(plan.groups.flatMap(({ positions }) => (positions ? [positions.heads] : [])))
  return heads.size <= 1 && boundBeside(plan, request) <= mostBeside
}

/** The request as shaders read it, F included. */
function prepare(request: AttentionRequest, plan: Plan): Inputs {
  const inputs = pack(request, plan)
  if (!plan.selection) return inputs
  return { ...inputs, selected: countVotes(...packForTiles(request, inputs, plan), request.scale) }
}

function selectionOf(selected: Tensor, { batch, block, slots }: Plan) {
  return {
    during: slice(selected, [0, 0, 0], [batch, block, slots]) as Tensor3D,
    after: reshape(slice(selected, [0, block, 0], [batch, 1, slots]), [batch, slots]) as Tensor2D,
  }
}

/** The names of what is kept besides the partial sums, in order. */
const keptInputs = ['queries', 'slots', 'positions', 'persistent', 'selected'] as const

export const attentionKernel: AttentionKernel = {
  covers,
  forward(request) {
    const plan = planOf(request)
    const inputs = prepare(request, plan)
    const parts = attendInParts(inputs, plan, request.scale)
    const context = combine(parts, plan, request.scale)
    const { mass, selection } = request.wants
    return {
      context,
      ...(mass && { mass: massOf(...packForTiles(request, inputs, plan), parts, request.scale) as Tensor2D }),
      ...(selection && inputs.selected && { selection: selectionOf(inputs.selected, plan) }),
      kept: [parts, ...keptInputs.map((name) => inputs[name]).filter((tensor) => tensor !== undefined)],
    }
  },
  backward(request, { context, kept }, gradients) {
    const plan = planOf(request)
    const [parts, ...others] = kept!
    const there = keptInputs.filter((name) => isKept(name, plan))
    const inputs: Inputs = {
      keys: request.keys,
      values: request.values,
      ...(request.dropout && { dropout: request.dropout }),
      ...(Object.fromEntries(there.map((name, index) => [name, others[index]!])) as Pick<
        Inputs,
        'queries' | 'slots'
      >),
    }
    return gradientsOf(request, ...packForTiles(request, inputs, plan), parts!, context, gradients)
  },
}

function isKept(name: (typeof keptInputs)[number], plan: Plan): boolean {
  if (name === 'positions') return plan.groups.some(({ positions }) => positions)
  if (name === 'persistent') return plan.persistent > 0
  if (name === 'selected') return plan.selection !== undefined
  return true
}
