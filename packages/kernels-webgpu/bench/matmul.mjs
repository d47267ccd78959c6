/**
 * Matrix products of training and decoding on WebGPU: tfjs's own kernel and every variant of ours, by turns. Run after a
 * build: node bench/matmul.mjs [--quick] [--software PATH] [--only TEXT] [--seconds 55]; --quick for software drivers,
 * PATH their .json file, TEXT part of a shape's name, and after so many seconds no further shape is begun.
 *
 * Each result is first compared with products in float64 at some hundred places, and as a whole with tfjs's. Times are
 * medians per product over dispatches repeated within one pass, one after the other since they write the same result:
 * by the device's timestamps where it has them, else by the clock. They hold no encoding and no transfers.
 */

import { disposeBackend, useBackend } from '@lethe/backends'
import * as tf from '@tensorflow/tfjs-core'
import { matMulVariants } from '../dist/index.js'

const option = (name, otherwise) =>
  process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : otherwise
const quick = process.argv.includes('--quick')
const softwareVulkan = option('--software')
const only = option('--only', '')
const seconds = Number(option('--seconds', quick ? '1e9' : '55'))
const rounds = quick ? 1 : 3
/** Milliseconds that one measurement should take. */
const span = quick ? 0 : 6
const largestError = 1e-4

// [name, [rows, inner, columns], transposes, batch of a, batch of b]
const shapes = quick
  ? [
      ['forward', [40, 64, 72], 'NN'],
      ['gradient of weights', [32, 256, 32], 'TN'],
      ['one row', [1, 96, 64], 'NN'],
    ]
  : [
      ['forward', [2048, 512, 2048], 'NN'],
      ['gradient of x', [2048, 2048, 512], 'NT'],
      ['gradient of weights', [512, 2048, 2048], 'TN'],
      ['forward', [1024, 256, 1024], 'NN'],
      ['gradient of x', [1024, 1024, 256], 'NT'],
      ['gradient of weights', [256, 1024, 1024], 'TN'],
      ['forward', [4096, 512, 2048], 'NN'],
      ['forward', [4096, 2048, 512], 'NN'],
      ['forward', [2048, 512, 512], 'NN'],
      ['forward', [1024, 256, 256], 'NN'],
      ['forward', [4096, 256, 256], 'NN'],
      ['gradient of weights', [512, 4096, 512], 'TN'],
      ['gradient of weights', [256, 4096, 256], 'TN'],
      ['gradient of weights', [2048, 4096, 512], 'TN'],
      ['to heads', [512, 512, 256], 'TT', [1], [8]],
      ['to heads', [256, 256, 640], 'TT', [1], [8]],
      ['to heads', [512, 512, 512], 'TT', [1], [8]],
      ['to heads, gradient of weights', [512, 512, 512], 'TT', [8], [8]],
      ['from heads', [512, 512, 512], 'TN', [8], [1]],
      ['from heads, gradient of context', [512, 512, 512], 'NT', [1], [8]],
      ['to heads, gradient of weights', [256, 128, 256], 'TT', [8], [8]],
      ['to heads, gradient of x', [256, 512, 512], 'TT', [8], [1]],
      ['from heads', [256, 512, 512], 'TN', [8], [1]],
      ['from heads, gradient of context', [512, 512, 256], 'NT', [1], [8]],
      ['scores', [128, 64, 640], 'TN', [8, 8], [8, 8]],
      ['logits', [2048, 512, 256], 'NT'],
      ['logits', [2048, 512, 8192], 'NT'],
      ['sum of rows', [1, 4096, 512], 'NN'],
      ['one row', [1, 512, 512], 'NN'],
      ['one row', [1, 512, 2048], 'NN'],
      ['one row', [1, 2048, 512], 'NN'],
      ['one row to heads', [512, 512, 1], 'TT', [1], [1]],
      ['one row, logits', [1, 512, 8192], 'NT'],
      ['4 rows', [4, 512, 2048], 'NN'],
      ['8 rows', [8, 512, 512], 'NN'],
      ['16 rows', [16, 512, 2048], 'NN'],
      ['widths not divisible by 4', [1023, 255, 1025], 'NN'],
    ]

const info = await useBackend('webgpu', {
  kernels: false,
  // Dawn's timestamps are otherwise rounded to a tenth of a millisecond.
  dawn: ['disable-dawn-features=timestamp_quantization'],
  ...(softwareVulkan && { softwareVulkan }),
})
const gpu = tf.backend()
const { device } = gpu
const timestamps = device.features.has('timestamp-query')
console.log(
  `${info.device}${info.software ? ' (software: times say nothing about a GPU)' : ''}, ` +
    `times by ${timestamps ? 'timestamps' : 'the clock'}\n`,
)

