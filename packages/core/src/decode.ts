/**
 * Streaming decode: one token per row and step, against an arena of projected keys and values. The arena is no ring:
 * any slot may die at any step, on the device, so that nothing is read back. Places are added as they are needed, up
 * to the method's capacity; from then on the slot worth least gives its place to the present step. `compact` gives
 * back the places of slots that died. Cost is O(places) per token.
 */
import {
  add,
  cast,
  clone,
  concat,
  equal,
  fill,
  greater,
  less,
  matMul,
  mul,
  pad,
  reshape,
  slice,
  sub,
  sum,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  tensor,
  tidy,
  topk,
  transpose,
  zeros,
} from '@tensorflow/tfjs-core'
import { attend } from './attention/attend'
import {
  type DistanceKeys,
  distanceRows,
  rotaryAngles,
  rotaryAnglesOfAges,
  rotate,
} from './attention/positions'
import type { AttentionGroup } from './attention/request'
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
import type {
  CondensedRules,
  DecodeSlots,
  ForgettingMethod,
  LayerInfo,
  LayerMemory,
  NamedTensors,
} from './method'
import { projectToHeads } from './ops/matmul'
import { takePlace } from './ops/places'
import { decodeSafetensors } from './safetensors'
import { newestSlots, pickSlots } from './slots'

/** Age of a place that holds no slot: older than anything. */
const never = 2 ** 24

/** Places that an arena grows by, and is rounded to. */
const placesAtOnce = 64

/**
 * One layer's slots. Tensors: `keys`, `values` [batch, heads, headSize, places]; `age`, `valid` [batch, places];
 * `positions`, the keys of distances; `state.*` [batch, places]. Where slots are condensed also `hidden`
 * [batch, width, places] and `condensed.keys`, `condensed.values`, `condensed.valid`, oldest first.
 */
export interface ArenaState {
  readonly tensors: NamedTensors
  /** Places that are certainly empty in every row. */
  readonly room: number
  /** Most places there can be. */
  readonly most: number
  /** Slots that can be condensed, dead ones of reset rows included. */
  readonly held: number
}

/** Keys and values of everything remembered. Belongs to the weights that made it and is refused with others. */
export class DecodeMemory extends TensorValue {
  readonly kind = 'projected'

  constructor(
    readonly layers: readonly ArenaState[],
    readonly batch: number,
    /** Tokens read so far: the time step of the next one. */
    readonly step: number,
    /** The time step at which each row's stream began. */
    readonly starts: readonly number[],
    /** The weights' revision in the decoder that made it. @internal */
    readonly revision: string,
    private readonly fingerprint: () => Promise<string>,
  ) {
    super()
  }

  protected *named(): Iterable<[string, Tensor]> {
    for (const [index, { tensors }] of this.layers.entries())
      for (const [name, value] of Object.entries(tensors)) yield [`layers.${index}.${name}`, value]
  }

  protected async metadata() {
    return {
      batch: this.batch,
      step: this.step,
      starts: this.starts,
      layers: this.layers.map(({ room, most, held }) => ({ room, most, held })),
      weights: await this.fingerprint(),
    }
  }

  /** Places allocated per layer, mean over layers, those of condensed slots included. */
  get capacity(): number {
    this.check('measure')
    const places = this.layers.map(({ tensors }) => placesOf(tensors) + condensedPlaces(tensors))
    return places.reduce((total, count) => total + count, 0) / places.length
  }

  /** Slots alive, mean over layers and rows. Reads counts back. */
  async countSlots(): Promise<number> {
    const counts = await this.countSlotsByRow()
    return counts.reduce((total, count) => total + count, 0) / this.batch
  }

  /** Slots alive in each row of the batch, mean over layers. Reads counts back. */
  async countSlotsByRow(): Promise<number[]> {
    this.check('measure')
    const counts = tidy(() => {
      const ofLayers = this.layers.map(({ tensors }) => {
        const condensed = tensors['condensed.valid']
        const count = sum(tensors.valid!, 1)
        return condensed ? add(count, sum(condensed, 1)) : count
      })
      return mul(
        ofLayers.reduce((total, count) => add(total, count)),
        1 / this.layers.length,
      )
    })
    const rows = Array.from(await counts.data())
    counts.dispose()
    return rows
  }

  clone(): DecodeMemory {
    this.check('clone')
    const layers = this.layers.map(({ tensors, ...host }) => ({
      ...host,
      tensors: Object.fromEntries(Object.entries(tensors).map(([name, value]) => [name, clone(value)])),
    }))
    return this.with(layers)
  }

