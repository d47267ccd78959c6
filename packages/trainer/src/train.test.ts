/** The whole loop on a tiny decoder: events, leaks, resuming bit for bit, stopping. */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { useBackend } from '@lethe/backends'
import { Decoder, type DecoderConfig, fixedSpan } from '@lethe/core'
import { fill, memory, Tensor } from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import type { Block, BlockSource } from './blocks'
import type { Checkpoint } from './checkpoint'
import { loadModel } from './checkpoint'
import { TrainingError } from './errors'
import { evaluate } from './evaluate'
import { RunFolder } from './folder'
import { openString, textSource } from './text'
import { bytesTokenizer } from './tokenizers'
import { type StepEvent, type TrainEvent, type TrainOptions, train } from './train'

const config: DecoderConfig = {
  vocabulary: 256,
  layers: 2,
  width: 8,
  heads: 2,
  feedForward: 16,
  dropout: 0.2,
  method: fixedSpan({ span: 12 }),
}
const text = 'the quick brown fox jumps over the lazy dog. '.repeat(40)
const small = { steps: 12, batch: 3, block: 8, warmup: 4, learningRate: 0.01, validBatch: 2, evalEvery: 4 }

const data = () => openString(text)

async function options(decoder: Decoder, more: Partial<TrainOptions> = {}): Promise<TrainOptions> {
  const { train, validation, tokenizer } = await data()
  return { ...small, decoder, train, validation, tokenizer, ...more }
}

async function collect(settings: TrainOptions, onEvent?: (event: TrainEvent) => void | Promise<void>) {
  const events: TrainEvent[] = []
  for await (const event of train(settings)) {
    events.push(event)
    await onEvent?.(event)
  }
  return events
}

const steps = (events: TrainEvent[]) => events.filter((event): event is StepEvent => event.type === 'step')

/** Without what may differ between two runs of the same seed. */
const timeless = (events: TrainEvent[]) =>
  events
    .filter(({ type }) => type === 'step' || type === 'eval')
    .map((event) => ({ ...event, seconds: 0, tokensPerSecond: 0 }))

const parametersOf = async (decoder: Decoder) =>
  [...(await decoder.exportParameters())].map(([name, { data }]) => [name, [...data]])

