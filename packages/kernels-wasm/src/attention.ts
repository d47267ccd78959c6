/**
 * Attention over a bounded past, forward and backward, in which no more than a tile of queries × slots is ever there. What
 * a request asks for is written into memory field by field, in the order of assembly/attention/request.ts.
 */

/** Slots side by side in one softmax: contiguous ones at distance first - slot + ⌊query / pace⌋, or scattered ones at
 *  distance age[batch, slot] + query. */
export interface AttentionGroup {
  readonly slots: number
  readonly scattered: boolean
  readonly first: number
  readonly pace: number
  /** Distances that are attended to, inclusive. */
  readonly nearest: number
  readonly farthest: number
  readonly age: number
  readonly ageIsFloat: boolean
  /** [batch, slots]: 1 where a slot exists; 1 where neither ramps, biases, votes nor (scattered) `farthest` apply. */
  readonly valid: number
  readonly exempt: number
  /** Keys of the distances high, high - 1, ...: [rowSets, distances, headSize], or [rowSets, headSize, distances]. */
  readonly rows: number
  readonly rowSets: number
  readonly featureMajor: boolean
  readonly distances: number
  readonly high: number
  /** Scattered slots: older ones count as so old. */
  readonly oldest: number
  /** Backward, out: the gradient of the keys of distances, for each head [batch, heads, headSize, distances]. */
  readonly rowsGradient: number
}

/** A factor of the weights, clamp((reach - distance) · inverse + 1, 0, 1). Steps are in values, 0 to broadcast. */
export interface AttentionRamp {
  /** The reach is values[batch, slot]; else the value at these steps, plus `nearest`. */
  readonly perSlot: boolean
  readonly values: number
  readonly batchStep: number
  readonly headStep: number
  readonly queryStep: number
  readonly nearest: number
  readonly inverse: number
  /** Backward, out: [batch, heads, slots], or [batch, heads, block]. */
  readonly gradient: number
}

/** Numbers that are added to the logits. Steps are in values, 0 to broadcast. */
export interface AttentionBias {
  readonly values: number
  readonly batchStep: number
  readonly headStep: number
  readonly queryStep: number
  readonly slotStep: number
  /** Backward, out: [batch, heads, block | 1, slots | 1]. */
  readonly gradient: number
}

/** Sizes, addresses of float32 tensors in bytes (0 or missing: not there), and what applies to which slots. */
export interface AttentionRequest {
  readonly batch: number
  readonly heads: number
  readonly headSize: number
  readonly block: number
  readonly slots: number
  readonly scale: number
  /** [batch, heads, headSize, block]; keys and values [batch, heads, headSize, slots]. */
  readonly queries: number
  readonly keys: number
  readonly values: number
  /** [heads, headSize]: added to the queries where they meet keys, and keys of distances. */
  readonly contentBias: number
  readonly positionBias: number
  /** How many persistent slots; their keys and values are [heads, headSize, persistent]. Their own queries, if given. */
  readonly persistent: number
  readonly persistentQueries: number
  readonly persistentKeys: number
  readonly persistentValues: number
  /** Factors of the weights [batch, heads, block, slots]. */
  readonly dropout: number
  readonly groups: readonly AttentionGroup[]
  readonly ramps: readonly AttentionRamp[]
  readonly biases: readonly AttentionBias[]
  /** The head whose positive logits are taken off those of later queries; -1: none. */
  readonly votingHead: number
  /** What was taken off before the first query, and 1 where nothing may be [batch, slots]. */
  readonly carried: number
  readonly unvoted: number
  /** Out: [batch, heads, headSize, block], and two numbers for each query [batch, heads, block, 2]. */
  readonly context: number
  readonly statistics: number
  /** Out, if wanted: sums of the weights over queries [batch, heads, slots]. */
  readonly mass?: number
  /** Out, if wanted: what is taken off for each query [batch, block, slots], and for the next one [batch, slots]. */
  readonly during?: number
  readonly after?: number
  /** Backward, of the shapes of what they are gradients of; results of the forward pass are given above. */
  readonly contextGradient?: number
  readonly duringGradient?: number
  readonly afterGradient?: number
  /** Backward, out. */
  readonly queriesGradient?: number
  readonly keysGradient?: number
  readonly valuesGradient?: number
  readonly persistentQueriesGradient?: number
  readonly carriedGradient?: number
  /** Backward, out, for each batch entry and head: [batch, heads, headSize], and [batch, heads, headSize, persistent]. */
  readonly contentBiasGradient?: number
  readonly positionBiasGradient?: number
  readonly persistentKeysGradient?: number
  readonly persistentValuesGradient?: number
}

