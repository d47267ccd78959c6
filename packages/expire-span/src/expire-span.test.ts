/** Expire-Span by hand: spans, masks, penalties, what survives, what is learned, what decoding keeps. */
import { useBackend } from '@lethe/backends'
import {
  ConfigError,
  combine,
  Decoder,
  type DecoderConfig,
  type ForgettingMethod,
  fixedSpan,
  type Memory,
  type NamedTensors,
  Random,
  registerGradients,
  toStateDict,
} from '@lethe/core'
import {
  memory as engineMemory,
  reshape,
  slice,
  sub,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  tensor2d,
  tidy,
} from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type ExpireSpanOptions, expireSpan } from '.'
import { livelySpans } from './lively'

const vocabulary = 11
const steps = 40
const random = new Random(5)
/** Two rows of tokens. */
const stream = Array.from({ length: 2 }, () =>
  Array.from({ length: steps + 1 }, () => random.integer(vocabulary)),
)
const tokens = (from: number, to: number, rows = 2) =>
  tensor2d(
    stream.slice(0, rows).map((row) => row.slice(from, to)),
    [rows, to - from],
    'int32',
  )

const decoderOf = (method: ForgettingMethod, more: Partial<DecoderConfig> = {}) =>
  new Decoder(
    {
      ...{ vocabulary, layers: 2, width: 8, heads: 2, feedForward: 12, initialization: 'fair', method },
      ...more,
    },
    { seed: 2 },
  )
/** FAIR's decoder: no attention to oneself, zeros as first memory. */
const fair = {
  normPosition: 'post',
  norm: 'layer',
  positions: 'learned',
  learnedDistances: 6,
  attendSelf: false,
  initialMemory: 'zeros',
} as const

const numbers = async (x: Tensor) => Array.from(await x.data())
const rowsOf = (values: readonly number[], width: number) =>
  Array.from({ length: values.length / width }, (_, row) => values.slice(row * width, (row + 1) * width))
const disposeAll = (values: NamedTensors) => {
  for (const value of Object.values(values)) value.dispose()
}

interface Read {
  readonly memory: Memory
  readonly logits: number[]
  readonly penalty: number
  readonly trace: readonly { span: number[]; mask: number[]; penalty: number[] }[]
}

/** One pass with its trace; `compact` afterwards unless told otherwise. */
async function read(
  decoder: Decoder,
  memory: Memory,
  from: number,
  to: number,
  { compact = true, ...pass }: { compact?: boolean; training?: boolean; draw?: number; random?: Random } = {},
): Promise<Read> {
  const x = tokens(from, to, memory.batch)
  const result = decoder.forward(x, memory, { ...pass, trace: true })
  const trace = []
  for (const layer of result.trace!) {
    const [span, mask, penalty] = [layer.span!, layer.mask!, layer.penalty!]
    trace.push({ span: await numbers(span), mask: await numbers(mask), penalty: await numbers(penalty) })
    disposeAll(layer)
  }
  const [logits, [penalty]] = [await numbers(result.logits), await numbers(result.penalty)]
  for (const value of [x, result.logits, result.penalty]) value.dispose()
  const next = compact ? await decoder.compact(result.memory) : result.memory
  return { memory: next, logits, penalty: penalty!, trace }
}

/** Blocks of the lengths given, one after the other. */
async function readAll(decoder: Decoder, lengths: readonly number[], compact = true, start = 0) {
  let memory = decoder.initialMemory(2)
  let step = start
  const all: number[][] = []
  for (const length of lengths) {
    const result = await read(decoder, memory, step, step + length, { compact })
    memory = result.memory
    all.push(result.logits)
    step += length
  }
  return { memory, logits: all }
}

/** A layer's memory on the host, row by row. */
async function slotsOf(memory: Memory, layer = 0) {
  const { tensors } = memory.layers[layer]!
  const [rows, slots, width] = tensors.hidden!.shape as [number, number, number]
  const hidden = rowsOf(await numbers(tensors.hidden!), width)
  const [age, valid, life] = [tensors.age!, tensors.valid!, tensors.life!]
  const values = { age: await numbers(age), valid: await numbers(valid), life: await numbers(life) }
  return Array.from({ length: rows }, (_, row) =>
    Array.from({ length: slots }, (_, slot) => {
      const at = row * slots + slot
      const { age, valid, life } = values
      return { hidden: hidden[at]!, age: age[at]!, valid: valid[at]!, life: life[at]! }
    }).filter(({ valid }) => valid === 1),
  )
}

const largest = (a: readonly number[], b: readonly number[]) => {
  expect(a.length).toBe(b.length)
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0)
}