const begin = performance.now()
const product = (sizes) => sizes.reduce((a, b) => a * b, 1)
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1]
const noise = Float32Array.from({ length: 1 << 20 }, () => Math.random() * 2 - 1)
function random(shape, from) {
  const values = new Float32Array(product(shape))
  for (let start = 0; start < values.length; start++) values[start] = noise[(start + from) % noise.length]
  return { shape, values, tensor: tf.tensor(values, shape) }
}

function caseOf([name, [rows, inner, columns], transposes, batchA = [], batchB = []]) {
  const [turnedA, turnedB] = [...transposes].map((letter) => letter === 'T')
  const shapeA = [...batchA, ...(turnedA ? [inner, rows] : [rows, inner])]
  const shapeB = [...batchB, ...(turnedB ? [columns, inner] : [inner, columns])]
  const batch = batchA.map((size, axis) => Math.max(size, batchB[axis]))
  const label = `${name} ${batch.length > 0 ? `${batch.join('·')} × ` : ''}${rows}×${inner}×${columns} ${transposes}`
  return { label, rows, inner, columns, turnedA, turnedB, shapeA, shapeB, batch, matrices: product(batch) }
}

/** tfjs's kernel and all variants of ours for a × b, of which a quick run takes the one that would be chosen and some. */
const contendersOf = ({ turnedA, turnedB }, a, b) => [
  { name: 'tfjs', multiply: () => tf.matMul(a, b, turnedA, turnedB) },
  ...matMulVariants(a, b, turnedA, turnedB).filter(
    ({ chosen }, index) => chosen || !quick || index % 6 === 0,
  ),
]

/** Compiles the shaders of all cases, several at a time. */
async function compile(cases) {
  tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', true)
  for (const one of cases) {
    const [a, b] = [tf.zeros(one.shapeA), tf.zeros(one.shapeB)]
    for (const { multiply } of contendersOf(one, a, b)) multiply().dispose()
    tf.dispose([a, b])
  }
  await gpu.checkCompileCompletionAsync()
  tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', false)
}

/** Runs work and returns its result with what it dispatched. Buffers that tfjs would use again stay as they are. */
function record(work) {
  const dispatches = []
  const { recordAndSubmit } = Object.getPrototypeOf(gpu)
  gpu.recordAndSubmit = function (program, ...given) {
    const { createBindGroup } = device
    device.createBindGroup = (descriptor) => {
      const group = createBindGroup.call(device, descriptor)
      dispatches.push({ pipeline: program.pipeline, group, size: [...program.dispatch] })
      return group
    }
    recordAndSubmit.call(this, program, ...given)
    device.createBindGroup = createBindGroup
  }
  const result = work()
  delete gpu.recordAndSubmit
  return { result, dispatches }
}

/** Tells tfjs's buffers to stay out of its pool until the returned function is called. */
function keepBuffers() {
  const released = []
  const { bufferManager } = gpu
  bufferManager.releaseBuffer = (...given) => released.push(given)
  return () => {
    delete bufferManager.releaseBuffer
    for (const given of released) bufferManager.releaseBuffer(...given)
  }
}

const querySet = timestamps && device.createQuerySet({ type: 'timestamp', count: 2 })
const resolved =
  timestamps &&
  device.createBuffer({ size: 16, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC })
const readable =
  timestamps && device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })

/** Milliseconds of `times` repetitions. */
async function replay(dispatches, times) {
  const encoder = device.createCommandEncoder()
  const pass = encoder.beginComputePass(
    timestamps ? { timestampWrites: { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 } } : {},
  )
  for (let time = 0; time < times; time++)
    for (const { pipeline, group, size } of dispatches) {
      if (dispatches.length > 1 || time === 0) {
        pass.setPipeline(pipeline)
        pass.setBindGroup(0, group)
      }
      pass.dispatchWorkgroups(...size)
    }
  pass.end()
  if (timestamps) {
    encoder.resolveQuerySet(querySet, 0, 2, resolved, 0)
    encoder.copyBufferToBuffer(resolved, 0, readable, 0, 16)
  }
  const commands = encoder.finish()
  const start = performance.now()
  device.queue.submit([commands])
  await device.queue.onSubmittedWorkDone()
  const wall = performance.now() - start
  if (!timestamps) return wall
  await readable.mapAsync(GPUMapMode.READ)
  const [first, last] = new BigInt64Array(readable.getMappedRange().slice(0))
  readable.unmap()
  return Number(last - first) / 1e6
}

