/** The two stores of slots, one behind the other: compressed slots, then the steps of the memory. */
import { joinSlots, type LayerInfo, type LayerMemory, slotsFrom } from '@lethe/core'
import { ones, type Tensor, type Tensor2D, type Tensor3D, zeros } from '@tensorflow/tfjs-core'
import type { Settings } from './options'

export type Sizes = Pick<Settings, 'memory' | 'compressed' | 'rate'>

/** The tensors of a layer's memory: slots run from oldest to newest. */
export interface Stores extends Readonly<Record<string, Tensor>> {
  /** The memory's steps [batch, slots, width] and 1 where there is one [batch, slots]. */
  readonly hidden: Tensor3D
  readonly valid: Tensor2D
  /** The same of the compressed slots, which are older than all of them. */
  readonly compressed: Tensor3D
  readonly compressedValid: Tensor2D
}

/** The newest `count` slots of x [batch, slots, ...], or all if there are fewer. */
export function newestOf<T extends Tensor>(x: T, count: number): T {
  const slots = x.shape[1]!
  return slotsFrom(x, Math.max(0, slots - count), Math.min(slots, count))
}

/** The newest `count` slots with zeros before the oldest where there are fewer. */
export function filledUp<T extends Tensor>(x: T, count: number): T {
  const [batch, slots, ...rest] = x.shape as [number, number, ...number[]]
  return joinSlots(zeros([batch, Math.max(0, count - slots), ...rest]), newestOf(x, count)) as T
}

/** Slots in use in a row that has read `steps` steps: those of the memory fill up first. */
export function slotsInUse(
  { initialMemory }: LayerInfo,
  { memory, rate }: Sizes,
  steps: number,
  hidden: number,
  compressed: number,
): number {
  if (initialMemory === 'zeros') return Math.min(hidden, memory + steps) + compressed
  const recent = Math.min(hidden, steps)
  return recent + Math.min(compressed, Math.ceil((steps - recent) / rate))
}

/** Zeros to attend to, or nothing yet; with `overlap` as many empty places. */
export function firstMemory(
  { width, initialMemory }: LayerInfo,
  batch: number,
  { memory, compressed, compression, overlap }: Settings,
): LayerMemory {
  const inUse = initialMemory === 'zeros'
  const places = (slots: number) => (inUse || overlap ? slots : 0)
  const perSlot = (slots: number) => zeros([batch, places(slots)])
  const valid = (slots: number) => (inUse ? ones([batch, slots]) : perSlot(slots))
  return {
    tensors: {
      hidden: zeros([batch, places(memory), width]),
      valid: valid(memory),
      compressed: zeros([batch, places(compressed), width]),
      compressedValid: valid(compressed),
      ...(compression === 'most-used' && { mass: perSlot(memory), queries: perSlot(memory) }),
    },
    alive: new Array<number>(batch).fill(inUse ? memory + compressed : 0),
  }
}
