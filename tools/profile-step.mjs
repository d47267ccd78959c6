#!/usr/bin/env node
/**
 * node tools/profile-step.mjs [--backend tensorflow] [--method fixed-span] [--preset fair] [--steps 5] [--shapes]
 *   [--top 25] [--layers 4] [--width 256] [--heads 4] [--block 128] [--span 512] [--batch 8] [--gpu] [--json] [--submit 64]
 *   [--decode] [--null]
 *
 * Where a training step goes: calls and milliseconds of each kernel (with --shapes: of each kernel and the shapes it
 * gets), what the host spends outside of kernels, tensors uploaded from the host, peak bytes of tensors. Times are those of
 * the calling thread: on a backend that only queues its work (webgpu) they are the time to queue. --gpu gives the
 * device's own timestamps of one step instead, a row per program (with --shapes: and shape of its result); the programs
 * run one by one for it. --submit: dispatches that are handed to the device at a time. --decode: a step is a token of a
 * single stream that is decoded, and its logits read back.
 *
 * On webgpu it also counts what is recorded, and the thread's processor time (Linux). --null takes Dawn's null backend, which
 * computes nothing: what is left is the price of recording, on any machine. With --cpu-prof for node, where it goes.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { adaptiveSpan } from '@lethe/adaptive-span'
import { disposeBackend, useBackend } from '@lethe/backends'
import { compressive } from '@lethe/compressive'
import { Decoder, fixedSpan, presets, Random, registerGradients } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import { Optimizer } from '@lethe/trainer'
import * as tf from '@tensorflow/tfjs-core'

const text = (value) => ({ type: 'string', default: value })
const { values: given } = parseArgs({
  options: {
    backend: text('tensorflow'),
    method: text('fixed-span'),
    preset: text('fair'),
    steps: text('5'),
    top: text('25'),
    layers: text('4'),
    width: text('256'),
    heads: text('4'),
    block: text('128'),
    span: text('512'),
    batch: text('8'),
    shapes: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    gpu: { type: 'boolean', default: false },
    submit: { type: 'string' },
    decode: { type: 'boolean', default: false },
    null: { type: 'boolean', default: false },
  },
})
if (given.null && (given.gpu || given.backend !== 'webgpu'))
  throw new Error('--null is a device of --backend webgpu without timestamps')
const number = (name) => Number(given[name])
const [span, block] = ['span', 'block'].map(number)
const batch = given.decode ? 1 : number('batch')

const methods = {
  'fixed-span': () => fixedSpan({ span }),
  // Spans at their limits: the memory is full.
  'adaptive-span': () => adaptiveSpan({ maxSpan: span, ramp: 32, penalty: 2e-6, initialSpan: span }),
  'expire-span': () => expireSpan({ maxSpan: span, ramp: 32, penalty: 1e-6, initialPercentage: 0.99 }),
  compressive: () =>
    compressive({ memory: span, compressed: span / 4, rate: 4, compression: 'conv', loss: 'attention' }),
  selective: () => selective({ span, budget: span, memoryLoss: 0 }),
}

/** One row per kernel, of all calls since the last reset. */
class KernelTimes {
  rows = new Map()
  peakBytes = 0
  uploads = { calls: 0, bytes: 0 }
  /** Milliseconds spent in kernels that the running kernel called itself. */
  #inner = 0

  /** Watches every kernel that the engine runs from now on. */
  constructor(engine, byShape) {
    const { runKernel, makeTensor } = engine
    engine.runKernel = (name, inputs, attributes) => {
      const outer = this.#inner
      this.#inner = 0
      const began = performance.now()
      try {
        return runKernel.call(engine, name, inputs, attributes)
      } finally {
        const elapsed = performance.now() - began
        const key = byShape ? `${name} ${shapesOf(inputs)}${flagsOf(attributes)}` : name
        const row = this.rows.get(key) ?? { calls: 0, ms: 0 }
        row.calls++
        row.ms += elapsed - this.#inner
        this.rows.set(key, row)
        this.#inner = outer + elapsed
        this.peakBytes = Math.max(this.peakBytes, engine.state.numBytes)
      }
    }
    engine.makeTensor = (values, shape, dtype, backend) => {
      const tensor = makeTensor.call(engine, values, shape, dtype, backend)
      this.uploads.calls++
      this.uploads.bytes += tensor.size * 4
      return tensor
    }
  }

  reset() {
    this.rows.clear()
    this.peakBytes = 0
    this.uploads = { calls: 0, bytes: 0 }
  }
}

