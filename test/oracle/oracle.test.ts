/** The oracle against the numbers of the papers' own code, and against what follows from its definitions. */
import { readFileSync } from 'node:fs'
import { useBackend } from '@lethe/backends'
import {
  Decoder,
  type DecoderConfig,
  decodeSafetensors,
  fromStateDict,
  type HostTensor,
  fixedSpan as plain,
  type ResolvedConfig,
  type StateDictFamily,
} from '@lethe/core'
import { tensor2d } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { type AdaptiveSpanOptions, adaptiveSpan } from './adaptive-span'
import { type CompressiveOptions, compressive, convolve } from './compressive'
import {
  type Config,
  type DecoderOracle,
  decoderOracle,
  fixedSpan,
  gradient,
  type MethodOracle,
  mean,
  type Parameters,
  range,
  readMany,
  toParameters,
  type Values,
  type Vector,
} from './decoder'
import { expireSpan } from './expire-span'
import { greedyBudgets, selective } from './selective'
import { sinks } from './sinks'

// The golden files

const golden = (name: string) => {
  const path = new URL(`../golden/${name}.safetensors`, import.meta.url)
  const { tensors, metadata } = decodeSafetensors(readFileSync(path), name)
  return { tensors, metadata, given: JSON.parse(metadata.config!), blocks: Number(metadata.blocks) }
}
type Golden = ReturnType<typeof golden>

const double = ({ shape, data }: HostTensor): Values => ({ shape, data: Float64Array.from(data) })
const under = (tensors: Golden['tensors'], prefix: string) =>
  new Map(
    [...tensors].flatMap(([name, value]) =>
      name.startsWith(prefix) ? [[name.slice(prefix.length), value]] : [],
    ),
  )
/** The last two axes as rows: [row][step] for I32 tokens, [step][feature] per row of the batch otherwise. */
const nested = ({ shape, data }: HostTensor): number[][][] =>
  range(shape[0]!).map((b) =>
    range(shape[1]!).map((i) => [
      ...data.slice((b * shape[1]! + i) * (shape[2] ?? 1), (b * shape[1]! + i + 1) * (shape[2] ?? 1)),
    ]),
  )
const matrix = (tensor: HostTensor) => nested(tensor).map((row) => row.flat())

const fair: Omit<Config, 'vocabulary' | 'layers' | 'width' | 'heads' | 'headSize' | 'feedForward'> = {
  ...{ activation: 'relu', norm: 'layer', normPosition: 'post', positions: 'learned', beyondLearned: 'none' },
  ...{
    attendSelf: false,
    initialMemory: 'zeros',
    tiedOutput: false,
    outputBias: true,
    feedForwardBias: true,
  },
  ...{ embeddingScale: 1, epsilon: 1e-5, farthestPosition: Number.POSITIVE_INFINITY, persistentSlots: 0 },
}
const configOf = ({ given }: Golden): Config => ({
  ...fair,
  vocabulary: given.vocab_sz ?? given.vocab_size,
  layers: given.nlayers ?? given.nb_layers,
  width: given.hid_sz ?? given.hidden_size,
  heads: given.nheads ?? given.nb_heads,
  headSize: given.head_dim ?? given.hidden_size / given.nb_heads,
  feedForward: given.inner_hid_sz ?? given.inner_hidden_size,
  normPosition: given.pre_norm ? 'pre' : 'post',
})

interface Replay {
  readonly file: Golden
  readonly family: StateDictFamily
  readonly config: Config
  readonly methods: readonly MethodOracle[]
  /** Method parameters: ours within the layer → theirs within the layer, with shape. */
  readonly own?: Readonly<Record<string, readonly [theirs: string, shape: readonly number[]]>>
  readonly draws?: Vector
  /** Blocks to read; all by default. */
  readonly blocks?: number
  /** Parameters of which gradients are compared in block 1. */
  readonly gradients?: readonly string[]
}