let before = 0
beforeAll(async () => {
  await useBackend('wasm')
  registerGradients()
})
beforeEach(() => {
  before = engineMemory().numTensors
})
afterEach(() => {
  expect(engineMemory().numTensors, 'tensors that were not disposed of').toBe(before)
})

describe('options', () => {
  test.each<[Partial<Record<keyof ExpireSpanOptions | 'spam', unknown>>, RegExp]>([
    [{ maxSpan: undefined }, /maxSpan must be a whole number of steps from 1 up, not undefined/],
    [{ maxSpan: 0 }, /maxSpan .* not 0/],
    [{ maxSpan: 12.5 }, /maxSpan .* not 12.5/],
    [{ ramp: 0 }, /ramp must be a whole number of steps from 1 up, not 0/],
    [{ ramp: 1.5 }, /ramp .* not 1.5/],
    [{ penalty: -1 }, /penalty must be a number from 0 up, not -1/],
    [{ penalty: Number.NaN }, /penalty .* not NaN/],
    [{ loss: 'sum' }, /loss must be one of ramp, mean, not sum/],
    [{ initialPercentage: 0 }, /initialPercentage must be a fraction of maxSpan between 0 and 1, not 0/],
    [{ initialPercentage: 10 }, /initialPercentage .* not 10/],
    [{ divider: 0 }, /divider must be a number above 0, not 0/],
    [{ shorten: 'yes' }, /shorten must be true or false, not yes/],
    [{ deletion: 'all' }, /deletion must be one of row, blocks, not all/],
    [{ budget: 0 }, /budget must be a whole number of steps from 1 up, not 0/],
    [{ budget: 2.5 }, /budget .* not 2.5/],
    [{ spam: 1 }, /unknown option "spam" .* known are maxSpan, ramp/],
  ])('%o is refused', (wrong, message) => {
    const make = () => expireSpan({ maxSpan: 16, ...wrong } as ExpireSpanOptions)
    expect(make).toThrow(message)
    expect(make).toThrow(ConfigError)
  })

  test('are plain JSON that makes the same method again', () => {
    const method = expireSpan({ maxSpan: 16, budget: 9, loss: 'mean' })
    const again = expireSpan(JSON.parse(JSON.stringify(method.options)))
    expect(again.options).toEqual(method.options)
    expect(expireSpan({ maxSpan: 16 }).options).not.toHaveProperty('budget')
  })
})

/** Rows of step 6 and 7 where every span is 3.5 and the ramp 4. */
const equalSpans = { maxSpan: 10, ramp: 4, initialPercentage: 0.35, penalty: 0.5 }
async function afterSixSteps(method: ForgettingMethod) {
  const decoder = decoderOf(method, { layers: 1 })
  const { memory } = await readAll(decoder, [2, 2, 2])
  return { decoder, memory }
}

