/**
 * The conformance kit: laws that any forgetting method must obey, ours or yours. Each law throws with what it found;
 * run them in any test runner:
 *
 *     for (const law of conformanceLaws({ method: () => fixedSpan({ span: 8 }) })) test(law.name, law.check)
 */
import { memory as engineMemory, reshape, tensor, tensor2d, tidy } from '@tensorflow/tfjs-core'
import { type DecoderConfig, layerInfo } from '../config'
import { Decoder } from '../decoder'
import { registerGradients } from '../gradients'
import type { Memory } from '../memory'
import type { ForgettingMethod } from '../method'
import { Random } from '../random'

export interface ConformanceOptions {
  /** Makes the method under test, small enough for streams of 48 steps to make it forget; or one for each of the two
   *  layers (hybrid stacks). */
  readonly method: () => ForgettingMethod | readonly [ForgettingMethod, ForgettingMethod]
  /** Fields of the decoders that the method needs otherwise. */
  readonly decoder?: Partial<Omit<DecoderConfig, 'method'>>
  /** Backends that must agree: each starts one and makes it current. The first is the reference. */
  readonly backends?: Readonly<Record<string, () => Promise<unknown>>>
  /** Which parameters the gradient of the method's penalty reaches: all that it depends on, or, behind
   *  stop-gradients, the method's own. Default 'all'. */
  readonly penaltyReaches?: 'all' | 'own'
  /** Largest difference of logits that counts as equal. Default 2e-5. */
  readonly tolerance?: number
}

export interface Law {
  readonly name: string
  readonly check: () => Promise<void>
}

const batch = 2
const vocabulary = 11
const streamLength = 48

/** The decoders that a method is tried in: laid out like FAIR's (but smooth, for finite differences), and modern. */
const decoders: Readonly<Record<string, Omit<DecoderConfig, 'method'>>> = {
  'post-norm decoder': {
    ...{ vocabulary, layers: 2, width: 8, heads: 2, feedForward: 12 },
    ...{ activation: 'gelu', norm: 'layer', normPosition: 'post', positions: 'learned' },
    ...{ attendSelf: false, initialMemory: 'zeros', initialization: 'fair' },
  },
  'pre-norm decoder': {
    ...{ vocabulary, layers: 2, width: 8, heads: 2, feedForward: 12 },
    ...{ activation: 'swiglu', norm: 'rms', normPosition: 'pre', positions: 'rotary' },
    ...{ attendSelf: true, initialMemory: 'empty', initialization: 'fair' },
  },
}

/** All laws for a method, each a named check that throws when the law is broken. */
export function conformanceLaws(options: ConformanceOptions): Law[] {
  const { method, tolerance = 2e-5 } = options
  const name = nameOf(method())
  const laws: Law[] = []
  for (const [where, template] of Object.entries(decoders)) {
    const law = (law: string, check: (context: Context) => Promise<void>) =>
      laws.push({
        name: `${name}, ${where}: ${law}`,
        check: async () => {
          registerGradients()
          const decoder = new Decoder({ ...template, ...options.decoder, method: method() }, { seed: 3 })
          try {
            await decoder.afterUpdate()
            await check(new Context(decoder, tolerance))
          } finally {
            decoder.dispose()
          }
        },
      })
    law('shapes are as declared and slots stay within capacity', shapes)
    law('the same stream in other blocks gives the same logits', segmentInvariance)
    law('streaming decode gives the same logits as blocks', decodeEqualsBlocks)
    law('streaming decode goes on from a memory of blocks', decodeContinuesBlocks)
    law('what is out of reach has no influence', outOfReach)
    law('a memory survives serialisation', serialisation)
    law('a reset row starts anew and leaves the others alone', resetRows)
    law('memories are consumed, and clones are independent', ownership)
    law('nothing leaks', noLeaks)
    law('gradients agree with finite differences', (context) =>
      finiteDifferences(context, options.penaltyReaches),
    )
  }
  if (options.backends) laws.push(backendsAgree(options))
  return laws
}

