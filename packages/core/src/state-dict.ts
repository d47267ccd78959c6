/**
 * Parameter names and layouts of the original PyTorch implementations, both ways. Linear weights are (out, in) there
 * and [in, out] here; relative keys run from far to near there and from near to far here.
 */
import { layerInfo, type ResolvedConfig } from './config'
import { ConfigError, ShapeError } from './errors'
import type { HostTensor } from './safetensors'

/** transformer-sequential and adaptive-span: facebookresearch. transformer-xl: kimiyoung. */
export type StateDictFamily = 'transformer-sequential' | 'adaptive-span' | 'transformer-xl'

type Layout =
  | { readonly kind: 'same' }
  /** The same numbers in the same order, in another shape there: a method's own parameters. */
  | { readonly kind: 'reshaped'; readonly here: readonly number[]; readonly there: readonly number[] }
  /** (out, in) ↔ [in, out]; `rows` [from, to): one of several weights stacked along out. */
  | { readonly kind: 'linear'; readonly rows?: readonly [from: number, to: number]; readonly of?: number }
  /** (1, headSize, distances), far to near ↔ [distances, headSize], near to far. */
  | { readonly kind: 'distances' }
  /** (heads, slots, headSize) ↔ [heads, headSize, slots]. */
  | { readonly kind: 'swap-last' }

interface Entry {
  readonly ours: string
  /** Under each of these names in the original (shared parameters have several). */
  readonly theirs: readonly string[]
  readonly layout: Layout
}

const same: Layout = { kind: 'same' }
const linear: Layout = { kind: 'linear' }

/** Every parameter of the decoder with its place in the original. */
function entries(family: StateDictFamily, config: ResolvedConfig): Entry[] {
  const list: Entry[] = []
  const add = (ours: string, theirs: string | readonly string[], layout: Layout) =>
    list.push({ ours, theirs: typeof theirs === 'string' ? [theirs] : theirs, layout })
  const addNorm = (ours: string, theirs: string) => {
    add(`${ours}.scale`, `${theirs}.weight`, same)
    if (config.norm === 'layer') add(`${ours}.bias`, `${theirs}.bias`, same)
  }
  const layers = Array.from({ length: config.layers }, (_, index) => index)
  const inner = config.heads * config.headSize
  for (const index of layers) {
    const layer = layerInfo(config, index)
    const method = config.method[index]!
    const specs = method.parameters?.(layer) ?? {}
    for (const [name, { names, shape }] of Object.entries(method.stateDict?.(family, layer) ?? {}))
      add(`layers.${index}.method.${name}`, names, {
        kind: 'reshaped',
        here: specs[name]!.shape,
        there: shape,
      })
  }

  if (family === 'transformer-xl') {
    add('embedding.weight', 'word_emb.emb_layers.0.weight', same)
    add('positions.contentBias', 'r_w_bias', same)
    add('positions.positionBias', 'r_r_bias', same)
    for (const index of layers) {
      const [ours, theirs] = [`layers.${index}`, `layers.${index}`]
      for (const [part, name] of ['query', 'key', 'value'].entries())
        add(`${ours}.attention.${name}`, `${theirs}.dec_attn.qkv_net.weight`, {
          kind: 'linear',
          rows: [part * inner, (part + 1) * inner],
          of: 3 * inner,
        })
      add(`${ours}.attention.output`, `${theirs}.dec_attn.o_net.weight`, linear)
      add(`${ours}.attention.position`, `${theirs}.dec_attn.r_net.weight`, linear)
      addNorm(`${ours}.attention.norm`, `${theirs}.dec_attn.layer_norm`)
      add(`${ours}.feedForward.in`, `${theirs}.pos_ff.CoreNet.0.weight`, linear)
      add(`${ours}.feedForward.inBias`, `${theirs}.pos_ff.CoreNet.0.bias`, same)
      add(`${ours}.feedForward.out`, `${theirs}.pos_ff.CoreNet.3.weight`, linear)
      add(`${ours}.feedForward.outBias`, `${theirs}.pos_ff.CoreNet.3.bias`, same)
      addNorm(`${ours}.feedForward.norm`, `${theirs}.pos_ff.layer_norm`)
    }
    if (!config.tiedOutput) add('output.weight', 'crit.out_layers.0.weight', linear)
    if (config.outputBias) add('output.bias', 'crit.out_layers.0.bias', same)
    return list
  }

  const sequential = family === 'transformer-sequential'
  add('embedding.weight', 'in_emb.weight', same)
  if (config.positions === 'learned') {
    const everyLayer = layers.map((index) => `layers.${index}.attn.attn.key_pe`)
    add('positions.table', sequential ? everyLayer : 'key_pe', { kind: 'distances' })
  }
  for (const index of layers) {
    const [ours, theirs] = [`layers.${index}`, `layers.${index}`]
    add(`${ours}.attention.query`, `${theirs}.attn.proj_query.weight`, linear)
    add(`${ours}.attention.key`, `${theirs}.attn.proj_key.weight`, linear)
    add(`${ours}.attention.value`, `${theirs}.attn.proj_val.weight`, linear)
    add(`${ours}.attention.output`, `${theirs}.attn.proj_out.weight`, linear)
    addNorm(`${ours}.attention.norm`, `${theirs}.norm1`)
    if (config.persistentSlots > 0) {
      add(`${ours}.attention.persistent.keys`, `${theirs}.attn.attn.persistent_memory.key`, same)
      add(`${ours}.attention.persistent.values`, `${theirs}.attn.attn.persistent_memory.val`, {
        kind: 'swap-last',
      })
    }
    if (config.feedForward > 0) {
      add(`${ours}.feedForward.in`, `${theirs}.ff.fc1.weight`, linear)
      add(`${ours}.feedForward.inBias`, `${theirs}.ff.fc1.bias`, same)
      add(`${ours}.feedForward.out`, `${theirs}.ff.fc2.weight`, linear)
      add(`${ours}.feedForward.outBias`, `${theirs}.ff.fc2.bias`, same)
      addNorm(`${ours}.feedForward.norm`, `${theirs}.norm2`)
    }
  }
  if (config.normPosition === 'pre') addNorm('norm', 'out_norm')
  const output = sequential ? 'out.out_emb' : 'out_emb'
  if (!config.tiedOutput) add('output.weight', `${output}.weight`, linear)
  if (config.outputBias) add('output.bias', `${output}.bias`, same)
  return list
}