/** Rows like those of KernelTimes, of the programs that `work` runs, by the timestamps of the WebGPU device. */
async function gpuTimes(backend, byShape, work) {
  if (!backend.supportTimestampQuery) throw new Error('--gpu needs a WebGPU device with timestamp-query')
  const { recordAndSubmit } = backend
  const outer = backend.activeTimers
  const timers = []
  backend.activeTimers = timers
  backend.recordAndSubmit = (program, output, ...rest) => {
    recordAndSubmit.call(backend, program, output, ...rest)
    // tfjs's keys begin with the class of the program, ours with its name; what follows are sizes and code.
    const name =
      program.constructor === Object ? program.shaderKey.split(/[_;]/)[0] : program.constructor.name
    timers[timers.length - 1].name = byShape ? `${name} [${output.shape}] of ${program.dispatch}` : name
  }
  await work()
  backend.recordAndSubmit = recordAndSubmit
  backend.activeTimers = outer
  const rows = new Map()
  for (const { name, query } of timers) {
    const row = rows.get(name) ?? { calls: 0, ms: 0 }
    row.calls++
    row.ms += await query
    rows.set(name, row)
  }
  return rows
}

const shapesOf = (inputs) =>
  Object.values(inputs)
    .flat()
    .map((x) => (x?.shape ? `[${x.shape}]` : '-'))
    .join(' ')
const flagsOf = (attributes = {}) => {
  const flags = Object.entries(attributes).filter(([, value]) => value !== false && value !== undefined)
  return flags.length > 0 ? ` ${flags.map(([name, value]) => `${name}=${value}`).join(' ')}` : ''
}

/** What is recorded for a WebGPU device, since the last reset. */
class CommandCounts {
  counts = {}

  constructor() {
    this.#count(GPUDevice, { createBuffer: 'buffers_made', createBindGroup: 'bind_groups_made' })
    this.#count(GPUComputePassEncoder, { dispatchWorkgroups: 'dispatches' })
    this.#count(GPUQueue, { writeBuffer: 'writes', submit: 'submissions' })
    this.#count(GPUBuffer, { mapAsync: 'read_backs' })
  }

  #count({ prototype }, names) {
    for (const [method, name] of Object.entries(names)) {
      const own = prototype[method]
      this.counts[name] = 0
      const { counts } = this
      prototype[method] = function (...given) {
        counts[name]++
        return own.apply(this, given)
      }
    }
  }

  reset() {
    for (const name of Object.keys(this.counts)) this.counts[name] = 0
  }
}

/** On the null backend what is read is whatever lay there: it becomes ones, with which spans and lives go on. */
function readOnes(backend) {
  const { read } = backend
  backend.read = async (dataId) => (await read.call(backend, dataId)).fill(1)
}

/** Processor time of this thread in ms; undefined where nobody counts it. */
function threadTime() {
  try {
    return Number(readFileSync('/proc/thread-self/schedstat', 'latin1').split(' ')[0]) / 1e6
  } catch {
    return undefined
  }
}

// Dawn's timestamps are otherwise rounded to a tenth of a millisecond.
const dawn = [
  ...(given.gpu ? ['disable-dawn-features=timestamp_quantization'] : []),
  ...(given.null ? ['backend=null'] : []),
]
await useBackend(given.backend, { dawn })
if (given.null) readOnes(tf.backend())
if (given.submit) tf.env().set('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE', number('submit'))
registerGradients()
const { decoder: style } = presets[given.preset]
const { headSize: _, ...rest } = style
const decoder = new Decoder(
  {
    ...rest,
    vocabulary: 256,
    layers: number('layers'),
    width: number('width'),
    heads: number('heads'),
    feedForward: 4 * number('width'),
    method: methods[given.method](),
    // Compressed slots count as distances.
    ...(given.method === 'compressive' && { learnedDistances: span + span / 4 + 3 + block }),
  },
  { seed: 1 },
)
const optimizer = new Optimizer(decoder.parameters, { optimizer: 'adam', clip: 0.3 })
const random = new Random(1)
const randomTokens = () =>
  tf.tensor2d(
    Int32Array.from({ length: batch * block }, () => random.integer(256)),
    [batch, block],
    'int32',
  )
let memory = decoder.initialMemory(batch)
await decoder.afterUpdate()
for (let read = 0; read < span; read += block) {
  const tokens = randomTokens()
  const result = decoder.forward(tokens, memory)
  tf.dispose([tokens, result.logits, result.penalty])
  memory = await decoder.compact(result.memory)
}

