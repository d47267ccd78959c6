/**
 * Attention sinks (Xiao et al. 2024) around a method: the first `count` steps of a stream are always attended to, with
 * full strength and at their true distances, beside what the method remembers of all others. To the method they are
 * queries, but no slots: it judges, counts and keeps only the others.
 */
import { later, type MethodOracle, range, type Slot, type View } from './decoder'

export interface SinksRow {
  readonly inner: unknown
  readonly sinks: readonly Slot[]
}

export function sinks(count: number, method: MethodOracle): MethodOracle<SinksRow> {
  const isSink = ({ row, remembered, step }: View<SinksRow>, j: number) =>
    j < row.sinks.length || (j >= remembered && step + j - remembered < count)
  const others = (view: View<SinksRow>) => range(view.slots.length).filter((j) => !isSink(view, j))

  /** The view of the method: the same queries, without the slots that are sinks. */
  const innerView = (view: View<SinksRow>): View => {
    const own = others(view)
    const cut = <T>(slots: readonly T[]) => own.map((j) => slots[j]!)
    return {
      ...view,
      row: view.row.inner,
      slots: cut(view.slots),
      attendedSlots: cut(view.attendedSlots),
      remembered: view.remembered - view.row.sinks.length,
      logits: view.logits.map((head) => head.map(cut)),
      weights: view.weights.map((head) => head.map(cut)),
      get frozen() {
        return innerView(view.frozen)
      },
    }
  }

  return {
    start: (layer) => ({ inner: method.start(layer), sinks: [] }),
    slots: ({ inner, sinks }) => [...sinks, ...method.slots(inner)],
    recall: (view) => {
      const inner = method.recall(innerView(view))
      const own = others(view)
      const place = view.slots.map((_, j) => own.indexOf(j))
      return {
        m: (head, i, j) => (place[j] === -1 ? 1 : inner.m(head, i, place[j]!)),
        b: (i, j) => (place[j] === -1 ? 0 : (inner.b?.(i, place[j]!) ?? 0)),
      }
    },
    settle: (views) => {
      const { rows, penalty } = method.settle(views.map(innerView))
      return {
        rows: views.map((view, b) => ({
          inner: rows[b],
          sinks: later(
            view.slots.filter((_, j) => isSink(view, j)),
            view.input.length,
          ),
        })),
        penalty,
      }
    },
  }
}
