/**
 * Streaming decode: one token per row and step, against an arena of projected keys and values of fixed capacity.
 * The arena is no ring: any slot may die at any step, and the one worth least gives its place to the present step,
 * chosen on the device, so that nothing is read back. Allocation is constant, cost O(slots) per token.
 */
import {
  add,
  argMin,
  cast,
  clone,
  mul,
  neg,
  pad,
  reshape,
  slice,
  sub,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  tensor2d,
  zeros,
} from '@tensorflow/tfjs-core'
import { type AttentionGroup, attend } from './attention/attend'
import { type DistanceKeys, rotaryAngles, rotaryAnglesOfAges, rotate } from './attention/positions'
import type { ResolvedConfig } from './config'
import { MemoryError } from './errors'
import {
  applyNorm,
  attentionConstants,
  distanceKeys,
  finishLayer,
  type LayerWeights,
  type Pass,
} from './layer'
import { parseDescription, TensorValue, toDevice } from './memory'
import type { DecodeSlots, ForgettingMethod, LayerInfo, LayerMemory, NamedTensors } from './method'
import { indicator } from './ops/indicator'
import { projectToHeads } from './ops/matmul'
import { decodeSafetensors } from './safetensors'

/** Age of a place that holds no slot: older than anything. */
const never = 2 ** 24

/** The arena of one layer. Tensors: `keys`, `values` [batch, heads, headSize, capacity]; `age`, `valid`
 *  [batch, capacity]; `positions`, the keys of distances; `state.*` [batch, capacity]. */
export type Arena = NamedTensors

/** Keys and values of everything remembered. Belongs to the weights that made it and is refused with others. */
export class DecodeMemory extends TensorValue {
  readonly kind = 'projected'

  constructor(
    readonly layers: readonly Arena[],
    readonly batch: number,
    /** Tokens read so far: the time step of the next one. */
    readonly step: number,
    /** The weights' revision in the decoder that made it. @internal */
    readonly revision: string,
    private readonly fingerprint: () => Promise<string>,
  ) {
    super()
  }

  protected *named(): Iterable<[string, Tensor]> {
    for (const [index, arena] of this.layers.entries())
      for (const [name, value] of Object.entries(arena)) yield [`layers.${index}.${name}`, value]
  }

  protected async metadata() {
    return {
      batch: this.batch,
      step: this.step,
      layers: this.layers.length,
      weights: await this.fingerprint(),
    }
  }

  /** Slots per layer that the arenas can hold, mean over layers. */
  get capacity(): number {
    this.check('measure')
    return this.layers.reduce((sum, { age }) => sum + age!.shape[1]!, 0) / this.layers.length
  }

  clone(): DecodeMemory {
    this.check('clone')
    const layers = this.layers.map((arena) =>
      Object.fromEntries(Object.entries(arena).map(([name, value]) => [name, clone(value)])),
    )
    return new DecodeMemory(layers, this.batch, this.step, this.revision, this.fingerprint)
  }

  /** @internal */
  consume(): readonly Arena[] {
    this.take()
    return this.layers
  }

  /** @internal Use `decoder.restoreDecodeMemory`. */
  static async restore(
    bytes: Uint8Array,
    layers: number,
    revision: string,
    fingerprint: () => Promise<string>,
  ): Promise<DecodeMemory> {
    const file = decodeSafetensors(bytes, 'the memory')
    const description = parseDescription(file.metadata)
    if (description.kind !== 'projected')
      throw new MemoryError(
        'a memory of hidden states cannot be decoded from directly: restoreMemory() it, then startDecoding()',
        { kind: description.kind },
      )
    if (description.layers !== layers || description.weights !== (await fingerprint()))
      throw new MemoryError(
        'these keys and values were made by other weights: start again from a memory of hidden states',
        { weights: description.weights },
      )
    const arenas: Record<string, Tensor>[] = Array.from({ length: layers }, () => ({}))
    for (const [name, value] of file.tensors) {
      const [, index, key] = /^layers\.(\d+)\.(.*)$/.exec(name) ?? []
      if (index !== undefined && arenas[Number(index)]) arenas[Number(index)]![key!] = toDevice(value)
    }
    return new DecodeMemory(arenas, description.batch, description.step, revision, fingerprint)
  }
}

