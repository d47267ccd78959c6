/**
 * Expire-Span (Sukhbaatar, Ju, Poff, Roller, Szlam, Weston, Fan 2021, "Not All Memories are Created Equal: Learning to
 * Forget by Expiring", arXiv 2105.06548): each memory says by its own hidden state how many steps it is kept. The span
 * belongs to the slot, so slots die in the middle, other ones in each row: a scattered memory (core's slots.ts).
 */
import {
  type ForgettingMethod,
  keepSlots,
  type LayerMemory,
  linear,
  type NamedTensors,
  newestSlots,
  roomFor,
  scatteredEnter,
  scatteredGroups,
  scatteredNext,
  scatteredStart,
  stopGradient,
  type Term,
} from '@lethe/core'
import {
  add,
  cast,
  ceil,
  clipByValue,
  clone,
  concat,
  expandDims,
  fill,
  floor,
  greater,
  lessEqual,
  minimum,
  mul,
  range,
  reshape,
  type Scalar,
  sigmoid,
  sub,
  sum,
  type Tensor,
  type Tensor1D,
  type Tensor2D,
  type Tensor3D,
  tensor2d,
  tidy,
  topk,
  zeros,
} from '@tensorflow/tfjs-core'
import { type ExpireSpanOptions, settingsOf } from './options'
import { empty, gaplessOf, survivors } from './survivors'

/** The slots whose spans a penalty is taken of: each [batch, slots], age from the block's first query. */
interface Spanned {
  readonly span: Tensor
  /** The span that attention saw: shortened in training. */
  readonly seen: Tensor
  readonly age: Tensor
  readonly valid: Tensor | undefined
  readonly length: number
}

/**
 * Each memory predicts from its hidden state h how long it is kept, and fades over a ramp when that time is over.
 * Sukhbaatar et al. 2021: e = L·sigmoid(wᵀh + b), r = e - distance, m = clamp(1 + r/R, 0, 1), the attention
 * weights are m · softmax, renewed to a sum of 1; loss + α · mean e. What has m = 0 is deleted for good.
 *
 * As in the authors' code: w starts at 0 and b where e = initialPercentage·L; spans of remembered slots are predicted
 * anew in each block, so w and b learn from old memories; the loss 'ramp' is α/(R·M) · Σ r over all pairs of the M
 * queries and the slots with 0 < m < 1, the future included; shortening draws once per pass for all layers and does
 * not decide what is deleted. Ours: deletion per row with empty places, and the budget. Deleting expired slots never
 * changes a result.
 * @throws ConfigError for a wrong option
 */