const parametersOf = ({ family, config, own = {}, file }: Replay, prefix = 'param/') => {
  const theirs = under(file.tensors, prefix)
  const method = range(config.layers).map(() => plain({ span: 1 }))
  const resolved = { ...config, method, learnedDistances: 0 } as unknown as ResolvedConfig
  const partial = prefix !== 'param/'
  const parameters = toParameters(fromStateDict(family, resolved, theirs, { partial }))
  for (const index of range(config.layers))
    for (const [name, [source, shape]] of Object.entries(own)) {
      const { data } = theirs.get(`layers.${index}.attn.attn.${source}`)!
      parameters.set(`layers.${index}.method.${name}`, { shape, data: Float64Array.from(data) })
    }
  return parameters
}

const worst = (actual: Iterable<number>, expected: ArrayLike<number>) =>
  Math.max(0, ...[...actual].map((value, index) => Math.abs(value - expected[index]!)))
const logSoftmax = (logits: Vector) => {
  const normaliser = Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0))
  return logits.map((logit) => logit - normaliser)
}

/** Reads the blocks in a chain from the oracle's own first memory. Largest absolute errors. */
function replay(given: Replay) {
  const { file, config, methods, draws, blocks = file.blocks, gradients = [] } = given
  const parameters = parametersOf(given)
  const error = { logProbs: 0, loss: 0, penalty: 0, gradient: 0 }
  const at = (name: string, block: number) => file.tensors.get(`block${block}/${name}`)!
  const oracle = decoderOracle(config, methods, parameters)
  let state = oracle.start(Number(file.metadata.batch))
  for (const block of range(blocks)) {
    const targets = matrix(at('y', block))
    const options = { training: draws !== undefined, draw: draws?.[block] ?? 1, targets }
    const before = state
    const read = (from: DecoderOracle) => from.read(matrix(at('x', block)), before, options)
    const result = read(oracle)
    state = result.state
    const logProbs = result.logits.flat().flatMap(logSoftmax)
    error.logProbs = Math.max(error.logProbs, worst(logProbs, at('logprobs', block).data))
    error.loss = Math.max(error.loss, worst([result.loss], at('loss', block).data))
    error.penalty = Math.max(error.penalty, worst([result.penalty], at('aux_loss', block).data))
    if (block !== 1) continue
    const expected = parametersOf(given, 'block1/grad/')
    for (const name of gradients) {
      const total = (changed: Parameters) => {
        const { loss, penalty } = read(decoderOracle(config, methods, changed))
        return loss + penalty
      }
      error.gradient = Math.max(
        error.gradient,
        worst(gradient(total, parameters, name), expected.get(name)!.data),
      )
    }
  }
  return { ...error, state }
}