describe('formulas', () => {
  test('spans start at a percentage of the longest, masks fall over the ramp', async () => {
    const { decoder, memory } = await afterSixSteps(expireSpan(equalSpans))
    const { trace, memory: next } = await read(decoder, memory, 6, 8)
    for (const span of trace[0]!.span) expect(span).toBeCloseTo(3.5, 5)
    // Distances 6..1 and the block's 0, -1 from the first query; all one more from the second.
    const mask = [0.375, 0.625, 0.875, 1, 1, 1, 1, 1, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1]
    expect(largest(trace[0]!.mask, [...mask, ...mask])).toBeLessThan(1e-6)
    next.dispose()
    decoder.dispose()
  })

  test("penalty 'ramp': what fades, over ramp and block", async () => {
    const { decoder, memory } = await afterSixSteps(expireSpan({ ...equalSpans, loss: 'ramp' }))
    const { trace, penalty, memory: next } = await read(decoder, memory, 6, 8)
    const expected = (0.5 * (-2.5 - 1.5 - 0.5 + (-3.5 - 2.5 - 1.5 - 0.5))) / (4 * 2)
    expect(largest(trace[0]!.penalty, [expected, expected])).toBeLessThan(1e-6)
    expect(penalty).toBeCloseTo(expected, 5)
    next.dispose()
    decoder.dispose()
  })

  test("penalty 'ramp': the ends of the ramp do not count", async () => {
    // e = 4 and R = 2: of the distances 4, 5, 6 only 5 lies on the ramp. The penalty outweighs the loss.
    const method = expireSpan({ maxSpan: 8, ramp: 2, initialPercentage: 0.5, penalty: 1e4, loss: 'ramp' })
    const { decoder, memory } = await afterSixSteps(method)
    const [x, y] = [tokens(6, 8), tokens(7, 9)]
    const { gradients, ...result } = decoder.gradients(x, y, memory)
    expect((await numbers(result.penalty))[0]! / 1e4).toBeCloseTo((-1 - 1) / (2 * 2), 5)
    const slope = 4 * (1 - 4 / 8)
    const [gradient] = await numbers(gradients['layers.0.method.bias']!)
    expect(gradient! / 1e4).toBeCloseTo((2 / (2 * 2)) * slope, 3)
    disposeAll(gradients)
    for (const value of [x, y, result.loss, result.penalty, result.memory, decoder]) value.dispose()
  })

  test("penalty 'mean': the mean span of the block's steps", async () => {
    const { decoder, memory } = await afterSixSteps(expireSpan(equalSpans))
    const { penalty, memory: next } = await read(decoder, memory, 6, 8)
    expect(penalty).toBeCloseTo(0.5 * 3.5, 5)
    next.dispose()
    decoder.dispose()
  })

  test.each([false, true])("penalty 'ramp' is the sum over all pairs (shortened: %s)", async (shorten) => {
    const [ramp, maxSpan, draw] = [5, 12, 0.45]
    const decoder = decoderOf(livelySpans({ maxSpan, ramp, penalty: 1, shorten, loss: 'ramp' }), fair)
    let memory = decoder.initialMemory(2)
    let step = 0
    for (const length of [3, 6, 4, 9]) {
      if (step === 9) memory = memory.reset([1])
      const ages = await Promise.all([0, 1].map(async (layer) => numbers(memory.layers[layer]!.tensors.age!)))
      const valid = await Promise.all([0, 1].map((layer) => numbers(memory.layers[layer]!.tensors.valid!)))
      const result = await read(decoder, memory, step, step + length, { training: true, draw })
      result.trace.forEach(({ span, penalty }, layer) => {
        const [count, slots] = [ages[layer]!.length / 2, span.length / 2]
        const expected = [0, 1].map((row) => {
          let total = 0
          for (let j = 0; j < slots; j++)
            for (let i = 0; i < length; i++) {
              const remembered = j < count
              if (remembered && valid[layer]![row * count + j] === 0) continue
              const age = remembered ? ages[layer]![row * count + j]! : count - j
              const e = span[row * slots + j]!
              const left = (shorten ? Math.min(e, draw * maxSpan) : e) - age - i
              if (left < 0 && left > -ramp) total += left / ramp / length
            }
          return total
        })
        expect(largest(penalty, expected)).toBeLessThan(1e-5)
        if (step > 0) expect(expected[0]).not.toBe(expected[1])
      })
      memory = result.memory
      step += length
    }
    memory.dispose()
    decoder.dispose()
  })

  test('the divider divides before the sigmoid', async () => {
    const spans = async (divider: number, deviation: number) => {
      const decoder = decoderOf(livelySpans({ maxSpan: 12, divider }, deviation))
      const { trace, memory } = await read(decoder, decoder.initialMemory(2), 0, 6)
      memory.dispose()
      decoder.dispose()
      return trace[0]!.span
    }
    expect(largest(await spans(4, 2), await spans(1, 0.5))).toBeLessThan(1e-5)
    expect(largest(await spans(4, 2), await spans(1, 2))).toBeGreaterThan(0.1)
  })
})

