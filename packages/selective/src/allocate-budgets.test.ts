/** The greedy search for budgets, on losses whose best budgets are known. */
import { ConfigError } from '@lethe/core'
import { describe, expect, test } from 'vitest'
import { allocateBudgets, type BudgetOptions } from './allocate-budgets'

/** A loss that falls with every slot, the less the more there are: with such losses greedy cuts are the best. */
const lossOf =
  (...weights: number[]) =>
  async (budgets: readonly number[]) =>
    budgets.reduce((loss, budget, layer) => loss + weights[layer]! / budget, 1)

/** Every choice of budgets in whole cuts. */
function* everyChoice(layers: number, full: number, step: number): Generator<number[]> {
  if (layers === 0) yield []
  else
    for (let budget = full; budget >= 1; budget -= step)
      for (const rest of everyChoice(layers - 1, full, step)) yield [budget, ...rest]
}
const totalOf = (budgets: readonly number[]) => budgets.reduce((total, budget) => total + budget, 0)

describe('the best budgets, against all there are', () => {
  test.each([
    [[1, 8, 3], 12, 2, 18],
    [[5, 1, 1], 10, 3, 14],
    [[2, 7], 16, 4, 12],
  ])('of at most so many slots: weights %j', async (weights, full, step, total) => {
    const evaluate = lossOf(...weights)
    const { budgets, loss } = await allocateBudgets({
      ...{ layers: weights.length, full, step, evaluate, target: { total } },
    })
    // The last cut may go below the target: what is compared are choices of the same size.
    let best = Number.POSITIVE_INFINITY
    for (const choice of everyChoice(weights.length, full, step))
      if (totalOf(choice) === totalOf(budgets)) best = Math.min(best, await evaluate(choice))
    expect(totalOf(budgets)).toBeLessThanOrEqual(total)
    expect(totalOf(budgets) + step).toBeGreaterThan(total)
    expect(loss).toBeCloseTo(best, 12)
    expect(loss).toBe(await evaluate(budgets))
  })

  test('of at most so much loss', async () => {
    const evaluate = lossOf(1, 8, 3)
    const { budgets, loss } = await allocateBudgets({
      ...{ layers: 3, full: 12, step: 1, evaluate, target: { loss: 3 } },
    })
    expect(loss).toBeLessThanOrEqual(3)
    for (const layer of [0, 1, 2])
      expect(
        await evaluate(budgets.map((budget, index) => budget - Number(index === layer))),
      ).toBeGreaterThan(3)
  })
})

test('the path has every cut in order, and ends with the result', async () => {
  const asked: string[] = []
  const evaluate = async (budgets: readonly number[]) => {
    asked.push(budgets.join())
    return lossOf(1, 4)(budgets)
  }
  const { budgets, loss, path } = await allocateBudgets({
    ...{ layers: 2, full: 4, step: 1, evaluate, target: { total: 5 } },
  })
  expect(path).toEqual([
    { layer: 0, budgets: [3, 4], loss: 1 + 1 / 3 + 1 },
    { layer: 0, budgets: [2, 4], loss: 1 + 1 / 2 + 1 },
    { layer: 1, budgets: [2, 3], loss: 1 + 1 / 2 + 4 / 3 },
  ])
  expect({ budgets, loss }).toEqual({ budgets: [2, 3], loss: 1 + 1 / 2 + 4 / 3 })
  expect(asked).toEqual(['4,4', '3,4', '4,3', '2,4', '3,3', '1,4', '2,3'])
})

test('of equal cuts the first layer is cut', async () => {
  const { path } = await allocateBudgets({
    ...{ layers: 3, full: 3, step: 1, evaluate: async () => 2, target: { total: 6 } },
  })
  expect(path.map(({ layer }) => layer)).toEqual([0, 0, 1])
})

test('the loss stops it before the total', async () => {
  const { budgets } = await allocateBudgets({
    ...{ layers: 2, full: 4, step: 1, evaluate: lossOf(1, 1), target: { total: 2, loss: 1.75 } },
  })
  expect(budgets).toEqual([3, 3])
})

describe('what cannot be done is refused', () => {
  const evaluate = lossOf(1, 1)
  const given: BudgetOptions = { layers: 2, full: 8, step: 3, evaluate, target: { total: 8 } }
  test.each<[string, Partial<Record<keyof BudgetOptions, unknown>>, RegExp]>([
    ['layers', { layers: 0 }, /layers must be a whole number from 1 up, not 0/],
    ['full', { full: 2.5 }, /full must be a whole number from 1 up, not 2.5/],
    ['step', { step: -1 }, /step must be a whole number from 1 up, not -1/],
    ['no target', { target: {} }, /target needs total \(slots\) or loss \(nats\)/],
    [
      'a loss that is none',
      { target: { loss: Number.NaN } },
      /target.loss must be a number of nats, not NaN/,
    ],
    ['too few slots', { target: { total: 3 } }, /target.total must be 4 slots or more, not 3: 2 layers of 8/],
    [
      'a total that is none',
      { target: { total: Number.NaN } },
      /target.total must be 4 slots or more, not NaN/,
    ],
    [
      'too little loss',
      { target: { loss: 1.2 } },
      /the loss is 1.25 with full budgets already, above .* 1.2/,
    ],
    [
      'an evaluation without a number',
      { evaluate: async () => Number.NaN },
      /evaluate must return a loss .* NaN/,
    ],
  ])('%s', async (_, wrong, message) => {
    const attempt = () => allocateBudgets({ ...given, ...wrong } as BudgetOptions)
    await expect(attempt()).rejects.toThrow(message)
    await expect(attempt()).rejects.toThrow(ConfigError)
  })

  test('but the least there is can be had', async () => {
    const { budgets } = await allocateBudgets({ ...given, target: { total: 4 } })
    expect(budgets).toEqual([2, 2])
  })
})
