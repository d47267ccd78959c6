/**
 * Attention sinks around any method: the first steps of a stream stay and are always attended to (Xiao et al. 2024,
 * "Efficient Streaming Language Models with Attention Sinks", arXiv 2309.17453, section 3.2). A wrapper is a method,
 * too: it adds one group of slots to what the inner method recalls, and takes their copies out of the inner groups.
 *
 * Deviation: sinks keep their true distance, where the paper counts distances within the cache; distances beyond a
 * table of positions get what the decoder's `beyondLearned` says.
 */
import {
  add,
  cast,
  greater,
  less,
  logicalAnd,
  mul,
  neg,
  ones,
  pad,
  slice,
  sub,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  tensor,
  tensor2d,
  zeros,
} from '@tensorflow/tfjs-core'
import { ConfigError } from './errors'
import { farthestIn } from './farthest'
import { resetRows } from './memory'
import type {
  Block,
  DecodeRules,
  DecodeSlots,
  ForgettingMethod,
  LayerMemory,
  NamedTensors,
  Outcome,
  Recall,
  SlotGroup,
  SlotPiece,
  Term,
} from './method'
import { matMul } from './ops/matmul'
import { joinSlots, newestSlots, slotsFrom } from './slots'

export interface SinksOptions {
  /** Steps at the start of each row's stream that are never forgotten. */
  readonly count: number
  /** Decides about all the others. */
  readonly method: ForgettingMethod
}

/** Worth more than any slot that a method judges. */
const priceless = 2 ** 24

/**
 * Keeps the first `count` steps of a stream around another method, beside its own slots.
 * @throws ConfigError when count is not a whole number from 1 up, or when method is none or has sinks already
 */
export function sinks({ count, method }: SinksOptions): ForgettingMethod {
  if (!Number.isInteger(count) || count < 1)
    throw new ConfigError(`count must be a whole number from 1 up, not ${count}`, { count })
  if (method?.specVersion !== 1)
    throw new ConfigError('sinks need a method to stand around: sinks({ count, method: ... })', { method })
  if (hasSinks(method))
    throw new ConfigError('there are sinks around the method already: give them the larger count instead', {
      count,
      method: method.name,
    })

  const { name, options, reset, compact, report, attended, ...inner } = method
  return {
    ...inner,
    name: 'sinks',
    options: { count, method: { name, options } },
    reach: () => Number.POSITIVE_INFINITY,
    capacity: (layer, block) => inner.capacity(layer, block) + count,
    initialMemory: (layer, batch, plan) =>
      joined(inner.initialMemory(layer, batch, plan), zeros([batch, count, layer.width])),
    recall: (block) => {
      const recall = inner.recall(innerBlock(block, count))
      const sinkGroup = groupOfSinks(block, count)
      const slots = slotsOf(recall)
      return {
        ...recall,
        groups: [...recall.groups.map((group) => withoutSinks(group, block, count)), sinkGroup],
        terms: (recall.terms ?? []).map((term) => widened(term, slots, slotsOfGroup(sinkGroup))),
      }
    },
    settle: (block, recall, outcome) => {
      const groups = recall.groups.slice(0, -1)
      const slots = slotsOf({ groups })
      const settled = inner.settle(innerBlock(block, count), { ...recall, groups }, narrowed(outcome, slots))
      const beside = Math.min(count, Math.max(...stepsRead(block)) + block.length)
      return { ...settled, memory: joined(settled.memory, keptSinks(block, count), beside) }
    },
    ...(compact && {
      compact: async (layer, memory) => {
        const [rest, sink] = apart(memory)
        return joined(await compact(layer, rest), sink, memory.beside)
      },
    }),
    reset: (layer, memory, rows) => {
      const [rest, sink] = apart(memory)
      const next = reset?.(layer, rest, rows) ?? resetRows(rest, inner.initialMemory(layer, 1), rows)
      const keep = tensor(
        Float32Array.from({ length: memory.alive.length }, (_, row) => (rows.includes(row) ? 0 : 1)),
        [memory.alive.length, 1, 1],
      )
      return joined(next, mul(sink, keep), memory.beside)
    },
    ...(report && {
      report: (layer, parameters, memory, normalise) =>
        report(layer, parameters, apart(memory)[0], normalise),
    }),
    ...(attended && {
      attended: async (layer, parameters, memory, normalise) => {
        const ofInner = await attended(layer, parameters, apart(memory)[0], normalise)
        return ofInner.map((slots) => slots + (memory.beside ?? 0))
      },
    }),
    decode: decodeWithSinks(method, count),
  }
}

/** Whether a method keeps sinks itself, or combines others with one that does. */
export const hasSinks = ({ name, options }: Pick<ForgettingMethod, 'name' | 'options'>): boolean =>
  name === 'sinks' || (name === 'combine' && hasSinks(options.keeper as ForgettingMethod))

/** The inner memory and the hidden states of the sinks [batch, count, width]. */
function apart({ tensors, beside: _, ...host }: LayerMemory): [LayerMemory, Tensor3D] {
  const { sink, ...rest } = tensors
  return [{ ...host, tensors: rest }, sink as Tensor3D]
}