describe('what survives', () => {
  const lengths = [5, 1, 7, 4, 2, 9, 6]

  test.each(['row', 'blocks'] as const)("deletion '%s' changes no result", async (deletion) => {
    const decoder = decoderOf(livelySpans({ maxSpan: 14, ramp: 3, deletion }), fair)
    const [pruned, whole] = [await readAll(decoder, lengths), await readAll(decoder, lengths, false)]
    for (const [index, logits] of pruned.logits.entries())
      expect(largest(logits, whole.logits[index]!)).toBeLessThan(1e-6)
    expect(pruned.memory.bytes).toBeLessThan(0.7 * whole.memory.bytes)
    pruned.memory.dispose()
    whole.memory.dispose()
    decoder.dispose()
  })

  test('exactly those that a later step may attend to, at their true ages', async () => {
    const ramp = 3
    const decoder = decoderOf(livelySpans({ maxSpan: 18, ramp, initialPercentage: 0.4 }, 1.5), fair)
    const [pruned, whole] = [await readAll(decoder, lengths), await readAll(decoder, lengths, false)]
    for (const layer of [0, 1]) {
      const [kept, all] = [await slotsOf(pruned.memory, layer), await slotsOf(whole.memory, layer)]
      kept.forEach((row, index) => {
        const expected = all[index]!.filter(({ age, life }) => age <= lengths.at(-1)! || life + ramp > age)
        expect(row.map(({ age }) => age)).toEqual(expected.map(({ age }) => age))
        row.forEach(({ hidden }, slot) => {
          expect(largest(hidden, expected[slot]!.hidden)).toBeLessThan(1e-5)
        })
        expect(row.length).toBe(pruned.memory.layers[layer]!.alive[index])
      })
      // The rows keep different slots, with gaps between them.
      expect(kept[0]!.map(({ age }) => age)).not.toEqual(kept[1]!.map(({ age }) => age))
      expect(kept.some((row) => row[0]!.age > row.length)).toBe(true)
    }
    pruned.memory.dispose()
    whole.memory.dispose()
    decoder.dispose()
  })

  test('spans that keep everything, up to the longest', async () => {
    const decoder = decoderOf(expireSpan({ maxSpan: 20, ramp: 4, initialPercentage: 1 - 1e-7 }))
    const { memory } = await readAll(decoder, [8, 8])
    expect(memory.slots).toBe(16)
    let next = memory
    for (let step = 16; step < 40; step += 8) next = (await read(decoder, next, step, step + 8)).memory
    // e + R = 24: the next query still sees distance 23.
    expect(next.slots).toBe(23)
    next.dispose()
    decoder.dispose()
  })

  test('spans that keep nothing: the block alone, and a step sees no older one', async () => {
    const decoder = decoderOf(expireSpan({ maxSpan: 20, ramp: 1, initialPercentage: 1e-9 }))
    const { memory, logits } = await readAll(decoder, [4, 4, 4])
    expect(memory.layers.map(({ alive }) => alive)).toEqual([[4, 4], [4, 4]]) // biome-ignore format: layers
    const alone = await read(decoder, decoder.initialMemory(2), 11, 12)
    const last = [...logits[2]!.slice(3 * vocabulary, 4 * vocabulary), ...logits[2]!.slice(7 * vocabulary)]
    expect(largest(last, alone.logits)).toBeLessThan(1e-5)
    memory.dispose()
    alone.memory.dispose()
    decoder.dispose()
  })

  test('compact does nothing where nothing is to do', async () => {
    const decoder = decoderOf(livelySpans({ maxSpan: 14, ramp: 3 }), fair)
    const first = decoder.initialMemory(2)
    const tensors = first.layers.map((layer) => layer.tensors)
    const same = await decoder.compact(first)
    expect(same.layers.map((layer) => layer.tensors)).toEqual(tensors)
    expect(same.slots).toBe(3)
    same.dispose()
    const { memory } = await readAll(decoder, lengths)
    const description = JSON.stringify(memory.layers.map(({ alive, gapless }) => ({ alive, gapless })))
    const kept = memory.layers.map((layer) => layer.tensors)
    const again = await decoder.compact(memory)
    again.layers.forEach((layer, index) => {
      expect(layer.tensors).toBe(kept[index])
    })
    expect(JSON.stringify(again.layers.map(({ alive, gapless }) => ({ alive, gapless })))).toBe(description)
    again.dispose()
    decoder.dispose()
  })

  test('a large memory comes in few sizes, and is one run as long as nothing dies in its middle', async () => {
    const decoder = decoderOf(expireSpan({ maxSpan: 400, ramp: 8, initialPercentage: 0.5 }), { layers: 1 })
    let memory = decoder.initialMemory(2)
    const sizes = new Set<number>()
    for (let block = 0; block < 36; block++) {
      const from = (block * 7) % 30
      memory = (await read(decoder, memory, from, from + 7)).memory
      const { alive, gapless, fresh, tensors } = memory.layers[0]!
      const slots = tensors.age!.shape[1]!
      expect(slots).toBeLessThan(alive[0]! * (1 + 1 / 32))
      expect([Math.min(gapless!, slots), fresh]).toEqual([slots, 7])
      if (alive[0]! < 7 * (block + 1)) sizes.add(slots)
    }
    expect(memory.slots).toBe(207)
    expect([...sizes]).toEqual([208])
    const restored = decoder.restoreMemory(await memory.serialize())
    expect(restored.layers.map(({ gapless, fresh }) => [gapless, fresh])).toEqual(
      memory.layers.map(({ gapless, fresh }) => [gapless, fresh]),
    )
    for (const each of [memory, restored]) each.dispose()
    decoder.dispose()
  })

  test("'blocks' drops a multiple of the block, of a large memory, too", async () => {
    const options = { maxSpan: 200, ramp: 8, initialPercentage: 0.5, deletion: 'blocks' } as const
    const decoder = decoderOf(livelySpans(options), { layers: 1 })
    let memory = decoder.initialMemory(2)
    let before = 0
    for (let block = 0; block < 40; block++) {
      const from = (block * 7) % 30
      memory = (await read(decoder, memory, from, from + 7)).memory
      const { alive, tensors } = memory.layers[0]!
      expect([alive[0], alive[1]]).toEqual([tensors.age!.shape[1], tensors.age!.shape[1]])
      expect((before + 7 - alive[0]!) % 7).toBe(0)
      before = alive[0]!
    }
    expect(before).toBeLessThan(40 * 7)
    expect(before).toBeGreaterThan(64)
    memory.dispose()
    decoder.dispose()
  })

  test('compact after a reset leaves the new stream alone, and after a restore goes on', async () => {
    const decoder = decoderOf(livelySpans({ maxSpan: 14, ramp: 12 }), fair)
    const { memory } = await readAll(decoder, lengths, false)
    const restored = await decoder.compact(decoder.restoreMemory(await memory.serialize()))
    const [one, two] = [memory.clone().reset([0]), memory.clone().reset([0])]
    const plain = await read(decoder, one, 34, 38)
    const compacted = await read(decoder, await decoder.compact(two), 34, 38)
    expect(largest(compacted.logits, plain.logits)).toBeLessThan(1e-6)
    const going = await read(decoder, memory, 34, 38)
    const after = await read(decoder, restored, 34, 38)
    expect(largest(after.logits, going.logits)).toBeLessThan(1e-6)
    for (const { memory } of [plain, compacted, going, after]) memory.dispose()
    decoder.dispose()
  })

  test.each(['row', 'blocks'] as const)("all rows reset gives memory back ('%s')", async (deletion) => {
    const decoder = decoderOf(livelySpans({ maxSpan: 14, ramp: 3, deletion }))
    const { memory } = await readAll(decoder, [8])
    const cleared = await decoder.compact((await read(decoder, memory.reset([0, 1]), 8, 10)).memory)
    expect(cleared.layers[0]!.tensors.hidden!.shape[1]).toBe(2)
    const empty = await decoder.compact(cleared.reset([0, 1]))
    expect(empty.slots).toBe(0)
    expect(empty.layers[0]!.tensors.hidden!.shape[1]).toBe(1)
    const [fresh, after] = [
      await read(decoder, decoder.initialMemory(2), 10, 14),
      await read(decoder, empty, 10, 14),
    ]
    expect(largest(after.logits, fresh.logits)).toBeLessThan(1e-6)
    fresh.memory.dispose()
    after.memory.dispose()
    decoder.dispose()
  })
})

