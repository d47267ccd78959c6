/** Formulas, survival, memory loss and options of Selective Attention on cases small enough to do by hand. */
import { existsSync } from 'node:fs'
import { disposeBackend, useBackend } from '@lethe/backends'
import {
  type Block,
  ConfigError,
  Decoder,
  type DecoderConfig,
  type LayerInfo,
  type LayerMemory,
  type Memory,
  type NamedTensors,
  type Outcome,
  Random,
  registerGradients,
} from '@lethe/core'
import {
  memory as engineMemory,
  reshape,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  tensor,
  tensor1d,
  tensor2d,
  zeros,
} from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type SelectiveOptions, selective } from './selective'

const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'

const small = {
  vocabulary: 11,
  layers: 2,
  width: 8,
  heads: 2,
  feedForward: 12,
  initialization: 'fair',
} as const
const decoderOf = (method: SelectiveOptions, more: Partial<DecoderConfig> = {}) =>
  new Decoder({ ...small, ...more, method: selective(method) }, { seed: 2 })

const layer: LayerInfo = {
  ...{ index: 0, layers: 2, width: 1, heads: 1, headSize: 1 },
  ...{ attendSelf: true, initialMemory: 'empty', persistentSlots: 0 },
}

/** One layer's memory, one row per list; a hidden state is the slot's age. */
interface Row {
  readonly F: readonly number[]
  readonly age: readonly number[]
  readonly bos?: readonly number[]
  readonly valid?: readonly number[]
}
function memoryOf(rows: readonly Row[]): LayerMemory {
  const shape: [number, number] = [rows.length, rows[0]!.F.length]
  const matrix = (of: (row: Row) => readonly number[] | undefined, otherwise: number) =>
    tensor2d(
      rows.flatMap((row) => of(row) ?? row.F.map(() => otherwise)),
      shape,
    )
  const age = matrix((row) => row.age, 0)
  return {
    tensors: {
      hidden: reshape(age, [...shape, 1]),
      age,
      valid: matrix((row) => row.valid, 1),
      F: matrix((row) => row.F, 0),
      bos: matrix((row) => row.bos, 0),
    },
    alive: rows.map(({ valid, F }) => (valid ? valid.filter(Boolean).length : F.length)),
    gapless: 0,
  }
}

/** A block of steps after that memory, of which nothing is known but where it stands. */
const blockOf = (memory: LayerMemory, length: number, more: Partial<Block> = {}): Block => {
  const batch = memory.alive.length
  const input = zeros([batch, length, 1]) as Tensor3D
  return {
    ...{ layer, memory, input, attended: input, batch, length, step: 100, starts: memory.alive.map(() => 0) },
    ...{ training: false, draw: 1, parameters: {}, plan: undefined, traced: true },
    normalise: (hidden) => hidden,
    remembered: (hidden) => ({ hidden, constant: true }),
    ...more,
  }
}

/** `settle` after attention that left these votes: `after` [batch, slots], `during` likewise for each query. */
function settle(options: SelectiveOptions, block: Block, after: Tensor2D, during?: Tensor3D) {
  const method = selective(options)
  const outcome: Outcome = {
    selection: {
      after,
      during: during ?? (zeros([block.batch, block.length, after.shape[1]]) as Tensor3D),
    },
    attendWith: (hidden) => hidden,
  }
  return method.settle(block, method.recall(block), outcome)
}

const values = async (x: Tensor | undefined) =>
  [...((await x!.data()) as Float32Array)].map((v) => Math.round(v * 1e4) / 1e4)
const rowsOf = async (x: Tensor) => {
  const [rows, columns] = x.shape as [number, number]
  const all = await values(x)
  return Array.from({ length: rows }, (_, row) => all.slice(row * columns, (row + 1) * columns))
}