const nameOf = (method: ForgettingMethod | readonly ForgettingMethod[]) =>
  [method]
    .flat()
    .map(({ name }) => name)
    .join(' and ')

/** A decoder with a fixed random stream. */
class Context {
  readonly stream: Int32Array

  constructor(
    readonly decoder: Decoder,
    readonly tolerance: number,
  ) {
    const random = new Random(7)
    this.stream = Int32Array.from({ length: batch * streamLength }, () => random.integer(vocabulary))
  }

  /** 'block' if any layer's method decides by blocks. */
  get decides(): ForgettingMethod['decides'] {
    return this.decoder.config.method.some(({ decides }) => decides === 'block') ? 'block' : 'step'
  }

  /** Tokens from..to of every row: int32 [batch, to - from]. */
  tokens(from: number, to: number, stream = this.stream) {
    const rows = Array.from({ length: batch }, (_, row) =>
      stream.subarray(row * streamLength + from, row * streamLength + to),
    )
    return tensor2d(Int32Array.from(rows.flatMap((row) => [...row])), [batch, to - from], 'int32')
  }

  /** Reads steps from..to in blocks and returns the logits [row][step][vocabulary] as one array per row and step. */
  async read(
    memory: Memory,
    from: number,
    to: number,
    block: number,
    stream = this.stream,
  ): Promise<{ logits: Float32Array[][]; memory: Memory }> {
    const logits: Float32Array[][] = Array.from({ length: batch }, () => [])
    let current = memory
    for (let start = from; start < to; start += block) {
      const end = Math.min(to, start + block)
      const tokens = this.tokens(start, end, stream)
      const result = this.decoder.forward(tokens, current)
      current = await this.decoder.compact(result.memory)
      await collect(logits, result.logits, end - start)
      tokens.dispose()
      result.penalty.dispose()
    }
    return { logits, memory: current }
  }

  /** The same, by streaming decode from a memory of hidden states. */
  async decode(memory: Memory, from: number, to: number): Promise<Float32Array[][]> {
    const logits: Float32Array[][] = Array.from({ length: batch }, () => [])
    let arena = this.decoder.startDecoding(memory)
    for (let step = from; step < to; step++) {
      const tokens = tidy(() => reshape(this.tokens(step, step + 1), [batch]))
      const result = this.decoder.decode(tokens, arena)
      arena = result.memory
      await collect(logits, result.logits, 1)
      tokens.dispose()
    }
    arena.dispose()
    return logits
  }

  expectEqual(found: Float32Array[][], expected: Float32Array[][], what: string, rows = [0, 1]): void {
    for (const row of rows) {
      const count = Math.max(found[row]!.length, expected[row]!.length)
      for (let step = 0; step < count; step++) {
        const error = largestDifference(found[row]![step], expected[row]![step])
        if (!(error <= this.tolerance))
          throw new Error(
            `${what}: row ${row}, step ${step} differs by ${error} (tolerance ${this.tolerance})`,
          )
      }
    }
  }
}

async function collect(
  logits: Float32Array[][],
  values: { data(): Promise<unknown>; dispose(): void },
  steps: number,
) {
  const data = (await values.data()) as Float32Array
  values.dispose()
  for (let row = 0; row < batch; row++)
    for (let step = 0; step < steps; step++) {
      const at = (row * steps + step) * vocabulary
      logits[row]!.push(data.slice(at, at + vocabulary))
    }
}

function largestDifference(a: Float32Array | undefined, b: Float32Array | undefined): number {
  if (!a || !b || a.length !== b.length) return Number.POSITIVE_INFINITY
  return a.reduce((largest, value, index) => {
    const difference = Math.abs(value - b[index]!)
    return difference <= largest ? largest : Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference
  }, 0)
}