describe('budget', () => {
  const budget = 4
  const options = { maxSpan: 14, ramp: 3, budget }

  test('keeps those with the longest life left, also of a block beyond the budget', async () => {
    const decoder = decoderOf(livelySpans(options), fair)
    let memory = decoder.initialMemory(2)
    expect(memory.slots).toBe(3)
    let step = 0
    for (const length of [7, 2, 1, 9, 3]) {
      const { memory: grown } = await read(decoder, memory, step, step + length, { compact: false })
      const all = await slotsOf(grown)
      expect(grown.layers[0]!.tensors.hidden!.shape[1]).toBeLessThanOrEqual(budget + length)
      memory = await decoder.compact(grown)
      const kept = await slotsOf(memory)
      kept.forEach((row, index) => {
        const ranked = all[index]!.filter(({ age, life }) => life + options.ramp > age || age <= length).sort(
          (a, b) => b.life - b.age - (a.life - a.age),
        )
        const longest = ranked.slice(0, budget).sort((a, b) => b.age - a.age)
        expect(row.map(({ age }) => age)).toEqual(longest.map(({ age }) => age))
      })
      step += length
    }
    memory.dispose()
    decoder.dispose()
  })

  test('holds from the first memory on', () => {
    const decoder = decoderOf(expireSpan({ ...options, ramp: 9 }), fair)
    const memory = decoder.initialMemory(2)
    expect(memory.slots).toBe(budget)
    memory.dispose()
    decoder.dispose()
  })

  test('decoding starts from the same slots whether or not the memory was compacted', async () => {
    const decoder = decoderOf(livelySpans(options))
    const logits = []
    for (const compact of [true, false]) {
      const { memory } = await read(decoder, decoder.initialMemory(2), 0, 9, { compact })
      const next = tidy(() => reshape(tokens(9, 10), [2]))
      const result = decoder.decode(next, decoder.startDecoding(memory))
      logits.push(await numbers(result.logits))
      for (const value of [next, result.logits, result.memory]) value.dispose()
    }
    expect(largest(logits[1]!, logits[0]!)).toBeLessThan(1e-5)
    decoder.dispose()
  })
})