async function trainStep() {
  const [inputs, targets] = [randomTokens(), randomTokens()]
  const result = decoder.gradients(inputs, targets, memory, { random })
  const norm = optimizer.update(result.gradients, 1e-4)
  await Promise.all([result.loss.data(), norm.data()])
  tf.dispose([inputs, targets, result.penalty, Object.values(result.gradients), result.loss, norm])
  await decoder.afterUpdate()
  memory = await decoder.compact(result.memory)
}

let arena = given.decode && decoder.startDecoding(memory)

async function decodeStep() {
  const token = tf.tensor1d([random.integer(256)], 'int32')
  const result = decoder.decode(token, arena)
  arena = result.memory
  await result.logits.data()
  tf.dispose([token, result.logits])
}

const step = given.decode ? decodeStep : trainStep
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1]
async function timed(steps) {
  const times = []
  for (let index = 0; index < steps; index++) {
    const began = performance.now()
    await step()
    times.push(performance.now() - began)
  }
  return times
}

const steps = number('steps')
// Steps on the null backend are short, and the engine compiles them while they run.
await timed(given.null ? 30 : 2)
const before = process.cpuUsage()
const threadBefore = threadTime()
const unwatched = await timed(steps)
const threadMs = threadBefore && (threadTime() - threadBefore) / steps
const { user, system } = process.cpuUsage(before)
const commands = given.backend === 'webgpu' ? new CommandCounts() : undefined
await timed(1)
const counts = commands && { ...commands.counts }
const tensors = tf.memory().numTensors
const onGpu = given.gpu && (await gpuTimes(tf.backend(), given.shapes, step))
const times = new KernelTimes(tf.engine(), given.shapes)
const total = (await timed(steps)).reduce((a, b) => a + b) / steps
const leaked = tf.memory().numTensors - tensors
const watched = onGpu ? { rows: onGpu, steps: 1 } : { rows: times.rows, steps }
const rows = [...watched.rows]
  .map(([kernel, { calls, ms }]) => ({ kernel, calls: calls / watched.steps, ms: ms / watched.steps }))
  .sort((a, b) => b.ms - a.ms)
const sum = (key) => rows.reduce((total, row) => total + row[key], 0)
const figures = {
  backend: given.backend,
  method: given.method,
  preset: given.preset,
  ms_per_step: median(unwatched),
  min_ms: Math.min(...unwatched),
  cpu_ms: (user + system) / 1000 / steps,
  ...(threadMs && { thread_ms: threadMs }),
  ...counts,
  watched_ms: total,
  kernel_calls: sum('calls'),
  kernel_ms: sum('ms'),
  uploads: times.uploads.calls / steps,
  upload_bytes: times.uploads.bytes / steps,
  peak_tensor_bytes: times.peakBytes,
  peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
  slots: given.decode ? await arena.countSlots() : memory.slots,
  tensors_gained: leaked,
}
if (given.json) console.log(JSON.stringify({ ...figures, kernels: rows }))
else {
  console.log(
    `${figures.backend}, ${figures.method} (${figures.preset}), ${figures.slots} slots: ${figures.ms_per_step.toFixed(1)} ms a ${given.decode ? 'token' : 'step'} (least ${figures.min_ms.toFixed(1)}, ${figures.cpu_ms.toFixed(1)} of processor time${threadMs ? `, ${threadMs.toFixed(2)} on this thread` : ''}), ` +
      `${total.toFixed(0)} when watched: ${figures.kernel_ms.toFixed(0)} in ${figures.kernel_calls.toFixed(0)} kernel calls; ` +
      `${figures.uploads.toFixed(0)} uploads of ${(figures.upload_bytes / 1e6).toFixed(1)} MB; ` +
      `peak ${(figures.peak_tensor_bytes / 1e6).toFixed(0)} MB of tensors, ${(figures.peak_rss_bytes / 1e6).toFixed(0)} MB resident; ` +
      `${leaked} tensors gained`,
  )
  if (counts)
    console.log(
      Object.entries(counts)
        .map(([name, count]) => `${count} ${name.replaceAll('_', ' ')}`)
        .join(', '),
    )
  console.log('    ms  calls  µs/call  kernel')
  for (const { kernel, calls, ms } of rows.slice(0, number('top')))
    console.log(
      `${ms.toFixed(1).padStart(6)} ${calls.toFixed(0).padStart(6)} ${((1000 * ms) / calls).toFixed(0).padStart(8)}  ${kernel}`,
    )
}
if (given.decode) arena.dispose()
else memory.dispose()
optimizer.dispose()
decoder.dispose()
disposeBackend()