test('a read that fails while evaluation computes on is thrown, and ends no program as unhandled', async () => {
  await useBackend('cpu')
  const unhandled = vi.fn()
  process.on('unhandledRejection', unhandled)
  const decoder = new Decoder(config)
  const lost = () => Promise.reject(new Error('the device was lost'))
  const reading = vi.spyOn(Tensor.prototype, 'data').mockImplementation(lost)
  try {
    const { validation } = await data()
    const options = { decoder, source: validation!, batch: 2, block: 8 }
    await expect(evaluate(options)).rejects.toThrow('the device was lost')
    await new Promise((done) => setTimeout(done))
    expect(unhandled).not.toHaveBeenCalled()
  } finally {
    reading.mockRestore()
    process.off('unhandledRejection', unhandled)
    decoder.dispose()
  }
})

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
  })

  test('yields its events in order, learns, and leaks nothing', async () => {
    const before = memory().numTensors
    const decoder = new Decoder(config)
    const during: number[] = []
    const events = await collect(await options(decoder, { steps: 30, evalEvery: 10 }), (event) => {
      if (event.type === 'step') during.push(memory().numTensors)
    })
    const types = events.map(({ type }) => type).filter((type) => type !== 'evaluating')
    expect(types.slice(0, 12)).toEqual(['start', ...new Array(10).fill('step'), 'eval'])
    expect(events.at(-1)).toEqual({ type: 'end', step: 30, reason: 'finished' })
    const losses = steps(events).map(({ loss }) => loss)
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 1)
    // Once the memory is full, a step leaves as many tensors as it found.
    expect(new Set(during.slice(5)).size).toBe(1)
    const first = steps(events)[0]!
    expect(first).toMatchObject({ step: 1, learningRate: 0.0025, tokens: 24, slots: 8, penalty: 0 })
    expect(first.bitsPerByte).toBeCloseTo(first.loss / Math.LN2)
    expect(first.gradientNorm).toBeGreaterThan(0)
    expect(first.memoryBytes).toBe(2 * 3 * 8 * 8 * 4)
    decoder.dispose()
    expect(memory().numTensors).toBe(before)
  })

  test.each([
    { optimizer: 'adam' } as const,
    { optimizer: 'sgd', momentum: 0.9, accumulate: 2, schedule: 'cosine' } as const,
    { optimizer: 'adam', unroll: 2, accumulate: 2, layerDrop: 0.5 } as const,
  ])(
    'a resumed run equals the uninterrupted one bit for bit: %o',
    async ({ layerDrop = 0, ...more }: Partial<TrainOptions> & { layerDrop?: number }) => {
      const whole = new Decoder({ ...config, layerDrop })
      const expected = await collect(await options(whole, more))

      const saved: Checkpoint[] = []
      const checkpoints = { save: async (checkpoint: Checkpoint) => `checkpoint ${saved.push(checkpoint)}` }
      const half = new Decoder({ ...config, layerDrop })
      const controller = new AbortController()
      const first = await collect(
        await options(half, { ...more, checkpoints, signal: controller.signal }),
        ({ type, step }) => {
          if (type === 'step' && step === 7) controller.abort()
        },
      )
      expect(first.slice(-2)).toEqual([
        { type: 'checkpoint', step: 7, path: 'checkpoint 1' },
        { type: 'end', step: 7, reason: 'aborted' },
      ])

      const { decoder } = await loadModel(saved[0]!.model, { 'fixed-span': fixedSpan })
      const second = await collect(await options(decoder, { ...more, checkpoints, resume: saved[0] }))
      expect(timeless([...first, ...second])).toEqual(timeless(expected))
      expect(await parametersOf(decoder)).toEqual(await parametersOf(whole))
      for (const each of [whole, half, decoder]) each.dispose()
    },
  )

  test('an update with unroll reads that many blocks, and is the gradient through all of them', async () => {
    const decoder = new Decoder({ ...config, dropout: 0 })
    const same = new Decoder({ ...config, dropout: 0 })
    const settings = { optimizer: 'sgd', steps: 1, warmup: 0, clip: 0 } as const
    const [event] = steps(await collect(await options(decoder, { ...settings, unroll: 2 })))
    expect(event).toMatchObject({ tokens: 3 * 8 * 2, slots: 12 })
    // Two blocks whose memory is a constant give another gradient, of the same loss.
    const [apart] = steps(await collect(await options(same, { ...settings, accumulate: 2 })))
    expect(apart!.loss).toBeCloseTo(event!.loss, 5)
    expect(Math.abs(apart!.gradientNorm - event!.gradientNorm)).toBeGreaterThan(1e-4)
    for (const each of [decoder, same]) each.dispose()
  })

  test('aborted in the last evaluation it is not finished; resumed it is, with other evaluations if it likes', async () => {
    const decoder = new Decoder(config)
    const saved: Checkpoint[] = []
    const checkpoints = { save: async (checkpoint: Checkpoint) => `checkpoint ${saved.push(checkpoint)}` }
    const controller = new AbortController()
    const settings = await options(decoder, { steps: 2, checkpoints, signal: controller.signal })
    const first = await collect(settings, ({ type }) => {
      if (type === 'evaluating') controller.abort()
    })
    expect(first.at(-1)).toEqual({ type: 'end', step: 2, reason: 'aborted' })
    const resumed = { ...settings, resume: saved[0], signal: undefined }
    const rest = (await collect(resumed)).filter(({ type }) => type !== 'evaluating')
    expect(rest.map(({ type, step }) => [type, step])).toEqual([
      ['start', 2],
      ['eval', 2],
      ['end', 2],
    ])
    expect(rest.at(-1)).toMatchObject({ reason: 'finished' })
    const more = (await collect({ ...resumed, steps: 4, evalEvery: 1 })).filter(({ type }) => type === 'eval')
    expect(more.map(({ step }) => step)).toEqual([2, 3, 4])
    decoder.dispose()
  })

  test('evaluation counts every token but the first once, however the text is cut', async () => {
    const decoder = new Decoder({ ...config, method: fixedSpan({ span: 200 }) })
    const source = textSource(text.slice(0, 150), bytesTokenizer())
    const alone = await evaluate({ decoder, source, batch: 1, block: 149 })
    expect(alone.tokens).toBe(149)
    for (const block of [10, 64]) {
      const { loss, tokens } = await evaluate({ decoder, source, batch: 1, block })
      expect(tokens).toBe(149)
      expect(loss).toBeCloseTo(alone.loss, 5)
    }
    // Four streams of 38, 37, 37 and 37 tokens: the mean of the four streams read alone.
    const streams = await evaluate({ decoder, source, batch: 4, block: 10 })
    let sum = 0
    for (const [start, length] of [
      [0, 38],
      [38, 37],
      [75, 37],
      [112, 37],
    ] as const) {
      const part = textSource(text.slice(start, start + length + 1), bytesTokenizer())
      sum += (await evaluate({ decoder, source: part, batch: 1 })).loss * length
    }
    expect(streams.tokens).toBe(149)
    expect(streams.loss).toBeCloseTo(sum / 149, 5)
    expect(streams.bitsPerByte).toBeCloseTo(streams.loss / Math.LN2)
    decoder.dispose()
  })
})

