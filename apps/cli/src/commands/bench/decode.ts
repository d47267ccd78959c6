/**
 * lethe bench decode: streams with short and long contexts, read token by token by turns, so that the ratio of their
 * times does not depend on what else the machine did.
 *
 * A long context is not read from its first token on unless that is asked for (--read-all): such a stream begins late,
 * as one that was reset there, at a high time step, and reads as many tokens as its memory can depend on. Both are read
 * in blocks, the last 128 before the measurement one by one.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import {
  type DecodeMemory,
  type Decoder,
  decodeSafetensors,
  encodeSafetensors,
  type Memory,
  Random,
} from '@lethe/core'
import { dispose, tensor1d, memory as tensorMemory } from '@tensorflow/tfjs-core'
import { startBackend } from '../../backend'
import type { CommandLine } from '../../command-line'
import { type MethodSettings, methods } from '../../methods'
import type { Given } from '../../options'
import { bytes, count, StatusLine } from '../../output'
import { decoderOf, type Settings, settingsOf } from '../../settings'
import { heading, progress, ratioText, table } from './report'
import { benchDefaults, casesOf, commandOf, ownCommand, whereabouts } from './setup'
import { median, type Ratio, ratioOfMedians } from './statistics'
import { heldBytes, randomTokens, vocabulary } from './workload'

/** Tokens decoded before measuring begins, so that arenas have all their places. */
const steadyTokens = 128
const tokensPerTurn = 20
/** As training and generating do: places of dead slots are given back now and then. */
const tokensPerCompaction = 64

interface ContextRow {
  readonly context: number
  /** How the stream got there. */
  readonly reached: string
  readonly slots: number
  readonly ms_per_token: number
  readonly memory_bytes: readonly [least: number, most: number]
  /** Time per token over that of the shortest context. */
  readonly ratio?: Ratio
}

interface DecodeRow {
  readonly method: string
  readonly span: number
  readonly backend: string
  readonly tokens_measured: number
  readonly contexts: readonly ContextRow[]
  /** All streams together, after each turn of the measurement: least and most. */
  readonly tensors: readonly [number, number]
  readonly tensor_bytes: readonly [number, number]
  readonly heap_bytes?: readonly [number, number]
  readonly rss_bytes: readonly [number, number]
}

export async function benchDecode({ given }: CommandLine): Promise<number> {
  const where = whereabouts()
  const cases = casesOf(given).map(withinSpan)
  const rows: DecodeRow[] = []
  // A process for each, so that heap and tensors are its own.
  if (cases.length === 1) rows.push(await measureDecoding(cases[0]!))
  else for (const options of cases) rows.push(await measureElsewhere(options))
  if (given.json)
    console.log(JSON.stringify(rows.length === 1 ? rows[0] : { ...where, command: ownCommand(), rows }))
  else {
    if (given.markdown) console.log(heading(where, notesOf(rows)))
    console.log(tableOf(rows, given.markdown ?? false))
    console.log()
    for (const row of rows) console.log(`${given.markdown ? '- ' : ''}${constancy(row)}`)
  }
  return 0
}

/**
 * As many slots for every method: one that holds compressed ones beside those of its span gets both within --span, as
 * many of each, unless --compressed is given: how Rae et al. 2020 compare it with a Transformer-XL of the same cost.
 */
function withinSpan(given: Given): Given {
  const { method = 'fixed-span', span = benchDefaults.span, compressed } = given
  const { options, withBudget } = methods[method]!
  if (compressed !== undefined || !options.includes('compressed')) return given
  return { ...given, ...(withBudget(span, span) as Given) }
}

async function measureElsewhere(given: Given): Promise<DecodeRow> {
  const [program, ...args] = commandOf('decode', [], { ...given, json: true })
  const running = promisify(execFile)(program!, args)
  running.child.stderr!.pipe(process.stderr, { end: false })
  const { stdout } = await running
  return JSON.parse(stdout.trim().split('\n').at(-1)!)
}