type Fields<T> = readonly (keyof T | 'start' | 'groupCount' | 'rampCount' | 'biasCount')[]

const groupFields: Fields<AttentionGroup> = [
  'start',
  'slots',
  'scattered',
  'first',
  'pace',
  'nearest',
  'farthest',
  'age',
  'ageIsFloat',
  'valid',
  'exempt',
  'rows',
  'rowSets',
  'featureMajor',
  'distances',
  'high',
  'oldest',
  'rowsGradient',
]
const rampFields: Fields<AttentionRamp> = [
  'perSlot',
  'values',
  'batchStep',
  'headStep',
  'queryStep',
  'nearest',
  'inverse',
  'gradient',
]
const biasFields: Fields<AttentionBias> = [
  'values',
  'batchStep',
  'headStep',
  'queryStep',
  'slotStep',
  'gradient',
]
const requestFields: Fields<AttentionRequest> = [
  'batch',
  'heads',
  'headSize',
  'block',
  'slots',
  'scale',
  'queries',
  'keys',
  'values',
  'contentBias',
  'positionBias',
  'persistent',
  'persistentQueries',
  'persistentKeys',
  'persistentValues',
  'dropout',
  'groupCount',
  'groups',
  'rampCount',
  'ramps',
  'biasCount',
  'biases',
  'votingHead',
  'carried',
  'unvoted',
  'context',
  'statistics',
  'mass',
  'during',
  'after',
  'contextGradient',
  'duringGradient',
  'afterGradient',
  'queriesGradient',
  'keysGradient',
  'valuesGradient',
  'persistentQueriesGradient',
  'carriedGradient',
  'contentBiasGradient',
  'positionBiasGradient',
  'persistentKeysGradient',
  'persistentValuesGradient',
]
const floats = new Set(['scale', 'first', 'nearest', 'farthest', 'oldest', 'inverse'])

/** The structures in the order of assembly's `requestBytes`, with the bytes that they take here. */
export const structures = [requestFields, groupFields, rampFields, biasFields].map(({ length }) => 4 * length)

/** Writes a request into memory from address `at` on; returns the address behind it. */
export function writeRequest(memory: WebAssembly.Memory, at: number, request: AttentionRequest): number {
  const whole = new Int32Array(memory.buffer)
  const real = new Float32Array(memory.buffer)
  const write = <T>(at: number, fields: Fields<T>, values: object): number => {
    fields.forEach((name, index) => {
      const value = (values as Partial<Record<PropertyKey, number | boolean>>)[name] ?? 0
      if (floats.has(name as string)) real[at / 4 + index] = Number(value)
      else whole[at / 4 + index] = Number(value)
    })
    return at + 4 * fields.length
  }
  const { groups, ramps, biases } = request
  let end = at + 4 * requestFields.length
  const writeAll = <T>(fields: Fields<T>, all: readonly object[]): number => {
    const start = end
    for (const values of all) end = write(end, fields, values)
    return start
  }
  let start = 0
  const placed = groups.map((group) => {
    const at = start
    start += group.slots
    return { ...group, start: at }
  })
  write(at, requestFields, {
    ...request,
    groupCount: groups.length,
    groups: writeAll(groupFields, placed),
    rampCount: ramps.length,
    ramps: writeAll(rampFields, ramps),
    biasCount: biases.length,
    biases: writeAll(biasFields, biases),
  })
  return end
}