async function shapes(context: Context): Promise<void> {
  const { decoder } = context
  const block = 5
  let memory = decoder.initialMemory(batch)
  for (let start = 0; start + block <= streamLength; start += block) {
    const read = await context.read(memory, start, start + block, block)
    memory = read.memory
    if (memory.step !== start + block) throw new Error(`step is ${memory.step} after ${start + block} tokens`)
    for (const [index, { tensors, alive }] of memory.layers.entries()) {
      const info = layerInfo(decoder.config, index)
      const capacity = decoder.config.method[index]!.capacity(info, block)
      const [rows, , width] = tensors.hidden!.shape
      if (rows !== batch || width !== decoder.config.width)
        throw new Error(`layer ${index} keeps hidden states of shape [${tensors.hidden!.shape}]`)
      // Whatever holds hidden states [batch, slots, width] holds slots: compressed ones, too.
      const slots = Object.values(tensors)
        .filter(({ rank, shape }) => rank === 3 && shape[2] === width)
        .reduce((sum, { shape }) => sum + shape[1]!, 0)
      if (alive.length !== batch) throw new Error(`alive counts ${alive.length} rows, the batch has ${batch}`)
      if (slots > capacity)
        throw new Error(`layer ${index} allocates ${slots} slots, capacity is ${capacity}`)
      for (const count of alive)
        if (count > slots) throw new Error(`${count} slots alive of ${slots} allocated in layer ${index}`)
    }
    const bytes = memory.layers.reduce(
      (sum, { tensors }) => sum + Object.values(tensors).reduce((all, { size }) => all + 4 * size, 0),
      0,
    )
    if (memory.bytes !== bytes) throw new Error(`bytes says ${memory.bytes}, the tensors have ${bytes}`)
  }
  memory.dispose()
}

async function segmentInvariance(context: Context): Promise<void> {
  const { decoder } = context
  if (context.decides === 'block') return
  const reference = await context.read(decoder.initialMemory(batch), 0, streamLength, 6)
  reference.memory.dispose()
  for (const block of [1, 4, 7, 16, streamLength]) {
    const other = await context.read(decoder.initialMemory(batch), 0, streamLength, block)
    other.memory.dispose()
    context.expectEqual(other.logits, reference.logits, `blocks of ${block} instead of 6`)
  }
}

async function decodeEqualsBlocks(context: Context): Promise<void> {
  const { decoder } = context
  const block = context.decides === 'step' ? 6 : 1
  const blocks = await context.read(decoder.initialMemory(batch), 0, streamLength, block)
  blocks.memory.dispose()
  const streamed = await context.decode(decoder.initialMemory(batch), 0, streamLength)
  context.expectEqual(streamed, blocks.logits, 'streaming decode')
}

async function decodeContinuesBlocks(context: Context): Promise<void> {
  const { decoder } = context
  const half = streamLength / 2
  const prompt = await context.read(decoder.initialMemory(batch), 0, half, 6)
  const copy = prompt.memory.clone()
  const blocks = await context.read(prompt.memory, half, streamLength, context.decides === 'step' ? 6 : 1)
  blocks.memory.dispose()
  const streamed = await context.decode(copy, half, streamLength)
  context.expectEqual(streamed, blocks.logits, 'streaming decode after a prompt of blocks')
}

async function outOfReach(context: Context): Promise<void> {
  const { decoder } = context
  const reaches = decoder.config.method.map((method, index) => method.reach(layerInfo(decoder.config, index)))
  const reach = reaches.reduce((sum, steps) => sum + steps, 0)
  const changed = 4
  if (changed + reach >= streamLength) return
  const other = context.stream.slice()
  for (let row = 0; row < batch; row++)
    for (let step = 0; step < changed; step++) {
      const at = row * streamLength + step
      other[at] = (other[at]! + 1) % vocabulary
    }
  const first = await context.read(decoder.initialMemory(batch), 0, streamLength, 6)
  const second = await context.read(decoder.initialMemory(batch), 0, streamLength, 6, other)
  first.memory.dispose()
  second.memory.dispose()
  const late = (logits: Float32Array[][]) => logits.map((steps) => steps.slice(changed + reach))
  context.expectEqual(late(second.logits), late(first.logits), `tokens ${reach} steps back`)
  const early = largestDifference(first.logits[0]![changed], second.logits[0]![changed])
  if (early === 0) throw new Error('changed tokens within reach made no difference')
}