/** One stream on its way. */
class Stream {
  readonly times: number[] = []
  readonly bytes: number[] = []

  private constructor(
    readonly context: number,
    readonly reached: string,
    private readonly decoder: Decoder,
    private readonly random: Random,
    private memory: DecodeMemory,
  ) {}

  /** A stream whose next token is at `step`. */
  static async at(step: number, context: number, parts: StreamParts): Promise<Stream> {
    const { decoder, random, settings, readAll } = parts
    const needed = readAll ? step : decoder.config.layers * rememberedTokens(settings)
    const began = Math.max(0, step - steadyTokens - needed)
    const memory = await readBlocks(await emptyMemory(decoder, began), step - steadyTokens, context, parts)
    const reached =
      began > 0
        ? `began at step ${count(began)}, read ${count(step - began)} tokens`
        : 'read from its first token'
    const stream = new Stream(context, reached, decoder, random, decoder.startDecoding(memory))
    while (stream.memory.step < step) await stream.decodeOne()
    return stream
  }

  /** Reads tokens: what each took, in ms. */
  async take(tokens: number): Promise<readonly number[]> {
    const times: number[] = []
    for (let token = 0; token < tokens; token++) times.push(await this.decodeOne())
    this.times.push(...times)
    this.bytes.push(this.memory.bytes)
    return times
  }

  private async decodeOne(): Promise<number> {
    const { decoder, random } = this
    const began = performance.now()
    const token = tensor1d([random.integer(vocabulary)], 'int32')
    const result = decoder.decode(token, this.memory)
    this.memory =
      result.memory.step % tokensPerCompaction === 0
        ? await decoder.compactDecoding(result.memory)
        : result.memory
    await result.logits.data()
    dispose([token, result.logits])
    return performance.now() - began
  }

  countSlots(): Promise<number> {
    return this.memory.countSlots()
  }

  dispose(): void {
    this.memory.dispose()
  }
}

interface StreamParts {
  readonly decoder: Decoder
  readonly random: Random
  readonly settings: Settings
  readonly readAll: boolean
}

/** Tokens that what a layer remembers comes from directly; behind them is what the layers below it remembered. */
export const rememberedTokens = ({
  span,
  ramp = 32,
  rate = 4,
  compressed = Math.ceil(span / rate),
  sinks = 0,
}: MethodSettings) => span + ramp + rate * (compressed + 1) + sinks

/** An empty memory of a stream that begins at `step`: a saved one, its time step changed. */
export async function emptyMemory(decoder: Decoder, step: number): Promise<Memory> {
  const start = decoder.initialMemory(1)
  if (step === 0) return start
  const { tensors, metadata } = decodeSafetensors(await start.serialize(), 'the memory')
  start.dispose()
  const description = { ...JSON.parse(metadata.memory!), step, starts: [step] }
  return decoder.restoreMemory(
    encodeSafetensors({ tensors, metadata: { ...metadata, memory: JSON.stringify(description) } }),
  )
}

async function readBlocks(
  memory: Memory,
  until: number,
  context: number,
  { decoder, random, settings, readAll }: StreamParts,
): Promise<Memory> {
  // A million tokens take minutes, and their log shall say so.
  const status = readAll ? new StatusLine(process.stderr, 60) : progress()
  while (memory.step < until) {
    const tokens = randomTokens(random, [1, Math.min(settings.block, until - memory.step)])
    const result = decoder.forward(tokens, memory)
    dispose([tokens, result.logits, result.penalty])
    memory = await decoder.compact(result.memory)
    status.update(() => `context ${count(context)}: ${count(memory.step)} tokens read`)
  }
  status.print()
  return memory
}

