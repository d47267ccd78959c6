/**
 * Several methods over the same slots: one keeps them, the others add their terms, so that a slot is attended to as
 * strongly as all of them together allow (the product of their ramps, the sum of what they take off the logits). For
 * example Expire-Span's slots under Adaptive-Span's heads.
 */
import {
  add,
  concat,
  mul,
  neg,
  onesLike,
  reshape,
  type Scalar,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  tile,
} from '@tensorflow/tfjs-core'
import { distances } from './attention/distance'
import { ConfigError } from './errors'
import { farthestIn } from './farthest'
import type {
  Block,
  DecodeSlots,
  ForgettingMethod,
  LayerInfo,
  NamedTensors,
  OverlaySlots,
  Recall,
  StateDictPlace,
} from './method'
import { hasSinks } from './sinks'

export interface CombineOptions {
  /** Decides which slots survive. */
  readonly keeper: ForgettingMethod
  /** Methods whose terms and penalties count over the keeper's slots; each needs `overlay`. */
  readonly overlays: readonly ForgettingMethod[]
}

/** Under its name, which must be its own among the overlays. */
const prefixOf = ({ name }: ForgettingMethod) => `${name}.`

const prefixed = <T>(values: Readonly<Record<string, T>>, prefix: string): Record<string, T> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [prefix + name, value]))

const under = <T>(values: Readonly<Record<string, T>>, prefix: string): Record<string, T> =>
  Object.fromEntries(
    Object.entries(values)
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, value]) => [name.slice(prefix.length), value]),
  )

interface Plans {
  readonly keeper: unknown
  readonly overlays: readonly unknown[]
}

/**
 * Masks the slots of one method by others, too.
 * @throws ConfigError when an overlay cannot judge slots that another method keeps, or two have one name
 */
export function combine({ keeper, overlays = [] }: CombineOptions): ForgettingMethod {
  const methods = [keeper, ...overlays]
  for (const method of methods)
    if (method?.specVersion !== 1)
      throw new ConfigError('combine needs methods: combine({ keeper: ..., overlays: [...] })', { method })
  if (overlays.length === 0) throw new ConfigError('combine needs at least one overlay', { overlays })
  const names = methods.map(({ name }) => name)
  for (const { name, overlay } of overlays) {
    if (!overlay)
      throw new ConfigError(`${name} cannot judge slots that another method keeps: use it as the keeper`, {
        name,
      })
    if (names.indexOf(name) !== names.lastIndexOf(name))
      throw new ConfigError(`"${name}" is combined with itself: name each method once`, { name })
  }

  /** Parameters of the keeper as they are, of an overlay under its name. */
  const everywhere = <T>(
    of: (method: ForgettingMethod) => Readonly<Record<string, T>> | undefined,
  ): Record<string, T> =>
    Object.assign({}, of(keeper), ...overlays.map((method) => prefixed(of(method) ?? {}, prefixOf(method))))
  const { reset, compact, attended } = keeper
  const keeperBlock = (block: Block): Block => ({ ...block, plan: (block.plan as Plans | undefined)?.keeper })
  const judge = (block: Block, recall: Recall) =>
    overlays.map((method) =>
      method.overlay!(slotsOf(block, recall, under(block.parameters, prefixOf(method)))),
    )

  return {
    specVersion: 1,
    name: 'combine',
    options: {
      keeper: { name: keeper.name, options: keeper.options },
      overlays: overlays.map(({ name, options }) => ({ name, options })),
    },
    decides: keeper.decides,
    parameters: (layer) => everywhere((method) => method.parameters?.(layer)),
    stateDict: (family, layer) => everywhere<StateDictPlace>((method) => method.stateDict?.(family, layer)),
    initialMemory: (layer, batch, plan) =>
      keeper.initialMemory(layer, batch, (plan as Plans | undefined)?.keeper),
    prepare: async (layer, parameters): Promise<Plans> => ({
      keeper: await keeper.prepare?.(layer, parameters),
      overlays: await Promise.all(
        overlays.map((method) => method.prepare?.(layer, under(parameters, prefixOf(method)))),
      ),
    }),
    recall: (block) => {
      const recall = keeper.recall(keeperBlock(block))
      const terms = judge(block, recall).flatMap((judgement) => judgement.terms)
      return { ...recall, terms: [...(recall.terms ?? []), ...terms] }
    },
    settle: (block, recall, outcome) => {
      const settled = keeper.settle(keeperBlock(block), recall, outcome)
      const penalties = judge(block, recall).flatMap(({ penalty }) => (penalty ? [penalty] : []))
      const all = settled.penalty ? [settled.penalty, ...penalties] : penalties
      return { ...settled, ...(all.length > 0 && { penalty: all.reduce((a, b) => add(a, b)) as Scalar }) }
    },
    ...(compact && { compact }),
    ...(reset && { reset }),
    ...(attended && { attended }),
    report: (layer, parameters, memory, normalise) => ({
      ...keeper.report?.(layer, parameters, memory, normalise),
      ...Object.assign(
        {},
        ...overlays.map((method) => {
          const own = under(parameters, prefixOf(method))
          return prefixed(method.report?.(layer, own, memory, normalise) ?? {}, prefixOf(method))
        }),
      ),
    }),
    // The keeper's: overlays weaken slots by their terms, no window cuts them off.
    reach: (layer) => keeper.reach(layer),
    capacity: (layer, block) => keeper.capacity(layer, block),
    decode: decodeCombined(keeper, overlays),
  }
}