  /** Gives back the places of slots that died. Consumes this memory; reads counts back. */
  async compact(): Promise<DecodeMemory> {
    this.check('compact')
    const layers = await Promise.all(this.layers.map(compactArena))
    this.take()
    return this.with(layers)
  }

  /** @internal */
  consume(): readonly ArenaState[] {
    this.take()
    return this.layers
  }

  private with(layers: readonly ArenaState[]): DecodeMemory {
    return new DecodeMemory(layers, this.batch, this.step, this.starts, this.revision, this.fingerprint)
  }
}

/**
 * What `DecodeMemory.serialize` wrote. @internal Use `decoder.restoreDecodeMemory`.
 * @throws FormatError, MemoryError
 */
export function readDecodeMemory(bytes: Uint8Array, fingerprint: string, layers: number) {
  const file = decodeSafetensors(bytes, 'the memory')
  const description = parseDescription(file.metadata)
  if (description.kind !== 'projected')
    throw new MemoryError(
      'a memory of hidden states cannot be decoded from directly: restoreMemory() it, then startDecoding()',
      { kind: description.kind },
    )
  if (description.layers?.length !== layers || description.weights !== fingerprint)
    throw new MemoryError(
      'these keys and values were made by other weights: start again from a memory of hidden states',
      { weights: description.weights },
    )
  const states = (): ArenaState[] =>
    description.layers.map((host: Omit<ArenaState, 'tensors'>, index: number) => {
      const prefix = `layers.${index}.`
      const own = [...file.tensors].filter(([name]) => name.startsWith(prefix))
      const tensors = own.map(([name, value]) => [name.slice(prefix.length), toDevice(value)])
      return { ...host, tensors: Object.fromEntries(tensors) }
    })
  return {
    layers: states,
    batch: description.batch as number,
    step: description.step as number,
    starts: description.starts as number[],
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

const placesOf = (tensors: NamedTensors) => tensors.age!.shape[1]!
const condensedPlaces = (tensors: NamedTensors) => tensors['condensed.valid']?.shape[1] ?? 0

const normalise = ({ config, weights }: DecodeLayer, hidden: Tensor3D) =>
  config.normPosition === 'pre' && hidden.size > 0
    ? (applyNorm(config, hidden, weights.own, 'attention.norm') as Tensor3D)
    : hidden

/** Hidden states as attention reads them → [batch, heads, headSize, slots]. */
function projectSlots({ info, weights }: DecodeLayer, name: string, attended: Tensor3D): Tensor {
  const [batch, slots] = attended.shape
  if (slots === 0) return zeros([batch, info.heads, info.headSize, 0])
  return projectToHeads(
    [{ hidden: attended, constant: true }],
    [weights.own(name) as Tensor2D],
    info.heads,
  )[0]!
}

/** The same of one step, by the copy of the weights that the pass has, if it has one. */
function projectStep({ float16 }: Pass, layer: DecodeLayer, name: string, attended: Tensor3D): Tensor {
  const y = float16?.times(attended, layer.weights.own(name))
  const { heads, headSize } = layer.info
  return y ? reshape(y, [attended.shape[0], heads, headSize, 1]) : projectSlots(layer, name, attended)
}

/** The oldest age that can be attended to: the method's reach, or less where the youngest stay in a smaller arena. */
function oldestAge({ info, method }: DecodeLayer, most: number): number {
  const { farthest, worth, alive, condensed } = method.decode
  if (condensed) return condensed.above + condensed.rate + condensed.capacity
  const reach = farthest?.(info) ?? method.reach(info)
  return worth || alive ? reach : Math.min(reach, most - 1)
}

/** Projects what a layer remembers into an arena. */
export function enterArena(
  layer: DecodeLayer,
  memory: LayerMemory,
  step: number,
  starts: readonly number[],
): ArenaState {
  const { config, info, method, weights, plan } = layer
  const { condensed } = method.decode
  const most = method.decode.capacity(info, plan)
  const entered = method.decode.enter?.(info, memory, { step, starts, plan }) ?? newestSlots(memory)
  const kept = Math.min(most, entered.hidden.shape[1])
  const [batch, count] = entered.age.shape
  const newest = <T extends Tensor>(x: T): T =>
    slice(x, [0, count - kept, ...x.shape.slice(2).map(() => 0)], [batch, kept, ...x.shape.slice(2)]) as T
  const raw = newest(entered.hidden)
  const age = newest(entered.age)
  const attended = normalise(layer, raw)
  let keys = projectSlots(layer, 'attention.key', attended)
  if (config.positions === 'rotary' && kept > 0) {
    // Turned to their absolute step in two parts: by age on the device, by the stream's step in float64.
    keys = rotate(
      rotate(keys, rotaryAnglesOfAges(age, info.headSize)),
      rotaryAngles([step - 1], info.headSize),
    )
  }
  const context = { layer: info, parameters: weights.method, memory, step: step - 1, starts }
  const state = method.decode.describe?.(attended, context) ?? {}
  const positions = positionTable(layer, most)
  const arena: Record<string, Tensor> = {
    keys,
    values: projectSlots(layer, 'attention.value', attended),
    age,
    valid: newest(entered.valid),
    ...Object.fromEntries(Object.entries(state).map(([name, value]) => [`state.${name}`, newest(value)])),
  }
  if (condensed) arena.hidden = featureMajor(raw)
  const room = Math.min(most, roundUp(kept + 1)) - kept
  const tensors: NamedTensors = {
    ...widen(arena, room),
    ...(positions && { positions }),
    ...(condensed && enterCondensed(layer, condensed, memory)),
  }
  // The memory's own slots: sinks stand beside their copies among them.
  return { tensors, room, most, held: Math.min(kept, memory.tensors.hidden!.shape[1]!) }
}

const roundUp = (places: number) => Math.ceil(places / placesAtOnce) * placesAtOnce

/** [batch, slots, width] → [batch, width, slots]. */
const featureMajor = (hidden: Tensor3D): Tensor =>
  hidden.size === 0
    ? zeros([hidden.shape[0], hidden.shape[2], hidden.shape[1]])
    : transpose(hidden, [0, 2, 1])

/** The tensors that have a place per slot, on the last axis. */
const perPlace = (name: string) => name !== 'positions' && !name.startsWith('condensed.')

/** Adds empty places behind the others; tensors without places are handed on. */
function widen(tensors: NamedTensors, places: number): NamedTensors {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, value]) => {
      if (!perPlace(name)) return [name, value]
      if (places === 0) return [name, clone(value)]
      const empty = name === 'age' ? never : 0
      if (value.size === 0) return [name, fill([...value.shape.slice(0, -1), places], empty)]
      return [
        name,
        pad(value, [...value.shape.slice(1).map(() => [0, 0] as [number, number]), [0, places]], empty),
      ]
    }),
  )
}

