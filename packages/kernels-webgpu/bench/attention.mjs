/**
 * Attention of a training step and of decoding on WebGPU, fused and in plain operations, by turns; medians. Run after a
 * build: node bench/attention.mjs [--tiny] [--software PATH], --tiny for software drivers, PATH their .json file.
 * "GPU ms" are the device's own timestamps of all dispatches, where it has them; "ms" is the wall time of one run with
 * its result awaited, and of 20 runs in a row divided by 20, which shows what encoding costs.
 */

import { disposeBackend, useBackend } from '@lethe/backends'
import { attend, registerGradients, setAttentionKernel } from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { attentionKernel } from '../dist/index.js'

const option = (name) => process.argv[process.argv.indexOf(name) + 1]
const tiny = process.argv.includes('--tiny')
const softwareVulkan = process.argv.includes('--software') ? option('--software') : undefined
const rounds = tiny ? 1 : 7
const inARow = tiny ? 1 : 20

const info = await useBackend('webgpu', softwareVulkan ? { softwareVulkan } : {})
registerGradients()
console.log(info.device, info.software ? '(software: times say nothing about a GPU)' : '')

let dispatches = 0
const { runWebGPUProgram } = Object.getPrototypeOf(tf.backend())
tf.backend().runWebGPUProgram = function (...given) {
  dispatches++
  return runWebGPUProgram.apply(this, given)
}

/** A request over a window, and its learning tensors. */
function windowed({ batch, heads, size, block, memory, positions, scattered, persistent }) {
  const slots = memory + block
  const random = (...shape) => tf.randomNormal(shape)
  const learning = {
    queries: random(batch, heads, size, block),
    keys: random(batch, heads, size, slots),
    values: random(batch, heads, size, slots),
    ...(positions && { rows: random(1, slots, size) }),
    ...(persistent && {
      persistentKeys: random(heads, size, persistent),
      persistentValues: random(heads, size, persistent),
    }),
  }
  const age = tf.tidy(() => tf.tile(tf.reshape(tf.range(slots - 1, -1, -1, 'int32'), [1, slots]), [batch, 1]))
  const request = ({ queries, keys, values, rows, persistentKeys, persistentValues }) => ({
    queries,
    keys,
    values,
    scale: size ** -0.5,
    groups: [
      {
        slots,
        distance: scattered ? { kind: 'scattered', age } : { kind: 'contiguous', first: memory },
        nearest: 0,
        farthest: slots - 1,
        ...(rows && { positions: { rows, featureMajor: false, low: 0, high: slots - 1, beyond: 'none' } }),
      },
    ],
    terms: [],
    wants: {},
    ...(persistentKeys && { persistent: { keys: persistentKeys, values: persistentValues } }),
  })
  return { learning, request }
}

const small = { batch: 1, heads: 2, size: 16, block: 32, memory: 64 }
const training = tiny ? small : { batch: 8, heads: 4, size: 64, block: 128, memory: 512 }
const large = tiny ? small : { batch: 8, heads: 8, size: 64, block: 512, memory: 2048 }
const decoding = tiny ? { ...small, block: 1 } : { batch: 1, heads: 8, size: 64, block: 1, memory: 4095 }
const cases = [
  ['training, rotary or none', training, true],
  ['training, learned positions', { ...training, positions: true }, true],
  ['training, persistent slots', { ...training, persistent: 64 }, true],
  ['training, large', { ...large, positions: true }, true],
  ['decoding', { ...decoding, scattered: true }, false],
  ['decoding, learned positions', { ...decoding, scattered: true, positions: true }, false],
]

const median = (values) => values.sort((one, other) => one - other)[values.length >> 1]

async function measure(work) {
  const once = async () => {
    const results = tf.tidy(work)
    await results[0].data()
    tf.dispose(results)
  }
  await once() // compiles
  dispatches = 0
  tf.dispose(tf.tidy(work))
  const count = dispatches
  const start = performance.now()
  await once()
  const wall = performance.now() - start
  const again = performance.now()
  for (let run = 1; run < inARow; run++) tf.dispose(tf.tidy(work))
  await once()
  const row = (performance.now() - again) / inARow
  const { kernelMs } = await tf.time(() => tf.dispose(tf.tidy(work)))
  return { count, wall, row, gpu: kernelMs }
}

const line = (name, ...columns) => console.log(name.padEnd(36) + columns.map((c) => c.padStart(12)).join(''))
line('', 'fused: GPU', 'ms', 'in a row', 'dispatches', 'plain: GPU', 'ms', 'in a row', 'dispatches')
for (const [name, shape, learns] of cases) {
  const { learning, request } = windowed(shape)
  const names = Object.keys(learning)
  const forward = () => [attend(request(learning)).context]
  const loss = (...tensors) =>
    tf.sum(attend(request(Object.fromEntries(names.map((key, index) => [key, tensors[index]])))).context)
  const both = () => tf.grads(loss)(Object.values(learning))
  for (const [part, work] of [['forward', forward], ...(learns ? [['forward and backward', both]] : [])]) {
    const taken = { fused: [], plain: [] }
    for (let round = 0; round < rounds; round++)
      for (const kind of ['fused', 'plain']) {
        setAttentionKernel('webgpu', kind === 'fused' ? attentionKernel : null)
        taken[kind].push(await measure(work))
      }
    const columns = (kind) => [
      ...['gpu', 'wall', 'row'].map((key) => median(taken[kind].map((run) => run[key])).toFixed(2)),
      String(taken[kind][0].count),
    ]
    line(`${name}: ${part}`, ...columns('fused'), ...columns('plain'))
  }
  tf.dispose(Object.values(learning))
}
info.throwIfFailed()
await disposeBackend()