describe('golden', () => {
  const passes = (given: Replay, tolerance = 1e-4) => {
    const { state, ...errors } = replay(given)
    if (process.env.SHOW) console.log(errors)
    for (const [what, error] of Object.entries(errors)) expect(error, what).toBeLessThan(tolerance)
    return state
  }
  const perLayer = (method: MethodOracle) => [method, method]

  test('xl-fixed-span', () => {
    const file = golden('xl-fixed-span')
    const span = file.given.attn_lim
    const config = configOf(file)
    const gradients = ['layers.0.attention.key', 'positions.table']
    passes({ file, config, family: 'transformer-sequential', methods: perLayer(fixedSpan(span)), gradients })
  })

  test('transformer-xl', () => {
    const file = golden('transformer-xl')
    const {
      n_token: vocabulary,
      n_layer: layers,
      d_model: width,
      n_head: heads,
      d_head: headSize,
    } = file.given
    const config: Config = {
      ...{ ...fair, vocabulary, layers, width, heads, headSize, feedForward: file.given.d_inner },
      ...{ positions: 'sinusoidal', attendSelf: true, initialMemory: 'empty', embeddingScale: 'sqrt-width' },
    }
    const methods = perLayer(fixedSpan(file.given.mem_len, false))
    passes({ file, config, family: 'transformer-xl', methods, gradients: ['positions.contentBias'] })
  })

  const headSpan = (file: Golden, maxSpan: number, heads: number, options: Partial<AdaptiveSpanOptions>) =>
    ({
      file,
      config: configOf(file),
      methods: perLayer(adaptiveSpan({ maxSpan, ramp: 32, penalty: 0, ...options })),
      own: {
        span: [heads === 1 ? 'adaptive_span.mask.size_ratio' : 'adaptive_span._mask.current_val', [heads]],
      },
      gradients: ['layers.0.method.span', 'layers.1.method.span'],
    }) as const

  test.each([
    ['adaptive-span', { penalty: 0.002, ramp: 16, trimStep: 64 }],
    ['persistent-memory-adaptive-span', { trimStep: 64 }],
  ])('%s', (name, options) => {
    const file = golden(name)
    const { adapt_span_loss: penalty, adapt_span_ramp: ramp } = file.given.adapt_span_params
    const replayed = headSpan(file, file.given.attn_span, 2, { ...options, penalty, ramp })
    const persistentSlots = file.given.pers_mem_params.pers_mem_size
    const config = { ...replayed.config, persistentSlots, ...(persistentSlots > 0 && { feedForward: 0 }) }
    passes({ ...replayed, config, family: 'adaptive-span', blocks: 6 })
  })

  test('adaptive-span-layer', () => {
    const file = golden('adaptive-span-layer')
    const { adapt_span_loss: penalty, adapt_span_len: ramp, adapt_span_trim_step: trimStep } = file.given
    const replayed = headSpan(file, file.given.attn_lim, 1, { penalty, ramp, trimStep })
    const state = passes({ ...replayed, family: 'transformer-sequential', blocks: 4 })
    expect(state.layers.map((rows) => (rows[0] as unknown[]).length)).toEqual([112, 80])
  })

  test.each(['expire-span-eval', 'expire-span-train', 'expire-span-prenorm'])('%s', (name) => {
    const file = golden(name)
    const { given } = file
    const method = (deletion: 'blocks' | 'row') =>
      expireSpan({
        ...{ maxSpan: given.attn_lim, ramp: given.expire_span_ramp, penalty: given.expire_span_loss },
        ...{
          divider: given.expire_span_pre_div,
          shorten: given.expire_span_noisy,
          zeros: given.mem_sz,
          deletion,
        },
      })
    const replayed: Omit<Replay, 'methods'> = {
      ...{ file, config: configOf(file), family: 'transformer-sequential' },
      own: {
        weight: ['expire_span.span_predictor.weight', [given.hid_sz, 1]],
        bias: ['expire_span.span_predictor.bias', [1]],
      },
      ...(given.span_noise && { draws: given.span_noise }),
      gradients: ['layers.0.method.weight', 'layers.1.method.bias', 'layers.0.attention.norm.bias'],
    }
    const state = passes({ ...replayed, methods: perLayer(method('blocks')) })
    for (const [layer, rows] of (state.layers as { age: number }[][][]).entries()) {
      const counter = file.tensors.get(`block${file.blocks - 1}/memory/layer${layer}/counter`)!
      expect(rows.map((row) => row.map(({ age }) => age))).toEqual(matrix(counter))
    }
    // What is deleted row by row is never missed.
    passes({ ...replayed, gradients: [], methods: perLayer(method('row')) })
  })

  const voted = (name: string, budget?: readonly number[]) => {
    const file = golden(name)
    const { mem_epsilon: memoryLoss, mem_tau: tau } = file.given
    const config: Config = { ...configOf(file), attendSelf: true, initialMemory: 'empty' }
    const methods = perLayer(selective({ memoryLoss, tau, ...(budget && { budget }) }))
    const gradients = ['layers.0.attention.norm.scale', 'layers.1.attention.query']
    return { file, config, methods, gradients, family: 'adaptive-span' } as const
  }
  test('selective', () => {
    passes({ ...voted('selective') })
  })
  test('selective-pruned', () => {
    const given = voted('selective-pruned', [12, 9])
    const state = passes(given)
    for (const [layer, rows] of (state.layers as { age: number }[][][]).entries()) {
      const position = given.file.tensors.get(`block5/memory/layer${layer}/position`)!
      expect(rows.map((row) => row.map(({ age }) => 36 - age))).toEqual(matrix(position))
    }
  })
  test('selective-pruned, token by token', () => {
    const given = voted('selective-pruned', [11, 8])
    const oracle = decoderOracle(given.config, given.methods, parametersOf(given))
    const tokens = matrix(given.file.tensors.get('token/x')!)
    const blocks = range(36).map((i) => ({ tokens: tokens.map((row) => [row[i]!]) }))
    const { results } = readMany(oracle, blocks)
    const logProbs = range(2).flatMap((b) => results.flatMap(({ logits }) => logSoftmax(logits[b]![0]!)))
    expect(worst(logProbs, given.file.tensors.get('token/logprobs')!.data)).toBeLessThan(1e-4)
  })

  // Positions and padding of this reference are its own; its compression and its loss are the paper's.
  test('compressive-conv: the convolution and the attention loss', () => {
    const file = golden('compressive-conv')
    const { dim, cmem_ratio: rate, heads } = file.given
    const theirs = (name: string) => file.tensors.get(`param/attn_layers.0.fn.fn.${name}`)!
    const memory = (block: number, name: string) =>
      nested(file.tensors.get(`block${block}/memory/layer0/${name}`)!)
    const turned = (rows: Vector): Values => ({
      shape: [dim, rows.length / dim],
      data: Float64Array.from(range(rows.length), (at) => {
        const [i, o] = [Math.floor(at / (rows.length / dim)), at % (rows.length / dim)]
        return rows[o * dim + i]!
      }),
    })
    const conv = theirs('compress_mem_fn.conv.weight').data
    const weight: Values = {
      shape: [rate * dim, dim],
      data: Float64Array.from(range(conv.length), (at) => {
        const [tap, i, o] = [Math.floor(at / dim / dim), Math.floor(at / dim) % dim, at % dim]
        return conv[(o * dim + i) * rate + tap]!
      }),
    }
    const bias = double(theirs('compress_mem_fn.conv.bias'))
    const kv = [...theirs('to_kv.weight').data]
    const block = 5
    // In these six steps of block 5 (normalised, as this reference remembers them) each is a token of its own.
    const input = memory(block, 'hidden').map((row) => row.slice(-6))
    const config: Config = {
      ...{ ...fair, layers: 1, width: dim, heads, headSize: dim / heads, vocabulary: 12, feedForward: 0 },
      ...{
        positions: 'none',
        attendSelf: true,
        initialMemory: 'empty',
        outputBias: false,
      },
    }
    const ones = { shape: [dim], data: new Float64Array(dim).fill(1) }
    const parameters = new Map<string, Values>([
      ['embedding.weight', { shape: [12, dim], data: Float64Array.from(input.flat(2)) }],
      ['layers.0.attention.query', turned([...theirs('to_q.weight').data])],
      ['layers.0.attention.key', turned(kv.slice(0, dim * dim))],
      ['layers.0.attention.value', turned(kv.slice(dim * dim))],
      ['layers.0.attention.output', turned([...theirs('to_out.weight').data])],
      ...['scale', 'bias'].map((name) => [`layers.0.attention.norm.${name}`, ones] as const),
      ['output.weight', { shape: [dim, 12], data: new Float64Array(dim * 12) }],
    ])
    const oracle = decoderOracle(config, [fixedSpan(6)], parameters)
    const { views } = oracle.read([range(6), range(6).map((i) => i + 6)], oracle.start(2)).trace[0]!
    const squares = views.flatMap((view, b) => {
      const hidden = memory(block - 1, 'hidden')[b]!
      const zeros = range(2).map(() => range(dim).map(() => 0))
      const made = convolve([...zeros, ...hidden.slice(0, 6)], rate, weight, bias)
      expect(worst(made.flat(), memory(block, 'compressed')[b]!.slice(-2).flat())).toBeLessThan(1e-5)
      const got = view.attendWith(made).flat(2)
      return view
        .attendWith(hidden)
        .flat(2)
        .map((value, at) => (value - got[at]!) ** 2)
    })
    const expected = file.tensors.get(`block${block}/layer0/reconstruction_loss`)!.data
    expect(worst([mean(squares)], expected)).toBeLessThan(1e-6)
  })
})

