/**
 * Selective Attention: every step votes, by the logits of one head, which earlier steps the later ones should not see.
 * F, the votes a slot has got, is subtracted from its logits, and the slots with the highest F are forgotten for good.
 */

import {
  type Block,
  ConfigError,
  type ForgettingMethod,
  joinSlots,
  keepSlots,
  type LayerInfo,
  type LayerMemory,
  scatteredAges,
  scatteredEnter,
  scatteredGroups,
  scatteredNext,
  scatteredStart,
  slotsFrom,
  stopGradient,
} from '@lethe/core'
import {
  add,
  cast,
  cumsum,
  div,
  equal,
  expandDims,
  greaterEqual,
  less,
  lessEqual,
  max,
  maximum,
  mean,
  minimum,
  mul,
  neg,
  reverse,
  type Scalar,
  slice,
  sub,
  sum,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  tensor,
  tensor2d,
  topk,
  zeros,
} from '@tensorflow/tfjs-core'

export interface SelectiveOptions {
  /** Steps: only the last `span` steps are remembered, voted out or not. Default: no window, then `budget` is needed. */
  readonly span?: number
  /** Slots remembered between blocks, one number for all layers or one per layer. Default: all within `span`. */
  readonly budget?: number | readonly number[]
  /** The head whose logits are votes, from 0. Default 0. */
  readonly head?: number
  /** ε, the weight of the memory loss L_mem; 0.1 in the paper. Default 0: no such loss. */
  readonly memoryLoss?: number
  /** τ, votes at which the memory loss counts a slot as forgotten. Default 1. */
  readonly tau?: number
}

/** Before all others where slots are forgotten: what is empty or out of the window. */
const never = 1e30

/**
 * Selective Attention (Leviathan, Kalman, Matias 2025, arXiv 2410.02703): attention is softmax(QKᵀ/√d − F)V, with F
 * the votes S = ReLU(logits of one head) of strictly earlier queries, none on the stream's first step or on oneself
 * (their figure 2). Context pruning keeps the `budget` slots with the lowest F, each row its own; L_mem is ε · Σ over
 * layers of max over queries of M / (layers · n), where M is what a query needs of the n slots there are.
 *
 * Deviations: positions, if any, are part of the logits that votes are made from, and stay true after pruning. The
 * budget holds between blocks (in streaming decode after every step, as in the paper, but it does not count the present
 * step). Among equal votes the first step of a stream stays before all others, then the newest; only `span` ends it,
 * which the paper does not have. M counts from 1; where a step does not attend to itself it is counted all the same.
 *
 * @param options see `SelectiveOptions`: span (steps), budget (slots), head (0), memoryLoss (0), tau (1 vote)
 * @throws ConfigError when an option is out of range; when the decoder is made, if head or the number of budgets do not
 *   fit it
 */
