/**
 * Shared machinery of methods: a contiguous memory, of which the newest slots stay, and a scattered one, whose slots
 * die anywhere.
 *
 * A scattered memory has the tensors `hidden` [batch, slots, width], `age` [batch, slots] (distance from the next
 * query: 1 for the newest), `valid` [batch, slots] (0 for empty places, which come first) and whatever values the
 * method keeps per slot. Its newest `gapless` slots follow each other, so that their positions stay cheap.
 */
import {
  add,
  cast,
  concat,
  gather,
  mul,
  ones,
  reshape,
  slice,
  sub,
  type Tensor,
  type Tensor1D,
  type Tensor2D,
  type Tensor3D,
  tensor,
  tensor2d,
  tile,
  zeros,
} from '@tensorflow/tfjs-core'
import type { Block, LayerInfo, LayerMemory, NamedTensors, SlotGroup } from './method'
import { stopGradient } from './ops/differentiable'

/** The newest `count` of the remembered and the block's hidden states, as the memory of a contiguous method. */
export function lastSlots({ memory, input, length }: Block, count: number): LayerMemory {
  const hidden = memory.tensors.hidden as Tensor3D
  const slots = hidden.shape[1]
  const fresh = Math.min(count, length)
  const kept = Math.min(count - fresh, slots)
  // Copied in any case: the memory given is consumed, and the input is the layer's.
  const parts = [slotsFrom(hidden, slots - kept, kept), slotsFrom(input, length - fresh, fresh)]
  return {
    tensors: { hidden: concat(parts, 1) },
    alive: memory.alive.map((alive) => Math.min(count, alive + length)),
  }
}

/** 1 for slots that are alive (the newest ones) and for the block's, [batch, slots + block]; undefined if all are. */
export function validSlots(memory: LayerMemory, block: number): Tensor2D | undefined {
  const slots = memory.tensors.hidden!.shape[1]!
  if (memory.alive.every((alive) => alive === slots)) return undefined
  const total = slots + block
  const values = new Float32Array(memory.alive.length * total)
  memory.alive.forEach((alive, row) => {
    values.fill(1, row * total + slots - alive, (row + 1) * total)
  })
  return tensor2d(values, [memory.alive.length, total])
}

/** `count` slots of x [batch, slots, ...] from `start` on. */
export function slotsFrom<T extends Tensor>(x: T, start: number, count: number): T {
  const [batch, slots, ...rest] = x.shape as [number, number, ...number[]]
  if (start === 0 && count === slots) return x
  return slice(x, [0, start, ...rest.map(() => 0)], [batch, count, ...rest]) as T
}

/**
 * Where the slots that `index` [batch, count] names in each row are among those of all rows: [batch · count]. A constant:
 * what chose them (topk) has no gradient, and need not in an unrolled pass, either.
 */
function placesAmongAll(index: Tensor2D, slots: number): Tensor1D {
  const [batch, count] = index.shape
  const start = tensor(
    Int32Array.from({ length: batch }, (_, row) => row * slots),
    [batch, 1],
    'int32',
  )
  return cast(reshape(add(stopGradient(index), start), [batch * count]), 'int32') as Tensor1D
}

/** The slots of x [batch, slots, ...] at those places: [batch, count, ...]. */
function slotsAt(x: Tensor, places: Tensor1D): Tensor {
  const [batch, slots, ...rest] = x.shape as [number, number, ...number[]]
  return reshape(gather(reshape(x, [batch * slots, ...rest]), places), [batch, places.size / batch, ...rest])
}

/** Slots of x [batch, slots, ...] by index [batch, count], each row of the batch its own: [batch, count, ...]. */
export const pickSlots = (x: Tensor, index: Tensor2D): Tensor =>
  slotsAt(x, placesAmongAll(index, x.shape[1]!))

/**
 * Places for so many slots, up to a thirty-second more than needed: large memories come in few sizes, so that a backend finds
 * the buffers and commands of the step before, and reads several slots at once.
 */
export function roomFor(slots: number): number {
  const unit = 2 ** Math.max(0, Math.floor(Math.log2(slots / 32)))
  return Math.ceil(slots / unit) * unit
}

/** x followed by y along the slot axis, where either may be empty. */
export function joinSlots(x: Tensor, y: Tensor): Tensor {
  if (x.shape[1] === 0) return y
  return y.shape[1] === 0 ? x : concat([x, y], 1)
}

/** Ages of a gapless run of slots, oldest first, the newest `newest`: [batch, slots]. */
export const agesOf = (batch: number, slots: number, newest: number): Tensor2D =>
  tile(
    tensor(
      Float32Array.from({ length: slots }, (_, slot) => newest + slots - 1 - slot),
      [1, slots],
    ),
    [batch, 1],
  ) as Tensor2D

