/** The search for the smallest budget, on methods whose answer is known. */
import { describe, expect, test } from 'vitest'
import type { Figures } from './figures'
import { type PlannedRun, planRuns } from './plan'
import { type EqualQualities, equalQuality, memorySaved, nameOf, type RunResult, rowsOf } from './results'
import { inOrder, nextBudget, nextRuns } from './search'

test('halves the ratio between too little and enough, down to neighbours', () => {
  const tries = (needed: number, most: number) => {
    const tried = new Map([[most, most >= needed]])
    for (let next = nextBudget(tried); next !== undefined; next = nextBudget(tried)) {
      expect(tried.has(next)).toBe(false)
      tried.set(next, next >= needed)
    }
    return [...tried.keys()]
  }
  expect(tries(5, 64)).toEqual([64, 6, 2, 3, 4, 5])
  expect(tries(1, 2)).toEqual([2, 1])
  expect(tries(65, 64)).toEqual([64])
  for (let needed = 1; needed <= 300; needed++) {
    const found = Math.min(...tries(needed, 300).filter((budget) => budget >= needed))
    expect(found).toBeLessThanOrEqual(Math.max(needed, Math.floor(1.25 * (needed - 1))))
  }
  expect(tries(100, 4096).length).toBeLessThan(9)
})

describe('a comparison', () => {
  /** Slots without which a model is worse, by name; of a model pruned to fewer, another number. */
  const needed: Readonly<Record<string, number>> = { 'fixed-span': 64, selective: 9, compressive: 100 }
  const measured = ({ method, budget, trainedBudget, seed, id }: PlannedRun): RunResult => {
    const enough = budget >= (trainedBudget === undefined ? needed[method]! : 20)
    const slots = method === 'selective' ? budget / 2 : budget
    return {
      ...{ id, method, budget, seed, training: [], validation: [] },
      ...(trainedBudget !== undefined && { trainedBudget }),
      figures: {
        bitsPerByte: 2 + seed / 100 + (enough ? 0.04 : 0.3),
        ...{ slots, memoryBytes: 10 * budget, perplexity: 4, peakTensorBytes: 1 },
        ...{ trainingMsPerBlock: 1, trainingTokensPerSecond: 1, layers: [{ attended: [slots] }] },
      } as unknown as Figures,
    }
  }

  test('finds the smallest budget of each method, trained and pruned, for all seeds together', () => {
    const methods = ['fixed-span', 'selective', 'compressive']
    let plan = planRuns({ methods, budgets: [64], seeds: [0, 1], 'equal-quality': 0.05 })
    const rows = () => rowsOf(plan.map(measured))
    for (let next = plan; next.length > 0; plan = [...plan, ...next]) next = nextRuns(plan, rows(), 0.05)
    expect(new Set(plan.map(({ id }) => id)).size).toBe(plan.length)
    const order = inOrder(plan).filter(({ seed }) => seed === 0)
    expect([...new Set(order.map(nameOf))]).toEqual([
      'fixed-span',
      'selective',
      'selective, pruned',
      'compressive',
    ])
    // By hand: the roots of 0.5 x 64, then of 6 x 64, 20 x 64, 36 x 64, 48 x 64; of 6 x 20, 6 x 11, 8 x 11.
    const tried = (name: string) => order.filter((run) => nameOf(run) === name).map(({ budget }) => budget)
    expect(tried('fixed-span')).toEqual([64, 55, 48, 36, 20, 6])
    expect(tried('selective')).toEqual([64, 20, 11, 9, 8, 6])
    expect(tried('compressive')).toEqual([64])
    const [{ reference, methods: found }] = equalQuality(rows(), 0.05) as [EqualQualities]
    expect([reference.method, reference.budget, reference.seeds]).toEqual(['fixed-span', 64, 2])
    expect(found.map(({ method, row }) => [method, row?.budget, row?.trainedBudget])).toEqual([
      ['fixed-span', 64, undefined],
      ['selective', 9, undefined],
      ['compressive', undefined, undefined],
      ['selective, pruned', 20, 64],
    ])
    expect(memorySaved(found[1]!)).toBe('budget 9: 4.5 slots (14.2 times fewer), 90 B (7.1 times fewer)')
    // Each run reads as far back as before, and pruning trains nothing.
    const others = plan.filter(({ method, budget }) => method === 'selective' && budget < 64)
    expect(new Set(others.map(({ settings }) => settings.span))).toEqual(new Set([256]))
    for (const { budget, trainedBudget, model, settings, seed } of others) {
      expect(settings.budget).toBe(trainedBudget ?? budget)
      expect(model).toBe(trainedBudget === undefined ? undefined : `selective-64-seed${seed}`)
    }
  })
})
