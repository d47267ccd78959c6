/** What the experiments on text (tools/experiments) say about their results: on results made by hand. */
import { describe, expect, test } from 'vitest'
import { planRuns, sizes, wavesOf } from '../tools/experiments/plan.mjs'
import { commonStep, interpolated, memoryOf, reportOf } from '../tools/experiments/report.mjs'
import { countWords, tokenKinds } from '../tools/experiments/words.mjs'

describe('kinds of words', () => {
  const text = 'He met Mr. Darcy at the ball.\nThe zephyr!'
  const counts = countWords(`${'the '.repeat(1000)}${'ball at met he '.repeat(30)}`, text)
  const kinds = tokenKinds([...text], counts)
  const of = (word: string) => kinds[text.indexOf(word)]

  test('counts words in the training text, whatever their case', () => {
    expect(counts).toMatchObject({ the: 1000, ball: 30, darcy: 0, zephyr: 0 })
  })

  test('names are capitals within a sentence, which a title does not end', () => {
    expect(of('Darcy')).toEqual({ place: 'letter', word: { kind: 'name', letter: 0 } })
    expect(of('arcy')).toEqual({ place: 'letter', word: { kind: 'name', letter: 1 } })
    expect(of('The')).toMatchObject({ word: { kind: 'frequent' } })
    expect(of('He')).toMatchObject({ word: { kind: 'other' } })
    expect(of('zephyr')).toMatchObject({ word: { kind: 'rare' } })
  })

  test('what follows a word belongs to it', () => {
    expect(of(' at the')).toEqual({ place: 'space', word: { kind: 'name', letter: 'after' } })
    expect(of('.\nThe')).toEqual({ place: 'punctuation', word: { kind: 'other', letter: 'after' } })
    expect(of('\n')).toEqual({ place: 'line end' })
  })
})

describe('the plan', () => {
  test('every run once, one seed of the memory experiment beside the other', () => {
    const runs = planRuns({ size: sizes.full, seeds: [0, 1] })
    expect(new Set(runs.map(({ name }) => name)).size).toBe(runs.length)
    const methods = (seed: number) =>
      runs
        .filter((run) => run.experiment === 'memory' && run.seed === seed)
        .map(({ options: { seed: _, ...options } }) => options)
    expect(methods(1)).toEqual(methods(0))
    expect(methods(0)).not.toHaveLength(0)
  })

  test('waves hold every run in order, none more than there are jobs', () => {
    const runs = Array.from({ length: 27 }, (_, index) => ({ name: `${index}` }))
    for (const jobs of [1, 5, 12, 14, 27, 100]) {
      const waves = wavesOf(runs, jobs)
      expect(waves.flat()).toEqual(runs)
      expect(Math.max(...waves.map(({ length }) => length))).toBeLessThanOrEqual(jobs)
    }
  })
})

describe('figures', () => {
  test('memory that a layer needs', () => {
    const life = { kind: 'life', ramp: 32, life: [10.9, 20.2], gone: [] }
    const spans = { kind: 'spans', ramp: 32, spans: [[10], [100]] }
    expect(memoryOf({ layers: [life] }, { span: 1024 })).toEqual({ needed: 46, attended: 46 })
    expect(memoryOf({ layers: [spans, spans] }, { span: 120 })).toEqual({
      needed: 120,
      attended: (42 + 120) / 2,
    })
    expect(memoryOf({ layers: [{ kind: 'window', span: 8 }] }, { span: 8 })).toBeUndefined()
  })

  test('interpolates over log slots, and not beyond them', () => {
    const points = [
      [128, 2.0],
      [32, 3.0],
    ]
    expect(interpolated(points, 64)).toBeCloseTo(2.5, 12)
    expect(interpolated(points, 32)).toBe(3)
    expect(interpolated(points, 128)).toBe(2)
    expect(interpolated(points, 31)).toBeUndefined()
    expect(interpolated(points, 129)).toBeUndefined()
  })

  test('compares at the last step that all have, failures left out', () => {
    const run = (steps: number[], failed?: string) => ({
      evaluations: steps.map((step) => ({ step })),
      failed,
    })
    expect(commonStep([run([300, 600, 900]), run([300, 600])])).toBe(600)
    expect(commonStep([run([300, 600]), run([300], 'lost')])).toBe(600)
    expect(commonStep([run([300]), run([])])).toBeUndefined()
  })
})

test('a report of what is there', () => {
  const runs = planRuns({ size: sizes.full, seeds: [0] })
  const evaluated = (run: string, step: number, bitsPerByte: number, slots: number) => ({
    ...{ run, type: 'eval', step, bitsPerByte, slots },
  })
  const names = ['fixed-span-64-seed0', 'fixed-span-128-seed0', 'expire-span-64-seed0']
  const plan = {
    ...{ date: 'a day', backend: 'cpu', node: 'v0', cores: 1, minutes: 1, jobs: 1, size: sizes.full },
    ...{ text: { bytes: 10 }, words: { a: 5000 } },
    runs: runs.filter(({ name, experiment }) => names.includes(name) || experiment === 'pruning'),
  }
  const life = { kind: 'life', ramp: 33, life: [64, 64, 64], gone: [] }
  const pruned = (run: string, kind: string, slots: number, bitsPerByte: number) => ({
    ...{ run, type: 'prune', kind, bitsPerByte, block: 16, bytes: 100 },
    ...(kind === 'whole' ? { span: slots } : { budget: slots }),
  })
  const events = [
    ...[evaluated(names[0]!, 300, 2.4, 64), evaluated(names[1]!, 300, 2.2, 128)],
    ...[evaluated(names[2]!, 300, 2.1, 128), evaluated(names[2]!, 600, 1.9, 128)],
    pruned('plain-512-seed0', 'whole', 512, 2.0),
    ...[512, 64, 32, 16].map((slots, index) =>
      pruned('selective-512-seed0', index === 0 ? 'whole' : 'uniform', slots, 1.97 + 0.015 * index),
    ),
  ]
  const traces = [
    {
      run: names[2],
      step: 300,
      trace: { texts: ['a', ' ', 'b'], layers: [{ ...life, life: [96, 32, 64] }] },
    },
  ]
  const { results, summary } = reportOf({ plan, events, traces })
  const expire = results.memory!.points.find(({ method }: { method: string }) => method === 'expire-span')!
  expect(results.memory!.step).toBe(300)
  expect(expire.slots).toBe(96)
  // Halfway between 64 and 128, by the logarithm 0.585 of it.
  expect(expire.againstFixed).toBeCloseTo(2.1 - (2.4 - 0.2 * Math.log2(1.5)), 12)
  const { curves } = results.pruning!
  expect(curves.map(({ method }: { method: string }) => method)).toEqual(['fixed-span', 'selective'])
  const voted = curves[1]
  expect(voted!.least.slots).toBe(32)
  expect(voted!.factor).toBe((512 + 16) / (32 + 16))
  const [{ rows }] = results.patterns.lives as [{ rows: { kind: string; layers: number[] }[] }]
  expect(rows.find(({ kind }) => kind === 'letters of a frequent word')!.layers).toEqual([96])
  expect(rows.find(({ kind }) => kind === 'letters of a rare word')!.layers).toEqual([64])
  expect(summary).toContain('| expire-span | 0 | 64 | 1e-5 | 96.0 |')
})
