/** Which runs a comparison consists of. */
import { LetheError } from '@lethe/core'
import { foreignOptions, refuseForeign, taskOf } from '../data'
import { UsageError } from '../errors'
import { methodOptionNames, methods } from '../methods'
import type { Given } from '../options'
import { type Settings, settingsOf } from '../settings'

/** One model to train: a method with a budget and a seed. */
export interface PlannedRun {
  /** The name of its folder. */
  readonly id: string
  readonly method: string
  /** Slots per layer that the method may hold. */
  readonly budget: number
  readonly seed: number
  /** What it learns, where that is no text. */
  readonly task?: string
  /** Why it cannot be made. */
  readonly error?: string
  /** It is the model of this budget, measured with a smaller one. */
  readonly trainedBudget?: number
  /** The folder's name where it is another run's: that of the model. */
  readonly model?: string
  readonly settings: Settings
}

/** Sizes at which two cores compare five methods in minutes. */
export const compareDefaults: Partial<Settings> = {
  layers: 2,
  width: 128,
  heads: 4,
  'feed-forward': 256,
  steps: 300,
  batch: 8,
  block: 64,
  'learning-rate': 2e-3,
  warmup: 50,
  schedule: 'cosine',
  'eval-every': 100,
  'checkpoint-every': 100,
}

const defaultBudgets: readonly number[] = [64]
const defaultSeeds: readonly number[] = [0]

/**
 * Every method with every budget and seed, on the text or on every task. A task that cannot be made costs its
 * own runs alone. `--span` is how far back those methods may reach whose slots are no window (expire-span, selective):
 * four times the largest budget unless given.
 * @throws UsageError where options do not fit the methods, or no task can be made
 */
export function planRuns(given: Given): PlannedRun[] {
  const { methods: names = Object.keys(methods), budgets = defaultBudgets, seeds = defaultSeeds } = given
  const reach = given.span ?? 4 * Math.max(...budgets)
  const taken = methodOptionNames.filter((name) => given[name] !== undefined)
  const stray = taken.find((name) => !names.some((method) => methods[method]!.options.includes(name)))
  if (stray) throw new UsageError(`--${stray} is an option of none of ${names.join(', ')}: leave it out`)
  if (given['equal-quality'] !== undefined) {
    if (given.within !== undefined)
      throw new UsageError('--equal-quality says what counts as equal: leave out --within')
    if (!names.includes('fixed-span'))
      throw new UsageError(
        '--equal-quality looks for the quality of the fixed span: add fixed-span to --methods',
      )
  }
  if (Math.max(...budgets) > reach)
    throw new UsageError(
      `--span ${reach} is less than the budget ${Math.max(...budgets)}: a method cannot hold more slots than it may look back`,
    )
  return dataOf(given).flatMap(({ data, task, error }) =>
    [...new Set(names)].flatMap((method) =>
      [...new Set(budgets)].flatMap((budget) =>
        [...new Set(seeds)].map((seed): PlannedRun => {
          const own = methods[method]!.options
          const others = methodOptionNames.filter((name) => !own.includes(name))
          const shared = Object.fromEntries(
            Object.entries({ ...given, ...data }).filter(
              ([name]) => !(others as readonly string[]).includes(name),
            ),
          ) as Given
          const settings = settingsOf(
            { ...shared, ...(methods[method]!.withBudget(budget, reach) as Given), method, seed },
            compareDefaults,
          )
          return {
            id: idOf({ task, method, budget, seed }),
            ...{ method, budget, seed, settings },
            ...(task !== undefined && { task }),
            ...(error !== undefined && { error }),
          }
        }),
      ),
    ),
  )
}

const idOf = ({
  task,
  method,
  budget,
  seed,
}: { task?: string | undefined } & Omit<PlannedRun, 'id' | 'task' | 'settings'>) =>
  `${task === undefined ? '' : `${task}-`}${method}-${budget}-seed${seed}`

/** The same run with another budget. */
export function atBudget(run: PlannedRun, budget: number): PlannedRun {
  const settings = { ...run.settings, ...methods[run.method]!.withBudget(budget, run.settings.span) }
  return { ...run, budget, id: idOf({ ...run, budget }), settings }
}

/** The model of a run, measured with a smaller budget. */
export const pruned = (run: PlannedRun, budget: number): PlannedRun => ({
  ...run,
  ...{ budget, trainedBudget: run.budget, model: run.id, id: `${run.id}-pruned-${budget}` },
})

/** What the runs learn from: the text, or each task with its options. */
function dataOf(given: Given): { data: Given; task?: string; error?: string }[] {
  const { task: names, 'task-options': options, ...rest } = given
  if (!names) {
    taskOf(given)
    return [{ data: {} }]
  }
  const stray = names.length > 1 && Object.keys(options ?? {}).find((name) => !names.includes(name))
  if (stray)
    throw new UsageError(
      `--task-options of several tasks go by their names (${names.join(', ')}), such as {"${names[0]}":{…}}, not by "${stray}"`,
    )
  // An option that only some of the tasks take is theirs alone.
  const foreign = names.map(foreignOptions)
  const useless = foreign[0]!.find(
    (option) => given[option] !== undefined && foreign.every((each) => each.includes(option)),
  )
  if (useless) refuseForeign(useless)
  const errors: LetheError[] = []
  const each = names.map((task) => {
    const own = names.length > 1 ? (options?.[task] as Given['task-options']) : options
    const data: Given = { task: [task], ...(own && { 'task-options': own }) }
    const others = foreignOptions(task) as readonly string[]
    const taken = Object.fromEntries(Object.entries(rest).filter(([name]) => !others.includes(name)))
    try {
      taskOf({ ...taken, ...data })
      return { data, task }
    } catch (error) {
      if (!LetheError.isInstance(error)) throw error
      errors.push(error)
      return { data, task, error: error.message }
    }
  })
  if (errors.length === names.length) throw errors[0]
  return each
}
