/**
 * Streaming decode: one token per row and step, against an arena of projected keys and values. The arena is no ring:
 * any slot may die at any step, on the device, so that nothing is read back. Places are added as they are needed, up
 * to the method's capacity; from then on the slot worth least gives its place to the present step. `compact` gives
 * back the places of slots that died. Cost is O(places) per token. Condensed slots have places of their own behind the
 * others, a ring, so that all slots are attended to where they lie.
 */
import {
  abs,
  add,
  clone,
  concat,
  fill,
  matMul,
  max,
  mul,
  relu,
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
import { farthestIn } from './farthest'
import {
  applyNorm,
  attentionConstants,
  distanceKeys,
  finishLayer,
  type LayerWeights,
  type Pass,
} from './layer'
import { checkMethod, parseDescription, TensorValue, toDevice } from './memory'
import type {
  CondensedRules,
  DecodeSlots,
  ForgettingMethod,
  LayerInfo,
  LayerMemory,
  NamedTensors,
} from './method'
import { projectToHeads } from './ops/matmul'
import { slotWriter, takePlace } from './ops/places'
import { decodeSafetensors } from './safetensors'
import { agesOf, joinSlots, newestSlots, pickSlots, slotsFrom } from './slots'

/** Age of a place that holds no slot: older than anything. */
const never = 2 ** 24

/** Places that an arena grows by, and is rounded to. */
const placesAtOnce = 64

/**
 * One layer's slots. Tensors: `keys`, `values` [batch, heads, headSize, places]; `age`, `valid` [batch, places];
 * `positions`, the keys of distances; `state.*` [batch, places]. Where slots are condensed also `hidden`
 * [batch, width, places but those of condensed slots], and where positions are rotary `condensed.keys`
 * [batch, heads, headSize, condensed slots], not turned.
 */
export interface ArenaState {
  readonly tensors: NamedTensors
  /** Places that are certainly empty in every row. */
  readonly room: number
  /** Most places there can be, but those of condensed slots. */
  readonly most: number
  /** Slots that can be condensed, dead ones of reset rows included. */
  readonly held: number
  /** The last places, which are the condensed slots', and which of them the next one takes: the oldest's. */
  readonly ring: { readonly places: number; readonly next: number }
}

/** Whose keys and values these are. */
export interface Origin {
  /** The fingerprint of the weights that made them. */
  readonly weights: string
  /** The names of the layers' methods. */
  readonly methods: readonly string[]
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
    private readonly origin: () => Promise<Origin>,
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
      layers: this.layers.map(({ tensors: _, ...host }) => host),
      ...(await this.origin()),
    }
  }

  /** Places allocated per layer, mean over layers, those of condensed slots included. */
  get capacity(): number {
    this.check('measure')
    const places = this.layers.map(({ tensors }) => placesOf(tensors))
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
      const ofLayers = this.layers.map(({ tensors }) => sum(tensors.valid!, 1))
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
    return new DecodeMemory(layers, this.batch, this.step, this.starts, this.revision, this.origin)
  }
}

/**
 * What `DecodeMemory.serialize` wrote. @internal Use `decoder.restoreDecodeMemory`.
 * @throws FormatError, MemoryError
 */