export function selective(options: SelectiveOptions): ForgettingMethod {
  const { span = Number.POSITIVE_INFINITY, budget, head = 0, memoryLoss = 0, tau = 1 } = options
  checkOptions(options)
  const list = typeof budget === 'object' ? [...budget] : undefined

  /** The layer's budget, after it is known that head and budgets fit the decoder. */
  const budgetOf = ({ index, layers, heads }: LayerInfo): number => {
    if (head >= heads)
      throw new ConfigError(
        `head ${head} cannot vote in a layer of ${heads} heads: choose 0 to ${heads - 1}`,
        { head, heads },
      )
    if (list && list.length !== layers)
      throw new ConfigError(
        `${list.length} budgets for ${layers} layers: give one number, or one budget per layer`,
        { budget: list, layers },
      )
    return list?.[index] ?? (budget as number | undefined) ?? Number.POSITIVE_INFINITY
  }
  const sizeOf = (layer: LayerInfo) => Math.min(span, budgetOf(layer))
  const budgets = list ?? [(budget as number | undefined) ?? Number.POSITIVE_INFINITY]
  const windowed = Number.isFinite(span)
  /** Whether slots within the span are forgotten, so that votes decide which. */
  const prunes = budgets.some((slots) => slots < span)

  /** The memory with no more slots than the layer may have. */
  const withinBudget = (layer: LayerInfo, memory: LayerMemory): LayerMemory => {
    const slots = memory.tensors.F!.shape[1]!
    const count = Math.min(sizeOf(layer), slots)
    if (count === slots || count === span) return newestSlots(memory, count)
    const alive = memory.alive.map((slots) => Math.min(slots, count))
    return keepSlots(memory, survivors(memory, count, span), alive, 0)
  }

  /** Votes that count against the memory needed, as a part of one slot. */
  const forgotten = (votes: Tensor) => mul(minimum(votes, tau), 1 / tau)

  /** M: memory that each query needs [batch, block]; `valid` and `during` over all slots. */
  function requirement(block: Block, valid: Tensor, during: Tensor3D): Tensor2D {
    const query = tensor(
      Float32Array.from({ length: block.length }, (_, i) => i),
      [1, block.length, 1],
    )
    const distance = add(expandDims(scatteredAges(block), 1), query) // [batch, block, slots]
    const past = cast(greaterEqual(distance, 0), 'float32')
    const seen = windowed ? mul(past, cast(lessEqual(distance, span), 'float32')) : past
    return sum(mul(mul(seen, expandDims(valid, 1)), sub(1, forgotten(during))), 2)
  }

  return {
    specVersion: 1,
    name: 'selective',
    options: {
      ...(windowed && { span }),
      ...(budget !== undefined && { budget: list ?? budget }),
      ...{ head, memoryLoss, tau },
    },
    decides: prunes ? 'block' : 'step',
    parameters: (layer) => {
      budgetOf(layer) // refuses what does not fit, before any tensor is made
      return {}
    },
    reach: (layer) => {
      budgetOf(layer)
      return span
    },
    capacity: sizeOf,
    initialMemory: (layer, batch) => scatteredStart(layer, batch, sizeOf(layer), ['F', 'bos']),
    recall: (block) => {
      const { F, bos } = block.memory.tensors as Record<string, Tensor>
      const carried = joinSlots(F!, zeros([block.batch, block.length])) as Tensor2D // [batch, slots]
      const exempt = joinSlots(bos!, firstSteps(block)) as Tensor2D
      const groups = scatteredGroups(block).map((group) =>
        windowed ? { ...group, window: { ...group.window, farthest: span } } : group,
      )
      return {
        groups,
        terms: [{ kind: 'selection', head, carried, exempt }],
        wants: { selection: true },
        carry: { bos: exempt },
      }
    },
    settle: (block, { carry }, { selection }) => {
      const { layer, traced } = block
      const { during, after } = selection!
      const all = scatteredNext(block, { F: after, bos: carry!.bos! })
      const memory = withinBudget(layer, all)
      if (memoryLoss === 0 && !traced) return { memory }
      const needed = requirement(block, all.tensors.valid!, during)
      const loss = () => {
        // None at all where a wrapper keeps all there is; then nothing is needed, either.
        const slots = maximum(sum(all.tensors.valid!, 1), 1)
        return mul(mean(div(max(needed, 1), slots)), memoryLoss / layer.layers) as Scalar
      }
      return {
        memory,
        ...(memoryLoss > 0 && { penalty: loss() }),
        ...(traced && { trace: { S: votesOf(during, after), F: during, requirement: needed } }),
      }
    },
    report: (_, __, { tensors: { F, valid } }) => ({
      F: F!,
      // For the next query, itself included.
      requirement: add(sum(mul(valid!, sub(1, forgotten(F!))), 1), 1),
    }),
    decode: {
      capacity: (layer) => sizeOf(layer) + 1,
      enter: (layer, memory) => scatteredEnter(layer, withinBudget(layer, memory)),
      describe: (_, { layer, memory, step, starts }) => {
        if (memory) {
          const { F, bos } = withinBudget(layer, memory).tensors
          return { F: F!, bos: bos! }
        }
        const first = starts.map((start) => (start === step ? 1 : 0))
        return { F: zeros([starts.length, 1]), bos: tensor2d(first, [starts.length, 1]) }
      },
      // Without a budget it is the oldest slot that leaves, which is what core does by itself.
      ...(prunes && {
        ...(windowed && { alive: ({ age }) => cast(lessEqual(age, span), 'float32') as Tensor2D }),
        worth: ({ state, valid, age }) => {
          // Of those that may be forgotten the ones with most votes, of these the oldest; all others are worth more.
          const votable = mul(valid, sub(1, state.bos!))
          const votes = sub(mul(state.F!, votable), sub(1, votable))
          const worst = cast(equal(votes, max(votes, 1, true)), 'float32')
          return neg(mul(worst, add(age, 1))) as Tensor2D
        },
      }),
      recall: ({ state }) => ({
        terms: [{ kind: 'selection', head, carried: state.F as Tensor2D, exempt: state.bos as Tensor2D }],
        wants: { selection: true },
      }),
      settle: ({ state }, { selection }) => ({ ...state, F: selection!.after }),
    },
  }
}

