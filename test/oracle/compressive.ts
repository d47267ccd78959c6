/**
 * Compressive Transformer (Rae et al. 2020): what falls out of the memory is not lost but compressed, `rate` steps to
 * one slot. Distances count slots of [compressed, memory, block].
 */
import {
  type Layer,
  later,
  linear,
  type MethodOracle,
  mean,
  newest,
  range,
  type Slot,
  sees,
  sum,
  type Vector,
  type View,
  zeroSlots,
} from './decoder'

export interface CompressiveOptions {
  readonly memory: number
  readonly compressed: number
  readonly rate: number
  readonly compression?: 'mean' | 'max' | 'conv' | 'most-used'
  readonly loss?: 'none' | 'auto-encoding' | 'attention'
}

/** Attention received so far, and from how many queries. */
interface Used extends Slot {
  readonly mass: number
  readonly queries: number
}
export interface CompressiveRow {
  readonly compressed: readonly Vector[]
  readonly hidden: readonly Used[]
}

/** Kernel = stride = rate over steps [k · rate][width]; weight [rate · width, width], oldest step first. */
export const convolve = (steps: readonly Vector[], rate: number, weight: Parameter, bias: Parameter) =>
  groups(steps, rate).map((group) => linear(group.flat(), weight, bias))

type Parameter = ReturnType<Layer['parameter']>
const groups = <T>(list: readonly T[], size: number) =>
  range(list.length / size).map((group) => list.slice(group * size, (group + 1) * size))

export function compressive(options: CompressiveOptions): MethodOracle<CompressiveRow> {
  const { memory, compressed, rate, compression = 'mean', loss = 'none' } = options

  /** The queue [memory, block] after the block, with its usage brought up to date. */
  const queue = (view: View<CompressiveRow>): Used[] =>
    range(view.row.hidden.length + view.input.length).map((place) => {
      const j = view.row.compressed.length + place
      const before = view.row.hidden[place] ?? { mass: 0, queries: 0 }
      const queries = range(view.input.length).filter((i) => sees(view, i, j))
      return {
        ...view.slots[j]!,
        mass: before.mass + sum(queries.map((i) => mean(view.weights.map((head) => head[i]![j]!)))),
        queries: before.queries + queries.length,
      }
    })
  const evictedOf = (all: readonly Used[]) =>
    all.slice(0, Math.max(0, Math.floor((all.length - memory) / rate)) * rate)

  const compress = (layer: Layer, evicted: readonly Used[]): Vector[] => {
    const steps = evicted.map(({ hidden }) => hidden)
    const pool = (reduce: (values: Vector) => number) =>
      groups(steps, rate).map((group) => group[0]!.map((_, f) => reduce(group.map((step) => step[f]!))))
    if (compression === 'mean') return pool(mean)
    if (compression === 'max') return pool((values) => Math.max(...values))
    if (compression === 'conv')
      return convolve(steps, rate, layer.parameter('conv.weight'), layer.parameter('conv.bias'))
    const usage = ({ mass, queries }: Used) => (queries === 0 ? 0 : mass / queries)
    const most = [...evicted].sort((a, b) => usage(b) - usage(a)).slice(0, evicted.length / rate)
    return evicted.filter((slot) => most.includes(slot)).map(({ hidden }) => hidden)
  }

  /** Squared errors of one row. Everything but the compression and its decoder stands behind a stop-gradient. */
  const errors = ({ layer, frozen }: View<CompressiveRow>): number[] => {
    const evicted = evictedOf(queue(frozen))
    if (loss === 'none' || evicted.length === 0) return []
    const old = evicted.map(({ hidden }) => hidden)
    const made = compress(layer, evicted)
    const [wanted, got] =
      loss === 'attention'
        ? [frozen.attendWith(old).flat(2), frozen.attendWith(made).flat(2)]
        : [
            old.flat(),
            made.flatMap((x) => linear(x, layer.parameter('decode.weight'), layer.parameter('decode.bias'))),
          ]
    return wanted.map((value, index) => (value - got[index]!) ** 2)
  }

  return {
    start: (layer) => ({
      compressed: zeroSlots(layer, compressed).map(({ hidden }) => hidden),
      hidden: zeroSlots(layer, memory).map((slot) => ({ ...slot, mass: 0, queries: 0 })),
    }),
    slots: (row) => {
      const all = [...row.compressed, ...row.hidden.map(({ hidden }) => hidden)]
      return all.map((hidden, place) => ({ hidden, age: all.length - place }))
    },
    recall: () => ({ m: () => 1 }),
    settle: (views) => {
      const all = views.flatMap(errors)
      return {
        rows: views.map((view) => {
          const after = later(queue(view), view.input.length)
          const evicted = evictedOf(after)
          return {
            compressed: newest([...view.row.compressed, ...compress(view.layer, evicted)], compressed),
            hidden: after.slice(evicted.length),
          }
        }),
        penalty: all.length === 0 ? 0 : mean(all),
      }
    },
  }
}
