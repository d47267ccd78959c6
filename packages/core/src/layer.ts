/** One layer of the decoder: attention over what the method recalls, then the feed-forward part. */
import {
  add,
  clone,
  concat,
  mul,
  relu,
  reshape,
  type Scalar,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
} from '@tensorflow/tfjs-core'
import { attend, attendByContent } from './attention/attend'
import {
  type DistanceKeys,
  distanceRows,
  learnedKeys,
  rotaryAngles,
  rotaryAnglesOfAges,
  rotate,
  sinusoidalKeys,
} from './attention/positions'
import type { AttentionGroup, AttentionRequest } from './attention/request'
import type { ResolvedConfig } from './config'
import { ConfigError } from './errors'
import type { Block, LayerInfo, LayerMemory, NamedTensors, Recall, SlotGroup, SlotPiece } from './method'
import { gelu, swiglu } from './ops/activation'
import { stopGradient } from './ops/differentiable'
import type { Float16Weights } from './ops/float16'
import { type Ending, linear, projectFromHeads, projectToHeads } from './ops/matmul'
import { layerNorm, rmsNorm } from './ops/norm'

/** Where a layer finds its weights: names are relative to the layer, shared ones are looked up from the root. */
export interface LayerWeights {
  readonly own: (name: string) => Tensor
  readonly shared: (name: string) => Tensor
  readonly method: NamedTensors
}

/** One forward pass, as all its layers see it. */
export interface Pass {
  readonly config: ResolvedConfig
  readonly training: boolean
  readonly draw: number
  readonly step: number
  readonly starts: readonly number[]
  readonly traced: boolean
  /** Whether gradients reach what is remembered: a later block of an unrolled pass. */
  readonly memoryLearns: boolean
  /** Decoding: copies of weights to be read in place of them. */
  readonly float16?: Float16Weights | undefined
  /** Whether a layer is skipped in this pass (layer drop): its memory goes on, its output is its input. */
  skips(layer: number): boolean
  /** A dropout mask for one of the configured places; undefined where nothing is dropped. */
  dropout(place: ResolvedConfig['dropoutPlaces'][number]): ((shape: readonly number[]) => Tensor) | undefined
}

export interface LayerResult {
  readonly output: Tensor3D
  readonly memory: LayerMemory
  readonly penalty?: Scalar
  readonly trace?: NamedTensors
}

/** Applies the configured norm by the name of its parameters. */
export function applyNorm(
  config: ResolvedConfig,
  x: Tensor,
  get: (name: string) => Tensor,
  name: string,
): Tensor {
  const scale = get(`${name}.scale`)
  return config.norm === 'layer'
    ? layerNorm(x, scale, get(`${name}.bias`), config.epsilon)
    : rmsNorm(x, scale, config.epsilon)
}

/** Reads one block: [batch, block, width] and the layer's memory → output, next memory, penalty. */
export function runLayer(
  pass: Pass,
  info: LayerInfo,
  weights: LayerWeights,
  input: Tensor3D,
  memory: LayerMemory,
  plan: unknown,
): LayerResult {
  const { config } = pass
  const { own } = weights
  const method = config.method[info.index]!
  const pre = config.normPosition === 'pre'
  const normalise = (hidden: Tensor3D) =>
    pre ? (applyNorm(config, hidden, own, 'attention.norm') as Tensor3D) : hidden
  const attended = normalise(input)
  const block: Block = {
    layer: info,
    memory,
    input,
    attended,
    batch: input.shape[0],
    length: input.shape[1],
    step: pass.step,
    starts: pass.starts,
    training: pass.training,
    draw: pass.draw,
    parameters: weights.method,
    plan,
    traced: pass.traced,
    normalise,
    remembered: (hidden) => ({ hidden: normalise(hidden), constant: !pre && !pass.memoryLearns }),
  }
  const recall = method.recall(block)
  const [queries] = projectToHeads(
    [{ hidden: attended, constant: false }],
    [own('attention.query') as Tensor2D],
    info.heads,
  ) as [Tensor]
  const request = attentionRequest(pass, info, weights, queries, recall)
  const skipped = pass.skips(info.index)
  const { context, ...left } = skipped && !recall.wants ? { context: undefined } : attend(request)
  // What the gradient needs of them it has saved.
  for (const used of [request.keys, request.values]) used.dispose()
  const settled = method.settle(block, recall, {
    ...left,
    attendWith: (hidden) => {
      const constant = (name: string) => stopGradient(own(name))
      const read = pre ? (applyNorm(config, hidden, constant, 'attention.norm') as Tensor3D) : hidden
      const weights = ['attention.key', 'attention.value'].map((name) => constant(name) as Tensor2D)
      const projected = projectToHeads([{ hidden: read, constant: false }], weights, info.heads)
      const [keys, values] = projected as [Tensor, Tensor]
      return attendByContent(stopGradient(queries), keys, values, request.scale)
    },
  })
  // A tensor of its own: the next layer may remember it, and this one the input.
  const output = skipped || !context ? clone(input) : finishLayer(pass, own, input, context)
  return { output, ...settled }
}