// What follows from the definitions, on small decoders with drawn weights

/** A decoder's configuration and weights from core; `own`: method parameters of the (only) layer. */
async function drawn(fields: Partial<DecoderConfig> = {}, own: Readonly<Record<string, Values>> = {}) {
  const decoder = new Decoder({
    ...{
      vocabulary: 7,
      layers: 1,
      width: 6,
      heads: 2,
      headSize: 4,
      feedForward: 8,
      method: plain({ span: 4 }),
    },
    ...fields,
  })
  const parameters = toParameters(await decoder.exportParameters())
  for (const [name, value] of Object.entries(own)) parameters.set(`layers.0.method.${name}`, value)
  return { decoder, config: decoder.config as Config, parameters }
}
const values = (shape: readonly number[], value: (index: number) => number): Values => ({
  shape,
  data: Float64Array.from(range(shape.reduce((product, size) => product * size, 1)), value),
})
const stream = [
  [1, 5, 2, 0, 6, 3, 3, 1, 4, 2, 5, 0, 6],
  [4, 0, 1, 6, 2, 2, 5, 3, 0, 6, 1, 4, 3],
]
/** The stream in blocks of these lengths. */
const blocksOf = (...lengths: Vector) =>
  lengths.map((length, block) => {
    const from = lengths.slice(0, block).reduce((total, before) => total + before, 0)
    const cut = (first: number) => stream.map((row) => row.slice(first, first + length))
    return { tokens: cut(from), targets: cut(from + 1) }
  })
