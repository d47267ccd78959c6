/** The arena of streaming decode: which place the present step takes, and what is written into it. */
import {
  add,
  argMin,
  cast,
  mul,
  neg,
  ones,
  reshape,
  sub,
  type Tensor,
  type Tensor1D,
  type Tensor2D,
} from '@tensorflow/tfjs-core'
import { fused } from './fused'
import { indicator } from './indicator'

/** A place that was taken in each row, and the arena with the new slot. */
export interface TakenPlace {
  /** [batch, places] */
  readonly ages: Tensor2D
  readonly valid: Tensor2D
  /** The place, int32 [batch]. */
  readonly place: Tensor1D
  /**
   * Writes the new slot: x [batch, ..., places] with column [batch, ..., 1] in the place that was taken. Consumes x: it
   * may be written into where it lies, unless a clone of it is held elsewhere.
   */
  write(x: Tensor, column: Tensor): Tensor
}

/**
 * All slots become one step older, and a new one of age 0 takes the place that is worth least, empty places first.
 * @param ages [batch, places], less than `never`
 * @param valid [batch, places]: 1 where a place is in use
 * @param worths [batch, places]; default: the older, the less
 * @param never the age of empty places
 */
export function takePlace(
  ages: Tensor2D,
  valid: Tensor2D,
  worths: Tensor2D | undefined,
  never: number,
): TakenPlace {
  const empty = 2 * never
  /** One-hot places, as soon as plain operations need them. */
  let one: Tensor | undefined
  const [newAges, newValid, place] =
    fused('LetheTakePlace', { ages, valid, ...(worths && { worths }) }, { empty }) ?? plain()
  return {
    ages: newAges as Tensor2D,
    valid: newValid as Tensor2D,
    place: place as Tensor1D,
    write(x, column) {
      const written = fused('LetheWriteSlot', { x, column, place }, {})
      if (written) return written[0]
      one ??= oneHotPlaces(place)
      const here = reshape(one, [x.shape[0]!, ...new Array(x.rank - 2).fill(1), ages.shape[1]])
      return add(mul(x, sub(1, here)), mul(column, here))
    },
  }
  /** tfjs has no one-hot rows of length 1. */
  function oneHotPlaces(place: Tensor): Tensor {
    return ages.shape[1] === 1 ? ones(ages.shape) : indicator(place, ages.shape[1])
  }
  function plain(): [Tensor, Tensor, Tensor] {
    const aged = add(ages, 1)
    const emptyFirst = sub(worths ?? neg(aged), mul(sub(1, valid), empty))
    const place = cast(argMin(emptyFirst, 1), 'int32')
    const here = oneHotPlaces(place)
    const elsewhere = sub(1, here)
    one = here
    return [mul(aged, elsewhere), add(mul(valid, elsewhere), here), place]
  }
}