/** One layer with what decoding needs of it. */
export interface DecodeLayer {
  readonly config: ResolvedConfig
  readonly info: LayerInfo
  readonly method: ForgettingMethod
  readonly weights: LayerWeights
  readonly plan: unknown
}

const normalise = ({ config, weights }: DecodeLayer, hidden: Tensor3D) =>
  config.normPosition === 'pre'
    ? (applyNorm(config, hidden, weights.own, 'attention.norm') as Tensor3D)
    : hidden

/** The oldest age that can be attended to: by the method's reach, or by the arena where the youngest stay. */
function oldestAge({ info, method, plan }: DecodeLayer): number {
  const reach = method.reach(info)
  if (Number.isFinite(reach) || method.decode.worth) return reach
  return method.decode.capacity(info, plan) - 1
}

/** Projects what a layer remembers into an arena. */
export function enterArena(layer: DecodeLayer, memory: LayerMemory, step: number): Arena {
  const { config, info, method, weights, plan } = layer
  const capacity = method.decode.capacity(info, plan)
  const entered = method.decode.enter?.(info, memory) ?? newestSlots(memory)
  const kept = Math.min(capacity, entered.hidden.shape[1])
  const [batch, count] = entered.age.shape
  const newest = <T extends Tensor>(x: T): T =>
    slice(x, [0, count - kept, ...x.shape.slice(2).map(() => 0)], [batch, kept, ...x.shape.slice(2)]) as T
  const raw = newest(entered.hidden)
  const age = newest(entered.age)
  const attended = kept > 0 ? normalise(layer, raw) : raw
  const project = (name: string): Tensor =>
    kept > 0
      ? projectToHeads([{ hidden: attended, constant: true }], weights.own(name) as never, info.heads)
      : zeros([batch, info.heads, info.headSize, 0])
  let keys = project('attention.key')
  if (config.positions === 'rotary' && kept > 0) {
    // Turned to their absolute step in two parts: by age on the device, by the stream's step in float64.
    keys = rotate(
      rotate(keys, rotaryAnglesOfAges(age, info.headSize)),
      rotaryAngles([step - 1], info.headSize),
    )
  }
  const room = capacity - kept
  const widen = (x: Tensor, empty = 0) =>
    room > 0
      ? pad(x, [...x.shape.slice(1).map(() => [0, 0] as [number, number]), [0, room]], empty)
      : clone(x)
  const state = method.decode.describe?.(attended, { layer: info, parameters: weights.method, memory }) ?? {}
  const positions = positionTable(layer)
  return {
    keys: widen(keys),
    values: widen(project('attention.value')),
    age: widen(age, never),
    valid: widen(newest(entered.valid)),
    ...(positions && { positions }),
    ...Object.fromEntries(
      Object.entries(state).map(([name, value]) => [`state.${name}`, widen(newest(value))]),
    ),
  }
}

/** A contiguous memory of hidden states whose newest slots are alive. */
function newestSlots({ tensors, alive }: LayerMemory) {
  const hidden = tensors.hidden as Tensor3D
  const [batch, slots] = hidden.shape
  const fill = (value: (row: number, slot: number) => number) =>
    tensor2d(
      Float32Array.from({ length: batch * slots }, (_, index) =>
        value(Math.floor(index / slots), index % slots),
      ),
      [batch, slots],
    )
  return {
    hidden,
    age: fill((_, slot) => slots - 1 - slot),
    valid: fill((row, slot) => (slot >= slots - alive[row]! ? 1 : 0)),
  }
}

/** The keys of all distances that decoding can meet, projected once: they depend on the weights alone. */
function positionTable(layer: DecodeLayer): Tensor | undefined {
  const range = positionRange(layer)
  return range && clone(range.keys.rows(range.low, range.high))
}

function positionRange(layer: DecodeLayer) {
  const keys = distanceKeys(layer.config, layer.info, layer.weights)
  if (!keys) return undefined
  const oldest = oldestAge(layer)
  const high = Math.min(oldest, keys.farthest)
  if (!Number.isFinite(high))
    throw new MemoryError(
      `${layer.method.name} keeps slots of any age, so sinusoidal positions need a farthest one: set farthestPosition`,
    )
  return { keys, low: keys.nearest, high, oldest }
}

