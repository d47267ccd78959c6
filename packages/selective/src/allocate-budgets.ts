/** Which layer needs how many slots: budgets per layer, found greedily on validation data. */
import { ConfigError } from '@lethe/core'

export interface BudgetOptions {
  readonly layers: number
  /** Slots of every layer to begin with. */
  readonly full: number
  /** Slots by which one layer is cut at a time. */
  readonly step: number
  /** Validation loss in nats with these budgets, one per layer. Called one at a time. */
  evaluate(budgets: readonly number[]): Promise<number>
  /** Where to stop: at most `total` slots over all layers, or before the loss exceeds `loss` nats; one is needed. */
  readonly target: { readonly total?: number; readonly loss?: number }
}

/** One cut: the layer, and what came of it. */
export interface BudgetChoice {
  readonly layer: number
  readonly budgets: readonly number[]
  readonly loss: number
}

export interface BudgetAllocation {
  /** One per layer, as `selective({ budget })` takes them. */
  readonly budgets: readonly number[]
  /** Validation loss in nats with them. */
  readonly loss: number
  /** The cuts that led there, in order. */
  readonly path: readonly BudgetChoice[]
}

/**
 * Starts with `full` slots in every layer and again and again cuts the layer whose cut hurts least (the first of equal
 * ones), until the target is reached (as Leviathan et al. 2025, arXiv 2410.02703, choose theirs). Needs up to `layers`
 * evaluations for each cut.
 * @throws ConfigError when a number is out of range or the target cannot be reached
 */
export async function allocateBudgets(options: BudgetOptions): Promise<BudgetAllocation> {
  checkOptions(options)
  const { layers, full, step, target } = options
  const { total = Number.NEGATIVE_INFINITY, loss: most = Number.POSITIVE_INFINITY } = target
  const evaluate = async (budgets: readonly number[]) => {
    const loss = await options.evaluate(budgets)
    if (!Number.isFinite(loss))
      throw new ConfigError(`evaluate must return a loss in nats, not ${loss} (budgets ${budgets})`, {
        loss,
        budgets,
      })
    return loss
  }

  let budgets: readonly number[] = new Array<number>(layers).fill(full)
  let loss = await evaluate(budgets)
  if (loss > most)
    throw new ConfigError(`the loss is ${loss} with full budgets already, above the target of ${most}`, {
      loss,
      target,
    })
  const path: BudgetChoice[] = []
  while (sumOf(budgets) > total) {
    let best: BudgetChoice | undefined
    for (let layer = 0; layer < layers; layer++) {
      if (budgets[layer]! <= step) continue
      const cut = budgets.map((slots, index) => (index === layer ? slots - step : slots))
      const after = await evaluate(cut)
      if (after <= most && (!best || after < best.loss)) best = { layer, budgets: cut, loss: after }
    }
    if (!best) break
    path.push(best)
    budgets = best.budgets
    loss = best.loss
  }
  return { budgets, loss, path }
}

const sumOf = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0)

function checkOptions({ layers, full, step, target }: BudgetOptions): void {
  for (const [field, value] of Object.entries({ layers, full, step }))
    if (!Number.isInteger(value) || value < 1)
      throw new ConfigError(`${field} must be a whole number from 1 up, not ${value}`, { [field]: value })
  const { total, loss } = target
  if (total === undefined && loss === undefined)
    throw new ConfigError('target needs total (slots) or loss (nats): else there is nowhere to stop', {
      target,
    })
  if (loss !== undefined && Number.isNaN(loss))
    throw new ConfigError('target.loss must be a number of nats, not NaN', { loss })
  // The least that whole steps lead to.
  const least = layers * (full - Math.floor((full - 1) / step) * step)
  if (total !== undefined && !(total >= least))
    throw new ConfigError(
      `target.total must be ${least} slots or more, not ${total}: ${layers} layers of ${full} slots, cut by ${step}, keep that many`,
      { total, least },
    )
}