const streams = (length: number, seed = 5) => {
  const random = new Random(seed)
  return Int32Array.from({ length: 2 * length }, () => random.integer(small.vocabulary))
}
const tokensOf = (stream: Int32Array, from: number, to: number) => {
  const length = stream.length / 2
  return tensor2d(
    [...stream.subarray(from, to), ...stream.subarray(length + from, length + to)],
    [2, to - from],
    'int32',
  )
}
/** Reads the steps from..to of both rows and returns the memory after them. */
function read(decoder: Decoder, memory: Memory, stream: Int32Array, from: number, to: number, block: number) {
  let current = memory
  for (let start = from; start < to; start += block) {
    const tokens = tokensOf(stream, start, Math.min(to, start + block))
    const { logits, penalty, memory: next } = decoder.forward(tokens, current)
    for (const value of [tokens, logits, penalty]) value.dispose()
    current = next
  }
  return current
}

beforeAll(async () => {
  await useBackend('cpu')
  registerGradients()
})

describe('options', () => {
  test.each<[string, Record<string, unknown>, RegExp]>([
    ['nothing bounds the memory', {}, /needs span or budget: without either its memory would grow/],
    ['half a step', { span: 1.5 }, /span must be a whole number from 1 up, not 1.5/],
    ['no steps', { span: 0 }, /span must be .* not 0/],
    ['no slots', { budget: 0 }, /budget must be a whole number from 1 up, not 0/],
    ['a word', { budget: '8' }, /budget must be .* not 8/],
    ['nothing', { budget: null }, /budget must be .* not null/],
    ['an empty list', { budget: [] }, /budget must not be an empty list: give one budget per layer/],
    ['one bad budget', { budget: [4, -1] }, /budget\[1\] must be a whole number from 1 up, not -1/],
    ['a negative head', { span: 4, head: -1 }, /head must be a whole number from 0 up, not -1/],
    ['a negative loss', { span: 4, memoryLoss: -0.1 }, /memoryLoss must be a number from 0 up, not -0.1/],
    ['no loss at all', { span: 4, memoryLoss: Number.NaN }, /memoryLoss must be .* not NaN/],
    ['no votes', { span: 4, tau: 0 }, /tau must be a number above 0, not 0/],
    ['endless votes', { span: 4, tau: Number.POSITIVE_INFINITY }, /tau must be .* not Infinity/],
    ['a slip', { budget: 4, memoryloss: 0.1 }, /unknown option "memoryloss" of selective; known are span/],
  ])('%s is refused', (_, options, message) => {
    expect(() => selective(options)).toThrow(message)
    expect(() => selective(options)).toThrow(ConfigError)
  })

  test.each<[string, SelectiveOptions, RegExp]>([
    [
      'a head that is not there',
      { span: 4, head: 2 },
      /head 2 cannot vote in a layer of 2 heads: choose 0 to 1/,
    ],
    ['too few budgets', { budget: [4] }, /1 budgets for 2 layers: give one number, or one budget per layer/],
  ])('%s is refused with the decoder, before any tensor is made', (_, options, message) => {
    const before = engineMemory().numTensors
    for (const positions of ['rotary', 'learned'] as const) {
      expect(() => decoderOf(options, { positions, learnedDistances: 4 })).toThrow(message)
      expect(() => decoderOf(options, { positions })).toThrow(message)
      expect(() => decoderOf(options, { positions })).toThrow(ConfigError)
    }
    expect(() => selective(options).capacity({ ...layer, heads: 2 }, 1)).toThrow(message)
    expect(engineMemory().numTensors).toBe(before)
  })

  test('the options are plain JSON that makes the same method again', () => {
    const given = { budget: [3, 5], span: 20, head: 1, memoryLoss: 0.1, tau: 2 }
    const { options } = selective(given)
    expect(JSON.parse(JSON.stringify(options))).toEqual(given)
    expect(selective(options).options).toEqual(options)
    expect(selective({ span: 4 }).options).toEqual({ span: 4, head: 0, memoryLoss: 0, tau: 1 })
  })

  test('a window alone decides step by step, a budget below it by blocks', () => {
    expect(selective({ span: 4 }).decides).toBe('step')
    expect(selective({ span: 4, budget: [4, 9] }).decides).toBe('step')
    expect(selective({ span: 4, budget: [4, 3] }).decides).toBe('block')
    expect(selective({ budget: 3 }).decides).toBe('block')
  })
})

