/** lethe bench: times training steps and decoding, with a full memory. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { type Decoder, Random, registerGradients } from '@lethe/core'
import { Optimizer } from '@lethe/trainer'
import { dispose, profile, tensor1d, tensor2d, memory as tensorMemory } from '@tensorflow/tfjs-core'
import { startBackend } from '../backend'
import { UsageError } from '../errors'
import type { CommandLine, Given } from '../options'
import { bytes, count } from '../output'
import { decoderOf, type Settings, settingsOf } from '../settings'

/** The sizes that the authors' code was measured at. */
export const benchDefaults: Partial<Settings> = {
  layers: 4,
  width: 256,
  heads: 4,
  'feed-forward': 1024,
  span: 512,
  block: 128,
  batch: 8,
  steps: 8,
}

const vocabulary = 256
const median = (values: readonly number[]) => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export async function benchCommand(line: CommandLine): Promise<number> {
  const [what, ...rest] = line.positionals
  if ((what !== 'train' && what !== 'decode') || rest.length > 0)
    throw new UsageError(
      'lethe bench needs to know what to measure: lethe bench train, or lethe bench decode',
    )
  if (what === 'decode') return benchDecode(line.given)
  return line.given.stock ? againstStock(line.given) : benchTrain(line.given)
}

interface TrainFigures {
  readonly ms_per_step: number
  readonly min_ms: number
  readonly tokens_per_s: number
  readonly peak_tensor_bytes: number
  readonly peak_rss_bytes: number
  readonly memory_slots: number
}

async function benchTrain(given: Given): Promise<number> {
  const settings = settingsOf(given, benchDefaults)
  const { name: backend } = await startBackend(given.backend, given.unpatched ? { patch: false } : {})
  const figures = await measureTraining(settings)
  if (given.json) console.log(JSON.stringify({ backend, ...figures }))
  else
    console.log(
      `${backend}: ${figures.ms_per_step.toFixed(0)} ms per step (least ${figures.min_ms.toFixed(0)}), ${count(figures.tokens_per_s)} tokens/s, ` +
        `${count(figures.memory_slots)} slots; peak ${bytes(figures.peak_tensor_bytes)} of tensors, ${bytes(figures.peak_rss_bytes)} resident`,
    )
  return 0
}

/** Whole steps: forward, backward, clipping, update, reading the loss. */
async function measureTraining(settings: Settings): Promise<TrainFigures> {
  registerGradients()
  const decoder = decoderOf(settings, vocabulary)
  const optimizer = new Optimizer(decoder.parameters, { optimizer: settings.optimizer, clip: settings.clip })
  const random = new Random(settings.seed)
  const { batch, block } = settings
  let memory = await fullMemory(decoder, settings, batch, random)
  const step = () => {
    const [inputs, targets] = [randomTokens(random, batch, block), randomTokens(random, batch, block)]
    const result = decoder.gradients(inputs, targets, memory, { random })
    memory = result.memory
    const norm = optimizer.update(result.gradients, settings['learning-rate'])
    dispose([inputs, targets, result.penalty, Object.values(result.gradients)])
    return { loss: result.loss, norm }
  }
  const read = async ({ loss, norm }: ReturnType<typeof step>) => {
    await Promise.all([loss.data(), norm.data()])
    dispose([loss, norm])
    await decoder.afterUpdate()
    memory = await decoder.compact(memory)
  }
  const times: number[] = []
  for (let index = -2; index < settings.steps; index++) {
    const began = performance.now()
    await read(step())
    if (index >= 0) times.push(performance.now() - began)
  }
  const slots = memory.slots
  let last: ReturnType<typeof step> | undefined
  const { peakBytes } = await profile(() => {
    last = step()
    return null as never
  })
  await read(last!)
  memory.dispose()
  optimizer.dispose()
  decoder.dispose()
  return {
    ms_per_step: median(times),
    min_ms: Math.min(...times),
    tokens_per_s: (1000 * batch * block) / median(times),
    peak_tensor_bytes: peakBytes,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    memory_slots: slots,
  }
}