/** 1 for the block's step that is the first of its row's stream (BOS) [batch, block]. */
function firstSteps({ batch, length, step, starts }: Block): Tensor2D {
  const values = new Float32Array(batch * length)
  starts.forEach((start, row) => {
    if (start >= step && start < step + length) values[row * length + start - step] = 1
  })
  return tensor2d(values, [batch, length])
}

/** S [batch, block, slots]: the votes that each query gives, from F before it and after it. */
const votesOf = (during: Tensor3D, after: Tensor2D) => {
  const later = joinSlots(slotsFrom(during, 1, during.shape[1] - 1), expandDims(after, 1))
  return sub(later, during)
}

/** The newest `count` slots. */
function newestSlots({ tensors, alive, gapless = 0 }: LayerMemory, count: number): LayerMemory {
  const newest = (x: Tensor) => slotsFrom(x, x.shape[1]! - count, count)
  return {
    tensors: Object.fromEntries(Object.entries(tensors).map(([name, x]) => [name, newest(x)])),
    alive: alive.map((slots) => Math.min(slots, count)),
    gapless: Math.min(gapless, count),
  }
}

/**
 * The slots that stay in each row [batch, count], in order of time: those with the lowest F; of equal ones first BOS,
 * then the newest. Ties are not left to the sort of a backend: it only finds the largest F that stays.
 */
function survivors({ tensors }: LayerMemory, count: number, span: number): Tensor2D {
  const { F, bos, valid, age } = tensors as Record<string, Tensor>
  const [batch, slots] = F!.shape as [number, number]
  const usable = Number.isFinite(span) ? mul(valid!, cast(lessEqual(age!, span), 'float32')) : valid!
  const order = sub(add(F!, mul(sub(1, usable), never)), mul(bos!, usable)) // BOS has no votes: -1
  const largest = topk(order, slots - count + 1).values
  const limit = slice(largest, [0, slots - count], [batch, 1])
  const below = cast(less(order, limit), 'float32')
  const equals = cast(equal(order, limit), 'float32')
  const places = sub(count, sum(below, 1, true))
  const newer = sub(sum(equals, 1, true), cumsum(equals, 1)) // among equals
  const stays = add(below, mul(equals, cast(less(newer, places), 'float32')))
  const time = tensor(
    Float32Array.from({ length: slots }, (_, slot) => slot + 1),
    [1, slots],
  )
  return stopGradient(reverse(topk(mul(stays, time), count).indices as Tensor2D, 1))
}

function checkOptions({
  span,
  budget,
  head = 0,
  memoryLoss = 0,
  tau = 1,
  ...unknown
}: SelectiveOptions): void {
  const refuse = (message: string, values: Record<string, unknown>): never => {
    throw new ConfigError(message, values)
  }
  for (const name of Object.keys(unknown))
    refuse(`unknown option "${name}" of selective; known are span, budget, head, memoryLoss, tau`, { name })
  const count = (field: string, value: unknown, least: number) => {
    if (!Number.isInteger(value) || (value as number) < least)
      refuse(`${field} must be a whole number from ${least} up, not ${value}`, { [field]: value })
  }
  if (span === undefined && budget === undefined)
    refuse('selective attention needs span or budget: without either its memory would grow without bound', {})
  if (span !== undefined) count('span', span, 1)
  if (Array.isArray(budget)) {
    if (budget.length === 0) refuse('budget must not be an empty list: give one budget per layer', { budget })
    budget.forEach((slots: number, layer) => {
      count(`budget[${layer}]`, slots, 1)
    })
  } else if (budget !== undefined) count('budget', budget, 1)
  count('head', head, 0)
  if (!(memoryLoss >= 0 && Number.isFinite(memoryLoss)))
    refuse(`memoryLoss must be a number from 0 up, not ${memoryLoss}`, { memoryLoss })
  if (!(tau > 0 && Number.isFinite(tau))) refuse(`tau must be a number above 0, not ${tau}`, { tau })
}
