/**
 * What a trained model kept of every token of a text while it read it, by layer and head: numbers that a page, a
 * terminal or another program can show. The rules that turn them into "how much is left of token j at step t" are in
 * strength.ts, which runs in the page, too.
 */
import type { Decoder, LayerMemory, Memory, NamedTensors } from '@lethe/core'
import type { Tokenizer } from '@lethe/trainer'
import { dispose, tensor2d } from '@tensorflow/tfjs-core'
import { UsageError } from '../errors'

/** How one layer forgets. Steps count from the first token of the text. */
export type LayerTrace =
  /** All of the last `span` steps. */
  | { readonly kind: 'window'; readonly span: number }
  /** Recent tokens as they were, older ones `rate` to a slot; by step, which is the first of either. */
  | {
      readonly kind: 'compressed'
      readonly rate: number
      readonly compression: string
      readonly whole: readonly number[]
      readonly compressed: readonly number[]
    }
  /** Each token for the life that it predicted, then over a ramp. `gone`: the step after which its slot was freed. */
  | {
      readonly kind: 'life'
      readonly ramp: number
      readonly life: readonly number[]
      readonly gone: readonly (number | null)[]
    }
  /** Each head as far back as its span, then over a ramp, never beyond `longest`. One span per head, or one per head and step. */
  | {
      readonly kind: 'spans'
      readonly ramp: number
      readonly longest: number
      readonly spans: readonly (readonly number[])[]
    }
  /** What later tokens voted away: F of every token that is held, after some steps. */
  | {
      readonly kind: 'votes'
      /** Null where only votes and the budget end a memory. */
      readonly span: number | null
      readonly snapshots: readonly {
        readonly step: number
        readonly tokens: readonly number[]
        readonly votes: readonly number[]
      }[]
      readonly gone: readonly (number | null)[]
    }

export interface Trace {
  readonly format: 'lethe-trace-1'
  readonly method: string
  readonly heads: number
  /** The least distance that a step attends to: 1 where it does not attend to itself. */
  readonly nearest: 0 | 1
  /** First tokens that always stay. */
  readonly sinks: number
  /** The text token by token; a character of several bytes stands at its last one. */
  readonly texts: readonly string[]
  /** How surprising each token was, in bits; null for the first, which nothing predicts. */
  readonly bits: readonly (number | null)[]
  readonly layers: readonly LayerTrace[]
}

/** Steps between two snapshots of votes; the last step has one, too. */
const snapshotEvery = 4

interface Collected {
  /** By step. */
  whole: number[]
  compressed: number[]
  life: number[]
  /** By head. */
  spans: number[][]
  snapshots: { step: number; tokens: number[]; votes: number[] }[]
  gone: (number | null)[]
  held: Set<number>
}

/** Reads a text block by block, as evaluation does, and notes what is kept of it. */
export async function traceText(
  decoder: Decoder,
  tokenizer: Tokenizer,
  tokens: Int32Array,
  block: number,
): Promise<Trace> {
  if (tokens.length < 2)
    throw new UsageError('there is nothing to inspect: the text has less than two tokens')
  const methods = decoder.config.method.map(({ name, options }) => described(name, options))
  if (methods.some(({ name, sinks }) => sinks > 0 && name === 'selective'))
    throw new UsageError('lethe inspect cannot show votes beside sinks: inspect a run without --sinks')
  const collected = methods.map(
    (): Collected => ({
      ...{ whole: [], compressed: [], life: [], spans: [] },
      ...{ snapshots: [], gone: [], held: new Set() },
    }),
  )
  const bits: (number | null)[] = [null]
  await decoder.afterUpdate()
  let memory: Memory = decoder.initialMemory(1)
  for (let from = 0; from < tokens.length; from += block) {
    const part = tokens.subarray(from, Math.min(tokens.length, from + block))
    const before = await Promise.all(memory.layers.map((layer) => tokensOf(layer, from)))
    const last = from + part.length >= tokens.length
    for (const [index, { name, options }] of methods.entries())
      if (name === 'compressive')
        await collectStores(collected[index]!, memory.layers[index]!, options, from, part.length)
    const inputs = tensor2d(part, [1, part.length], 'int32')
    const result = decoder.forward(inputs, memory, { trace: true })
    const logits = (await result.logits.data()) as Float32Array
    const vocabulary = result.logits.shape[2]
    for (let i = 0; i < part.length && from + i + 1 < tokens.length; i++)
      bits.push(surprise(logits.subarray(i * vocabulary, (i + 1) * vocabulary), tokens[from + i + 1]!))
    for (const [index, into] of collected.entries())
      await collect(into, result.trace![index]!, { from, length: part.length, last, before: before[index]! })
    dispose([inputs, result.logits, result.penalty, ...result.trace!.map((layer) => Object.values(layer))])
    memory = await decoder.compact(result.memory)
    for (const [index, into] of collected.entries())
      noteGone(into, await tokensOf(memory.layers[index]!, from + part.length), from + part.length)
  }
  memory.dispose()
  return {
    format: 'lethe-trace-1',
    method: methods[0]!.name,
    heads: decoder.config.heads,
    nearest: decoder.config.attendSelf ? 0 : 1,
    sinks: methods[0]!.sinks,
    texts: textsOf(tokenizer, tokens),
    bits,
    layers: methods.map(({ name, options }, index) => layerTrace(name, options, collected[index]!)),
  }
}

type Options = Readonly<Record<string, unknown>>