export function expireSpan(options: ExpireSpanOptions): ForgettingMethod {
  const settings = settingsOf(options)
  const { maxSpan, ramp, penalty, loss, divider, shorten, deletion, initialSlots, budget } = settings
  const farthest = maxSpan + ramp
  const most = Math.min(farthest, budget ?? farthest)

  /** e of hidden states as attention reads them, piece by piece [batch, slots, width] → [batch, slots of all]. */
  const spansOf = (pieces: readonly Tensor3D[], { weight, bias }: NamedTensors): Tensor2D => {
    const there = pieces.filter((hidden) => hidden.shape[1] > 0)
    if (there.length === 0) return zeros([pieces[0]!.shape[0], 0])
    const scores = there.map((hidden) => reshape(linear(hidden, weight!), [hidden.shape[0], hidden.shape[1]]))
    const all = scores.length === 1 ? scores[0]! : concat(scores, 1)
    return mul(sigmoid(add(divider === 1 ? all : mul(all, 1 / divider), bias!)), maxSpan)
  }
  const seenIn = ({ training, draw }: { training: boolean; draw: number }, span: Tensor2D): Tensor2D =>
    training && shorten ? minimum(span, draw * maxSpan) : span
  const termOf = (life: Tensor): Term => ({ kind: 'slot-life', life: life as Tensor2D, ramp })
  const lossOf = { ramp: rampLoss, mean: meanLoss }[loss]
  /** Of each row [batch], and their mean. */
  const penaltiesOf = (slots: Spanned, { values, scale } = lossOf(slots, ramp)) =>
    mul(sum(values, 1), scale * penalty) as Tensor1D
  const penaltyOf = (slots: Spanned, { values, scale } = lossOf(slots, ramp)) =>
    mul(sum(values), (scale * penalty) / slots.age.shape[0]!) as Scalar

  return {
    specVersion: 1,
    name: 'expire-span',
    options: { ...settings },
    decides: budget === undefined ? 'step' : 'block',
    reach: () => farthest,
    // Between two compacts there is a block more; 'blocks' leaves up to a block of expired slots.
    capacity: (_, block) =>
      block +
      Math.min(
        budget ?? Number.POSITIVE_INFINITY,
        Math.max(farthest, block) + (deletion === 'row' ? 0 : block),
      ),
    parameters: ({ width }) => {
      const { initialPercentage } = settings
      return {
        weight: { shape: [width, 1], initializer: { kind: 'constant', value: 0 } },
        bias: { shape: [1], initializer: { kind: 'constant', value: -Math.log(1 / initialPercentage - 1) } },
      }
    },
    stateDict: (family, { index, width }) => {
      if (family !== 'transformer-sequential') return {}
      const name = `layers.${index}.attn.attn.expire_span.span_predictor`
      return {
        weight: { names: [`${name}.weight`], shape: [1, width] },
        bias: { names: [`${name}.bias`], shape: [1] },
      }
    },
    initialMemory: (layer, batch) => {
      const start = scatteredStart(layer, batch, Math.min(initialSlots, most))
      // Until a block reads their spans, nothing of them expires.
      const life = fill(start.tensors.age!.shape, maxSpan)
      return { ...start, tensors: { ...start.tensors, life } }
    },
    recall: (block) => {
      const groups = scatteredGroups(block)
      const pieces = groups.flatMap((group) => group.pieces.map(({ hidden }) => hidden))
      const span = spansOf(pieces, block.parameters)
      const seen = seenIn(block, span)
      return { groups, terms: [termOf(seen)], carry: { span, seen } }
    },
    settle: (block, { carry }) => {
      const { span, seen } = carry as Record<'span' | 'seen', Tensor>
      const { length } = block
      const memory = scatteredNext(block, { life: span })
      const { valid } = memory.tensors
      const age = sub(memory.tensors.age!, length)
      const slots = { span, seen, age, valid, length }
      return {
        memory,
        penalty: penaltyOf(slots),
        ...(block.traced && {
          trace: {
            ...{ span: clone(span), mask: maskOf(seen, age, length, ramp) },
            penalty: penaltiesOf(slots),
          },
        }),
      }
    },
    overlay: ({ hidden, age, valid, queries, parameters, ...pass }) => {
      const span = spansOf([hidden], parameters)
      const seen = seenIn(pass, span)
      const penalty = penaltyOf({ span, seen, age, valid, length: queries.shape[1] })
      return { terms: [termOf(seen)], penalty }
    },
    compact: async (_, memory) => {
      const { tensors, alive, gapless = 0, fresh = gapless } = memory
      const [rows, slots] = tensors.age!.shape as [number, number]
      if (slots <= Math.min(fresh, most) && alive.every((count) => count === slots)) return memory
      const lives = tidy(() => leftOf(memory, ramp))
      const left = await lives.data()
      lives.dispose()
      const kept = survivors({ left, rows, block: fresh }, deletion, budget)
      // One at least: not every backend gathers nothing.
      const needed = Math.max(1, ...kept.map(({ length }) => length))
      // Empty places would count among those that all rows drop.
      const wanted = deletion === 'row' ? Math.min(roomFor(needed), most) : needed
      const places = Math.min(slots, Math.max(needed, wanted))
      if (places === slots && kept.every(({ length }, row) => length === alive[row])) return memory
      const index = kept.flatMap((row) => [...new Array<number>(places - row.length).fill(0), ...row])
      const host = {
        ...{ alive: kept.map(({ length }) => length), fresh: Math.min(fresh, needed) },
        gapless: gaplessOf(kept, slots, gapless),
      }
      const next = tidy(() => ({
        ...keepSlots(memory, tensor2d(index, [rows, places], 'int32'), host.alive, host.gapless).tensors,
      }))
      for (const value of Object.values(tensors)) value.dispose()
      return { tensors: next, ...host }
    },
    report: (layer, parameters, memory, normalise) => {
      // Another method's memory where this one is an overlay.
      const enter = memory.tensors.age
        ? scatteredEnter
        : (_: unknown, other: LayerMemory) => newestSlots(other)
      const { hidden, age, valid } = enter(layer, memory)
      const span = spansOf([hidden.size > 0 ? normalise(hidden) : hidden], parameters)
      return { span: mul(span, valid), remaining: mul(sub(span, add(age, 1)), valid) }
    },
    decode: {
      capacity: () => most + 1,
      enter: (layer, memory) => scatteredEnter(layer, longestLived(memory, most, ramp)),
      describe: (hidden, { parameters }) => ({ life: spansOf([hidden], parameters) }),
      alive: ({ age, state }) => cast(greater(add(sub(state.life!, age), ramp), 0), 'float32') as Tensor2D,
      worth: ({ age, state }) => sub(state.life!, age),
      recall: ({ state }) => ({ terms: [termOf(state.life!)] }),
    },
  }
}