/** The keeper's slots as an overlay judges them. */
function slotsOf(block: Block, { groups }: Recall, parameters: NamedTensors): OverlaySlots {
  const { batch, layer, attended, training, draw } = block
  const pieces = groups.flatMap((group) => group.pieces.map(({ hidden }) => hidden))
  const ages = groups.map((group) => {
    const slots = group.pieces.reduce((sum, { hidden }) => sum + hidden.shape[1], 0)
    const row = distances({ slots, distance: group.distance, nearest: 0, farthest: Infinity }, 1)
    const ages = reshape(row, [row.shape[0]!, slots])
    return ages.shape[0] === batch ? ages : tile(ages, [batch, 1])
  })
  const valid = groups.map((group, index) => group.valid ?? onesLike(ages[index]! as Tensor2D))
  return {
    layer,
    hidden: (pieces.length === 1 ? pieces[0]! : concat([...pieces], 1)) as Tensor3D,
    age: (ages.length === 1 ? ages[0]! : concat(ages, 1)) as Tensor2D,
    ...(groups.some((group) => group.valid) && { valid: concat(valid, 1) as Tensor2D }),
    queries: attended,
    training,
    draw,
    parameters,
  }
}

function decodeCombined(keeper: ForgettingMethod, overlays: readonly ForgettingMethod[]) {
  const { decode } = keeper
  const plansOf = (plan: unknown) => plan as Plans | undefined
  // What they have faded out still counts where the keeper makes its choice among the slots there are, or where it is a sink.
  const fading = keeper.decides === 'step' && !hasSinks(keeper) ? overlays : []
  const ofKeeper = (slots: DecodeSlots): DecodeSlots => ({ ...slots, plan: plansOf(slots.plan)?.keeper })
  const ofOverlay = (slots: DecodeSlots, method: ForgettingMethod, index: number): DecodeSlots => ({
    ...slots,
    plan: plansOf(slots.plan)?.overlays[index],
    state: under(slots.state, prefixOf(method)),
    parameters: under(slots.parameters, prefixOf(method)),
  })
  const rules: ForgettingMethod['decode'] = {
    ...decode,
    capacity: (layer: LayerInfo, plan: unknown) => decode.capacity(layer, plansOf(plan)?.keeper),
    ...(decode.enter && {
      enter: (layer, memory, stream) =>
        decode.enter!(layer, memory, { ...stream, plan: plansOf(stream.plan)?.keeper }),
    }),
    // Overlays judge by hidden states alone, so what they keep can be made anew from a block memory, too.
    describe: (hidden, context) => {
      const { memory: _, ...rest } = context
      const states = overlays.map((method) =>
        prefixed(
          method.decode.describe?.(hidden, {
            ...rest,
            parameters: under(context.parameters, prefixOf(method)),
          }) ?? {},
          prefixOf(method),
        ),
      )
      return Object.assign({}, decode.describe?.(hidden, context), ...states)
    },
    farthest: (layer, places) => farthestIn(keeper, layer, places),
    worth: (slots) => decode.worth?.(ofKeeper(slots)) ?? (neg(slots.age) as Tensor2D),
    alive: (slots) =>
      [
        decode.alive?.(ofKeeper(slots)),
        ...fading.map((method, index) => method.decode.alive?.(ofOverlay(slots, method, index))),
      ]
        .filter((alive): alive is Tensor2D => alive !== undefined)
        .reduce((a: Tensor, b) => mul(a, b), slots.valid) as Tensor2D,
    recall: (slots, query) => {
      const own = decode.recall?.(ofKeeper(slots), query)
      const others = overlays.map((method, index) =>
        method.decode.recall?.(ofOverlay(slots, method, index), query),
      )
      const terms = [own, ...others].flatMap((recall) => recall?.terms ?? [])
      return { ...own, terms }
    },
    settle: (slots, outcome) => ({ ...slots.state, ...decode.settle?.(ofKeeper(slots), outcome) }),
  }
  return rules
}