/** The stored table in place of the weights. */
function storedKeys(layer: DecodeLayer, table: Tensor): DistanceKeys {
  const { keys, low, high } = positionRange(layer)!
  const axis = keys.featureMajor ? 2 : 1
  return {
    ...keys,
    // Attention asks for one stretch only; the table holds high..low, farthest first.
    rows: (from, to) => {
      if (from === low && to === high) return table
      const begin = [0, 0, 0]
      const size = table.shape.slice() as [number, number, number]
      begin[axis] = high - to
      size[axis] = to - from + 1
      return slice(table, begin, size)
    },
  }
}

/** Reads one token in one layer: input [batch, 1, width] → output and the next arena. */
export function decodeLayer(pass: Pass, layer: DecodeLayer, input: Tensor3D, arena: Arena) {
  const { config, info, method, weights, plan } = layer
  const { keys, values, age, valid, positions, ...rest } = arena as Record<string, Tensor>
  const stored = Object.fromEntries(
    Object.entries(rest).map(([name, value]) => [name.slice('state.'.length), value]),
  )
  const [batch, capacity] = age!.shape as [number, number]
  const slots = (parts: Pick<DecodeSlots, 'age' | 'valid' | 'state'>): DecodeSlots => ({
    layer: info,
    parameters: weights.method,
    plan,
    ...parts,
  })

  const attended = normalise(layer, input)
  const project = (name: string) =>
    projectToHeads([{ hidden: attended, constant: true }], weights.own(name) as never, info.heads)
  const turn = (x: Tensor) =>
    config.positions === 'rotary' ? rotate(x, rotaryAngles([pass.step], info.headSize)) : x

  // The slot worth least gives its place to this step; empty places first.
  const aged = add(age!, 1) as Tensor2D
  const before = slots({ age: aged, valid: valid as Tensor2D, state: stored })
  const worth = method.decode.worth?.(before) ?? neg(aged)
  const emptyFirst = sub(worth, mul(sub(1, valid!), never * 2))
  const here = reshape(indicator(cast(argMin(emptyFirst, 1), 'int32'), capacity), [batch, capacity])
  const elsewhere = sub(1, here)
  const put = (old: Tensor, now: Tensor) => add(mul(old, elsewhere), mul(now, here))
  const column = (x: Tensor) => reshape(x, [batch, 1, 1, capacity])
  const putColumn = (old: Tensor, now: Tensor) => add(mul(old, column(elsewhere)), mul(now, column(here)))

  const described = method.decode.describe?.(attended, { layer: info, parameters: weights.method }) ?? {}
  const now = slots({
    age: mul(aged, elsewhere) as Tensor2D,
    valid: add(mul(valid!, elsewhere), here) as Tensor2D,
    state: Object.fromEntries(
      Object.entries(stored).map(([name, value]) => [name, put(value, described[name] ?? zeros([batch, 1]))]),
    ),
  })
  const nextKeys = putColumn(keys!, turn(project('attention.key')))
  const nextValues = putColumn(values!, project('attention.value'))

  const recall = method.decode.recall?.(now) ?? {}
  const group: AttentionGroup = {
    slots: capacity,
    distance: { kind: 'scattered', age: now.age },
    nearest: info.attendSelf ? 0 : 1,
    farthest: oldestAge(layer),
    valid: now.valid,
    ...(positions && { positions: storedKeys(layer, positions) }),
  }
  const { context, ...outcome } = attend({
    queries: turn(project('attention.query')),
    keys: nextKeys,
    values: nextValues,
    groups: [group],
    terms: recall.terms ?? [],
    wants: recall.wants ?? {},
    ...attentionConstants(config, info, weights),
  })
  const settled = method.decode.settle?.(now, outcome) ?? now.state
  const next: Arena = {
    keys: nextKeys,
    values: nextValues,
    age: now.age,
    valid: now.valid,
    ...(positions && { positions }),
    ...Object.fromEntries(Object.entries(settled).map(([name, value]) => [`state.${name}`, value])),
  }
  return { output: finishLayer(pass, weights.own, input, context), arena: next }
}
