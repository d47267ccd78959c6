/** What every sequence task promises: answers that follow from what was read, its chance level, streams that go on. */
import { ConfigError } from '@lethe/core'
import { describe, expect, test } from 'vitest'
import { createTask, type SequenceTask, type TaskStep, type TaskStream, TaskStreams, tasks } from './index'

const settings: [string, object][] = [
  ['copy', {}],
  ['copy', { length: 300, alphabet: 2 }],
  ['copy', { length: [2, 5], delay: [0, 9] }],
  ['collision', {}],
  ['collision', { grid: 4, colours: 2, easyQuestions: 0, recolour: 0.5 }],
  ['instruction', {}],
  ['instruction', { distraction: 30, instructions: 4, goals: 12, tools: 12 }],
  ['instruction', { distraction: [0, 2], instructions: 6 }],
  ['assignment', {}],
  ['assignment', { variables: 1, values: 3, assignments: [1, 9] }],
  ['parity', {}],
  ['parity', { length: 3 }],
  ['parity', { running: false, length: [1, 40] }],
  ['needle', {}],
  ['needle', { haystack: [0, 3], needles: 5, keyLength: 4, depth: 0.5 }],
]

const read = (stream: TaskStream, steps: number): TaskStep[] =>
  Array.from({ length: steps }, () => stream.next())

/** Part of the answers that this guesser gets right. */
function accuracy(task: SequenceTask, steps: number, guess: (input: number) => number | undefined): number {
  const answers = read(task.stream(3), steps).filter(({ scored }) => scored)
  expect(answers.length).toBeGreaterThan(500)
  return answers.filter(({ input, target }) => target === guess(input)).length / answers.length
}

/** The answer that most often follows each input. */
function likeliest(steps: readonly TaskStep[]): Map<number, number> {
  const counts = new Map<string, number>()
  const best = new Map<number, { readonly target: number; readonly count: number }>()
  for (const { input, target, scored } of steps) {
    if (!scored) continue
    const count = (counts.get(`${input} ${target}`) ?? 0) + 1
    counts.set(`${input} ${target}`, count)
    if (count > (best.get(input)?.count ?? 0)) best.set(input, { target, count })
  }
  return new Map([...best].map(([input, { target }]) => [input, target]))
}

describe.each(settings)('%s %o', (name, options) => {
  const task = createTask(name, options)

  test('the oracle knows every answer from the inputs alone, and is asked for no other', () => {
    const oracle = task.oracle()
    const steps = read(task.stream(7, 2), 20_000)
    const said = steps.map(({ input }) => oracle.read(input))
    expect(said).toEqual(steps.map(({ target, scored }) => (scored ? target : undefined)))
  })

  test('inputs and targets are within the vocabulary, and all of it occurs as one of them', () => {
    const seen = new Set<number>()
    for (const { input, target } of read(task.stream(1), 40_000)) seen.add(input).add(target)
    expect(Math.min(...seen)).toBe(0)
    expect(Math.max(...seen)).toBe(task.vocabulary - 1)
    expect(seen.size).toBe(task.vocabulary)
  })

  test('chance is what the best answer to the input alone gets right', () => {
    // Answers of collisions hang together over long times: few of them are independent.
    const tolerance = name === 'collision' ? 0.05 : 0.02
    const best = likeliest(read(task.stream(1), 200_000))
    const found = accuracy(task, 200_000, (input) => best.get(input))
    expect(Math.abs(found - task.chance)).toBeLessThan(tolerance)
  })

  test('a stream depends on seed and row alone, and goes on from its state, which is JSON', () => {
    const whole = read(task.stream(5, 1), 700)
    expect(read(task.stream(5, 1), 700)).toEqual(whole)
    for (const [seed, row] of [
      [5, 0],
      [6, 1],
    ] as const)
      expect(read(task.stream(seed, row), 700)).not.toEqual(whole)
    for (const cut of [0, 1, 7, 8, 333]) {
      const stream = task.stream(5, 1)
      read(stream, cut)
      const state = JSON.parse(JSON.stringify(stream.state))
      expect(read(task.resume(state), 700 - cut)).toEqual(whole.slice(cut))
      expect(read(stream, 700 - cut)).toEqual(whole.slice(cut))
    }
  })

  test('options say how to make it again, and its text has a word for each token', () => {
    const { options: full } = task
    const again = createTask(name, JSON.parse(JSON.stringify(full)))
    expect(again.options).toEqual(full)
    expect(read(again.stream(2), 300)).toEqual(read(task.stream(2), 300))
    const words = Array.from({ length: task.vocabulary }, (_, token) => task.asText([token]))
    expect(new Set(words).size).toBe(task.vocabulary)
    expect(words.join()).not.toMatch(/undefined|NaN/)
  })
})

