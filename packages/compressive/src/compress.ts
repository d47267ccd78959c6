/**
 * What becomes of the steps that fall out of the memory: `rate` of them to one slot (Rae et al. 2020, section 3.1).
 * Groups are compressed independently of each other, so that a stream may be cut anywhere; only most-used chooses among
 * all steps that a block evicts.
 */
import { linear, type NamedTensors, type ParameterSpec, pickSlots, stopGradient } from '@lethe/core'
import {
  add,
  cast,
  ceil,
  div,
  expandDims,
  greaterEqual,
  less,
  max,
  mean,
  mul,
  neg,
  pad,
  range,
  relu,
  reshape,
  sub,
  sum,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  topk,
} from '@tensorflow/tfjs-core'

export const compressions = ['mean', 'max', 'conv', 'dilated', 'most-used'] as const
export type Compression = (typeof compressions)[number]

/** Whether a function has parameters. */
export const learnsFrom: Readonly<Record<string, boolean>> = { conv: true, dilated: true }

/** Steps that fall out of the memory, oldest first, in whole groups of `rate`. */
export interface Evicted {
  /** [batch, groups · rate, width] */
  readonly hidden: Tensor3D
  /** [batch, groups · rate]: 0 for empty places. */
  readonly valid: Tensor2D
  /** [batch, groups · rate]: attention received from each query that could see the step, mean. For most-used. */
  readonly usage?: Tensor2D
}

/** [batch, groups, width] and [batch, groups]. */
export type Compressed = Omit<Evicted, 'usage'>

/** Layers of kernel 2 until the last position sees the whole group. */
const dilatedLayers = (rate: number) => Math.max(1, Math.ceil(Math.log2(rate)))

/** Parameters of a linear map from `inputs` features to the width of a hidden state, PyTorch's start. */
export function linearSpecs(name: string, inputs: number, outputs: number): Record<string, ParameterSpec> {
  const limit = 1 / Math.sqrt(inputs)
  return {
    [`${name}.weight`]: { shape: [inputs, outputs], initializer: { kind: 'uniform', limit } },
    [`${name}.bias`]: { shape: [outputs], initializer: { kind: 'uniform', limit } },
  }
}

/** Parameters of a compression function. */
export function compressionSpecs(
  compression: Compression,
  rate: number,
  width: number,
): Record<string, ParameterSpec> {
  if (compression === 'conv') return linearSpecs('conv', rate * width, width)
  if (compression !== 'dilated') return {}
  const layers = Array.from({ length: dilatedLayers(rate) }, (_, n) => n)
  return Object.assign({}, ...layers.map((n) => linearSpecs(`dilated.${n}`, 2 * width, width)))
}

/** Compresses evicted steps, `rate` to one. An empty place counts as zeros; a slot made of nothing else is empty. */
export function compress(
  compression: Compression,
  rate: number,
  evicted: Evicted,
  parameters: NamedTensors,
): Compressed {
  if (compression === 'most-used') return mostUsed(rate, evicted)
  const [batch, steps, width] = evicted.hidden.shape
  const groups = steps / rate
  const grouped = reshape(evicted.hidden, [batch * groups, rate, width]) as Tensor3D
  const single = {
    mean: () => mean(grouped, 1),
    max: () => max(grouped, 1),
    // Kernel = stride = rate, the first tap for the oldest step.
    conv: () =>
      linear(
        reshape(grouped, [batch * groups, rate * width]),
        parameters['conv.weight']!,
        parameters['conv.bias'],
      ),
    dilated: () => dilated(grouped, parameters),
  }[compression]()
  return {
    hidden: reshape(single, [batch, groups, width]),
    valid: max(reshape(evicted.valid, [batch, groups, rate]), 2),
  }
}

/**
 * Convolutions of kernel 2 and dilations 1, 2, 4, ... with ReLU between them, read at the group's last position, where
 * they see all of it. Zeros stand before the group up to a power of two. What is read depends on every second position
 * of the layer before, so each layer merges neighbours.
 */
function dilated(groups: Tensor3D, parameters: NamedTensors): Tensor {
  const [count, rate, width] = groups.shape
  const layers = dilatedLayers(rate)
  let x: Tensor = pad(groups, [
    [0, 0],
    [2 ** layers - rate, 0],
    [0, 0],
  ])
  for (let n = 0; n < layers; n++) {
    const pairs = reshape(n === 0 ? x : relu(x), [count, x.shape[1]! / 2, 2 * width])
    x = linear(pairs, parameters[`dilated.${n}.weight`]!, parameters[`dilated.${n}.bias`])
  }
  return x // [groups, 1, width]
}

/** The steps most attended to stay as they are, in order of time: of each row one for every `rate` that it has. */
function mostUsed(rate: number, { hidden, valid, usage }: Evicted): Compressed {
  const count = valid.shape[1] / rate
  const here = ceil(div(sum(valid, 1, true), rate))
  const { indices } = topk(sub(mul(stopGradient(usage!), valid), sub(1, valid)), count)
  const chosen = cast(less(range(0, count), here), 'float32')
  // What is not chosen is older than all: -1.
  const places = sub(mul(add(cast(indices, 'float32'), 1), chosen), 1)
  const inTime = neg(topk(neg(places), count).values)
  const there = cast(greaterEqual(inTime, 0), 'float32') as Tensor2D
  const picked = pickSlots(hidden, cast(relu(inTime), 'int32') as Tensor2D)
  return { hidden: mul(picked, expandDims(there, 2)) as Tensor3D, valid: there }
}