export function readDecodeMemory(bytes: Uint8Array, { weights, methods }: Origin) {
  const file = decodeSafetensors(bytes, 'the memory')
  const description = parseDescription(file.metadata)
  if (description.kind !== 'projected')
    throw new MemoryError(
      'a memory of hidden states cannot be decoded from directly: restoreMemory() it, then startDecoding()',
      { kind: description.kind },
    )
  if (description.layers?.length !== methods.length || description.weights !== weights)
    throw new MemoryError(
      'these keys and values were made by other weights: start again from a memory of hidden states',
      { weights: description.weights },
    )
  for (const [index, name] of methods.entries()) checkMethod(index, description.methods?.[index], name)
  const states = (): ArenaState[] =>
    description.layers.map((host: Omit<ArenaState, 'tensors'>, index: number) => {
      const prefix = `layers.${index}.`
      const own = [...file.tensors].filter(([name]) => name.startsWith(prefix))
      const tensors = own.map(([name, value]) => [name.slice(prefix.length), toDevice(value)])
      // JSON has no infinity: no limit is null.
      return { ...host, most: host.most ?? Number.POSITIVE_INFINITY, tensors: Object.fromEntries(tensors) }
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

/** The same of one step by several weights, by the copies of them that the pass has, if it has any. */
function projectStep(
  { float16 }: Pass,
  { info: { heads, headSize }, weights }: DecodeLayer,
  names: readonly string[],
  attended: Tensor3D,
): Tensor[] {
  const matrices = names.map((name) => weights.own(name) as Tensor2D)
  const found = float16 ? matrices.map((matrix) => float16.times(attended, matrix)) : []
  const narrow = found.filter((y) => y !== undefined)
  if (narrow.length < matrices.length)
    return projectToHeads([{ hidden: attended, constant: true }], matrices, heads)
  return narrow.map((y) => reshape(y, [attended.shape[0], heads, headSize, 1]))
}

/** The oldest age that can be attended to. */
function oldestAge({ info, method }: DecodeLayer, most: number): number {
  const { condensed } = method.decode
  return condensed ? condensed.above + condensed.rate + condensed.capacity : farthestIn(method, info, most)
}

/** Projects what a layer remembers into an arena. */
export function enterArena(
  layer: DecodeLayer,
  memory: LayerMemory,
  step: number,
  starts: readonly number[],
): ArenaState {
  const { config, info, method, weights, plan } = layer
  const { condensed, describe } = method.decode
  const most = method.decode.capacity(info, plan)
  const entered = method.decode.enter?.(info, memory, { step, starts, plan }) ?? newestSlots(memory)
  const kept = Math.min(most, entered.hidden.shape[1])
  const batch = starts.length
  const newest = <T extends Tensor>(x: T): T => slotsFrom(x, x.shape[1]! - kept, kept)
  const hidden = newest(entered.hidden)
  // The memory's own slots: sinks stand beside their copies among them.
  const held = Math.min(kept, memory.tensors.hidden!.shape[1]!)
  const older = condensed?.enter(info, memory)
  const ring = { places: older?.hidden.shape[1] ?? 0, next: 0 }
  const join = (recent: Tensor, condensed: Tensor | undefined) =>
    condensed ? joinSlots(recent, condensed) : recent

  const attended = normalise(layer, join(hidden, older?.hidden) as Tensor3D)
  const age = join(newest(entered.age), older && agesOf(batch, ring.places, held)) as Tensor2D
  const context = { layer: info, parameters: weights.method, step: step - 1, starts }
  const own = describe?.(slotsFrom(attended, 0, kept), { ...context, memory }) ?? {}
  const ofCondensed =
    older && describe?.(slotsFrom(attended, kept, ring.places), { ...context, condensed: true })
  const keys = projectSlots(layer, 'attention.key', attended)
  const rotary = config.positions === 'rotary' && keys.size > 0
  // Turned to their absolute step in two parts: by age on the device, by the stream's step in float64.
  const turn = (keys: Tensor) =>
    rotate(rotate(keys, rotaryAnglesOfAges(age, info.headSize)), rotaryAngles([step - 1], info.headSize))
  const arena: Record<string, Tensor> = {
    keys: rotary ? turn(keys) : keys,
    values: projectSlots(layer, 'attention.value', attended),
    age,
    valid: join(newest(entered.valid), older?.valid),
    ...Object.fromEntries(
      Object.entries(own).map(([name, value]) => [
        `state.${name}`,
        joinSlots(newest(value), ofCondensed?.[name] ?? zeros([batch, ring.places])),
      ]),
    ),
    ...(condensed && { hidden: featureMajor(hidden) }),
  }
  const room = Math.min(most, roundUp(kept + 1)) - kept
  const positions = positionTable(layer, most)
  const tensors: NamedTensors = {
    ...widen(arena, kept, room),
    ...(positions && { positions }),
    ...(condensed && rotary && { 'condensed.keys': placesFrom(keys, kept, ring.places) }),
  }
  return { tensors, room, most, held, ring }
}

const roundUp = (places: number) => Math.ceil(places / placesAtOnce) * placesAtOnce

/** [batch, slots, width] → [batch, width, slots]. */
const featureMajor = (hidden: Tensor3D): Tensor =>
  hidden.size === 0
    ? zeros([hidden.shape[0], hidden.shape[2], hidden.shape[1]])
    : transpose(hidden, [0, 2, 1])

/** The tensors that have a place per slot, on the last axis. */
const perPlace = (name: string) => name !== 'positions' && !name.startsWith('condensed.')

/** `count` places of x [..., places] from `start` on. */
function placesFrom(x: Tensor, start: number, count: number): Tensor {
  const before = x.shape.slice(0, -1)
  if (count === x.shape.at(-1)) return x
  return slice(x, [...before.map(() => 0), start], [...before, count])
}

/** x [..., places] with y behind it, where either may be empty. */
function joinPlaces(...parts: readonly Tensor[]): Tensor {
  const full = parts.filter(({ size }) => size > 0)
  return full.length > 1 ? concat(full, full[0]!.rank - 1) : clone(full[0] ?? parts[0]!)
}

/** Puts empty places before place `at`; tensors without places are handed on. */
function widen(tensors: NamedTensors, at: number, places: number): NamedTensors {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, value]) => {
      if (!perPlace(name)) return [name, value]
      const empty = fill([...value.shape.slice(0, -1), places], name === 'age' ? never : 0)
      const behind = value.shape.at(-1)! - at
      return [name, joinPlaces(placesFrom(value, 0, at), empty, placesFrom(value, at, behind))]
    }),
  )
}