/** What is condensed already. */
function enterCondensed(layer: DecodeLayer, condensed: CondensedRules, memory: LayerMemory): NamedTensors {
  const { hidden, valid } = condensed.enter(layer.info, memory)
  const attended = normalise(layer, hidden)
  return {
    'condensed.keys': projectSlots(layer, 'attention.key', attended),
    'condensed.values': projectSlots(layer, 'attention.value', attended),
    'condensed.valid': clone(valid),
  }
}

/** Moves the slots alive together and gives back whole steps of places. */
async function compactArena(state: ArenaState): Promise<ArenaState> {
  const { tensors, most } = state
  const places = placesOf(tensors)
  const counts = tidy(() => sum(tensors.valid!, 1))
  const alive = Math.max(...(await counts.data()))
  counts.dispose()
  const wanted = Math.min(most, roundUp(alive + 1))
  if (wanted >= places) return { ...state, room: places - alive }
  const moved = tidy(() => {
    // The places in use, then others; keys are distinct, so that every backend sorts them alike.
    const order = tensor(
      Float32Array.from({ length: places }, (_, place) => -place),
      [1, places],
    )
    const { indices } = topk(add(mul(tensors.valid!, 2 * places), order), wanted)
    return Object.fromEntries(
      Object.entries(tensors)
        .filter(([name]) => perPlace(name))
        .map(([name, value]) => [name, pickPlaces(value, indices as Tensor2D)]),
    )
  })
  for (const name of Object.keys(moved)) tensors[name]!.dispose()
  return { ...state, tensors: { ...tensors, ...moved }, room: wanted - alive }
}

/** Places of x [batch, ..., places], each row its own. */
function pickPlaces(x: Tensor, index: Tensor2D): Tensor {
  if (x.rank === 2) return pickSlots(x, index)
  const last = x.rank - 1
  const there = [0, last, ...Array.from({ length: last - 1 }, (_, axis) => axis + 1)]
  const back = [0, ...Array.from({ length: last - 1 }, (_, axis) => axis + 2), 1]
  return transpose(pickSlots(transpose(x, there), index), back)
}

/** The keys of all distances that decoding can meet, projected once: they depend on the weights alone. */
function positionTable(layer: DecodeLayer, most: number): Tensor | undefined {
  const range = positionRange(layer, most)
  return range && clone(range.keys.rows(range.low, range.high))
}

