/** The arithmetic of a comparison, beside numbers worked out by hand. */
import { describe, expect, test } from 'vitest'
import type { Figures } from './figures'
import {
  doubts,
  type EqualQualities,
  equalQuality,
  paretoFront,
  type RunResult,
  rowsOf,
  spreadOf,
  tableOf,
} from './results'

const run = (
  method: string,
  budget: number,
  seed: number,
  bitsPerByte: number,
  slots = budget,
): RunResult => ({
  id: `${method}-${budget}-seed${seed}`,
  method,
  budget,
  seed,
  training: [],
  validation: [],
  figures: {
    bitsPerByte,
    slots,
    perplexity: 2 ** bitsPerByte,
    memoryBytes: 4 * slots,
    peakTensorBytes: 1e6,
    trainingMsPerBlock: 10,
    trainingTokensPerSecond: 100,
    layers: [{ slots, bytes: 0, attended: [slots, slots / 2], flopsPerStep: 1 }],
  } as unknown as Figures,
})
const failed: RunResult = {
  id: 'compressive-8-seed0',
  method: 'compressive',
  budget: 8,
  seed: 0,
  error: 'no space left',
  training: [],
  validation: [],
}

test('worlds are compared by the episodes solved, more is better, and tables have a column for what some rows have', () => {
  const agent = (budget: number, solved: number, meanReturn: number): RunResult => {
    const { figures, ...rest } = run('fixed-span', budget, 0, 0)
    const { bitsPerByte: _, perplexity: __, ...costs } = figures!
    const scores = { solved, chance: 0.5, oracle: 1, meanReturn }
    return { ...rest, task: 'portal', figures: { ...costs, ...scores } as unknown as Figures }
  }
  const rows = rowsOf([agent(64, 0.75, 1.25), agent(16, 0.74, 1), agent(4, 0.5, 0.5)])
  expect(rows[1]).toMatchObject({ solved: { mean: 0.74 }, meanReturn: { mean: 1 }, chance: 0.5, oracle: 1 })
  const [{ methods }] = equalQuality(rows, 0.02) as [EqualQualities]
  expect(methods.map(({ row, saved }) => [row?.budget, saved?.slots])).toEqual([[16, 4]])
  const [head, first] = tableOf(rows)
  expect(head).toMatch(/budget +mean slots +solved +chance +oracle +mean return +memory/)
  expect(first).toMatch(/^portal +fixed-span +64 +64\.0 +75\.0 % +50\.0 % +100\.0 % +1\.250 /)
  const text = tableOf(rowsOf([run('fixed-span', 8, 0, 2)]))[0]
  expect(text).toMatch(/mean slots +attended +bits\/byte +memory/)
})

test('the Pareto front has the rows that none with as little memory beats, whichever way quality is counted', () => {
  const rows = rowsOf([
    run('fixed-span', 8, 0, 3),
    run('fixed-span', 32, 0, 2.5),
    run('selective', 16, 0, 3.1),
    run('selective', 32, 0, 2, 20),
    run('expire-span', 8, 0, 2.9),
    run('expire-span', 64, 0, 1.9),
    failed,
  ])
  const front = paretoFront(rows, ({ slots }) => slots.mean)
  expect(front.map(({ method, budget }) => [method, budget])).toEqual([
    ['expire-span', 8],
    ['selective', 32],
    ['expire-span', 64],
  ])
  const answers = ([8, 16, 32] as const).map((budget, index) => {
    const { figures, ...rest } = run('fixed-span', budget, 0, 0)
    return { ...rest, figures: { ...figures!, accuracy: [0.5, 0.4, 0.9][index]! } as Figures }
  })
  const best = paretoFront(rowsOf(answers), ({ memoryBytes }) => memoryBytes.mean)
  expect(best.map(({ budget }) => budget)).toEqual([8, 32])
})