describe.each(['cpu', 'wasm', 'webgpu'] as const)('survivors on %s', (backend) => {
  const missing = backend === 'webgpu' && !existsSync(softwareVulkan)
  beforeAll(async () => {
    if (!missing) await useBackend(backend, backend === 'webgpu' ? { softwareVulkan } : {})
  })
  afterAll(async () => {
    if (backend === 'webgpu' && !missing) await disposeBackend()
    await useBackend('cpu')
  })

  const none = { F: [0, 0, 0, 0], age: [4, 3, 2, 1] }
  const cases: [string, SelectiveOptions, readonly Row[], number[][], number[][]][] = [
    // what, options, rows after a block of one step (the last slot), the ages that stay, F that stays
    ['the lowest F', { budget: 2 }, [{ ...none, F: [1, 3, 0.5, 2] }], [[4, 2]], [[1, 0.5]]],
    ['of equal F the newest', { budget: 2 }, [none], [[2, 1]], [[0, 0]]],
    ['of equal F the newest, above zero', { budget: 2 }, [{ ...none, F: [2, 2, 0, 2] }], [[2, 1]], [[0, 2]]],
    ['BOS before equal ones', { budget: 2 }, [{ ...none, bos: [1, 0, 0, 0] }], [[4, 1]], [[0, 0]]],
    ['BOS alone', { budget: 1 }, [{ ...none, bos: [0, 1, 0, 0] }], [[3]], [[0]]],
    [
      'gaps of any width',
      { budget: 3 },
      [{ F: [0, 9, 1, 2], age: [90, 17, 5, 1] }],
      [[90, 5, 1]],
      [[0, 1, 2]],
    ],
    [
      'what is out of the window goes first',
      { budget: 2, span: 6 },
      [{ F: [0, 5, 9, 1], age: [7, 6, 2, 1], bos: [1, 0, 0, 0] }],
      [[6, 1]],
      [[5, 1]],
    ],
    [
      'each row its own',
      { budget: 3 },
      [
        { ...none, F: [0, 1, 2, 3] },
        { ...none, F: [3, 2, 1, 0] },
      ],
      [
        [4, 3, 2],
        [3, 2, 1],
      ],
      [
        [0, 1, 2],
        [2, 1, 0],
      ],
    ],
  ]
  test.skipIf(missing).each(cases)('%s', async (_, options, rows, ages, votes) => {
    // The memory before a block of one step: the same slots one step younger, and that step.
    const before = memoryOf(
      rows.map((row) => ({
        F: row.F.slice(0, -1),
        age: row.age.slice(0, -1).map((age) => age - 1),
        bos: (row.bos ?? row.F.map(() => 0)).slice(0, -1),
      })),
    )
    const after = tensor2d(rows.map((row) => [...row.F]))
    const { memory } = settle(options, blockOf(before, 1), after)
    expect(await rowsOf(memory.tensors.age!)).toEqual(ages)
    expect(await rowsOf(memory.tensors.F!)).toEqual(votes)
    // The hidden state followed its slot (the block's own step has 0 for a hidden state).
    const hidden = await rowsOf(reshape(memory.tensors.hidden!, memory.tensors.age!.shape))
    expect(hidden).toEqual(ages.map((row) => row.map((age) => age - 1)))
    expect(await rowsOf(memory.tensors.valid!)).toEqual(ages.map((row) => row.map(() => 1)))
    expect(memory.alive).toEqual(ages.map((row) => row.length))
    expect(memory.gapless).toBe(0)
  })

  test.skipIf(missing)('empty places go before any slot, and stay in front', async () => {
    const before = memoryOf([
      { F: [0, 0, 0, 7], age: [0, 0, 0, 1], valid: [0, 0, 0, 1] },
      { F: [3, 2, 5, 1], age: [4, 3, 2, 1] },
    ])
    const after = tensor2d([
      [0, 0, 0, 7, 8],
      [3, 2, 5, 1, 4],
    ])
    const { memory } = settle({ budget: 3 }, blockOf(before, 1), after)
    expect(await rowsOf(memory.tensors.valid!)).toEqual([
      [0, 1, 1],
      [1, 1, 1],
    ])
    expect((await rowsOf(memory.tensors.F!)).map((row, index) => (index === 0 ? row.slice(1) : row))).toEqual(
      [
        [7, 8],
        [3, 2, 1],
      ],
    )
    expect(memory.alive).toEqual([2, 3])
  })

  test.skipIf(missing)('as a sort on the host has it, however many are equal', async () => {
    const random = new Random(11)
    for (let round = 0; round < 12; round++) {
      const slots = 3 + random.integer(140)
      const count = 1 + random.integer(slots - 1)
      const rows = Array.from({ length: 3 }, () => ({
        F: Array.from({ length: slots }, () => random.integer(3) * (1 + random.integer(4) * 0.25)),
        bos: Array.from({ length: slots }, () => 0),
      }))
      rows[0]!.bos[0] = 1
      rows[0]!.F[0] = 0
      const age = Array.from({ length: slots }, (_, slot) => slots - slot)
      const expected = rows.map(({ F, bos }) =>
        age
          .map((_, slot) => slot)
          .sort((a, b) => F[a]! - F[b]! || bos[b]! - bos[a]! || b - a)
          .slice(0, count)
          .sort((a, b) => a - b)
          .map((slot) => age[slot]!),
      )
      const before = memoryOf(
        rows.map(({ F, bos }) => ({ F: F.slice(1), age: age.slice(1), bos: bos.slice(0, -1) })),
      )
      const after = tensor2d(rows.map(({ F }) => F))
      const { memory } = settle({ budget: count }, blockOf(before, 1), after)
      expect(await rowsOf(memory.tensors.age!), `${count} of ${slots}`).toEqual(expected)
    }
  })
})