describe('shortening', () => {
  const options = { maxSpan: 20, ramp: 4, initialPercentage: 0.8, shorten: true }
  const pass = { training: true, draw: 0.1 }

  test('caps the spans that attention sees in training, not those that decide what is kept', async () => {
    const decoder = decoderOf(expireSpan(options))
    const full = await readAll(decoder, [6, 6])
    const first = await read(decoder, decoder.initialMemory(2), 0, 6, pass)
    const second = await read(decoder, first.memory, 6, 12, pass)
    // e = min(16, 2): distance 6 to 1 from the first query.
    for (const { mask } of second.trace)
      expect(largest(mask.slice(0, 6), [0, 0.25, 0.5, 0.75, 1, 1])).toBeLessThan(1e-5)
    for (const span of second.trace[0]!.span) expect(span).toBeCloseTo(16, 4)
    expect(second.memory.layers.map(({ alive }) => alive)).toEqual(
      full.memory.layers.map(({ alive }) => alive),
    )
    expect(second.memory.slots).toBe(12)
    const evaluated = await read(decoder, second.memory, 12, 14, { draw: 0.1 })
    expect(evaluated.trace[0]!.mask.slice(0, 12)).toEqual(new Array(12).fill(1))
    evaluated.memory.dispose()
    full.memory.dispose()
    decoder.dispose()
  })

  test('draws once for all layers, anew in each pass', async () => {
    const decoder = decoderOf(expireSpan(options))
    const drawn = { training: true, random: new Random(3) }
    const first = await read(decoder, decoder.initialMemory(2), 0, 20)
    const second = await read(decoder, first.memory, 20, 24, drawn)
    const third = await read(decoder, second.memory, 24, 28, drawn)
    const sum = (mask: number[]) => mask.reduce((a, b) => a + b)
    for (const { trace } of [second, third])
      expect(largest(trace[0]!.mask, trace[1]!.mask)).toBeLessThan(1e-5)
    expect(sum(second.trace[0]!.mask) / 4 / 24).not.toBeCloseTo(sum(third.trace[0]!.mask) / 4 / 28, 2)
    third.memory.dispose()
    decoder.dispose()
  })
})

test('weight and bias learn from old memories', async () => {
  const gradients = async (penalty: number) => {
    const { decoder, memory } = await afterSixSteps(expireSpan({ ...equalSpans, penalty, loss: 'ramp' }))
    const hidden = rowsOf(await numbers(memory.layers[0]!.tensors.hidden!), 8)
    const [x, y] = [tokens(6, 8), tokens(7, 9)]
    const norm = (h: number[]) => {
      const size = Math.sqrt(h.reduce((sum, value) => sum + value * value, 0) / 8 + 1e-5)
      return h.map((value) => value / size)
    }
    const { gradients, ...result } = decoder.gradients(x, y, memory)
    const [weight, bias] = [gradients['layers.0.method.weight']!, gradients['layers.0.method.bias']!]
    const values = {
      weight: await numbers(weight),
      bias: (await numbers(bias))[0]!,
      hidden: hidden.map(norm),
    }
    disposeAll(gradients)
    for (const value of [x, y, result.loss, result.penalty, result.memory, decoder]) value.dispose()
    return values
  }
  const [free, priced] = [await gradients(0), await gradients(1)]
  // On the ramp are distances 6, 5, 4 from the first query and 7..4 from the second: 2 pairs for each of the slots of
  // ages 6, 5, 4 and 1 for that of age 3; all are remembered.
  const pairs = [2, 2, 2, 1, 0, 0]
  const slope = (3.5 * (1 - 3.5 / 10)) / (4 * 2)
  expect(priced.bias - free.bias).toBeCloseTo(7 * slope, 4)
  for (let feature = 0; feature < 8; feature++) {
    const expected = [0, 1].map((row) =>
      pairs.reduce((sum, count, slot) => sum + count * slope * free.hidden[row * 6 + slot]![feature]!, 0),
    )
    const found = priced.weight[feature]! - free.weight[feature]!
    expect(found).toBeCloseTo((expected[0]! + expected[1]!) / 2, 4)
  }
  expect(Math.abs(free.bias)).toBeGreaterThan(1e-6)
})

