/**
 * Several methods over the same slots: the keeper says which there are, and the others, by the names that go before their
 * parameters, judge them, too. A slot is attended to by the product of all m, less the sum of all b; penalties add up.
 */
import { type MethodOracle, sum, type View } from './decoder'

export function combine<Row>(
  keeper: MethodOracle<Row>,
  overlays: Readonly<Record<string, MethodOracle>>,
): MethodOracle<Row> {
  const others = Object.entries(overlays)
  const seenBy = (name: string, view: View): View => ({
    ...view,
    layer: { ...view.layer, parameter: (own) => view.layer.parameter(`${name}.${own}`) },
  })
  return {
    start: (layer) => keeper.start(layer),
    slots: (row) => keeper.slots(row),
    recall: (view) => {
      const all = [keeper.recall(view), ...others.map(([name, method]) => method.recall(seenBy(name, view)))]
      return {
        m: (head, i, j) => all.reduce((product, { m }) => product * m(head, i, j), 1),
        b: (i, j) => sum(all.map(({ b }) => b?.(i, j) ?? 0)),
      }
    },
    settle: (views) => {
      const { rows, penalty } = keeper.settle(views)
      const more = others.map(
        ([name, method]) => method.settle(views.map((view) => seenBy(name, view))).penalty,
      )
      return { rows, penalty: penalty + sum(more) }
    },
  }
}