const randomTokens = (random: Random, batch: number, block: number) =>
  tensor2d(
    Int32Array.from({ length: batch * block }, () => random.integer(vocabulary)),
    [batch, block],
    'int32',
  )

/** A memory that has read so much that it is full. */
async function fullMemory(decoder: Decoder, { span, block }: Settings, batch: number, random: Random) {
  let memory = decoder.initialMemory(batch)
  const steps = decoder.config.initialMemory === 'zeros' ? 0 : span
  for (let read = 0; read < steps; read += block) {
    const tokens = randomTokens(random, batch, block)
    const result = decoder.forward(tokens, memory)
    dispose([tokens, result.logits, result.penalty])
    memory = await decoder.compact(result.memory)
  }
  return memory
}

/** Patched and stock wasm in processes of their own, by turns. */
async function againstStock(given: Given): Promise<number> {
  const measure = async (unpatched: boolean, steps: number): Promise<TrainFigures> => {
    const { stock: _, json: __, data: ___, contexts: ____, backend: _____, ...same } = { ...given, steps }
    const options = Object.entries(same).flatMap(([name, value]) => [
      `--${name}`,
      ...(value === true ? [] : [String(value)]),
    ])
    const args = [process.argv[1]!, 'bench', 'train', ...options, '--backend', 'wasm', '--json']
    const { stdout } = await promisify(execFile)(
      process.execPath,
      unpatched ? [...args, '--unpatched'] : args,
    )
    return JSON.parse(stdout.trim().split('\n').at(-1)!)
  }
  const steps = given.steps ?? 8
  // A stock step takes half a minute at the default sizes: one is enough beside its two to warm up.
  const rounds = [
    await measure(false, steps),
    await measure(true, Math.min(steps, 1)),
    await measure(false, steps),
  ]
  const ours = median([rounds[0]!.ms_per_step, rounds[2]!.ms_per_step])
  const stock = rounds[1]!.ms_per_step
  if (given.json)
    console.log(JSON.stringify({ ms_per_step: ours, stock_ms_per_step: stock, ratio: stock / ours, rounds }))
  else
    console.log(
      `wasm: ${ours.toFixed(0)} ms per step; tfjs's own wasm: ${stock.toFixed(0)} ms; ${(stock / ours).toFixed(1)} times as fast`,
    )
  return 0
}

/** One stream read token by token; figures of the tokens just before each context length. */
async function benchDecode(given: Given): Promise<number> {
  const settings = settingsOf(given, benchDefaults)
  const contexts = [...(given.contexts ?? [1024, 8192])].sort((a, b) => a - b)
  const { name: backend } = await startBackend(given.backend)
  const decoder = decoderOf(settings, vocabulary)
  const random = new Random(settings.seed)
  let memory = decoder.startDecoding(decoder.initialMemory(1))
  const times: number[] = []
  const figures = []
  for (const context of contexts) {
    while (times.length < context) {
      const began = performance.now()
      const tokens = tensor1d([random.integer(vocabulary)], 'int32')
      const result = decoder.decode(tokens, memory)
      memory = times.length % 64 === 63 ? await decoder.compactDecoding(result.memory) : result.memory
      await result.logits.data()
      dispose([tokens, result.logits])
      times.push(performance.now() - began)
    }
    // The last thousand tokens, or the last half where there are fewer.
    const recent = times.slice(-Math.min(1000, Math.ceil(times.length / 2)))
    figures.push({
      context,
      ms_per_token: median(recent),
      memory_bytes: memory.bytes,
      tensors: tensorMemory().numTensors,
      tensor_bytes: tensorMemory().numBytes,
      rss_bytes: process.memoryUsage().rss,
    })
    const latest = figures.at(-1)!
    if (!given.json)
      console.log(
        `${backend}, context ${count(context)}: ${latest.ms_per_token.toFixed(2)} ms per token, ${bytes(latest.memory_bytes)} of memory, ${latest.tensors} tensors`,
      )
  }
  if (given.json) console.log(JSON.stringify({ backend, contexts: figures }))
  memory.dispose()
  decoder.dispose()
  return 0
}
