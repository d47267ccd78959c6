/**
 * Selective Attention (Leviathan et al. 2025): queries vote by the logits of one head which earlier steps later ones
 * should not see; what has most votes is forgotten.
 */
import {
  distance,
  later,
  type MethodOracle,
  mean,
  range,
  type Slot,
  sees,
  sum,
  type View,
  zeroSlots,
} from './decoder'

export interface SelectiveOptions {
  readonly span?: number
  readonly budget?: number | readonly number[]
  readonly head?: number
  /** ε */
  readonly memoryLoss?: number
  readonly tau?: number
  /** Zeros in the first memory where it has any. */
  readonly zeros?: number
}

/** F: votes against the slot so far. `first`: the first step of the stream (BOS), never voted against. */
export interface Voted extends Slot {
  readonly votes: number
  readonly first: boolean
}

export function selective(options: SelectiveOptions): MethodOracle<readonly Voted[]> {
  const { span = Number.POSITIVE_INFINITY, budget, head = 0, memoryLoss = 0, tau = 1 } = options

  const visible = (view: View, i: number, j: number) => sees(view, i, j) && distance(view, i, j) <= span
  /** Whether the slot is step 0 of its stream. */
  const isFirst = (view: View<readonly Voted[]>, j: number) => view.step === view.slots[j]!.age

  /** F as each query sees it, and (last) as the next block will: [query][slot]. */
  const votesOf = (view: View<readonly Voted[]>): number[][] => {
    const rows = [view.slots.map((_, j) => view.row[j]?.votes ?? 0)]
    for (const i of range(view.input.length))
      rows.push(
        rows[i]!.map((votes, j) => {
          const counts = visible(view, i, j) && distance(view, i, j) > 0 && !isFirst(view, j)
          return votes + (counts ? Math.max(0, view.logits[head]![i]![j]!) : 0)
        }),
      )
    return rows
  }

  /** max over queries of M_i, a query counting itself as seen; divided by n. */
  const requirement = (view: View<readonly Voted[]>) => {
    const votes = votesOf(view)
    const needs = range(view.input.length).map((i) => {
      const seen = range(view.slots.length).filter((j) => visible(view, i, j) || distance(view, i, j) === 0)
      return seen.length - sum(seen.map((j) => Math.min(votes[i]![j]!, tau) / tau))
    })
    return Math.max(...needs) / Math.max(1, view.slots.length)
  }

  const keep = (view: View<readonly Voted[]>): Voted[] => {
    const votes = votesOf(view).at(-1)!
    const all = later(view.slots, view.input.length).map((slot, j) => ({
      ...slot,
      votes: votes[j]!,
      first: isFirst(view, j),
    }))
    const inside = all.filter(({ age }) => age <= span)
    const most = typeof budget === 'object' ? budget[view.layer.index] : budget
    const order = (a: Voted, b: Voted) =>
      a.votes - b.votes || Number(b.first) - Number(a.first) || a.age - b.age
    const best = [...inside].sort(order).slice(0, most)
    return inside.filter((slot) => best.includes(slot))
  }

  return {
    start: (layer) => zeroSlots(layer, options.zeros).map((slot) => ({ ...slot, votes: 0, first: false })),
    slots: (row) => row,
    recall: (view) => {
      const votes = votesOf(view)
      return { m: (_, i, j) => (visible(view, i, j) ? 1 : 0), b: (i, j) => votes[i]![j]! }
    },
    settle: (views) => ({
      rows: views.map(keep),
      penalty: (memoryLoss / views[0]!.layer.layers) * mean(views.map(requirement)),
    }),
  }
}

export interface GreedyOptions {
  readonly layers: number
  readonly full: number
  readonly step: number
  /** Loss with these budgets. */
  evaluate(budgets: readonly number[]): number | Promise<number>
  readonly target: { readonly total?: number; readonly loss?: number }
}

/**
 * All layers start at `full`; again and again the layer whose cut hurts least (the first of equals) is cut by `step`,
 * until the budgets together are at most target.total, or no cut keeps the loss at most target.loss.
 */
export async function greedyBudgets({ layers, full, step, evaluate, target }: GreedyOptions) {
  const { total = Number.NEGATIVE_INFINITY, loss: bound = Number.POSITIVE_INFINITY } = target
  let budgets = range(layers).map(() => full)
  while (sum(budgets) > total) {
    let best: { budgets: number[]; loss: number } | undefined
    for (const layer of range(layers)) {
      const cut = budgets.map((budget, index) => (index === layer ? budget - step : budget))
      if (cut[layer]! < 1) continue
      const loss = await evaluate(cut)
      if (loss <= bound && (best === undefined || loss < best.loss)) best = { budgets: cut, loss }
    }
    if (best === undefined) break
    budgets = best.budgets
  }
  return budgets
}
