/**
 * A request for attention as it lies in memory; src/attention.ts writes it. Every field is four bytes wide. Addresses
 * are of the first value of a tensor; 0 says that it is not there.
 */

/** Slots side by side, as core's AttentionGroup has them. */
@unmanaged
export class Group {
  /** The first of its columns among those of all groups. */
  start: i32
  slots: i32
  /** 1: distances are ages [batch, slots]; 0: first - slot + query / pace. */
  scattered: i32
  first: f32
  pace: i32
  nearest: f32
  farthest: f32
  age: usize
  ageIsFloat: i32
  /** Masks [batch, slots]. */
  valid: usize
  exempt: usize
  /** Keys of the distances high..low: [rowSets, distances, headSize], or [rowSets, headSize, distances]. */
  rows: usize
  rowSets: i32
  featureMajor: i32
  distances: i32
  high: i32
  /** Scattered slots: the oldest age that has a key of its own; older ones count as it. */
  oldest: f32
  /** Out: [batch, heads, headSize, distances]. */
  rowsGradient: usize
}

/** A factor of the weights: clamp((reach - distance) · inverse + 1, 0, 1). */
@unmanaged
export class Ramp {
  /** 1: the reach is `values`[batch, slots]; 0: `values` at a step for each index, plus `nearest`. */
  perSlot: i32
  values: usize
  /** In values; 0 where all share one. */
  batchStep: i32
  headStep: i32
  queryStep: i32
  nearest: f32
  inverse: f32
  /** Out: [batch, heads, slots] where per slot, else [batch, heads, block]. */
  gradient: usize
}

/** Something added to the logits. Steps are in values; 0 where it is broadcast. */
@unmanaged
export class Bias {
  values: usize
  batchStep: i32
  headStep: i32
  queryStep: i32
  slotStep: i32
  /** Out: [batch, heads, block, slots], with 1 in place of block and slots where broadcast. */
  gradient: usize
}

@unmanaged
export class Request {
  batch: i32
  heads: i32
  headSize: i32
  block: i32
  slots: i32
  scale: f32
  /** [batch, heads, headSize, block], and with slots in place of block. */
  queries: usize
  keys: usize
  values: usize
  /** [heads, headSize] */
  contentBias: usize
  positionBias: usize
  /** How many persistent slots; their keys and values [heads, headSize, persistent]. */
  persistent: i32
  persistentQueries: usize
  persistentKeys: usize
  persistentValues: usize
  /** [batch, heads, block, slots] */
  dropout: usize
  groupCount: i32
  groups: usize
  rampCount: i32
  ramps: usize
  biasCount: i32
  biases: usize
  /** The head that votes; -1: none does. */
  votingHead: i32
  /** [batch, slots] */
  carried: usize
  unvoted: usize
  /** Out of the forward pass: [batch, heads, headSize, block]. */
  context: usize
  /** Of each query the largest logit, and one divided by what its weights are divided by: [batch, heads, block, 2]. */
  statistics: usize
  /** [batch, heads, slots]: sums over queries; 0: not wanted. */
  mass: usize
  /** [batch, block, slots] and [batch, slots]; 0: not wanted. In a backward pass `during` is given, if it is there. */
  during: usize
  after: usize
  /** Given to the backward pass: gradients of results; 0: there is none. */
  contextGradient: usize
  duringGradient: usize
  afterGradient: usize
  /** Out of the backward pass, each of the shape of what it is the gradient of. */
  queriesGradient: usize
  keysGradient: usize
  valuesGradient: usize
  persistentQueriesGradient: usize
  carriedGradient: usize
  /** Out of the backward pass, for each head of each batch entry: [batch, heads, ...]. */
  contentBiasGradient: usize
  positionBiasGradient: usize
  persistentKeysGradient: usize
  persistentValuesGradient: usize
}

/** Bytes of a request, a group, a ramp, a bias: for whoever writes them. */
export function requestBytes(part: i32): i32 {
  if (part === 0) return offsetof<Request>()
  if (part === 1) return offsetof<Group>()
  return part === 2 ? offsetof<Ramp>() : offsetof<Bias>()
}