/** Calls `visit` with each index of a tensor of ours and its index in the original. */
function eachIndex(
  layout: Layout,
  shape: readonly number[],
  visit: (ours: number, theirs: number) => void,
): void {
  const size = shape.reduce((product, dimension) => product * dimension, 1)
  if (layout.kind === 'same' || layout.kind === 'reshaped')
    for (let index = 0; index < size; index++) visit(index, index)
  else if (layout.kind === 'linear') {
    const [inputs, outputs] = shape as [number, number]
    const first = layout.rows?.[0] ?? 0
    for (let i = 0; i < inputs; i++)
      for (let o = 0; o < outputs; o++) visit(i * outputs + o, (first + o) * inputs + i)
  } else if (layout.kind === 'distances') {
    const [count, features] = shape as [number, number]
    for (let r = 0; r < count; r++)
      for (let f = 0; f < features; f++) visit(r * features + f, f * count + (count - 1 - r))
  } else {
    const [heads, features, slots] = shape as [number, number, number]
    for (let h = 0; h < heads; h++)
      for (let f = 0; f < features; f++)
        for (let s = 0; s < slots; s++) visit((h * features + f) * slots + s, (h * slots + s) * features + f)
  }
}

function shapeThere(layout: Layout, shape: readonly number[]): number[] {
  if (layout.kind === 'reshaped') return [...layout.there]
  if (layout.kind === 'linear') return [layout.of ?? shape[1]!, shape[0]!]
  if (layout.kind === 'distances') return [1, shape[1]!, shape[0]!]
  if (layout.kind === 'swap-last') return [shape[0]!, shape[2]!, shape[1]!]
  return [...shape]
}

function shapeHere(layout: Layout, shape: readonly number[]): number[] {
  if (layout.kind === 'reshaped') return [...layout.here]
  if (layout.kind === 'linear') return [shape[1]!, layout.rows ? layout.rows[1] - layout.rows[0] : shape[0]!]
  if (layout.kind === 'distances') return [shape[2]!, shape[1]!]
  if (layout.kind === 'swap-last') return [shape[0]!, shape[2]!, shape[1]!]
  return [...shape]
}

/**
 * A state-dict of an original implementation (or gradients under its names) as our parameters.
 * @param options.partial leave out what is missing, instead of refusing (gradients)
 * @throws ShapeError when a name is missing
 */
export function fromStateDict(
  family: StateDictFamily,
  config: ResolvedConfig,
  tensors: ReadonlyMap<string, HostTensor>,
  { partial = false }: { readonly partial?: boolean } = {},
): Map<string, HostTensor> {
  const result = new Map<string, HostTensor>()
  for (const { ours, theirs, layout } of entriesOf(family, config)) {
    const source = tensors.get(theirs.find((name) => tensors.has(name)) ?? '')
    if (!source) {
      if (partial) continue
      throw new ShapeError(`the state-dict lacks "${theirs[0]}" (${ours}): it is of another family or size`, {
        name: theirs[0],
      })
    }
    if (layout.kind === 'linear' && layout.of !== undefined && source.shape[0] !== layout.of)
      throw new ShapeError(
        `"${theirs[0]}" stacks ${source.shape[0]} rows, the configuration needs ${layout.of}: it is of another size`,
        { name: theirs[0], shape: source.shape },
      )
    if (layout.kind === 'reshaped' && source.shape.join() !== layout.there.join())
      throw new ShapeError(
        `"${theirs[0]}" has shape [${source.shape}], the configuration needs [${layout.there}]: it is of another size`,
        { name: theirs[0], shape: source.shape },
      )
    const shape = shapeHere(layout, source.shape)
    const data = new Float32Array(shape.reduce((product, dimension) => product * dimension, 1))
    eachIndex(layout, shape, (here, there) => {
      data[here] = source.data[there]!
    })
    result.set(ours, { dtype: 'float32', shape, data })
  }
  return result
}

/** Our parameters (or gradients) under the names and layouts of an original implementation. */
export function toStateDict(
  family: StateDictFamily,
  config: ResolvedConfig,
  parameters: ReadonlyMap<string, HostTensor>,
): Map<string, HostTensor> {
  const result = new Map<string, HostTensor>()
  for (const { ours, theirs, layout } of entriesOf(family, config)) {
    const source = parameters.get(ours)
    if (!source) continue
    const shape = shapeThere(layout, source.shape)
    const size = shape.reduce((product, dimension) => product * dimension, 1)
    const data = (result.get(theirs[0]!)?.data as Float32Array) ?? new Float32Array(size)
    eachIndex(layout, source.shape, (here, there) => {
      data[there] = source.data[here]!
    })
    for (const name of theirs) result.set(name, { dtype: 'float32', shape, data })
  }
  return result
}

function entriesOf(family: StateDictFamily, config: ResolvedConfig): Entry[] {
  const families: readonly string[] = ['transformer-sequential', 'adaptive-span', 'transformer-xl']
  if (!families.includes(family))
    throw new ConfigError(`unknown family "${family}"; known are ${families.join(', ')}`, { family })
  return entries(family, config)
}