const readAll = (config: Config, parameters: Parameters, method: MethodOracle, ...lengths: Vector) => {
  const methods = range(config.layers).map(() => method)
  const read = readMany(decoderOracle(config, methods, parameters), blocksOf(...lengths))
  const logits = stream.map((_, b) => read.results.flatMap((result) => result.logits[b]!.flat()))
  return { ...read, logits: logits.flat(), rows: read.state.layers[0] as readonly unknown[] }
}
const isAlike = (a: Vector, b: Vector) => {
  expect(a.length).toBe(b.length)
  expect(worst(a, b)).toBeLessThan(1e-12)
}
const ages = (row: unknown) => (row as { age: number }[]).map(({ age }) => age)
const everything = fixedSpan(100, false)

describe('definitions', () => {
  beforeAll(async () => {
    await useBackend('cpu')
  })

  test.each<Partial<DecoderConfig>>([
    { layers: 2, tiedOutput: true },
    { activation: 'gelu', norm: 'layer', feedForwardBias: true, outputBias: true, positions: 'none' },
    { positions: 'learned', beyondLearned: 'clamp', learnedDistances: 3, normPosition: 'post' },
    { positions: 'sinusoidal', farthestPosition: 3, attendSelf: false, initialMemory: 'zeros' },
  ])('the decoder is that of core: %o', async (fields) => {
    const { decoder, config, parameters } = await drawn(fields)
    const blocks = blocksOf(4, 4, 4)
    const { results } = readAll(config, parameters, fixedSpan(4), 4, 4, 4)
    let memory = decoder.initialMemory(2)
    for (const [block, { tokens }] of blocks.entries()) {
      const there = decoder.forward(tensor2d(tokens, [2, 4], 'int32'), memory)
      memory = there.memory
      expect(worst(results[block]!.logits.flat(2), there.logits.dataSync())).toBeLessThan(1e-5)
    }
  })

  test('adaptive-span: a dynamic span that depends on nothing is a static one', async () => {
    const share = 0.4
    const own = { weight: values([6, 2], () => 0), bias: values([2], () => Math.log(share / (1 - share))) }
    const { config, parameters } = await drawn({}, { ...own, span: values([2], () => share) })
    const options = { maxSpan: 9, ramp: 3, penalty: 0.1 }
    const dynamic = readAll(config, parameters, adaptiveSpan({ ...options, dynamic: true }), 4, 4)
    const fixed = readAll(config, parameters, adaptiveSpan({ ...options, trimStep: 2, growth: 1 }), 4, 4)
    isAlike(dynamic.logits, fixed.logits)
    expect(dynamic.penalty).toBeCloseTo(fixed.penalty, 12)
    expect(fixed.penalty).toBeCloseTo(0.1 * 9 * share, 12)
    // Longest: ceil(3.6) + 3 = 7 of 9, so 2 are trimmed, and 1 more is kept to grow.
    expect([dynamic.rows[0], fixed.rows[0]].map((row) => ages(row).length)).toEqual([8, 8])
    expect(
      ages(readAll(config, parameters, adaptiveSpan({ ...options, trimStep: 2, growth: 0 }), 8).rows[0])[0],
    ).toBe(7)
  })

  test('expire-span: lives, budget and the mean loss', async () => {
    const same = { weight: values([6, 1], () => 0), bias: values([1], () => 0) }
    const { config, parameters } = await drawn({}, same)
    const options = { maxSpan: 60, ramp: 2, penalty: 0.5 }
    const capped = readAll(config, parameters, expireSpan({ ...options, budget: 5, loss: 'mean' }), 3, 3, 3)
    isAlike(capped.logits, readAll(config, parameters, fixedSpan(5, false), 3, 3, 3).logits)
    expect(capped.penalty).toBeCloseTo(0.5 * 30, 12)
    // e = 4, ramp 2: seen up to distance 5; of ages 1..6 at the next block's first query, 6 is gone.
    const short = readAll(config, parameters, expireSpan({ ...options, maxSpan: 8 }), 3, 3, 3)
    expect(ages(short.rows[0])).toEqual([5, 4, 3, 2, 1])
    const blocks = readAll(
      config,
      parameters,
      expireSpan({ ...options, maxSpan: 8, deletion: 'blocks' }),
      3,
      3,
      3,
    )
    expect(ages(blocks.rows[0])).toEqual([9, 8, 7, 6, 5, 4, 3, 2, 1].slice(3))
    isAlike(short.logits, blocks.logits)
  })

  test('selective: without votes a window, or the first and the newest', async () => {
    const { config, parameters } = await drawn({ positions: 'none' })
    const query = parameters.get('layers.0.attention.query')!
    const silent = new Map(parameters)
    silent.set(
      'layers.0.attention.query',
      values(query.shape, (at) => (at % 8 < 4 ? 0 : query.data[at]!)),
    )
    const window = selective({ span: 4, memoryLoss: 0.2 })
    const read = readAll(config, silent, window, 3, 4, 2)
    isAlike(read.logits, readAll(config, silent, fixedSpan(4), 3, 4, 2).logits)
    // Queries see 3, 5 and 5 slots at most, of 3, 7 (3 + 4) and 6 (4 + 2).
    expect(read.penalty).toBeCloseTo((0.2 * (3 / 3 + 5 / 7 + 5 / 6)) / 3, 12)
    expect(ages(readAll(config, silent, selective({ budget: 4 }), 3, 4).rows[1])).toEqual([7, 3, 2, 1])
    isAlike(
      readAll(config, parameters, window, 12).logits,
      readAll(config, parameters, window, 3, 4, 5).logits,
    )
  })

  test('sinks: the first steps stay', async () => {
    const { config, parameters } = await drawn()
    const wrapped = sinks(2, fixedSpan(3))
    const whole = readAll(config, parameters, wrapped, 12)
    isAlike(whole.logits, readAll(config, parameters, wrapped, 1, 1, 1, 1, 3, 5).logits)
    const { weights } = whole.results[0]!.trace[0]!.views[0]!
    const seen = weights[0]!.map((slots) => slots.flatMap((weight, j) => (weight > 0 ? [j] : [])))
    expect(seen[2]).toEqual([0, 1, 2])
    expect(seen[10]).toEqual([0, 1, 7, 8, 9, 10])
    isAlike(
      readAll(config, parameters, sinks(12, fixedSpan(1)), 4, 4, 4).logits,
      readAll(config, parameters, everything, 12).logits,
    )
    isAlike(
      readAll(config, parameters, sinks(0, fixedSpan(3)), 4, 4).logits,
      readAll(config, parameters, fixedSpan(3), 4, 4).logits,
    )
  })

  describe('compressive', () => {
    const own = {
      'conv.weight': values([12, 6], (at) => Math.sin(at * at) / 3),
      'conv.bias': values([6], (at) => Math.cos(at) / 5),
      'decode.weight': values([6, 12], (at) => Math.cos(at * at) / 3),
      'decode.bias': values([12], (at) => Math.sin(at) / 5),
    }
    const options: CompressiveOptions = { memory: 3, compressed: 2, rate: 2 }
    const rows = (read: ReturnType<typeof readAll>) =>
      read.rows as readonly { compressed: Vector[]; hidden: { hidden: Vector }[] }[]

    test('what falls out of the memory in whole groups is compressed', async () => {
      const { config, parameters } = await drawn({}, own)
      const embedding = (token: number) => [
        ...parameters.get('embedding.weight')!.data.subarray(token * 6, token * 6 + 6),
      ]
      // After 8 steps: 2 + 2 gone in blocks of 4 (8 − 3 = 5, of which 4 in whole groups), the last 4 are there.
      const read = readAll(config, parameters, compressive(options), 4, 4)
      expect(rows(read)[0]!.hidden.map(({ hidden }) => hidden)).toEqual([6, 3, 3, 1].map(embedding))
      const pairs = [
        [1, 5],
        [2, 0],
      ].map((pair) => embedding(pair[0]!).map((x, f) => (x + embedding(pair[1]!)[f]!) / 2))
      expect(rows(read)[0]!.compressed).toEqual(pairs)
      const halves = values([12, 6], (at) => (Math.floor(at / 6) % 6 === at % 6 ? 0.5 : 0))
      const convolving = new Map(parameters).set('layers.0.method.conv.weight', halves).set(
        'layers.0.method.conv.bias',
        values([6], () => 0),
      )
      const conv = readAll(config, convolving, compressive({ ...options, compression: 'conv' }), 4, 4, 4)
      isAlike(conv.logits, readAll(config, parameters, compressive(options), 4, 4, 4).logits)
    })

    test('at rate 1, or where nothing falls out, it is a longer memory', async () => {
      const { config, parameters } = await drawn({}, own)
      const longer = readAll(config, parameters, fixedSpan(5, false), 3, 4, 5).logits
      for (const compression of ['mean', 'max', 'most-used'] as const)
        isAlike(
          readAll(config, parameters, compressive({ ...options, rate: 1, compression }), 3, 4, 5).logits,
          longer,
        )
      const roomy = compressive({ ...options, memory: 20, loss: 'attention' })
      const read = readAll(config, parameters, roomy, 4, 4, 4)
      isAlike(read.logits, readAll(config, parameters, everything, 12).logits)
      expect(read.penalty).toBe(0)
    })

    test('most used: by the mean over the queries that could see a step', async () => {
      const { config, parameters } = await drawn({ positions: 'none' })
      const blind = new Map(parameters).set(
        'layers.0.attention.query',
        values([6, 8], () => 0),
      )
      const method = compressive({ ...options, memory: 2, compression: 'most-used', compressed: 9 })
      const kept = (...lengths: Vector) =>
        rows(readAll(config, blind, method, ...lengths))[0]!.compressed.map(
          (x) => parameters.get('embedding.weight')!.data.indexOf(x[0]!) / 6,
        )
      // Usage of step j of the first block: the mean of 1/(i + 1) over i = j..7, so the oldest have most.
      expect(kept(8)).toEqual([1, 5, 2])
      // Then 5 slots are left, and query i of the second block gives each 1/(6 + i). Of steps 6 to 9, step 6 has
      // (1/7 + 1/8 + q) / 6 = 0.136 with q = 1/6 + 1/7 + 1/8 + 1/9, step 7 0.134, step 8 q / 4 = 0.136, step 9 0.126.
      expect(kept(8, 4)).toEqual([1, 5, 2, 3, 4])
    })

    test.each(['auto-encoding', 'attention'] as const)(
      'the %s loss reaches the compression alone',
      async (loss) => {
        const { config, parameters } = await drawn({}, own)
        const method = compressive({ ...options, compression: 'conv', loss })
        const [first, second] = blocksOf(4, 4)
        const { state } = decoderOracle(config, [method], parameters).read(
          first!.tokens,
          decoderOracle(config, [method], parameters).start(2),
        )
        const read = (changed: Parameters) =>
          decoderOracle(config, [method], changed, parameters).read(second!.tokens, state, second)
        const size = (numbers: Float64Array) => Math.max(...numbers.map(Math.abs))
        const of = (what: 'loss' | 'penalty', name: string) =>
          size(gradient((p) => read(p)[what], parameters, name))
        expect(of('penalty', 'layers.0.method.conv.weight')).toBeGreaterThan(1e-4)
        expect(of('penalty', 'layers.0.attention.key')).toBe(0)
        expect(of('penalty', 'layers.0.attention.norm.scale')).toBe(0)
        expect(of('penalty', 'embedding.weight')).toBe(0)
        expect(of('loss', 'layers.0.method.conv.weight')).toBe(0)
        expect(of('loss', 'layers.0.attention.key')).toBeGreaterThan(1e-4)
        // Through two blocks the language model reaches the compression, and the loss still nothing else.
        const many = (changed: Parameters) =>
          readMany(decoderOracle(config, [method], changed, parameters), blocksOf(6, 6))
        expect(size(gradient((p) => many(p).loss, parameters, 'layers.0.method.conv.bias'))).toBeGreaterThan(
          1e-4,
        )
        expect(size(gradient((p) => many(p).penalty, parameters, 'layers.0.attention.query'))).toBe(0)
        // Auto-encoding by hand: the mean square of what the decoder misses.
        if (loss === 'attention') return
        const { views, penalty } = read(parameters).trace[0]!
        const errors = views.flatMap(({ row, input }) => {
          const queue = [
            ...(row as { hidden: { hidden: Vector }[] }).hidden.map(({ hidden }) => hidden),
            ...input,
          ]
          const old = queue.slice(0, 2 * Math.floor((queue.length - 3) / 2))
          const made = convolve(old, 2, own['conv.weight'], own['conv.bias'])
          return made.flatMap((x, k) => {
            const back = convolve([x], 1, own['decode.weight'], own['decode.bias'])[0]!
            return [...old[2 * k]!, ...old[2 * k + 1]!].map((value, f) => (value - back[f]!) ** 2)
          })
        })
        expect(penalty).toBeCloseTo(mean(errors), 12)
      },
    )
  })

  test('greedy budgets', async () => {
    // Layer 0 needs 3 slots, layer 1 needs 5; each missing one costs 1, more for layer 1.
    const evaluate = ([a, b]: readonly number[]) => Math.max(0, 3 - a!) + 2 * Math.max(0, 5 - b!)
    const given = { layers: 2, full: 6, step: 1, evaluate }
    expect(await greedyBudgets({ ...given, target: { loss: 0 } })).toEqual([3, 5])
    expect(await greedyBudgets({ ...given, target: { total: 7 } })).toEqual([2, 5])
    expect(await greedyBudgets({ ...given, target: { total: 11 } })).toEqual([5, 6])
    expect(await greedyBudgets({ ...given, step: 4, target: { total: 0 } })).toEqual([2, 2])
  })
})