/** What is added up over the slots of a row [batch, slots], and times what. */
interface Loss {
  readonly values: Tensor
  readonly scale: number
}

/**
 * Σ r / (R·M) over all pairs of the M queries and the slots with 0 < m < 1, that is -R < r < 0. Query i sees
 * r = left - i, so these are the whole numbers i between left and left + R: counted, not laid out.
 */
function rampLoss({ seen, age, valid, length }: Spanned, ramp: number): Loss {
  const left = sub(seen, age) // r of the first query [batch, slots]
  const constant = stopGradient(left)
  // All i above `before` up to `last`; the ramp is a whole number.
  const before = clipByValue(floor(constant), -1, length - 1)
  const last = clipByValue(add(ceil(constant), ramp - 1), -1, length - 1)
  const pairs = sub(last, before)
  const middle = mul(add(add(before, last), 1), 0.5)
  const sums = mul(valid ? mul(pairs, valid) : pairs, sub(left, middle))
  return { values: sums, scale: 1 / (ramp * length) }
}

/** Mean e of the steps of the block. */
function meanLoss({ span, age, valid, length }: Spanned): Loss {
  const written = cast(lessEqual(age, 0), 'float32')
  return { values: mul(span, valid ? mul(written, valid) : written), scale: 1 / length }
}

/** m of every pair, whether or not the query may see the slot: [batch, block, slots]. */
function maskOf(seen: Tensor, age: Tensor, length: number, ramp: number): Tensor {
  const left = sub(expandDims(sub(seen, age), 1), reshape(range(0, length), [1, length, 1]))
  return clipByValue(add(mul(left, 1 / ramp), 1), 0, 1)
}

/** Steps until each slot is fully forgotten, as the next query sees it; `empty` or less where none is: [batch, slots]. */
function leftOf({ tensors: { life, age, valid } }: LayerMemory, ramp: number): Tensor2D {
  return add(add(sub(life!, age!), ramp), mul(sub(1, valid!), 2 * empty))
}

/** The slots with the longest life left, in a memory that was not compacted: an arena has places for `most`. */
function longestLived(memory: LayerMemory, most: number, ramp: number): LayerMemory {
  const [batch, slots] = memory.tensors.age!.shape as [number, number]
  if (slots <= most) return memory
  const { indices } = topk(leftOf(memory, ramp), most)
  return keepSlots(memory, indices as Tensor2D, new Array<number>(batch).fill(most), 0)
}