describe('memory loss', () => {
  // Three slots remembered (of the second row only one is in use), a block of two.
  const before = () =>
    memoryOf([
      { F: [0, 0.5, 3], age: [3, 2, 1] },
      { F: [0, 0, 0.25], age: [0, 0, 1], valid: [0, 0, 1] },
    ])
  const during = () =>
    tensor(
      [
        [
          [0, 0.5, 3, 0, 0],
          [0, 0.75, 3, 0.5, 0],
        ],
        [
          [0, 0, 0.25, 0, 0],
          [0, 0, 0.25, 2, 0],
        ],
      ],
      [2, 2, 5],
    ) as Tensor3D
  const after = () =>
    tensor2d([
      [0, 1, 3, 0.5, 0.25],
      [0, 0, 1, 2, 0],
    ])

  test.each<[string, SelectiveOptions, number[], number]>([
    // First row: query 0 sees 4 slots less 0.5 and 1, query 1 sees 5 less 0.75, 1 and 0.5. Second row: 2 and 3 slots.
    ['as in the paper', { budget: 9, memoryLoss: 0.1 }, [2.5, 2.75, 1.75, 1.75], (2.75 / 5 + 1.75 / 3) / 2],
    [
      'another tau',
      { budget: 9, memoryLoss: 0.1, tau: 2 },
      [4 - 1.25, 5 - 1.625, 2 - 0.125, 3 - 1.125],
      ((5 - 1.625) / 5 + 1.875 / 3) / 2,
    ],
    // Query 0 sees distances 0 to 2, query 1 from itself to slot 2.
    ['within a window', { span: 2, memoryLoss: 0.1 }, [1.5, 1.5, 1.75, 1.75], (1.5 / 5 + 1.75 / 3) / 2],
  ])('%s', async (_, options, requirement, loss) => {
    const { trace, penalty } = settle(options, blockOf(before(), 2), after(), during())
    expect(await values(trace!.requirement)).toEqual(requirement)
    // ε / layers (2) · mean over rows of max M / n, n without empty places.
    expect((await penalty!.data())[0]).toBeCloseTo((0.1 / 2) * loss, 6)
  })

  test('votes are what F grows by', async () => {
    const { trace, penalty } = settle({ budget: 9 }, blockOf(before(), 2), after(), during())
    expect(await values(trace!.S)).toEqual(
      [
        [0, 0.25, 0, 0.5, 0],
        [0, 0.25, 0, 0, 0.25],
        [0, 0, 0, 2, 0],
        [0, 0, 0.75, 0, 0],
      ].flat(),
    )
    expect(await values(trace!.F)).toEqual(await values(during()))
    expect(penalty).toBeUndefined()
    const one = settle({ budget: 9 }, blockOf(before(), 1), zeros([2, 4]) as Tensor2D)
    expect(one.trace!.S!.shape).toEqual([2, 1, 4])
    expect(settle({ budget: 9 }, blockOf(before(), 2, { traced: false }), after()).trace).toBeUndefined()
  })

  test('where a step does not attend to itself it is counted all the same', async () => {
    const block = blockOf(before(), 2, { layer: { ...layer, attendSelf: false } })
    const { trace } = settle({ budget: 9, memoryLoss: 0.1 }, block, after(), during())
    expect(await values(trace!.requirement)).toEqual([2.5, 2.75, 1.75, 1.75])
  })
})