describe('streams with weights and resets', () => {
  beforeAll(async () => {
    await useBackend('cpu')
  })

  /** Blocks in turn: to evaluate on once, to train on over and over. */
  const sourceOf = (...blocks: Block[]): BlockSource => ({
    vocabulary: 11,
    identity: 'given blocks',
    stream() {
      let next = 0
      return { position: null, next: () => blocks[next++ % blocks.length]! }
    },
    evaluation: () => ({
      tokens: blocks.length * blocks[0]!.inputs.length,
      blocks: (async function* () {
        yield* blocks
      })(),
    }),
  })
  const tokens = (from: number) => Int32Array.from({ length: 8 }, (_, at) => (from + 3 * at) % 11)
  const first: Block = { inputs: tokens(0), targets: tokens(1), weights: new Float32Array(8) }
  const second: Block = {
    inputs: tokens(5),
    targets: tokens(7),
    weights: Float32Array.of(0, 0, 0, 0, 1, 1, 1, 1),
  }

  test('a row that begins anew is read with an empty memory; targets without weight do not count', async () => {
    const decoder = new Decoder({ ...config, dropout: 0 })
    const before = memory().numTensors
    const row: Block = { inputs: second.inputs.slice(4), targets: second.targets.slice(4) }
    const alone = await evaluate({ decoder, source: sourceOf(row), batch: 1 })
    const carried = await evaluate({ decoder, source: sourceOf(first, second), batch: 2 })
    const anew = sourceOf(first, { ...second, resets: [1] })
    const reset = await evaluate({ decoder, source: anew, batch: 2 })
    expect([alone.tokens, carried.tokens, reset.tokens]).toEqual([4, 4, 4])
    expect(reset.loss).toBeCloseTo(alone.loss, 5)
    expect(Math.abs(carried.loss - alone.loss)).toBeGreaterThan(1e-4)

    const still = { optimizer: 'sgd', learningRate: 1e-30, steps: 2, batch: 2, block: 4 } as const
    const all = await collect({ decoder, train: anew, ...still, report: true })
    const reports = all.flatMap((event) => (event.type === 'report' ? [event] : []))
    expect(reports.map(({ step, layers }) => [step, layers.length, layers[0]!.attended.length])).toEqual([
      [2, 2, 2],
    ])
    const events = steps(all)
    expect(events.map(({ answers }) => answers)).toEqual([0, 4])
    expect(events.map(({ loss }) => loss)).toEqual([0, expect.closeTo(alone.loss, 5)])
    expect(memory().numTensors).toBe(before)
    decoder.dispose()
  })
})