async function serialisation(context: Context): Promise<void> {
  const { decoder } = context
  const half = streamLength / 2
  const { memory } = await context.read(decoder.initialMemory(batch), 0, half, 6)
  const restored = decoder.restoreMemory(await memory.serialize())
  if (restored.step !== memory.step || restored.bytes !== memory.bytes || restored.slots !== memory.slots)
    throw new Error('step, bytes or slots changed in serialisation')
  const original = await context.read(memory, half, streamLength, 6)
  const copy = await context.read(restored, half, streamLength, 6)
  original.memory.dispose()
  copy.memory.dispose()
  if (largestDifference(flat(copy.logits), flat(original.logits)) !== 0)
    throw new Error('a restored memory gives other logits')
}

const flat = (logits: Float32Array[][]) =>
  Float32Array.from(logits.flatMap((steps) => steps.flatMap((step) => [...step])))

async function resetRows(context: Context): Promise<void> {
  const { decoder } = context
  const half = streamLength / 2
  const before = await context.read(decoder.initialMemory(batch), 0, half, 6)
  const untouched = before.memory.clone()
  const after = await context.read(before.memory.reset([0]), half, streamLength, 6)
  const going = await context.read(untouched, half, streamLength, 6)
  const fresh = await context.read(decoder.initialMemory(batch), half, streamLength, 6)
  for (const { memory } of [after, going, fresh]) memory.dispose()
  context.expectEqual(after.logits, fresh.logits, 'a reset row against a new stream', [0])
  context.expectEqual(after.logits, going.logits, 'the row that was not reset', [1])
}

async function ownership(context: Context): Promise<void> {
  const { decoder } = context
  const first = decoder.initialMemory(batch)
  const copy = first.clone()
  const tokens = context.tokens(0, 4)
  const one = decoder.forward(tokens, first)
  if (!first.disposed) throw new Error('forward() did not consume its memory')
  let refused = false
  try {
    decoder.forward(tokens, first)
  } catch {
    refused = true
  }
  if (!refused) throw new Error('a consumed memory was accepted again')
  const two = decoder.forward(tokens, copy)
  const difference = largestDifference(
    (await two.logits.data()) as Float32Array,
    (await one.logits.data()) as Float32Array,
  )
  if (difference !== 0) throw new Error(`a clone gives other logits, by ${difference}`)
  for (const { logits, penalty, memory } of [one, two]) {
    logits.dispose()
    penalty.dispose()
    memory.dispose()
  }
  tokens.dispose()
}

async function noLeaks(context: Context): Promise<void> {
  const { decoder } = context
  const before = engineMemory().numTensors
  let memory = decoder.initialMemory(batch)
  const counts: number[] = []
  for (let start = 0; start + 6 <= streamLength; start += 6) {
    const [inputs, targets] = [context.tokens(start, start + 6), context.tokens(start, start + 6)]
    const step = decoder.gradients(inputs, targets, memory)
    const evaluated = decoder.evaluate(inputs, targets, step.memory)
    const read = decoder.forward(inputs, evaluated.memory)
    memory = await decoder.compact(read.memory)
    const copy = memory.clone().reset([1])
    const restored = decoder.restoreMemory(await copy.serialize())
    copy.dispose()
    await context.decode(restored, start, start + 3)
    for (const value of [inputs, targets, step.loss, step.penalty, ...Object.values(step.gradients)])
      value.dispose()
    for (const value of [evaluated.loss, read.logits, read.penalty]) value.dispose()
    counts.push(engineMemory().numTensors)
  }
  memory.dispose()
  const after = engineMemory().numTensors
  if (after !== before)
    throw new Error(`${after - before} tensors leaked over ${counts.length} blocks: ${counts.join(', ')}`)
}