/** input + part of the layer, normalised after where norms come last; `result` adds a residual if it is given one. */
function addResidual(
  pass: Pass,
  own: LayerWeights['own'],
  part: 'attention' | 'feedForward',
  input: Tensor3D,
  result: (residual?: Tensor) => Tensor,
): Tensor3D {
  const dropout = pass.dropout('residual')
  const masked = () => {
    const plain = reshape(result(), input.shape)
    return add(input, mul(plain, dropout!(plain.shape)))
  }
  const sum = dropout ? masked() : reshape(result(input), input.shape)
  return (
    pass.config.normPosition === 'pre' ? sum : applyNorm(pass.config, sum, own, `${part}.norm`)
  ) as Tensor3D
}

/** What `linear` computes, by the copy of the weight that the pass has, if it has one. */
function multiply(
  { float16 }: Pass,
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  ending: Ending = { relu: false },
): Tensor {
  const y = float16?.times(x, weight)
  if (!y) return linear(x, weight, bias, ending)
  const biased = bias ? add(y, bias) : y
  if (ending.relu) return relu(biased)
  return ending.residual ? add(biased, ending.residual) : biased
}

/** The feed-forward part with its residual; the identity in all-attention layers. */
function feedForward(pass: Pass, own: LayerWeights['own'], input: Tensor3D): Tensor3D {
  const { config } = pass
  if (config.feedForward === 0) return input
  const bias = (name: string) => (config.feedForwardBias ? own(`feedForward.${name}`) : undefined)
  const normal = config.normPosition === 'pre' ? applyNorm(config, input, own, 'feedForward.norm') : input
  const x = reshape(normal, [normal.size / config.width, config.width])
  const inner = (relu = false) => multiply(pass, x, own('feedForward.in'), bias('inBias'), { relu })
  const active = {
    relu: () => inner(true),
    gelu: () => gelu(inner()),
    swiglu: () => swiglu(multiply(pass, x, own('feedForward.gate')), inner()),
  }[config.activation]()
  const dropout = pass.dropout('feed-forward')
  const dropped = dropout ? mul(active, dropout(active.shape)) : active
  return addResidual(pass, own, 'feedForward', input, (residual) =>
    multiply(pass, dropped, own('feedForward.out'), bias('outBias'), {
      residual: residual && reshape(residual, x.shape),
    }),
  )
}

/** Finishes a layer after attention: [batch, heads, headSize, block] context → the layer's output. */
export function finishLayer(
  pass: Pass,
  own: LayerWeights['own'],
  input: Tensor3D,
  context: Tensor,
): Tensor3D {
  const weight = own('attention.output') as Tensor2D
  const attended = addResidual(pass, own, 'attention', input, (residual) => {
    // Of one step, heads and features lie side by side as they are.
    const y = pass.float16?.times(reshape(context, [...input.shape.slice(0, 2), weight.shape[0]]), weight)
    if (!y) return projectFromHeads(context, weight, residual)
    return residual ? add(y, residual) : y
  })
  return feedForward(pass, own, attended)
}