test('a dropped layer goes on: spans, memory and penalty, and its spans learn', async () => {
  const method = expireSpan({ ...equalSpans, initialPercentage: 0.2, loss: 'ramp' })
  const decoder = decoderOf(method, { layerDrop: 0.999999 })
  const pass = { training: true, random: new Random(1) }
  const first = await read(decoder, decoder.initialMemory(2), 0, 6, pass)
  const second = await read(decoder, first.memory, 6, 12, pass)
  // Both layers were skipped, so both saw the embeddings.
  const [one, two] = [await slotsOf(second.memory, 0), await slotsOf(second.memory, 1)]
  expect(two).toEqual(one)
  expect(one[0]!.length).toBe(6)
  for (const { span, penalty } of second.trace) {
    for (const value of span) expect(value).toBeCloseTo(2, 5)
    expect(penalty[0]).toBeLessThan(-0.1)
  }
  const [x, y] = [tokens(12, 18), tokens(13, 19)]
  const { gradients, ...result } = decoder.gradients(x, y, second.memory, { random: new Random(1) })
  expect(gradients['layers.1.attention.query']).toBeUndefined()
  expect((await numbers(gradients['layers.1.method.bias']!))[0]).toBeGreaterThan(0.01)
  disposeAll(gradients)
  for (const value of [x, y, result.loss, result.penalty, result.memory, decoder]) value.dispose()
})

describe('streaming decode', () => {
  async function stream(method: ForgettingMethod, steps: number) {
    const decoder = decoderOf(method, { positions: 'learned', learnedDistances: 16 })
    let memory = decoder.startDecoding(decoder.initialMemory(2))
    let most = 0
    for (let step = 0; step < steps; step++) {
      const next = tidy(() => reshape(tokens(step % 40, (step % 40) + 1), [2]))
      const result = decoder.decode(next, memory)
      memory = result.memory
      most = Math.max(most, memory.bytes)
      next.dispose()
      result.logits.dispose()
    }
    return { decoder, memory, most }
  }
  /** The README's bound per layer: keys, values, age, validity and life per place, and the table of positions. */
  const bound = (places: number) => 2 * 4 * (2 * places * (2 * 8 + 3) + 16 * 4)

  test('slots that died make room, so that memory follows the spans and not the longest', async () => {
    const options = { maxSpan: 400, ramp: 8, initialPercentage: 0.021 }
    const { decoder, memory, most } = await stream(expireSpan(options), 150)
    expect(await memory.countSlots()).toBe(17) // distances 0 to 16, below e + R = 16.4
    // Places are taken as the stream grows: without a count, an arena cannot know which of its places are free.
    expect(most).toBeLessThanOrEqual(bound(400 + 8 + 1))
    const compacted = await decoder.compactDecoding(memory)
    expect(compacted.capacity).toBe(64)
    expect(compacted.bytes).toBe(bound(64))
    compacted.dispose()
    decoder.dispose()
  })

  test.each([
    ['spans', { maxSpan: 60, ramp: 5, initialPercentage: 0.9 }, 66],
    ['a budget', { maxSpan: 60, ramp: 5, initialPercentage: 0.9, budget: 20 }, 21],
  ])('bytes stay below the bound: %s', async (_, options, places) => {
    const { decoder, memory, most } = await stream(expireSpan(options), 100)
    expect(most).toBeLessThanOrEqual(bound(places))
    expect(await memory.countSlots()).toBeLessThanOrEqual(places)
    memory.dispose()
    decoder.dispose()
  })
})

test.each<[string, Partial<ExpireSpanOptions>, number, number]>([
  ['row', {}, 14 + 3, 0.9],
  ['blocks', { deletion: 'blocks' }, 14 + 3 + 6, 0.9],
  ['a budget', { budget: 5 }, 5, 0.9],
])('hidden memory stays below the bound: %s', async (_, options, slots, initialPercentage) => {
  const method = livelySpans({ maxSpan: 14, ramp: 3, initialPercentage, ...options })
  const decoder = decoderOf(method, fair)
  let memory = decoder.initialMemory(2)
  for (let step = 0; step + 6 <= 40; step += 6) {
    const { memory: grown } = await read(decoder, memory, step, step + 6, { compact: false })
    expect(grown.bytes).toBeLessThanOrEqual(2 * 2 * 4 * (slots + 6) * (8 + 3))
    memory = await decoder.compact(grown)
    expect(memory.bytes).toBeLessThanOrEqual(2 * 2 * 4 * slots * (8 + 3))
  }
  memory.dispose()
  decoder.dispose()
})