test('an error of the data, at whatever moment, leaves no tensor behind', async () => {
  await useBackend('cpu')
  const decoder = new Decoder(config)
  const before = memory().numTensors
  const block = { inputs: new Int32Array(8), targets: new Int32Array(8) }
  for (const broken of [
    () => Promise.reject(new Error('the text is gone')),
    () => ({ ...block, targets: new Int32Array(4), resets: [0] }),
    () => ({ ...block, weights: new Float32Array(3) }),
  ]) {
    let count = 0
    const train: BlockSource = {
      vocabulary: 256,
      identity: 'broken',
      stream: () => ({ position: null, next: () => (++count % 4 === 0 ? broken() : block) }),
      evaluation: () => ({ tokens: 0, blocks: (async function* () {})() }),
    }
    await expect(collect({ ...small, decoder, train, batch: 2, block: 4, accumulate: 2 })).rejects.toThrow()
    expect(memory().numTensors).toBe(before)
  }
  decoder.dispose()
})

test('evaluation refuses tokens that the decoder does not know, and parts of a token', async () => {
  await useBackend('cpu')
  const decoder = new Decoder({ ...config, vocabulary: 100 })
  const source = textSource(text, bytesTokenizer())
  await expect(evaluate({ decoder, source })).rejects.toThrow(/256 different tokens, .* vocabulary is 100/)
  await expect(evaluate({ decoder, source, block: 1.5 })).rejects.toThrow(/block must be a whole number/)
  await expect(evaluate({ decoder, source, batch: 0 })).rejects.toThrow(/batch must be a whole number/)
  decoder.dispose()
})

describe('runs on disk', () => {
  let folder: string
  beforeAll(async () => {
    await useBackend('wasm')
  })
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lethe-train-'))
  })
  afterEach(() => rm(folder, { recursive: true, force: true }))

  const metrics = async (path: string) =>
    (await readFile(join(path, 'metrics.jsonl'), 'utf8'))
      .trimEnd()
      .split('\n')
      .map((line) => ({ ...JSON.parse(line), seconds: 0, tokensPerSecond: 0 }))

  async function runOnDisk(path: string, stopAt = Number.POSITIVE_INFINITY) {
    const decoder = new Decoder(config)
    const run = await RunFolder.create(path, { any: 'thing' })
    const settings = await options(decoder, { checkpoints: run.checkpoints, checkpointEvery: 3 })
    for await (const event of train(settings)) {
      await run.record(event)
      if (event.type === 'step' && event.step === stopAt) break
    }
    await run.close()
    decoder.dispose()
  }

  test('metrics are cut back to the checkpoint, and end like those of an uninterrupted run', async () => {
    await runOnDisk(join(folder, 'whole'))
    await runOnDisk(join(folder, 'cut'), 8)
    expect(await metrics(join(folder, 'cut'))).toHaveLength(9)

    const { run, checkpoint } = await RunFolder.resume(join(folder, 'cut'))
    expect(checkpoint!.step).toBe(6)
    expect(await metrics(join(folder, 'cut'))).toHaveLength(7)
    const decoder = new Decoder(config)
    const settings = await options(decoder, {
      checkpoints: run.checkpoints,
      checkpointEvery: 3,
      resume: checkpoint,
    })
    for await (const event of train(settings)) await run.record(event)
    await run.close()
    expect(await metrics(join(folder, 'cut'))).toEqual(await metrics(join(folder, 'whole')))
    expect(await run.checkpoints.steps()).toEqual([12, 9, 6])
    const name = 'checkpoints/step-000012/model.safetensors'
    expect(await readFile(join(folder, 'cut', name))).toEqual(await readFile(join(folder, 'whole', name)))
    decoder.dispose()
  })

  test('a model whose last update made it useless is not saved as good', async () => {
    const decoder = new Decoder(config)
    const run = await RunFolder.create(join(folder, 'run'), {})
    const broken = collect(
      await options(decoder, {
        checkpoints: run.checkpoints,
        ...{ steps: 1, warmup: 0, clip: 0, optimizer: 'sgd', learningRate: 1e38 },
      }),
    )
    await expect(broken).rejects.toThrow(
      /the validation loss became NaN at step 1; no checkpoint was saved before/,
    )
    expect(await run.checkpoints.steps()).toEqual([])
    await run.close()
    decoder.dispose()
  })

  test('a loss that is no number names the step and the last good checkpoint, and is not saved', async () => {
    const decoder = new Decoder(config)
    const run = await RunFolder.create(join(folder, 'run'), {})
    const settings = await options(decoder, {
      checkpoints: run.checkpoints,
      checkpointEvery: 5,
      evalEvery: 0,
    })
    const broken = collect(settings, ({ type, step }) => {
      if (type !== 'step' || step !== 7) return
      const [parameter] = decoder.parameters.values()
      parameter!.assign(fill(parameter!.shape, Number.NaN))
    })
    await expect(broken).rejects.toThrow(TrainingError)
    await expect(broken).rejects.toThrow(/became NaN at step 8; the last good checkpoint is .*step-000005/)
    expect(await run.checkpoints.steps()).toEqual([5])
    await run.close()
    decoder.dispose()
  })
})