test('the deviation is that of a sample, and there is none of one value', () => {
  expect(spreadOf([1, 2, 3, 4])).toEqual({ mean: 2.5, deviation: Math.sqrt(5 / 3) })
  expect(spreadOf([7])).toEqual({ mean: 7, deviation: undefined })
})

describe('rows', () => {
  const rows = rowsOf([
    run('fixed-span', 8, 0, 2),
    run('fixed-span', 8, 1, 4),
    run('selective', 8, 0, 3),
    failed,
  ])

  test('gather the seeds of a method and budget', () => {
    expect(rows.map(({ method, seeds }) => [method, seeds])).toEqual([
      ['fixed-span', 2],
      ['selective', 1],
      ['compressive', 0],
    ])
    expect(rows[0]!.bitsPerByte).toEqual({ mean: 3, deviation: Math.SQRT2 })
    expect(rows[1]!.attended!.mean).toBe(6)
  })

  test('a run that failed is named in the table, the others have their numbers', () => {
    const lines = tableOf(rows)
    expect(lines[1]).toContain('3.0000 ± 1.4142')
    expect(lines[3]).toMatch(/^compressive +8 +failed: no space left$/)
  })
})

describe('equal quality', () => {
  const rows = rowsOf([
    run('fixed-span', 16, 0, 2.0),
    run('fixed-span', 8, 0, 2.2),
    run('selective', 8, 0, 2.01, 8),
    run('selective', 4, 0, 2.02, 4),
    run('selective', 2, 0, 2.5, 2),
    run('compressive', 8, 0, 2.3),
    failed,
  ])

  test('is the fewest slots within the bound of the largest fixed span', () => {
    const [{ reference, methods }] = equalQuality(rows, 0.05) as [EqualQualities]
    expect([reference.method, reference.budget]).toEqual(['fixed-span', 16])
    const found = Object.fromEntries(
      methods.map(({ method, row, saved }) => [method, [row?.budget, saved?.slots]]),
    )
    expect(found).toEqual({ 'fixed-span': [16, 1], selective: [4, 4], compressive: [undefined, undefined] })
  })

  test('is in doubt where a shorter span is better than the full one by more than what counts', () => {
    const [sure] = equalQuality(rows, 0.05) as [EqualQualities]
    expect([sure.better, doubts(sure)]).toEqual([undefined, []])
    const more = rowsOf([
      run('fixed-span', 16, 0, 2.0),
      run('fixed-span', 8, 0, 1.9),
      run('fixed-span', 4, 0, 1.7),
    ])
    const [within] = equalQuality(more, 0.35) as [EqualQualities]
    expect(within.better).toBe(undefined)
    const [beyond] = equalQuality(more, 0.2) as [EqualQualities]
    expect(doubts(beyond)).toEqual([
      expect.stringMatching(/^fixed-span 4 \(1\.7000\) is better than fixed-span 16 \(2\.0000\).*--steps/),
    ])
  })

  test('is in doubt where seeds leave more open than what counts', () => {
    const seeds = rowsOf([
      run('fixed-span', 16, 0, 2.0),
      run('fixed-span', 16, 1, 2.06),
      run('selective', 8, 0, 1.99),
      run('selective', 8, 1, 2.07),
      run('expire-span', 8, 0, 2.03),
      run('expire-span', 8, 1, 2.031),
    ])
    const [unsure] = equalQuality(seeds, 0.02) as [EqualQualities]
    // Standard errors of the means: 0.03 and 0.04.
    expect(unsure.unsure!.error).toBeCloseTo(0.05, 12)
    expect(doubts(unsure)).toEqual([
      expect.stringMatching(
        /^the difference of selective 8 \(2\.0300\) and fixed-span 16 .* 0\.0500 .*--seeds$/,
      ),
    ])
    expect(doubts(equalQuality(seeds, 0.06)[0]!)).toEqual([])
  })

  test('has no answer without a fixed span', () => {
    expect(
      equalQuality(
        rows.filter(({ method }) => method !== 'fixed-span'),
        1,
      ),
    ).toEqual([])
  })
})