describe('single tasks', () => {
  const textOf = (task: SequenceTask, tokens: number) =>
    task.asText(read(task.stream(0), tokens).map(({ input }) => input))

  test('copy of 128k symbols: the stream holds none of them, and goes on in the middle of the copy', () => {
    const length = 2 ** 17
    const task = createTask('copy', { length, alphabet: 40 })
    const stream = task.stream(9)
    const symbols = new Uint8Array(length)
    expect(stream.next()).toMatchObject({ input: 40, scored: false })
    for (let at = 0; at < length; at++) symbols[at] = stream.next().input
    expect(JSON.stringify(stream.state).length).toBeLessThan(100)
    for (let at = 0; at < 1000; at++)
      expect(stream.next()).toMatchObject({ target: symbols[at], scored: true })
    const resumed = task.resume(stream.state)
    for (let at = 1000; at < length; at++) {
      const step = resumed.next()
      if (step.target !== symbols[at] || !step.scored) throw new Error(`wrong at ${at}`)
    }
    expect(resumed.next()).toMatchObject({ target: 40, scored: false })
  })

  test('copy after a delay: so many blanks, and as many symbols said again', () => {
    const text = textOf(createTask('copy', { length: 3, delay: 5 }), 2 * (1 + 3 + 5 + 1 + 3))
    expect(text).toMatch(/^(< (\d \d \d) (_ ){5}> \2 ?){2}$/)
  })

  test('variable assignment reads as in the paper', () => {
    expect(textOf(createTask('assignment'), 4 * 4 + 5)).toMatch(/^([XYZ]=\d;){4}[XYZ]=\?\d;$/)
  })

  test('instructions read as text', () => {
    const task = createTask('instruction', { distraction: 1 })
    const text = textOf(task, 40)
    expect(text).toMatch(/to open the (\w+) use the (\w+) \. .*now open the \1 with the \2 \./)
  })

  test('parity without running answers asks once', () => {
    const task = createTask('parity', { running: false, length: 5 })
    expect(textOf(task, 8)).toMatch(/^< [01] [01] [01] [01] [01] \? (even|odd)$/)
  })

  test('needles lie in the part of the haystack that depth names', () => {
    const task = createTask('needle', { haystack: 100, depth: 0.1 })
    const tag = task.vocabulary - 2
    const places = new Set<number>()
    const stream = task.stream(0)
    for (let episode = 0; episode < 500; episode++)
      for (const [at, { input }] of read(stream, 104).entries()) if (input === tag) places.add(at)
    expect([...places].sort((a, b) => a - b)).toEqual(Array.from({ length: 11 }, (_, place) => place))
  })
})

describe('object collision, by the rules of the authors', () => {
  const steps = 40_000
  const task = createTask('collision')
  const stream = read(task.stream(11), 8 * steps)
  const worlds = Array.from({ length: steps }, (_, step) => stream.slice(8 * step, 8 * step + 8))
  const cellOf = (world: TaskStep[], particle: number) =>
    world.slice(3 * particle, 3 * particle + 2).map((one, axis) => one.input - 16 * axis)

  test('eight tokens a step, in their ranges; the label is on the last', () => {
    expect(task.vocabulary).toBe(42)
    const ranges = [
      [0, 15],
      [16, 31],
      [32, 36],
      [0, 15],
      [16, 31],
      [32, 36],
      [36, 41],
      [36, 41],
    ]
    const ends = (pick: (step: TaskStep) => number) =>
      Array.from({ length: 8 }, (_, at) => {
        const values = worlds.map((world) => pick(world[at]!))
        return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))]
      })
    expect(ends(({ input }) => input)).toEqual(ranges)
    expect(ends(({ target }) => target)).toEqual([...new Array(7).fill([0, 0]), [0, 4]])
    expect(stream.every(({ target, scored }) => scored === target > 0)).toBe(true)
  })

  test('colours are redrawn with probability 0.05, also to the same; particles move by a step at a time', () => {
    let changed = 0
    let farthest = 0
    let squared = 0
    for (let step = 1; step < steps; step++)
      for (const particle of [0, 1]) {
        if (worlds[step]![3 * particle + 2]!.input !== worlds[step - 1]![3 * particle + 2]!.input) changed++
        const [before, after] = [worlds[step - 1]!, worlds[step]!].map((world) => cellOf(world, particle))
        const moved = after!.map((cell, axis) => cell - before![axis]!)
        farthest = Math.max(farthest, ...moved.map(Math.abs))
        squared += moved[0]! ** 2
      }
    // 0.05 times the four other colours of five.
    expect(changed / (2 * steps)).toBeCloseTo(0.04, 2)
    expect(farthest).toBeLessThan(5)
    expect(squared / (2 * steps)).toBeGreaterThan(0.1)
  })

  test('two questions in five are about the latest collision, and without one have no answer', () => {
    let latest: string | undefined
    let [asked, junk, about] = [0, 0, 0]
    for (const world of worlds) {
      if (`${cellOf(world, 0)}` === `${cellOf(world, 1)}`)
        latest = [2, 5].map((at) => world[at]!.input - 32).join()
      const question = [6, 7].map((at) => world[at]!.input - 37).join()
      if (question === '-1,-1') junk++
      if (!latest) {
        expect(world[7]!.scored).toBe(false)
        continue
      }
      asked++
      if (question === latest) about++
    }
    expect(junk).toBeGreaterThan(0)
    // 0.4, and one in 25 of the others.
    expect(about / asked).toBeCloseTo(0.4 + 0.6 / 25, 1)
  })

  test('the pair is ordered: first particle, second particle', () => {
    const asked = new Map<string, number>()
    let apart = 0
    for (const world of worlds) {
      const [first, second] = [6, 7].map((at) => world[at]!.input - 37)
      if (world[7]!.scored) asked.set(`${first},${second}`, world[7]!.target)
      const [one, other] = [asked.get(`${first},${second}`), asked.get(`${second},${first}`)]
      if (one && other && one !== other) apart++
    }
    expect(apart).toBeGreaterThan(100)
  })
})