describe('in a decoder', () => {
  test('the first step of each row is exempt, also after a reset, and only it', async () => {
    const decoder = decoderOf({ budget: 30 })
    const stream = streams(24)
    const half = read(decoder, decoder.initialMemory(2), stream, 0, 10, 5)
    const memory = read(decoder, half.reset([1]), stream, 10, 22, 6)
    for (const { tensors } of memory.layers) {
      const bos = await rowsOf(tensors.bos!)
      expect(bos[0]).toEqual([1, ...new Array(21).fill(0)])
      expect(bos[1]).toEqual([...new Array(10).fill(0), 1, ...new Array(11).fill(0)])
      const F = await rowsOf(tensors.F!)
      expect(F[0]![0]).toBe(0)
      expect(F[1]![10]).toBe(0)
      expect(F[0]!.slice(1).some((votes) => votes > 1)).toBe(true)
      expect(F[1]!.slice(11).some((votes) => votes > 0.5)).toBe(true)
      expect(F[1]!.slice(0, 10)).toEqual(new Array(10).fill(0))
    }
    memory.dispose()
    decoder.dispose()
  })

  test('rows keep different slots, at their true ages, as many as the budget of the layer', async () => {
    const decoder = decoderOf({ budget: [5, 8] })
    const memory = read(decoder, decoder.initialMemory(2), streams(40), 0, 40, 7)
    for (const [index, { tensors, alive }] of memory.layers.entries()) {
      const budget = [5, 8][index]!
      const ages = await rowsOf(tensors.age!)
      expect(alive).toEqual([budget, budget])
      expect(tensors.hidden!.shape).toEqual([2, budget, small.width])
      expect(ages[0]).not.toEqual(ages[1])
      for (const row of ages) {
        expect(row[0]).toBe(40) // BOS
        expect([...row].sort((a, b) => b - a)).toEqual(row)
        expect(new Set(row).size).toBe(budget)
      }
    }
    memory.dispose()
    decoder.dispose()
  })

  test('the head that votes makes a difference', async () => {
    const stream = streams(12)
    const F = await Promise.all(
      [0, 1].map(async (head) => {
        const decoder = decoderOf({ span: 20, head })
        const memory = read(decoder, decoder.initialMemory(2), stream, 0, 12, 6)
        const votes = await values(memory.layers[0]!.tensors.F)
        memory.dispose()
        decoder.dispose()
        return votes
      }),
    )
    expect(F[0]).not.toEqual(F[1])
    expect(F[0]!.some((votes) => votes > 1)).toBe(true)
  })

  test('a pruned memory may be read on by another budget or window', async () => {
    const decoder = decoderOf({ budget: 6 })
    const stream = streams(30)
    const pruned = read(decoder, decoder.initialMemory(2), stream, 0, 24, 6)
    const logits = await Promise.all(
      [{ budget: 50 }, { span: 50 }, { span: 50, budget: 40 }].map(async (options) => {
        const other = decoder.withMethod(selective(options))
        const middle = read(other, pruned.clone(), stream, 24, 27, 3)
        const tokens = tokensOf(stream, 27, 30)
        const result = other.forward(tokens, middle)
        const found = await result.logits.data()
        for (const value of [tokens, result.logits, result.penalty, result.memory]) value.dispose()
        return [...found]
      }),
    )
    for (const found of logits.slice(1))
      for (const [index, value] of found.entries()) expect(value).toBeCloseTo(logits[0]![index]!, 4)
    pruned.dispose()
    decoder.dispose()
  })

  test('decoding with a smaller budget begins with the slots that have the fewest votes', async () => {
    const decoder = decoderOf({ budget: 20 })
    const memory = read(decoder, decoder.initialMemory(2), streams(20), 0, 20, 20)
    const { F, bos } = memory.layers[0]!.tensors
    const before = [await rowsOf(F!), await rowsOf(bos!)] as const
    const arena = decoder.withMethod(selective({ budget: 5 })).startDecoding(memory)
    const tensors = arena.layers[0]!.tensors as NamedTensors
    const [votes, first] = await Promise.all([tensors['state.F']!, tensors['state.bos']!].map(rowsOf))
    const kept = await rowsOf(tensors.valid!)
    for (const row of [0, 1]) {
      const fewest = [...before[0][row]!].sort((a, b) => a - b).slice(0, 5)
      const inUse = (values: number[]) => values.filter((_, place) => kept[row]![place])
      expect(inUse(votes![row]!).sort((a, b) => a - b)).toEqual(fewest)
      expect(inUse(first![row]!).filter(Boolean)).toEqual([1])
      // They are not just the newest.
      expect(before[0][row]!.slice(-5).sort((a, b) => a - b)).not.toEqual(fewest)
    }
    arena.dispose()
    decoder.dispose()
  })

  test('a skipped layer votes and forgets all the same', async () => {
    const decoder = decoderOf({ budget: 4, memoryLoss: 0.1 }, { layerDrop: 0.999 })
    const tokens = tokensOf(streams(9), 0, 9)
    const skipped = decoder.forward(tokens, decoder.initialMemory(2), {
      training: true,
      random: new Random(1),
    })
    const whole = decoder.forward(tokens, decoder.initialMemory(2))
    const F = async ({ memory }: typeof whole) => values(memory.layers[0]!.tensors.F)
    expect(await F(skipped)).toEqual(await F(whole))
    expect(await values(skipped.logits)).not.toEqual(await values(whole.logits))
    expect((await skipped.penalty.data())[0]).toBeGreaterThan(0)
    for (const { logits, penalty, memory } of [skipped, whole])
      for (const value of [logits, penalty, memory]) value.dispose()
    tokens.dispose()
    decoder.dispose()
  })

  test('memory is bounded and freed, block after block', () => {
    const decoder = decoderOf({ budget: [5, 9], memoryLoss: 0.1 })
    const stream = streams(60)
    let memory = read(decoder, decoder.initialMemory(2), stream, 0, 12, 6)
    const before = engineMemory()
    const bound = 2 * (5 + 9) * (small.width + 4) * 4
    for (let from = 12; from < 60; from += 6) {
      memory = read(decoder, memory, stream, from, from + 6, 6)
      expect(memory.bytes).toBe(bound)
      expect(memory.slots).toBe(7)
      expect(engineMemory().numTensors).toBe(before.numTensors)
      expect(engineMemory().numBytes).toBe(before.numBytes)
    }
    memory.dispose()
    decoder.dispose()
  })

  test('the report has F per slot and what the next query needs', async () => {
    const decoder = decoderOf({ budget: 6, tau: 0.5 })
    const memory = read(decoder, decoder.initialMemory(2), streams(12), 0, 12, 6)
    const before = engineMemory().numTensors
    const report = await decoder.report(memory)
    expect(engineMemory().numTensors).toBe(before)
    const { F, requirement } = report[1]!.figures as Record<string, { shape: number[]; data: Float32Array }>
    expect([...F!.data]).toEqual([...(await memory.layers[1]!.tensors.F!.data())])
    expect(F!.shape).toEqual([2, 6])
    for (const row of [0, 1]) {
      const votes = [...F!.data.slice(row * 6, row * 6 + 6)]
      const needed = 1 + votes.reduce((sum, vote) => sum + 1 - Math.min(vote, 0.5) / 0.5, 0)
      expect(requirement!.data[row]).toBeCloseTo(needed, 5)
    }
    memory.dispose()
    decoder.dispose()
  })
})