/** Largest error at some hundred places, as a share of the result's root mean square there. */
function errorOf({ rows, inner, columns, turnedA, turnedB, batch, shapeA, shapeB, matrices }, a, b, result) {
  const places = 300
  const sizes = [shapeA, shapeB].map((shape) => (product(shape.slice(0, -2)) === 1 ? 0 : 1))
  let [largest, squares] = [0, 0]
  if (result.length !== product(batch) * rows * columns) throw new Error(`${result.length} values`)
  for (let n = 0; n < places; n++) {
    // The corners of the batch's last product, then anywhere.
    const any = (size) => Math.floor(Math.random() * size)
    const [matrix, row, column] =
      n < 4
        ? [matrices - 1, (n & 1) * (rows - 1), (n >> 1) * (columns - 1)]
        : [any(matrices), any(rows), any(columns)]
    const startA = sizes[0] * matrix * rows * inner
    const startB = sizes[1] * matrix * inner * columns
    let sum = 0
    for (let k = 0; k < inner; k++)
      sum +=
        a.values[startA + (turnedA ? k * rows + row : row * inner + k)] *
        b.values[startB + (turnedB ? column * inner + k : k * columns + column)]
    largest = Math.max(largest, Math.abs(result[(matrix * rows + row) * columns + column] - sum))
    squares += sum * sum
  }
  return largest / Math.sqrt(squares / places)
}

const cases = shapes.map(caseOf).filter(({ label }) => label.includes(only))
await compile(cases)
console.log(`Shaders compiled after ${((performance.now() - begin) / 1000).toFixed(1)} s.\n`)

const show = (ms) => (ms < 0.1 ? ms.toFixed(4) : ms.toFixed(3))
const all = []
console.log('| product | tfjs ms | TFLOP/s | chosen | ms | TFLOP/s | best | ms | TFLOP/s |')
console.log('|---|---:|---:|---|---:|---:|---|---:|---:|')
for (const one of cases) {
  if (performance.now() - begin > seconds * 1000) {
    console.log(`| ${one.label} | left out: no time | | | | | | | |`)
    continue
  }
  const a = random(one.shapeA, 0)
  const b = random(one.shapeB, 12345)
  const release = keepBuffers()
  const contenders = []
  for (const contender of contendersOf(one, a.tensor, b.tensor)) {
    const { result, dispatches } = record(contender.multiply)
    contenders.push({ ...contender, result, dispatches, times: [] })
    const error =
      contender.name === 'tfjs' || one.rows * one.columns < 1e6 ? errorOf(one, a, b, await result.data()) : 0
    const apart = tf.tidy(() => tf.max(tf.abs(tf.sub(result, contenders[0].result))))
    const difference = (await apart.data())[0] / Math.sqrt(one.inner)
    apart.dispose()
    info.throwIfFailed()
    if (!(Math.max(error, difference) < largestError))
      throw new Error(`${one.label}, ${contender.name}: errors of ${error} and, beside tfjs, ${difference}`)
  }
  for (const contender of contenders) {
    const { dispatches } = contender
    let times = 1
    let ms = await replay(dispatches, times)
    while (ms < span / 4 && times < 4000) {
      times = ms > span / 40 ? Math.ceil((times * span) / 4 / ms) : times * 8
      ms = await replay(dispatches, times)
    }
    contender.repeat = Math.max(1, Math.ceil((times * span) / ms))
  }
  for (let round = 0; round < rounds; round++)
    for (const contender of contenders)
      contender.times.push((await replay(contender.dispatches, contender.repeat)) / contender.repeat)
  tf.dispose(contenders.map(({ result }) => result))
  tf.dispose([a.tensor, b.tensor])
  await device.queue.onSubmittedWorkDone()
  release()
  info.throwIfFailed()

  const flops = 2 * one.matrices * one.rows * one.inner * one.columns
  const measured = contenders.map(({ name, chosen, times }) => ({ name, chosen, ms: median(times) }))
  const speed = (ms) => (flops / ms / 1e9).toFixed(2)
  const best = measured.slice(1).reduce((x, y) => (y.ms < x.ms ? y : x))
  const chosen = measured.find((variant) => variant.chosen)
  const row = [measured[0], chosen, best].flatMap(({ name, ms }) => [name, show(ms), speed(ms)])
  console.log(`| ${one.label} | ${row.slice(1).join(' | ')} |`)
  all.push({ label: one.label, measured, speed })
}

console.log('\nAll variants, fastest first, in µs (TFLOP/s):\n')
for (const { label, measured, speed } of all) {
  const sorted = measured.sort((x, y) => x.ms - y.ms)
  console.log(
    `- ${label}: ${sorted.map(({ name, ms }) => `${name} ${(ms * 1000).toFixed(1)} (${speed(ms)})`).join('; ')}`,
  )
}
console.log(`\n${((performance.now() - begin) / 1000).toFixed(0)} s in all.`)
info.throwIfFailed()
await disposeBackend()