/** A scattered memory before the first block: `slots` zero states that are attended to, if the decoder wants such. */
export function scatteredStart(
  { width, initialMemory }: LayerInfo,
  batch: number,
  slots: number,
  state: readonly string[] = [],
): LayerMemory {
  const count = initialMemory === 'zeros' ? slots : 0
  const perSlot = [batch, count]
  return {
    tensors: {
      hidden: zeros([batch, count, width]),
      age: count > 0 ? agesOf(batch, count, 1) : zeros(perSlot),
      valid: count > 0 ? ones(perSlot) : zeros(perSlot),
      ...Object.fromEntries(state.map((name) => [name, zeros(perSlot)])),
    },
    alive: new Array<number>(batch).fill(count),
    gapless: count,
  }
}

/** What a block attends to in a scattered memory: older slots by their ages, then the gapless ones and the block. */
export function scatteredGroups(block: Block): SlotGroup[] {
  const { memory, layer, attended, batch, length } = block
  const { hidden, age, valid } = memory.tensors as { hidden: Tensor3D; age: Tensor2D; valid: Tensor2D }
  const slots = hidden.shape[1]
  const gapless = Math.min(slots, memory.gapless ?? 0)
  const older = slots - gapless
  const allValid = memory.alive.every((alive) => alive === slots)
  const recent = gapless > 0 ? [block.remembered(slotsFrom(hidden, older, gapless))] : []
  const groups: SlotGroup[] = []
  if (older > 0)
    groups.push({
      pieces: [block.remembered(slotsFrom(hidden, 0, older))],
      distance: { kind: 'scattered', age: slotsFrom(age, 0, older), youngest: gapless + 1 },
      ...(!allValid && { valid: slotsFrom(valid, 0, older) }),
    })
  groups.push({
    pieces: [...recent, { hidden: attended, constant: false }],
    distance: { kind: 'contiguous', first: gapless },
    window: { nearest: layer.attendSelf ? 0 : 1 },
    ...(!allValid &&
      gapless > 0 && {
        valid: joinSlots(slotsFrom(valid, older, gapless), ones([batch, length])) as Tensor2D,
      }),
  })
  return groups
}

/**
 * A scattered memory with the block's slots behind it, nothing dropped.
 * @param state the method's values for all slots, remembered and the block's: each [batch, slots + block]
 */
export function scatteredNext(block: Block, state: NamedTensors = {}): LayerMemory {
  const { memory, input, batch, length, validSteps } = block
  const { hidden, age, valid } = memory.tensors as Record<string, Tensor>
  return {
    tensors: {
      hidden: joinSlots(hidden!, input),
      age: joinSlots(add(age!, length), agesOf(batch, length, 1)),
      valid: joinSlots(valid!, block.valid ?? ones([batch, length])),
      ...state,
    },
    alive: memory.alive.map((alive, row) => alive + (validSteps?.[row] ?? length)),
    gapless: (memory.gapless ?? 0) + length,
    fresh: length,
  }
}

/** Distance of every slot of `scatteredGroups` from the block's first query: [batch, slots + block]. */
export const scatteredAges = ({ memory, batch, length }: Block): Tensor2D =>
  joinSlots(memory.tensors.age!, agesOf(batch, length, 1 - length)) as Tensor2D

/** How a scattered memory moves into the streaming decoder (`DecodeRules.enter`). */
export const scatteredEnter = (_: LayerInfo, { tensors }: LayerMemory) => ({
  hidden: tensors.hidden as Tensor3D,
  age: sub(tensors.age!, 1) as Tensor2D,
  valid: tensors.valid as Tensor2D,
})

/**
 * A scattered memory of the slots that `index` [batch, count] names in each row, in its order. `alive` says how many
 * of them are; the others are empty places and come first.
 */
export function keepSlots(
  memory: LayerMemory,
  index: Tensor2D,
  alive: readonly number[],
  gapless: number,
): LayerMemory {
  const [batch, count] = index.shape
  const places = placesAmongAll(index, memory.tensors.hidden!.shape[1]!)
  const tensors = Object.fromEntries(
    Object.entries(memory.tensors).map(([name, value]) => [name, slotsAt(value, places)]),
  )
  if (alive.every((slots) => slots === count)) return { tensors, alive, gapless }
  const inUse = Float32Array.from({ length: batch * count }, (_, at) =>
    at % count >= count - alive[Math.floor(at / count)]! ? 1 : 0,
  )
  const valid = mul(tensors.valid!, tensor2d(inUse, [batch, count]))
  return { tensors: { ...tensors, valid }, alive, gapless }
}

/** How a contiguous memory whose newest slots are alive moves into the streaming decoder. */
export function newestSlots({ tensors, alive }: LayerMemory) {
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