function positionRange(layer: DecodeLayer, most: number) {
  const keys = distanceKeys(layer.config, layer.info, layer.weights)
  if (!keys) return undefined
  const { decode, reach } = layer.method
  const oldest = oldestAge(layer, most)
  // Slots exempt of `farthest` have positions as far as the method reaches.
  const own = Math.min(decode.farthest ? reach(layer.info) : oldest, keys.farthest)
  // Condensed slots are contiguous, which asks for the clamped rows one by one.
  const high = decode.condensed && keys.beyond === 'clamp' ? Math.max(own, oldest) : own
  if (!Number.isFinite(high))
    throw new MemoryError(
      `${layer.method.name} keeps slots of any age, so sinusoidal positions need a farthest one: set farthestPosition`,
    )
  return { keys, low: keys.nearest, high }
}

/** The stored table in place of the weights. */
function storedKeys(layer: DecodeLayer, table: Tensor, most: number): DistanceKeys {
  const { keys, low, high } = positionRange(layer, most)!
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

/** Reads one token in one layer: input [batch, 1, width] → output and the next state. */
export function decodeLayer(pass: Pass, layer: DecodeLayer, input: Tensor3D, before: ArenaState) {
  const { config, info, method, weights, plan } = layer
  const { condensed } = method.decode
  const growth = before.room === 0 ? Math.min(placesAtOnce, before.most - placesOf(before.tensors)) : 0
  const arena = (growth > 0 ? widen(before.tensors, growth) : before.tensors) as Record<string, Tensor>
  const { keys, values, age, valid, hidden, positions } = arena
  const stored = Object.fromEntries(
    Object.entries(arena)
      .filter(([name]) => name.startsWith('state.'))
      .map(([name, value]) => [name.slice('state.'.length), value]),
  )
  const [batch, places] = age!.shape as [number, number]
  const slots = (parts: Pick<DecodeSlots, 'age' | 'valid' | 'state'>): DecodeSlots => ({
    layer: info,
    parameters: weights.method,
    plan,
    ...parts,
  })

  const attended = normalise(layer, input)
  const project = (name: string) => projectStep(pass, layer, name, attended)
  const angles = config.positions === 'rotary' ? rotaryAngles([pass.step], info.headSize) : undefined
  const turn = (x: Tensor) => (angles ? rotate(x, angles) : x)

  // Dead slots leave; then the slot worth least gives its place to this step, empty places first.
  const judged = method.decode.alive || method.decode.worth
  const old = judged && slots({ age: add(age!, 1) as Tensor2D, valid: valid as Tensor2D, state: stored })
  const living = (old && method.decode.alive ? mul(valid!, method.decode.alive(old)) : valid!) as Tensor2D
  const worths = old && method.decode.worth?.({ ...old, valid: living })
  const taken = takePlace(age as Tensor2D, living, worths, never)

  const context = { layer: info, parameters: weights.method, step: pass.step, starts: pass.starts }
  const described = method.decode.describe?.(attended, context) ?? {}
  const now = slots({
    age: taken.ages,
    valid: taken.valid,
    state: Object.fromEntries(
      Object.entries(stored).map(([name, value]) => [
        name,
        taken.write(value, described[name] ?? zeros([batch, 1])),
      ]),
    ),
  })
  const nextKeys = taken.write(keys!, turn(project('attention.key')))
  const nextValues = taken.write(values!, project('attention.value'))
  const held = before.held + 1

  const recall = method.decode.recall?.(now, attended) ?? {}
  const table = positions && storedKeys(layer, positions, before.most)
  const group: AttentionGroup = {
    slots: places,
    distance: { kind: 'scattered', age: now.age },
    nearest: info.attendSelf ? 0 : 1,
    farthest: condensed && recall.exempt ? Number.POSITIVE_INFINITY : oldestAge(layer, before.most),
    valid: now.valid,
    ...(recall.exempt && { exempt: recall.exempt }),
  }
  const queries = project('attention.query')
  const beside = condensed && condensedGroup(layer, condensed, arena, held, pass.step)
  const {
    context: attention,
    mass,
    selection,
  } = attend({
    queries: turn(queries),
    keys: beside ? concat([nextKeys, beside.keys], 3) : nextKeys,
    values: beside ? concat([nextValues, beside.values], 3) : nextValues,
    groups: [group, ...(beside ? [beside.group] : [])].map((each) => placed(each, table)),
    terms: recall.terms ?? [],
    wants: recall.wants ?? {},
    ...attentionConstants(config, info, weights, queries),
  })
  const own = mass && (slice(mass, [0, 0], [batch, places]) as Tensor2D)
  const state = method.decode.settle?.(now, { ...(own && { mass: own }), ...(selection && { selection }) })
  const next: Record<string, Tensor> = {
    ...arena,
    keys: nextKeys,
    values: nextValues,
    age: now.age,
    valid: now.valid,
    ...Object.fromEntries(
      Object.entries(state ?? now.state).map(([name, value]) => [`state.${name}`, value]),
    ),
  }
  if (condensed) next.hidden = taken.write(hidden!, reshape(input, [batch, info.width, 1]))
  const after: ArenaState = { ...before, tensors: next, room: Math.max(0, before.room + growth - 1), held }
  return {
    output: finishLayer(pass, weights.own, input, attention),
    state:
      condensed && held >= condensed.above + condensed.rate
        ? condense(layer, condensed, after, recall.exempt)
        : after,
  }
}

/** A group with the keys of its distances from the present step. */
function placed(group: AttentionGroup, keys: DistanceKeys | undefined): AttentionGroup {
  const positions = keys && distanceRows(keys, group, 1)
  return positions ? { ...group, positions } : group
}

/** The condensed slots: the newest follows the oldest of the arena. */
function condensedGroup(
  layer: DecodeLayer,
  { capacity }: CondensedRules,
  arena: NamedTensors,
  held: number,
  step: number,
) {
  const first = held + capacity - 1
  const keys = arena['condensed.keys']!
  const group: AttentionGroup = {
    slots: capacity,
    distance: { kind: 'contiguous', first },
    nearest: 0,
    farthest: Number.POSITIVE_INFINITY,
    valid: arena['condensed.valid'] as Tensor2D,
  }
  // Their distances jump when slots are condensed, so they are turned anew at each step.
  const steps = Array.from({ length: capacity }, (_, slot) => step - first + slot)
  const turned =
    layer.config.positions === 'rotary' ? rotate(keys, rotaryAngles(steps, layer.info.headSize)) : keys
  return { group, keys: turned, values: arena['condensed.values']! }
}

/** The oldest slots of the arena leave it and become one. */
function condense(
  layer: DecodeLayer,
  { rate, condense }: CondensedRules,
  arena: ArenaState,
  exempt: Tensor | undefined,
): ArenaState {
  const { tensors, held } = arena
  const [batch, places] = tensors.age!.shape as [number, number]
  // One-hot rows that pick the oldest, oldest first: [batch, rate, places].
  const ages = tensor(
    Float32Array.from({ length: rate }, (_, rank) => held - 1 - rank),
    [1, rate, 1],
  )
  const inUse = reshape(tensors.valid!, [batch, 1, places])
  const pick = mul(cast(equal(reshape(tensors.age!, [batch, 1, places]), ages), 'float32'), inUse)
  const hidden = matMul(pick, tensors.hidden!, false, true) as Tensor3D
  const perSlot = (x: Tensor) => sum(mul(pick, reshape(x, [batch, 1, places])), 2) // [batch, rate]
  const state = Object.fromEntries(
    Object.entries(tensors)
      .filter(([name]) => name.startsWith('state.'))
      .map(([name, value]) => [name.slice('state.'.length), perSlot(value)]),
  )
  const attended = normalise(
    layer,
    condense(hidden, { layer: layer.info, parameters: layer.weights.method, state }),
  )
  const shift = (old: Tensor, now: Tensor) => {
    if (old.shape.at(-1) === 1) return now
    const begin = old.shape.map((_, axis) => (axis === old.rank - 1 ? 1 : 0))
    return concat([slice(old, begin), now], old.rank - 1)
  }
  const young = cast(less(tensors.age!, held - rate), 'float32')
  const staying = exempt ? add(mul(young, sub(1, exempt)), exempt) : young
  const valid = sum(pick, [1, 2]) // [batch]
  return {
    ...arena,
    held: held - rate,
    room: exempt ? arena.room : arena.room + rate,
    tensors: {
      ...tensors,
      valid: mul(tensors.valid!, staying),
      'condensed.keys': shift(tensors['condensed.keys']!, projectSlots(layer, 'attention.key', attended)),
      'condensed.values': shift(
        tensors['condensed.values']!,
        projectSlots(layer, 'attention.value', attended),
      ),
      'condensed.valid': shift(
        tensors['condensed.valid']!,
        reshape(cast(greater(valid, 0), 'float32'), [batch, 1]),
      ),
    },
  }
}