async function finiteDifferences(context: Context, penaltyReaches = 'all'): Promise<void> {
  const { decoder } = context
  const { memory } = await context.read(decoder.initialMemory(batch), 0, 24, 6)
  const [inputs, targets] = [context.tokens(24, 30), context.tokens(25, 31)]
  const draw = 0.6
  const { gradients, ...step } = decoder.gradients(inputs, targets, memory.clone(), { draw })
  for (const value of [step.loss, step.penalty, step.memory]) value.dispose()
  const total = async (withPenalty: boolean) => {
    const at = decoder.gradients(inputs, targets, memory.clone(), { draw })
    const penalty = withPenalty ? (await at.penalty.data())[0]! : 0
    const sum = (await at.loss.data())[0]! + penalty
    for (const value of [at.loss, at.penalty, at.memory, ...Object.values(at.gradients)]) value.dispose()
    return sum
  }
  const random = new Random(11)
  for (const [name, parameter] of decoder.parameters) {
    const gradient = gradients[name]
    if (!gradient) throw new Error(`no gradient reaches ${name}`)
    const values = Float32Array.from((await gradient.data()) as Float32Array)
    const norm = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
    const original = Float32Array.from((await parameter.data()) as Float32Array)
    // The gradient's own way, on which the slope is its norm, and a random one, on which a part that is missing shows.
    const way = values.map((value) => value / Math.max(norm, 1e-12) + random.normal())
    const expected = way.reduce((sum, share, i) => sum + share * values[i]!, 0)
    const length = Math.sqrt(way.reduce((sum, share) => sum + share * share, 0))
    const stepSize = 4e-3 / Math.max(1, norm) / Math.max(1, length)
    const at = async (sign: number) => {
      const moved = original.map((value, i) => value + sign * stepSize * way[i]!)
      tidy(() => parameter.assign(tensorLike(moved, parameter.shape)))
      return total(penaltyReaches === 'all' || name.includes('.method.'))
    }
    const slope = ((await at(1)) - (await at(-1))) / (2 * stepSize)
    tidy(() => parameter.assign(tensorLike(original, parameter.shape)))
    if (!(Math.abs(slope - expected) <= 2e-3 + 0.05 * norm))
      throw new Error(`${name}: by the gradient the slope is ${expected} on a way where it is ${slope}`)
  }
  for (const value of [inputs, targets, memory, ...Object.values(gradients)]) value.dispose()
}

const tensorLike = (values: Float32Array, shape: readonly number[]) => tensor(values, shape as number[])

function backendsAgree({ method, decoder: fields, backends, tolerance = 2e-5 }: ConformanceOptions): Law {
  return {
    name: `${nameOf(method())}: all backends agree (${Object.keys(backends!).join(', ')})`,
    check: async () => {
      for (const template of Object.values(decoders)) {
        let reference: Float32Array | undefined
        for (const [name, use] of Object.entries(backends!)) {
          await use()
          registerGradients()
          const decoder = new Decoder({ ...template, ...fields, method: method() }, { seed: 3 })
          await decoder.afterUpdate()
          const context = new Context(decoder, tolerance)
          const { logits, memory } = await context.read(decoder.initialMemory(batch), 0, 24, 6)
          const [inputs, targets] = [context.tokens(24, 30), context.tokens(25, 31)]
          const step = decoder.gradients(inputs, targets, memory)
          const all = [...flat(logits)]
          for (const key of [...decoder.parameters.keys()])
            if (step.gradients[key]) all.push(...((await step.gradients[key].data()) as Float32Array))
          for (const value of [inputs, targets, step.loss, step.penalty, step.memory, decoder])
            value.dispose()
          for (const value of Object.values(step.gradients)) value.dispose()
          const found = Float32Array.from(all)
          reference ??= found
          const error = largestDifference(found, reference)
          if (!(error <= tolerance)) throw new Error(`${name} differs by ${error} (tolerance ${tolerance})`)
        }
      }
    },
  }
}