/** Projects what the method recalls into keys and values, and says how positions apply. */
function attentionRequest(
  pass: Pass,
  info: LayerInfo,
  weights: LayerWeights,
  queries: Tensor,
  recall: Recall,
): AttentionRequest {
  const { groups } = recall
  const rotary = pass.config.positions === 'rotary'
  const both = ['attention.key', 'attention.value'].map((name) => weights.own(name) as Tensor2D)
  const project = (pieces: readonly SlotPiece[]) =>
    projectToHeads(pieces, both, info.heads) as [keys: Tensor, values: Tensor]
  const turned = (group: SlotGroup) => {
    const [keys, values] = project(group.pieces)
    const turned = rotate(keys, anglesOf(group, keys.shape[3]!, info.headSize))
    keys.dispose()
    return [turned, values] as const
  }
  const projected = rotary ? groups.map(turned) : [project(groups.flatMap((group) => group.pieces))]
  const dropout = pass.dropout('attention')
  const keys = joinSlots(projected.map(([keys]) => keys))
  const [batch, heads, , slots] = keys.shape as [number, number, number, number]
  const block = queries.shape[3]!
  return {
    queries: rotary ? rotate(queries, rotaryAngles(range(block), info.headSize)) : queries,
    keys,
    values: joinSlots(projected.map(([, values]) => values)),
    groups: groups.map((group) => attentionGroup(pass.config, info, weights, group, block)),
    terms: recall.terms ?? [],
    wants: recall.wants ?? {},
    ...attentionConstants(pass.config, info, weights, queries),
    ...(dropout && { dropout: dropout([batch, heads, block, slots]) }),
  }
}

/** What attention needs of a layer whatever is recalled. */
export function attentionConstants(
  config: ResolvedConfig,
  info: LayerInfo,
  { own, shared }: LayerWeights,
  queries: Tensor,
) {
  const sinusoidal = config.positions === 'sinusoidal' && {
    queryBias: { content: shared('positions.contentBias'), position: shared('positions.positionBias') },
  }
  const persistent = config.persistentSlots > 0 && {
    // Sukhbaatar et al. 2019 ("Augmenting self-attention with persistent memory"): √d and √N keep their scale.
    persistent: {
      queries,
      keys: mul(own('attention.persistent.keys'), Math.sqrt(info.headSize)),
      values: mul(own('attention.persistent.values'), Math.sqrt(config.persistentSlots)),
    },
  }
  return { scale: 1 / Math.sqrt(info.headSize), ...sinusoidal, ...persistent }
}

/** The keys of distances of a layer; undefined where positions are rotary or none. */
export function distanceKeys(
  config: ResolvedConfig,
  info: LayerInfo,
  { own, shared }: LayerWeights,
  beyond = config.beyondLearned,
): DistanceKeys | undefined {
  const nearest = info.attendSelf ? 0 : 1
  if (config.positions === 'learned')
    return learnedKeys(shared('positions.table') as Tensor2D, nearest, beyond)
  if (config.positions === 'sinusoidal') {
    // Farther than the method reaches is nothing: what lies there may have any position.
    const farthest = Math.min(config.farthestPosition, config.method[info.index]!.reach(info))
    return sinusoidalKeys(own('attention.position') as Tensor2D, info.heads, nearest, farthest)
  }
  return undefined
}

function attentionGroup(
  config: ResolvedConfig,
  info: LayerInfo,
  weights: LayerWeights,
  group: SlotGroup,
  block: number,
): AttentionGroup {
  const keys = distanceKeys(config, info, weights, group.beyond)
  const placed = {
    slots: group.pieces.reduce((sum, { hidden }) => sum + hidden.shape[1], 0),
    distance: group.distance,
    nearest: group.window?.nearest ?? (info.attendSelf ? 0 : 1),
    farthest: group.window?.farthest ?? Number.POSITIVE_INFINITY,
    ...(group.valid && { valid: group.valid }),
    ...(group.exempt && { exempt: group.exempt }),
  }
  const positions = keys && distanceRows(keys, placed, block)
  return positions ? { ...placed, positions } : placed
}

/** Rotation of a group's keys: positions relative to the block's first step. */
function anglesOf({ distance }: SlotGroup, slots: number, headSize: number) {
  if (distance.kind === 'scattered') return rotaryAnglesOfAges(distance.age, headSize)
  if ((distance.queriesPerStep ?? 1) !== 1)
    throw new ConfigError(
      'rotary positions cannot serve slots whose distance grows slower than the stream: use learned or sinusoidal positions',
    )
  return rotaryAngles(
    range(slots).map((slot) => slot - distance.first),
    headSize,
  )
}

const joinSlots = (parts: readonly Tensor[]) => (parts.length === 1 ? parts[0]! : concat([...parts], 3))

const range = (count: number) => Array.from({ length: count }, (_, index) => index)