const joined = (inner: LayerMemory, sink: Tensor, beside = 0): LayerMemory => ({
  ...inner,
  tensors: { ...inner.tensors, sink },
  beside,
})

/** The block as the inner method sees it: sinks are no slots of its own, so that they take no place of its budget. */
function innerBlock(block: Block, count: number): Block {
  const { memory, batch, length } = block
  const inner = { ...block, memory: apart(memory)[0] }
  const read = stepsRead(block)
  if (Math.min(...read) >= count) return inner
  const own = Float32Array.from({ length: batch * length }, (_, at) =>
    read[Math.floor(at / length)]! + (at % length) < count ? 0 : 1,
  )
  const validSteps = read.map((steps) => length - Math.min(length, Math.max(0, count - steps)))
  return { ...inner, valid: tensor2d(own, [batch, length]), validSteps }
}

const slotsOfGroup = ({ pieces }: SlotGroup) => pieces.reduce((sum, { hidden }) => sum + hidden.shape[1], 0)
const slotsOf = ({ groups }: Pick<Recall, 'groups'>) =>
  groups.reduce((sum, group) => sum + slotsOfGroup(group), 0)

/** Steps that each row's stream has behind it. */
const stepsRead = ({ step, starts }: { step: number; starts: readonly number[] }) =>
  starts.map((start) => step - start)

/** The sinks remembered and those in the block itself, at their true distances. */
function groupOfSinks(block: Block, count: number): SlotGroup {
  const { batch, length, attended, layer, memory } = block
  const read = stepsRead(block)
  const remembered = Math.min(count, Math.max(...read))
  const fresh = Math.min(length, Math.max(0, count - Math.min(...read)))
  const pieces: SlotPiece[] = []
  if (remembered > 0) pieces.push(block.remembered(slotsFrom(apart(memory)[1], 0, remembered)))
  if (fresh > 0) pieces.push({ hidden: slotsFrom(attended, 0, fresh), constant: false })
  const slots = remembered + fresh
  const ages = new Float32Array(batch * slots)
  const valid = new Float32Array(batch * slots)
  read.forEach((steps, row) => {
    for (let slot = 0; slot < slots; slot++) {
      // Which step of the row's stream the slot is: those of the block follow what was read.
      const index = slot < remembered ? slot : steps + slot - remembered
      ages[row * slots + slot] = steps - index
      valid[row * slots + slot] = (slot < remembered ? index < steps : true) && index < count ? 1 : 0
    }
  })
  const together = read.every((steps) => steps === read[0])
  return {
    pieces,
    distance: together
      ? { kind: 'contiguous', first: read[0]! }
      : { kind: 'scattered', age: tensor2d(ages, [batch, slots]) },
    window: { nearest: layer.attendSelf ? 0 : 1 },
    ...(valid.includes(0) && { valid: tensor2d(valid, [batch, slots]) }),
    exempt: ones([batch, slots]),
  }
}

/** An inner group whose copies of sinks are not attended to: the group of sinks has them. */
function withoutSinks(group: SlotGroup, block: Block, count: number): SlotGroup {
  if (group.condensed) return group
  const read = stepsRead(block)
  const slots = slotsOfGroup(group)
  const { distance } = group
  let others: Tensor
  if (distance.kind === 'contiguous') {
    if (read.every((steps) => steps - count >= distance.first)) return group
    const values = new Float32Array(read.length * slots)
    read.forEach((steps, row) => {
      for (let slot = 0; slot < slots; slot++) {
        const index = steps - (distance.first - slot)
        values[row * slots + slot] = index >= 0 && index < count ? 0 : 1
      }
    })
    others = tensor2d(values, [read.length, slots])
  } else {
    others = sub(1, areSinks(distance.age, read, count))
  }
  return { ...group, valid: (group.valid ? mul(group.valid, others) : others) as Tensor2D }
}

/** 1 where a slot is one of the first `count` steps of its row: age from the step after `read` steps of the row. */
function areSinks(age: Tensor, read: readonly number[], count: number): Tensor {
  const index = sub(tensor2d(Float32Array.from(read), [read.length, 1]), age)
  return cast(logicalAnd(greater(index, -1), less(index, count)), 'float32')
}

/** The hidden states of the sinks after the block. */
function keptSinks(block: Block, count: number): Tensor {
  const { batch, length, input, memory } = block
  const sink = apart(memory)[1]
  const read = stepsRead(block)
  const fresh = Math.min(length, Math.max(0, count - Math.min(...read)))
  if (fresh === 0) return sink
  // One-hot: step i of the block goes to the place that its row has reached.
  const places = new Float32Array(batch * count * fresh)
  read.forEach((steps, row) => {
    for (let i = 0; i < fresh && steps + i < count; i++) places[(row * count + steps + i) * fresh + i] = 1
  })
  return add(
    sink,
    matMul(tensor(places, [batch, count, fresh]), slotsFrom(input, 0, fresh), { constant: 'a' }),
  )
}