describe('what does not belong together is refused', () => {
  const saved: Checkpoint[] = []
  beforeAll(async () => {
    await useBackend('cpu')
    const decoder = new Decoder(config)
    const checkpoints = { save: async (checkpoint: Checkpoint) => `checkpoint ${saved.push(checkpoint)}` }
    await collect(await options(decoder, { steps: 2, evalEvery: 0, validation: undefined, checkpoints }))
    decoder.dispose()
  })

  test.each([
    [{ learningRate: 0.02 }, /made with learningRate 0.01, not 0.02: resume with the same options/],
    [{ batch: 4 }, /made with batch 3, not 4/],
    [{ steps: 1 }, /give 2 steps or more/],
    [
      { train: textSource(text, bytesTokenizer()) },
      /made with training data of "1620 tokens", not "1800 tokens"/,
    ],
    [{ train: textSource('x'.repeat(1620), bytesTokenizer()) }, /resume with the same data and tokenizer/],
    [{ width: 16 }, /made with width \(model\) 8, not 16/],
  ] as [Partial<TrainOptions> & { width?: number }, RegExp][])(
    '%#',
    async ({ width = 8, ...more }, message) => {
      const decoder = new Decoder({ ...config, width })
      const before = memory().numTensors
      await expect(
        collect(await options(decoder, { evalEvery: 0, resume: saved[0], ...more })),
      ).rejects.toThrow(message)
      expect(memory().numTensors).toBe(before)
      decoder.dispose()
    },
  )

  test.each([
    [{ steps: 0 }, /steps must be a whole number of at least 1, not 0/],
    [{ learningRate: -1 }, /learningRate must be more than 0/],
    [{ clip: -1 }, /clip must be 0/],
    [{ block: 1000 }, /too short: it has 1620 tokens, and 3 rows of one block need 3003/],
    [{ validBatch: 500 }, /text to evaluate is too short: it has 180 tokens, and 500 streams need 501/],
    [{ schedule: 'linear' as 'cosine' }, /unknown schedule "linear"/],
  ] as [Partial<TrainOptions>, RegExp][])('%o', async (more, message) => {
    const decoder = new Decoder(config)
    await expect(collect(await options(decoder, more))).rejects.toThrow(message)
    decoder.dispose()
  })
})