describe('blocks', () => {
  test('rows are the streams of the task, block after block; weights are its answers', () => {
    const task = createTask('assignment')
    const streams = new TaskStreams({ task, batch: 3, block: 20, seed: 4 })
    const blocks = [streams.next(), streams.next()]
    for (let row = 0; row < 3; row++) {
      const expected = read(task.stream(4, row), 40)
      const of = (pick: 'inputs' | 'targets' | 'weights') =>
        blocks.flatMap((block) => [...block[pick].subarray(20 * row, 20 * row + 20)])
      expect(of('inputs')).toEqual(expected.map(({ input }) => input))
      expect(of('targets')).toEqual(expected.map(({ target }) => target))
      expect(of('weights')).toEqual(expected.map(({ scored }) => Number(scored)))
    }
    for (const { weights, answers } of blocks) expect(answers).toBe(weights.reduce((a, b) => a + b))
    const position = JSON.parse(JSON.stringify(streams.position))
    expect(new TaskStreams({ task, batch: 3, block: 20, position }).next()).toEqual(streams.next())
  })

  test('sizes and states that do not fit are refused', () => {
    const task = createTask('parity')
    expect(() => new TaskStreams({ task, batch: 0, block: 4 })).toThrow(/batch must be a whole number from 1/)
    const { position } = new TaskStreams({ task, batch: 2, block: 4 })
    expect(() => new TaskStreams({ task, batch: 3, block: 4, position })).toThrow(/2 streams, not of 3/)
  })
})

describe('what cannot be made is refused with what can', () => {
  test.each<[string, object, RegExp]>([
    ['echo', {}, /unknown task "echo"; known are copy, collision, instruction, assignment, parity, needle/],
    ['toString', {}, /unknown task "toString"/],
    ['copy', { lenght: 3 }, /copy has no option "lenght"; it has length, alphabet, delay/],
    [
      'copy',
      { length: 2 ** 17 + 1 },
      /length of copy must be a whole number from 1 to 131072, or \[least, most\]/,
    ],
    ['copy', { length: [5, 4] }, /not \[5,4\]/],
    ['copy', { alphabet: 1 }, /alphabet of copy must be a whole number from 2 up, not 1/],
    ['collision', { grid: 5 }, /grid of collision must be an even number from 2 to 1024, not 5/],
    ['collision', { recolour: 1.1 }, /must be a number from 0 to 1, not 1.1/],
    ['instruction', { instructions: 7 }, /7 instructions for 6 goals/],
    ['parity', { running: 1 }, /true or false, not 1/],
  ])('%s %o', (name, options, message) => {
    expect(() => createTask(name, options)).toThrow(message)
    expect(() => createTask(name, options)).toThrow(ConfigError)
  })

  test('seeds and rows', () => {
    for (const seed of [-1, 0.5, 2 ** 32])
      expect(() => tasks.copy().stream(seed)).toThrow(/seed must be a whole number from 0 to 4294967295/)
    expect(() => tasks.copy().stream(0, 2 ** 20)).toThrow(/row must be a whole number from 0 to 1048575/)
  })
})
