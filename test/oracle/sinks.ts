/**
 * Attention sinks (Xiao et al. 2024) around a method: the first `count` steps of a stream are always attended to, with
 * full strength and at their true distances, beside whatever the method itself remembers.
 */
import { later, type MethodOracle, type Recalled, type Slot, type View } from './decoder'

export interface SinksRow {
  readonly inner: unknown
  readonly sinks: readonly Slot[]
}

export function sinks(count: number, method: MethodOracle): MethodOracle<SinksRow> {
  /** A sink that the method itself still holds at its true distance is not attended to twice. */
  const held = (slots: readonly Slot[], sink: Slot) =>
    slots.some(({ hidden, age }) => hidden === sink.hidden && age === sink.age)
  const apart = ({ inner, sinks }: SinksRow) => sinks.filter((sink) => !held(method.slots(inner), sink))

  /** The view of the method: without the slots that are kept beside it. */
  const innerView = (view: View<SinksRow>): View => {
    const beside = apart(view.row).length
    const cut = (pairs: View['logits']) => pairs.map((head) => head.map((slots) => slots.slice(beside)))
    return {
      ...view,
      row: view.row.inner,
      slots: view.slots.slice(beside),
      attendedSlots: view.attendedSlots.slice(beside),
      remembered: view.remembered - beside,
      logits: cut(view.logits),
      weights: cut(view.weights),
      get frozen() {
        return innerView(view.frozen)
      },
    }
  }
  const isSink = (view: View<SinksRow>, j: number) => {
    if (j >= view.remembered) return view.step + j - view.remembered < count
    const slot = view.slots[j]!
    return view.row.sinks.some(({ hidden, age }) => hidden === slot.hidden && age === slot.age)
  }

  return {
    start: (layer) => ({ inner: method.start(layer), sinks: [] }),
    slots: (row) => [...apart(row), ...method.slots(row.inner)],
    recall: (view) => {
      const beside = apart(view.row).length
      const inner: Recalled = method.recall(innerView(view))
      return {
        m: (head, i, j) => (isSink(view, j) ? 1 : inner.m(head, i, j - beside)),
        b: (i, j) => (isSink(view, j) ? 0 : (inner.b?.(i, j - beside) ?? 0)),
      }
    },
    settle: (views) => {
      const { rows, penalty } = method.settle(views.map(innerView))
      return {
        rows: views.map((view, b) => ({
          inner: rows[b],
          sinks: later(
            [...view.row.sinks, ...view.slots.slice(view.remembered).filter((_, j) => view.step + j < count)],
            view.input.length,
          ),
        })),
        penalty,
      }
    },
  }
}