/** Moves the slots alive together and gives back whole steps of places; condensed slots stay behind them. */
async function compactArena(state: ArenaState): Promise<ArenaState> {
  const { tensors, most, ring } = state
  const places = placesOf(tensors) - ring.places
  const count = () => sum(slotsFrom(tensors.valid!, 0, places), 1)
  const counts = tidy(count)
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
    const inUse = slotsFrom(tensors.valid!, 0, places)
    const { indices } = topk(add(mul(inUse, 2 * places), order), wanted)
    return Object.fromEntries(
      Object.entries(tensors)
        .filter(([name]) => perPlace(name))
        .map(([name, value]) => {
          const behind = placesFrom(value, places, value.shape.at(-1)! - places)
          const picked = pickPlaces(placesFrom(value, 0, places), indices as Tensor2D)
          return [name, joinPlaces(picked, behind)]
        }),
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
  if (!Number.isFinite(own))
    throw new MemoryError(
      `${layer.method.name} keeps slots of any age, so sinusoidal positions need a farthest one: set farthestPosition`,
    )
  return { keys, low: keys.nearest, high: own }
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

/** Reads one token in one layer: input [batch, 1, width] → output and the next state. Consumes `before`. */
export function decodeLayer(pass: Pass, layer: DecodeLayer, input: Tensor3D, before: ArenaState) {
  const { config, info, method, weights, plan } = layer
  const { condensed } = method.decode
  const recent = placesOf(before.tensors) - before.ring.places
  const growth = before.room === 0 ? Math.min(placesAtOnce, before.most - recent) : 0
  const arena = (growth > 0 ? widen(before.tensors, recent, growth) : before.tensors) as Record<
    string,
    Tensor
  >
  const { keys, values, age, valid, hidden, positions } = arena
  const stored = stateOf(arena)
  const [batch, places] = age!.shape as [number, number]
  const slots = (parts: Pick<DecodeSlots, 'age' | 'valid' | 'state'>): DecodeSlots => ({
    layer: info,
    parameters: weights.method,
    plan,
    ...parts,
  })

  const attended = normalise(layer, input)
  const [queries, newKeys, newValues] = projectStep(
    pass,
    layer,
    ['attention.query', 'attention.key', 'attention.value'],
    attended,
  ) as [Tensor, Tensor, Tensor]
  const angles = config.positions === 'rotary' ? rotaryAngles([pass.step], info.headSize) : undefined
  const turn = (x: Tensor) => (angles ? rotate(x, angles) : x)

  // Dead slots leave; then the slot worth least gives its place to this step, empty places first.
  const judged = method.decode.alive || method.decode.worth
  const old = judged && slots({ age: add(age!, 1) as Tensor2D, valid: valid as Tensor2D, state: stored })
  const living = (old && method.decode.alive ? mul(valid!, method.decode.alive(old)) : valid!) as Tensor2D
  const worths = old && method.decode.worth?.({ ...old, valid: living })
  const taken = takePlace(age as Tensor2D, living, worths, never, places - before.ring.places)

  const context = { layer: info, parameters: weights.method, step: pass.step, starts: pass.starts }
  const described = method.decode.describe?.(attended, context) ?? {}
  const written = taken.write({
    keys: [keys!, turn(newKeys)],
    values: [values!, newValues],
    ...Object.fromEntries(
      Object.entries(stored).map(([name, value]) => [
        `state.${name}`,
        [value, described[name] ?? zeros([batch, 1])],
      ]),
    ),
    ...(condensed && { hidden: [hidden!, reshape(input, [batch, info.width, 1])] }),
  })
  const { keys: nextKeys, values: nextValues } = written as { keys: Tensor; values: Tensor }
  const now = slots({
    age: taken.ages,
    valid: taken.valid,
    state: Object.fromEntries(Object.keys(stored).map((name) => [name, written[`state.${name}`]!])),
  })

  const recall = method.decode.recall?.(now, attended) ?? {}
  const table = positions && storedKeys(layer, positions, before.most)
  const group: AttentionGroup = {
    slots: places,
    distance: { kind: 'scattered', age: now.age },
    nearest: info.attendSelf ? 0 : 1,
    farthest: oldestAge(layer, before.most),
    valid: now.valid,
    ...(recall.exempt && { exempt: recall.exempt }),
  }
  const {
    context: attention,
    mass,
    selection,
  } = attend({
    queries: turn(queries),
    keys: nextKeys,
    values: nextValues,
    groups: [placed(group, table)],
    terms: recall.terms ?? [],
    wants: recall.wants ?? {},
    ...attentionConstants(config, info, weights, queries),
  })
  const state = method.decode.settle?.(now, { ...(mass && { mass }), ...(selection && { selection }) })
  const next: Record<string, Tensor> = {
    ...arena,
    ...written,
    age: now.age,
    valid: now.valid,
    ...Object.fromEntries(Object.entries(state ?? {}).map(([name, value]) => [`state.${name}`, value])),
  }
  const after: ArenaState = {
    ...before,
    tensors: next,
    room: Math.max(0, before.room + growth - 1),
    held: before.held + 1,
  }
  return {
    output: finishLayer(pass, weights.own, input, attention),
    state:
      condensed && after.held >= condensed.above + condensed.rate
        ? condense(layer, condensed, after, pass, recall.exempt)
        : after,
  }
}

/** The method's own values per slot. */
const stateOf = (tensors: NamedTensors): Record<string, Tensor> =>
  Object.fromEntries(
    Object.entries(tensors)
      .filter(([name]) => name.startsWith('state.'))
      .map(([name, value]) => [name.slice('state.'.length), value]),
  )

/** A group with the keys of its distances from the present step. */
function placed(group: AttentionGroup, keys: DistanceKeys | undefined): AttentionGroup {
  const positions = keys && distanceRows(keys, group, 1)
  return positions ? { ...group, positions } : group
}

/**
 * The oldest slots leave their places and become one, which takes that of the oldest condensed slot; the others move on
 * by one distance, where the slots that left were as many as `rate`. Consumes the arena.
 */
function condense(
  layer: DecodeLayer,
  { rate, condense }: CondensedRules,
  arena: ArenaState,
  { step, starts }: Pick<Pass, 'step' | 'starts'>,
  exempt: Tensor | undefined,
): ArenaState {
  const { config, info, method, weights } = layer
  const { tensors, ring } = arena
  const [batch, places] = tensors.age!.shape as [number, number]
  const recent = places - ring.places
  const ofRecent = (x: Tensor) => reshape(slotsFrom(x, 0, recent), [batch, 1, recent])
  // One-hot rows that pick the oldest, oldest first: [batch, rate, recent]. Ages are whole numbers.
  const ages = tensor(
    Float32Array.from({ length: rate }, (_, rank) => arena.held - 1 - rank),
    [1, rate, 1],
  )
  const pick = mul(relu(sub(1, abs(sub(ofRecent(tensors.age!), ages)))), ofRecent(tensors.valid!))
  const leaving = sum(pick, 1) // [batch, recent]
  const stored = stateOf(tensors)
  const hidden = condense(matMul(pick, tensors.hidden!, false, true) as Tensor3D, {
    layer: info,
    parameters: weights.method,
    state: Object.fromEntries(
      Object.entries(stored).map(([name, value]) => [name, sum(mul(pick, ofRecent(value)), 2)]),
    ),
  })

  const held = arena.held - rate
  const write = slotWriter(fill([batch], recent + ring.next, 'int32'))
  const attended = normalise(layer, hidden)
  const described =
    method.decode.describe?.(attended, {
      ...{ layer: info, parameters: weights.method, step, starts },
      condensed: true,
    }) ?? {}
  const freed = exempt ? mul(leaving, sub(1, slotsFrom(exempt, 0, recent))) : leaving
  const moved = tensor(
    Float32Array.from({ length: places }, (_, place) => (place < recent ? 0 : 1 - rate)),
    [1, places],
  )
  const key = projectSlots(layer, 'attention.key', attended)
  const written = write({
    ...(config.positions !== 'rotary' && { keys: [tensors.keys!, key] }),
    values: [tensors.values!, projectSlots(layer, 'attention.value', attended)],
    age: [add(tensors.age!, moved), fill([batch, 1], held)],
    valid: [sub(tensors.valid!, joinPlaces(freed, zeros([batch, ring.places]))), max(leaving, 1, true)],
    ...Object.fromEntries(
      Object.entries(stored).map(([name, value]) => [
        `state.${name}`,
        [value, described[name] ?? zeros([batch, 1])],
      ]),
    ),
  })
  const turnedKeys = () => {
    // Distances have jumped, so all of them are turned anew: to their place in the stream had it no jumps.
    const writeOwn = slotWriter(fill([batch], ring.next, 'int32'))
    const own = writeOwn({ keys: [tensors['condensed.keys']!, key] }).keys!
    const steps = Array.from(
      { length: ring.places },
      (_, place) => step - held - ((ring.next - place + ring.places) % ring.places),
    )
    const turned = rotate(own, rotaryAngles(steps, info.headSize))
    return { keys: joinPlaces(placesFrom(tensors.keys!, 0, recent), turned), 'condensed.keys': own }
  }
  return {
    ...arena,
    held,
    // All that is alive is younger than `held`, sinks apart.
    room: exempt ? arena.room : Math.max(arena.room, recent - held),
    ring: { ...ring, next: (ring.next + 1) % ring.places },
    tensors: {
      ...tensors,
      ...written,
      ...(config.positions === 'rotary' && turnedKeys()),
    },
  }
}