/** A method, or the one that sinks stand around. */
function described(name: string, options: Options): { name: string; options: Options; sinks: number } {
  if (name !== 'sinks') return { name, options, sinks: 0 }
  const inner = options.method as { name: string; options: Options }
  return { ...inner, sinks: options.count as number }
}

/** Bits of a token under its logits. */
function surprise(logits: Float32Array, token: number): number {
  const most = logits.reduce((a, b) => Math.max(a, b))
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0)
  return (Math.log(total) + most - logits[token]!) / Math.LN2
}

/** The token in each slot of a scattered memory after `step` tokens, null for empty places; undefined for others. */
async function tokensOf({ tensors }: LayerMemory, step: number): Promise<(number | null)[] | undefined> {
  if (!tensors.age || !tensors.valid) return undefined
  const [age, valid] = await Promise.all([tensors.age.data(), tensors.valid.data()])
  return Array.from(age, (distance, slot) => (valid[slot] === 1 ? step - distance : null))
}

/** What each step of a block sees of a compressive memory, before the block is read. */
async function collectStores(
  into: Collected,
  { tensors }: LayerMemory,
  options: Options,
  from: number,
  length: number,
): Promise<void> {
  const [memory, rate, most] = [options.memory, options.rate, options.compressed] as number[]
  const places = await Promise.all([tensors.valid!.data(), tensors.compressedValid!.data()])
  const [recent, condensed] = places.map((valid) => Array.from(valid).filter((one) => one === 1).length)
  for (let i = 0; i < length; i++) {
    // As the authors' code has it (overlap), windows move on with the queries; else a block sees all that is there.
    const moved = options.overlap ? Math.floor(i / rate!) * rate! : 0
    const whole = options.overlap ? from + i - memory! : from - recent!
    const compressed = options.overlap ? from + moved - memory! - rate! * most! : whole - rate! * condensed!
    into.whole.push(Math.max(0, whole))
    into.compressed.push(Math.max(0, compressed))
  }
}

interface ReadBlock {
  readonly from: number
  readonly length: number
  /** Whether the text ends with it. */
  readonly last: boolean
  /** Tokens of the slots before the block. */
  readonly before: (number | null)[] | undefined
}

async function collect(
  into: Collected,
  trace: NamedTensors,
  { from, length, last, before }: ReadBlock,
): Promise<void> {
  if (before) for (let i = 0; i < length; i++) into.held.add(from + i)
  if (trace.F) {
    const slots = trace.F.shape[2]!
    const votes = await trace.F.data()
    const tokens = [...before!, ...Array.from({ length }, (_, i) => from + i)]
    for (let i = 0; i < length; i++) {
      if ((from + i) % snapshotEvery !== 0 && !(last && i === length - 1)) continue
      const present = tokens.flatMap((token, slot) =>
        token !== null && token <= from + i ? [[token, slot]] : [],
      )
      into.snapshots.push({
        step: from + i,
        tokens: present.map(([token]) => token!),
        votes: present.map(([, slot]) => +votes[i * slots + slot!]!.toFixed(2)),
      })
    }
  } else if (trace.mask && trace.span) {
    const life = await trace.span.data()
    into.life.push(...Array.from(life.subarray(life.length - length), (value) => +value.toFixed(1)))
  } else if (trace.span) {
    const spans = await trace.span.data()
    const perStep = trace.span.rank === 3
    const heads = perStep ? trace.span.shape[1]! : spans.length
    for (let head = 0; head < heads; head++) {
      into.spans[head] ??= []
      if (perStep)
        for (let i = 0; i < length; i++) into.spans[head]!.push(+spans[head * length + i]!.toFixed(1))
      else into.spans[head] = [+spans[head]!.toFixed(1)]
    }
  }
}

/** Tokens that were held and no longer are. */
function noteGone(into: Collected, now: (number | null)[] | undefined, step: number): void {
  if (!now) return
  const held = new Set(now)
  for (const token of into.held) {
    if (held.has(token)) continue
    into.held.delete(token)
    into.gone[token] = step
  }
}

function layerTrace(name: string, options: Options, collected: Collected): LayerTrace {
  const { whole, compressed, life, spans, snapshots, gone } = collected
  const number = (option: string) => options[option] as number
  const filled = (count: number) => Array.from({ length: count }, (_, token) => gone[token] ?? null)
  switch (name) {
    case 'fixed-span':
      return { kind: 'window', span: number('span') }
    case 'compressive': {
      const compression = options.compression as string
      return { kind: 'compressed', rate: number('rate'), compression, whole, compressed }
    }
    case 'expire-span':
      return { kind: 'life', ramp: number('ramp'), life, gone: filled(life.length) }
    case 'adaptive-span':
      return { kind: 'spans', ramp: number('ramp'), longest: number('maxSpan'), spans }
    case 'selective': {
      const tokens = 1 + Math.max(...snapshots.flatMap((snapshot) => snapshot.tokens))
      return {
        kind: 'votes',
        span: (options.span as number | undefined) ?? null,
        snapshots,
        gone: filled(tokens),
      }
    }
    default:
      throw new UsageError(`lethe inspect cannot show what ${name} keeps`)
  }
}

/** The text of each token; bytes of an unfinished character are shown where it is whole. */
function textsOf(tokenizer: Tokenizer, tokens: Int32Array): string[] {
  const decoder = tokenizer.decoder()
  return Array.from(tokens, (token) => decoder.push(token))
}
