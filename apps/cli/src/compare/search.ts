/**
 * `lethe compare --equal-quality`: for each method, the smallest budget whose model is as good as the full one, the fixed
 * span with the largest budget. A budget that was trained, and a smaller one, are one model each; a method whose budget
 * is no part of its weights is also pruned: its model of the largest budget is measured with smaller ones.
 */
import { methods } from '../methods'
import { atBudget, type PlannedRun, pruned } from './plan'
import { byTask, lost, nameOf, type Row, referenceOf } from './results'

/** Budgets nearer to each other than this factor are not told apart. */
const resolution = 1.25

/**
 * The next budget to try: halfway, by their ratio, between the smallest that is good enough and the largest below it
 * that is not. Undefined where these are neighbours, or none is good enough.
 * @param tried budget → whether it is good enough
 */
export function nextBudget(tried: ReadonlyMap<number, boolean>): number | undefined {
  const enough = [...tried.keys()].filter((budget) => tried.get(budget))
  if (enough.length === 0) return undefined
  const most = Math.min(...enough)
  // Half a slot is certainly too little.
  const least = Math.max(0.5, ...[...tried.keys()].filter((budget) => budget < most))
  if (most - least <= 1 || most <= resolution * least) return undefined
  return Math.min(most - 1, Math.max(Math.floor(least) + 1, Math.round(Math.sqrt(least * most))))
}

/** By task and method, pruned models after trained ones, from the largest budget down: as a reader looks for them. */
export function inOrder(plan: readonly PlannedRun[]): PlannedRun[] {
  const groups = new Map<string, PlannedRun[]>()
  for (const run of plan) {
    const key = `${run.task ?? ''} ${nameOf(run)}`
    groups.set(key, [...(groups.get(key) ?? []), run])
  }
  const places = [...new Set(plan.map(({ task, method }) => `${task ?? ''} ${method}`))]
  const place = ([first]: readonly PlannedRun[]) => places.indexOf(`${first!.task ?? ''} ${first!.method}`)
  return [...groups.values()]
    .sort((a, b) => place(a) - place(b))
    .flatMap((runs) => runs.sort((a, b) => b.budget - a.budget))
}

/**
 * The runs that the search has to make next; none when it is over. A method one of whose budgets failed altogether is
 * left alone.
 * @param plan the runs made so far
 * @param rows what they came to
 * @param within how much worse is still as good
 */
export function nextRuns(plan: readonly PlannedRun[], rows: readonly Row[], within: number): PlannedRun[] {
  return byTask(rows).flatMap(([task, own]) => {
    const reference = referenceOf(own)
    if (!reference) return []
    const next = (all: readonly Row[]) =>
      all.some(({ seeds }) => seeds === 0)
        ? undefined
        : nextBudget(new Map(all.map((row) => [row.budget, lost(row, reference) <= within])))
    return [...new Set(own.map(({ method }) => method))].flatMap((method) => {
      const ofMethod = own.filter((row) => row.method === method)
      const trained = ofMethod.filter(({ trainedBudget }) => trainedBudget === undefined)
      const most = Math.max(...trained.map(({ budget }) => budget))
      const models = plan.filter(
        (run) =>
          run.task === task &&
          run.method === method &&
          run.budget === most &&
          run.trainedBudget === undefined,
      )
      const toTrain = next(trained)
      const toPrune = methods[method]!.options.includes('budget')
        ? next(ofMethod.filter(({ budget, trainedBudget }) => budget === most || trainedBudget !== undefined))
        : undefined
      return [
        ...(toTrain === undefined ? [] : models.map((run) => atBudget(run, toTrain))),
        ...(toPrune === undefined ? [] : models.map((run) => pruned(run, toPrune))),
      ]
    })
  })
}