test('report: spans and the life left, 0 where no slot is', async () => {
  const decoder = decoderOf(livelySpans({ maxSpan: 14, ramp: 3 }))
  const { memory } = await readAll(decoder, [5, 6, 4])
  const cleared = memory.reset([1])
  const slots = await slotsOf(cleared)
  const [report] = await decoder.report(cleared)
  const { figures, method, slots: alive } = report!
  const { span, remaining } = figures as Record<string, { shape: number[]; data: Float32Array }>
  const places = cleared.layers[0]!.tensors.age!.shape[1]!
  expect(method).toBe('expire-span')
  expect(alive).toBe(slots[0]!.length / 2)
  for (const { shape } of [span!, remaining!]) expect(shape).toEqual([2, places])
  slots[0]!.forEach(({ life, age }, slot) => {
    const at = places - slots[0]!.length + slot
    expect(span!.data[at]).toBeCloseTo(life, 4)
    expect(remaining!.data[at]).toBeCloseTo(life - age, 4)
  })
  expect([...span!.data.subarray(places), ...remaining!.data.subarray(places)].every((x) => x === 0)).toBe(
    true,
  )
  const fresh = decoder.initialMemory(1)
  expect((await decoder.report(fresh))[0]!.figures.span).toMatchObject({ shape: [1, 0] })
  cleared.dispose()
  fresh.dispose()
  decoder.dispose()
})

test('overlay: the same strengths and penalty over slots of another method', async () => {
  const method = livelySpans({ maxSpan: 10, ramp: 4, penalty: 1 })
  const decoder = decoderOf(method, { ...fair, layers: 1 })
  const { memory } = await readAll(decoder, [8], false)
  const slots = memory.layers[0]!.tensors
  const { trace, memory: next } = await read(decoder, memory.clone(), 8, 12, { compact: false })
  const hidden = next.layers[0]!.tensors.hidden as Tensor3D
  const { age } = next.layers[0]!.tensors
  const parameters = Object.fromEntries(
    ['weight', 'bias'].map((name) => [name, decoder.parameters.get(`layers.0.method.${name}`)!]),
  )
  const layer = {
    index: 0,
    layers: 1,
    width: 8,
    heads: 2,
    headSize: 4,
    attendSelf: false,
    initialMemory: 'zeros',
    persistentSlots: 0,
  } as const
  const result = tidy(() => {
    const queries = slice(hidden, [0, hidden.shape[1] - 4, 0], [2, 4, 8])
    const pass = { layer, training: false, draw: 1, parameters }
    const overlay = method.overlay!({ ...pass, hidden, queries, age: sub(age!, 4) as Tensor2D })
    const [term] = overlay.terms as [{ kind: 'slot-life'; life: Tensor2D; ramp: number }]
    return { penalty: overlay.penalty!, life: term.life }
  })
  expect(largest(await numbers(result.life), trace[0]!.span)).toBeLessThan(1e-5)
  const [one, two] = trace[0]!.penalty as [number, number]
  expect((await numbers(result.penalty))[0]).toBeCloseTo((one + two) / 2, 5)
  expect(slots.age!.shape[1]).toBe(12)
  for (const value of [result.life, result.penalty, memory, next, decoder]) value.dispose()
})

test("under another method's memory: empty places cost nothing, and the report is about its slots", async () => {
  const overlay = expireSpan({ ...equalSpans, penalty: 1, loss: 'ramp' })
  const method = combine({ keeper: fixedSpan({ span: 8 }), overlays: [overlay] })
  const decoder = decoderOf(method, { layers: 1 })
  const [first, second] = [tokens(0, 8), tokens(8, 10)]
  const { memory, ...before } = decoder.forward(first, decoder.initialMemory(2))
  const result = decoder.forward(second, memory.reset([1]))
  // Row 0: the distances 4 to 7 from either query. Row 1 sees nothing but the block.
  expect((await numbers(result.penalty))[0]).toBeCloseTo((2 * (-0.5 - 1.5 - 2.5 - 3.5)) / (4 * 2) / 2, 5)
  const [report] = await decoder.report(result.memory)
  const { data } = report!.figures['expire-span.remaining'] as { data: Float32Array }
  const expected = [-4.5, -3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5]
  expect(largest([...data], [...expected, 0, 0, 0, 0, 0, 0, 1.5, 2.5])).toBeLessThan(1e-5)
  const { logits, penalty } = before
  for (const value of [first, second, logits, penalty, result.logits, result.penalty]) value.dispose()
  result.memory.dispose()
  decoder.dispose()
})

test("parameters have their places in the authors' state-dicts", async () => {
  const decoder = decoderOf(expireSpan({ maxSpan: 10 }), {
    ...fair,
    activation: 'relu',
    feedForwardBias: true,
  })
  const there = toStateDict('transformer-sequential', decoder.config, await decoder.exportParameters())
  const name = 'layers.1.attn.attn.expire_span.span_predictor'
  expect(there.get(`${name}.weight`)!.shape).toEqual([1, 8])
  expect(there.get(`${name}.bias`)!.shape).toEqual([1])
  expect(there.get(`${name}.bias`)!.data[0]).toBeCloseTo(-Math.log(9), 6)
  decoder.dispose()
})