async function measureDecoding(given: Given): Promise<DecodeRow> {
  const settings = settingsOf(given, benchDefaults)
  const contexts = [...new Set(given.contexts ?? [1024, 8192])].sort((a, b) => a - b)
  // As many of each stream, up to its context.
  const tokens = Math.min(given.tokens ?? 400, Math.floor(contexts[0]! / 2))
  const { name: backend } = await startBackend(given)
  const decoder = decoderOf(settings, vocabulary)
  await decoder.afterUpdate()
  const parts = { decoder, random: new Random(settings.seed), settings, readAll: given['read-all'] ?? false }
  const streams: Stream[] = []
  for (const context of contexts) streams.push(await Stream.at(context - tokens, context, parts))

  const held = { tensors: [] as number[], bytes: [] as number[], heap: [] as number[], rss: [] as number[] }
  const taken = streams.map(() => [] as (readonly number[])[])
  for (let left = tokens, turn = 0; left > 0; left -= tokensPerTurn, turn++) {
    for (let place = 0; place < streams.length; place++) {
      // The order changes: each stream begins as often.
      const index = (place + turn) % streams.length
      taken[index]!.push(await streams[index]!.take(Math.min(tokensPerTurn, left)))
    }
    held.tensors.push(tensorMemory().numTensors)
    held.bytes.push(tensorMemory().numBytes)
    held.heap.push(heldBytes().heap_bytes ?? heldBytes().gpu_bytes ?? 0)
    held.rss.push(process.memoryUsage.rss())
  }
  const rows: ContextRow[] = []
  for (const [index, stream] of streams.entries()) {
    const rounds = taken[index]!.map((numerator, turn) => ({ numerator, denominator: taken[0]![turn]! }))
    rows.push({
      context: stream.context,
      reached: stream.reached,
      slots: await stream.countSlots(),
      ms_per_token: median(stream.times),
      memory_bytes: range(stream.bytes),
      ...(index > 0 && { ratio: ratioOfMedians(rounds) }),
    })
  }
  for (const stream of streams) stream.dispose()
  decoder.dispose()
  return {
    method: settings.method,
    span: settings.span,
    backend,
    tokens_measured: tokens,
    contexts: rows,
    tensors: range(held.tensors),
    tensor_bytes: range(held.bytes),
    ...(Math.max(...held.heap) > 0 && { heap_bytes: range(held.heap) }),
    rss_bytes: range(held.rss),
  }
}

const range = (values: readonly number[]) => [Math.min(...values), Math.max(...values)] as const

const tableOf = (rows: readonly DecodeRow[], markdown: boolean) =>
  table(
    rows.flatMap(({ contexts, ...row }) => contexts.map((context) => ({ ...row, ...context }))),
    [
      { title: 'method', cell: ({ method }) => method, left: true },
      { title: 'context', cell: ({ context }) => count(context) },
      { title: 'slots', cell: ({ slots }) => slots.toFixed(1) },
      { title: 'ms per token', cell: ({ ms_per_token }) => ms_per_token.toFixed(2) },
      { title: 'against the shortest (95 %)', cell: ({ ratio }) => ratio && ratioText(ratio) },
      { title: 'bytes of memory', cell: ({ memory_bytes }) => spread(memory_bytes, count) },
      { title: 'how it got there', cell: ({ reached }) => reached, left: true },
    ],
    markdown,
  )

const spread = ([least, most]: readonly [number, number], format: (value: number) => string) =>
  least === most ? format(least) : `${format(least)}–${format(most)}`

/** What did not change while measuring, or between what it varied. */
const constancy = ({ method, tensors, tensor_bytes, heap_bytes, rss_bytes }: DecodeRow) =>
  `${method}: all streams together ${spread(tensors, count)} tensors, ${spread(tensor_bytes, count)} bytes` +
  `${heap_bytes ? `, heap ${spread(heap_bytes, count)} bytes` : ''}, resident ${spread(rss_bytes, bytes)}`

const notesOf = (rows: readonly DecodeRow[]) => [
  `Backend ${rows[0]!.backend}, batch 1; medians of ${count(rows[0]!.tokens_measured)} tokens of each stream,`,
  `${tokensPerTurn} at a time by turns; 95 % bootstrap intervals.`,
]