/** A term of the inner slots over the sinks behind them, too; there it does not count. */
function widened(term: Term, slots: number, more: number): Term {
  const widen = (x: Tensor, value = 0) =>
    pad(x, [...x.shape.slice(1).map(() => [0, 0] as [number, number]), [0, more]], value)
  if (term.kind === 'slot-life') return { ...term, life: widen(term.life) as Tensor2D }
  if (term.kind === 'selection')
    return { ...term, carried: widen(term.carried) as Tensor2D, exempt: widen(term.exempt, 1) as Tensor2D }
  if (term.kind === 'bias' && term.bias.shape.at(-1) === slots) return { ...term, bias: widen(term.bias) }
  return term
}

/** What attention left behind for the inner slots alone. */
function narrowed({ mass, selection, attendWith }: Outcome, slots: number): Outcome {
  const narrow = <T extends Tensor>(x: T) =>
    slice(
      x,
      x.shape.map(() => 0),
      [...x.shape.slice(0, -1), slots],
    ) as T
  return {
    attendWith,
    ...(mass && { mass: narrow(mass) }),
    ...(selection && { selection: { during: narrow(selection.during), after: narrow(selection.after) } }),
  }
}

/** The newest `count` slots of those that enter an arena: it has no room for more beside the sinks. */
function newestOf({ hidden, age, valid }: ReturnType<typeof newestSlots>, count: number) {
  const slots = hidden.shape[1]
  const kept = Math.min(slots, count)
  const newest = <T extends Tensor>(x: T) => slotsFrom(x, slots - kept, kept)
  return { hidden: newest(hidden), age: newest(age), valid: newest(valid) }
}

/** Sinks live in the arena with the others, marked by `state.sink`. */
function decodeWithSinks(method: ForgettingMethod, count: number): DecodeRules {
  const inner = method.decode
  const own = (slots: DecodeSlots): DecodeSlots => {
    const { sink: _, ...state } = slots.state
    return { ...slots, state }
  }
  const sinkOf = ({ state }: DecodeSlots) => state.sink as Tensor2D
  return {
    ...inner,
    capacity: (layer, plan) => inner.capacity(layer, plan) + count,
    farthest: (layer, places) => farthestIn(method, layer, places - count),
    enter: (layer, memory, stream) => {
      const [rest, sink] = apart(memory)
      const entered = newestOf(
        inner.enter?.(layer, rest, stream) ?? newestSlots(rest),
        inner.capacity(layer, stream.plan),
      )
      const read = stepsRead(stream)
      const batch = read.length
      const perSink = (value: (steps: number, index: number) => number) =>
        tensor2d(
          Float32Array.from({ length: batch * count }, (_, at) =>
            value(read[Math.floor(at / count)]!, at % count),
          ),
          [batch, count],
        )
      // From here on the sinks' copies among the inner slots are dead.
      const copies = areSinks(add(entered.age, 1), read, count)
      return {
        hidden: joinSlots(sink, entered.hidden) as Tensor3D,
        age: joinSlots(
          perSink((steps, index) => steps - 1 - index),
          entered.age,
        ) as Tensor2D,
        valid: joinSlots(
          perSink((steps, index) => (index < steps ? 1 : 0)),
          mul(entered.valid, sub(1, copies)),
        ) as Tensor2D,
      }
    },
    describe: (hidden, context) => {
      const { memory, step, starts, condensed } = context
      const [batch, slots] = hidden.shape
      if (condensed) return { ...inner.describe?.(hidden, context), sink: zeros([batch, slots]) }
      if (!memory) {
        const isSink = starts.map((start) => (step - start < count ? 1 : 0))
        return { ...inner.describe?.(hidden, context), sink: tensor2d(isSink, [batch, 1]) }
      }
      const others = slotsFrom(hidden, count, slots - count)
      const state: NamedTensors = inner.describe?.(others, { ...context, memory: apart(memory)[0] }) ?? {}
      const before = zeros([batch, count])
      return {
        ...Object.fromEntries(
          Object.entries(state).map(([key, value]) => {
            const entered = slotsFrom(value, value.shape[1]! - (slots - count), slots - count)
            return [key, joinSlots(before, entered)]
          }),
        ),
        sink: joinSlots(ones([batch, count]), zeros([batch, slots - count])),
      }
    },
    worth: (slots) => {
      const worth = inner.worth?.(own(slots)) ?? neg(slots.age)
      return add(mul(worth, sub(1, sinkOf(slots))), mul(sinkOf(slots), priceless)) as Tensor2D
    },
    ...(inner.alive && {
      alive: (slots) => add(mul(inner.alive!(own(slots)), sub(1, sinkOf(slots))), sinkOf(slots)) as Tensor2D,
    }),
    recall: (slots, query) => ({ ...inner.recall?.(own(slots), query), exempt: sinkOf(slots) }),
    // As in blocks, where the group of sinks receives what their copies do not.
    settle: (slots, { mass, ...outcome }) => ({
      ...(inner.settle?.(own(slots), {
        ...outcome,
        ...(mass && { mass: mul(mass, sub(1, sinkOf(slots))) }),
      }) ?? own(slots).state),
      sink: sinkOf(slots),
    }),
  }
}
