/** What attention is asked for, as plain data: numbers and named tensors, which a fused kernel can take apart. */
import { slice, type Tensor, type Tensor2D } from '@tensorflow/tfjs-core'
import type { NamedTensors, Outcome, Term } from '../method'
import type { GroupGeometry } from './distance'

/** The keys of the distances that a group can meet. */
export interface DistanceRows {
  /** Keys of the distances low..high, farthest first, shared by heads or one set per head:
   *  [1 | heads, high - low + 1, headSize], or [1 | heads, headSize, high - low + 1] where `featureMajor`. */
  readonly rows: Tensor
  readonly featureMajor: boolean
  readonly low: number
  readonly high: number
  /** What a distance above `high` gets: nothing, or the farthest key. */
  readonly beyond: 'none' | 'clamp'
}

export interface AttentionGroup extends GroupGeometry {
  /** [batch, slots], 1 where a slot exists; absent if all do. */
  readonly valid?: Tensor2D
  /** [batch, slots], 1 where neither terms nor (of scattered slots) `farthest` apply; absent if nowhere. */
  readonly exempt?: Tensor2D
  /** Keys of relative distances, absent where the group has no positional term. */
  readonly positions?: DistanceRows
}

export interface AttentionRequest {
  /** [batch, heads, headSize, block], neither scaled nor biased. */
  readonly queries: Tensor
  /** [batch, heads, headSize, slots] of all groups in order. */
  readonly keys: Tensor
  readonly values: Tensor
  /** 1 / √headSize. */
  readonly scale: number
  readonly groups: readonly AttentionGroup[]
  readonly terms: readonly Term[]
  /** Transformer-XL's u and v: added to the queries of the content and of the positional part [heads, headSize]. */
  readonly queryBias?: { readonly content: Tensor; readonly position: Tensor }
  /**
   * Persistent slots of the all-attention layer: [heads, headSize, slots], attended to by all, never masked. They have
   * no position, so `queries` are those that rotary positions have not turned; default: the others.
   */
  readonly persistent?: { readonly queries?: Tensor; readonly keys: Tensor; readonly values: Tensor }
  /** Factors of the attention weights, 0 where one is dropped [batch, heads, block, slots]. */
  readonly dropout?: Tensor
  readonly wants: { readonly mass?: boolean; readonly selection?: boolean }
}

export interface AttentionResult extends Pick<Outcome, 'mass' | 'selection'> {
  /** [batch, heads, headSize, block] */
  readonly context: Tensor
}

/** A request as tensors by name, and the way back. */
export interface TakenApart {
  /** Those that a gradient may flow into. */
  readonly learning: NamedTensors
  /** Masks, ages and such. */
  readonly constant: NamedTensors
  /** Names of those that have a row for each of the batch; the others belong to all of it. */
  readonly perRow: ReadonlySet<string>
  /** The same request with other tensors, given under the same names. */
  with(tensors: NamedTensors): AttentionRequest
}

/** Takes a request apart: what a gradient has to save, and what it has to come back for. */
export function takeApart(request: AttentionRequest): TakenApart {
  const learning: Record<string, Tensor> = {}
  const constant: Record<string, Tensor> = {}
  const perRow = new Set<string>()
  type Read = (tensors: NamedTensors) => Record<string, unknown>
  const reads: Read[] = []
  /** Notes a tensor under a name; absent ones stay absent. */
  const note = (
    into: Record<string, Tensor>,
    name: string,
    key: string,
    tensor: Tensor | undefined,
    hasRows = true,
  ): Read => {
    if (tensor === undefined) return () => ({})
    into[name] = tensor
    if (hasRows) perRow.add(name)
    return (tensors) => ({ [key]: tensors[name] })
  }
  const [batch] = request.queries.shape
  const all =
    (parts: readonly Read[]): Read =>
    (tensors) =>
      Object.assign({}, ...parts.map((read) => read(tensors)))

  for (const key of ['queries', 'keys', 'values'] as const) reads.push(note(learning, key, key, request[key]))
  reads.push(note(constant, 'dropout', 'dropout', request.dropout))
  if (request.queryBias) {
    const { content, position } = request.queryBias
    const read = all([
      note(learning, 'queryBias.content', 'content', content, false),
      note(learning, 'queryBias.position', 'position', position, false),
    ])
    reads.push((tensors) => ({ queryBias: read(tensors) }))
  }
  if (request.persistent) {
    const { queries, keys, values } = request.persistent
    const read = all([
      note(learning, 'persistent.queries', 'queries', queries),
      note(learning, 'persistent.keys', 'keys', keys, false),
      note(learning, 'persistent.values', 'values', values, false),
    ])
    reads.push((tensors) => ({ persistent: read(tensors) }))
  }
  const groups = request.groups.map((group, index) => {
    const name = (part: string) => `groups.${index}.${part}`
    const { distance, positions } = group
    const masks = all([
      note(constant, name('valid'), 'valid', group.valid),
      note(constant, name('exempt'), 'exempt', group.exempt),
    ])
    const age = note(constant, name('age'), 'age', distance.kind === 'scattered' ? distance.age : undefined)
    const rows = note(learning, name('rows'), 'rows', positions?.rows, false)
    return (tensors: NamedTensors): AttentionGroup => ({
      ...group,
      ...masks(tensors),
      distance: { ...distance, ...age(tensors) },
      ...(positions && { positions: { ...positions, ...rows(tensors) } }),
    })
  })
  const terms = request.terms.map((term, index) => {
    const name = (part: string) => `terms.${index}.${part}`
    const read = {
      'slot-life': () => note(learning, name('life'), 'life', (term as { life: Tensor }).life),
      'head-span': () => {
        const { span } = term as { span: Tensor }
        return note(learning, name('span'), 'span', span, span.rank === 3)
      },
      bias: () => {
        const { bias } = term as { bias: Tensor }
        return note(learning, name('bias'), 'bias', bias, bias.rank === 4 && bias.shape[0] === batch)
      },
      selection: () =>
        all([
          note(learning, name('carried'), 'carried', (term as { carried: Tensor }).carried),
          note(constant, name('exempt'), 'exempt', (term as { exempt: Tensor }).exempt),
        ]),
    }[term.kind]()
    return (tensors: NamedTensors) => ({ ...term, ...read(tensors) }) as Term
  })
  const read = all(reads)
  return {
    learning,
    constant,
    perRow,
    with: (tensors) => ({
      ...request,
      ...read(tensors),
      groups: groups.map((group) => group(tensors)),
      terms: terms.map((term) => term(tensors)),
    }),
  }
}

/** The request of `count` rows of the batch from `start` on. */
export function rowsOf(request: AttentionRequest, start: number, count: number): AttentionRequest {
  if (start === 0 && count === request.queries.shape[0]) return request
  const { learning, constant, perRow, with: put } = takeApart(request)
  const part = Object.entries({ ...learning, ...constant }).map(([name, tensor]) => [
    name,
    perRow.has(name) ? sliceRows(tensor, start, count) : tensor,
  ])
  return put(Object.fromEntries(part))
}

/** `count` rows of the first axis from `start` on. */
export const sliceRows = <T extends Tensor>(x: T, start: number, count: number): T =>
  (start === 0 && count === x.shape[0]
    ? x
    : slice(x, [start, ...x.shape.slice(1).map(() => 0)], [count, ...x.shape.slice(1)])) as T