describe('streaming decode', () => {
  beforeAll(async () => {
    await useBackend('wasm')
  })
  afterAll(async () => {
    await useBackend('cpu')
  })

  test('the first step stays for thousands of steps, within constant memory', async () => {
    const steps = 2100
    const budget = 4
    const decoder = decoderOf({ budget }, { layers: 1, width: 4, heads: 1, feedForward: 4 })
    const random = new Random(3)
    let memory = decoder.startDecoding(decoder.initialMemory(2))
    let allocated = 0
    for (let step = 0; step < steps; step++) {
      const tokens = tensor1d([random.integer(11), random.integer(11)], 'int32')
      const result = decoder.decode(tokens, memory)
      memory = result.memory
      tokens.dispose()
      result.logits.dispose()
      if (step === 10) allocated = engineMemory().numBytes
      if (step > 10 && step % 300 === 0) expect(engineMemory().numBytes).toBe(allocated)
    }
    const places = budget + 1
    expect(memory.capacity).toBe(places)
    expect(memory.bytes).toBe(2 * places * (2 * 4 + 4) * 4)
    const { age, valid, ...tensors } = memory.layers[0]!.tensors as NamedTensors
    const [ages, bos, F] = await Promise.all([age!, tensors['state.bos']!, tensors['state.F']!].map(rowsOf))
    expect(await values(valid)).toEqual(new Array(2 * places).fill(1))
    for (const row of [0, 1]) {
      const first = bos![row]!.indexOf(1)
      expect(bos![row]!.filter(Boolean)).toEqual([1])
      expect(ages![row]![first]).toBe(steps - 1)
      expect(F![row]![first]).toBe(0)
      expect(Math.min(...ages![row]!)).toBe(0)
    }
    memory.dispose()
    decoder.dispose()
  })

  test('of equal votes the oldest goes, never the first step', () => {
    const { worth } = selective({ budget: 4 }).decode
    const slots = (F: number[], bos: number[], valid: number[]) => ({
      layer,
      age: tensor2d([[9, 7, 3, 2, 1]]),
      valid: tensor2d([valid]),
      state: { F: tensor2d([F]), bos: tensor2d([bos]) },
      ...{ parameters: {}, plan: undefined },
    })
    const leaves = (...given: Parameters<typeof slots>) => {
      const found = [...worth!(slots(...given)).dataSync()]
      return found.indexOf(Math.min(...found))
    }
    const [all, first] = [
      [1, 1, 1, 1, 1],
      [1, 0, 0, 0, 0],
    ]
    expect(leaves([0, 0, 0, 0, 0], first, all)).toBe(1)
    expect(leaves([0, 2, 5, 5, 1], first, all)).toBe(2)
    expect(leaves([0, 2, 5, 5, 1], first, [1, 1, 0, 1, 1])).toBe(3)
    expect(leaves([3, 3, 0, 0, 0], [0, 0, 0, 0, 0], all)).toBe(0)
  })
})
