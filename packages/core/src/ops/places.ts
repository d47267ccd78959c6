/** The arena of streaming decode: which place the present step takes, and what is written into it. */
import {
  add,
  argMin,
  cast,
  mul,
  neg,
  reshape,
  sub,
  type Tensor,
  type Tensor1D,
  type Tensor2D,
} from '@tensorflow/tfjs-core'
import { slotsFrom } from '../slots'
import { fused, several } from './fused'
import { indicator } from './indicator'

/** A place that was taken in each row, and the arena with the new slot. */
export interface TakenPlace {
  /** [batch, places] */
  readonly ages: Tensor2D
  readonly valid: Tensor2D
  /** The place, int32 [batch]. */
  readonly place: Tensor1D
  /** Writes the new slot. */
  readonly write: SlotWriter
}

/** Tensors that are written into, by any names: x [batch, ..., places], and what is written [batch, ..., 1]. */
type Writes = Readonly<Record<string, readonly [x: Tensor, column: Tensor]>>

/**
 * Writes into one place of each row. Consumes each x: it is written into where it lies, unless a clone of it is held
 * elsewhere, and disposed of.
 */
export type SlotWriter = (slots: Writes) => Record<string, Tensor>

/**
 * All slots become one step older, and a new one of age 0 takes the place that is worth least, empty places first.
 * @param ages [batch, places], less than `never`
 * @param valid [batch, places]: 1 where a place is in use
 * @param worths [batch, places]; default: the older, the less
 * @param never the age of empty places
 * @param among only the first so many places may be taken; default: all
 */
export function takePlace(
  ages: Tensor2D,
  valid: Tensor2D,
  worths: Tensor2D | undefined,
  never: number,
  among = ages.shape[1],
): TakenPlace {
  const empty = 2 * never
  const [newAges, newValid, place] =
    fused('LetheTakePlace', { ages, valid, ...(worths && { worths }) }, { empty, among }) ?? plain()
  return {
    ages: newAges as Tensor2D,
    valid: newValid as Tensor2D,
    place: place as Tensor1D,
    write: slotWriter(place as Tensor1D),
  }
  function plain(): [Tensor, Tensor, Tensor] {
    const aged = add(ages, 1)
    const emptyFirst = sub(worths ?? neg(aged), mul(sub(1, valid), empty))
    const place = cast(argMin(slotsFrom(emptyFirst, 0, among), 1), 'int32') as Tensor1D
    const here = indicator(place, ages.shape[1])
    const elsewhere = sub(1, here)
    return [mul(aged, elsewhere), add(mul(valid, elsewhere), here), place]
  }
}

/** @param place the place in each row, int32 [batch] */
export function slotWriter(place: Tensor1D): SlotWriter {
  /** One-hot places, as soon as plain operations need them; x may have places of its own number. */
  const made = new Map<number, Tensor>()
  const plain = (x: Tensor, column: Tensor) => {
    const places = x.shape.at(-1)!
    const one = made.get(places) ?? indicator(place, places)
    made.set(places, one)
    const here = reshape(one, [x.shape[0]!, ...new Array(x.rank - 2).fill(1), places])
    return add(mul(x, sub(1, here)), mul(column, here))
  }
  return (slots) => {
    const pairs = Object.values(slots)
    const [xs, columns] = [pairs.map(([x]) => x), pairs.map(([, column]) => column)]
    const written =
      fused('LetheWriteSlot', { ...several('x', xs), ...several('column', columns), place }, {}) ??
      pairs.map(([x, column]) => plain(x, column))
    for (const x of xs) x.dispose()
    return Object.fromEntries(Object.keys(slots).map((name, index) => [name, written[index]!]))
  }
}
