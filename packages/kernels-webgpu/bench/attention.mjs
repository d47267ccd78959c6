/**
 * Attention of a training step and of decoding on WebGPU. Run after a build:
 *
 * node bench/attention.mjs [--tiny] [--software PATH] [--only TILING] [--shape TEXT] [--plain]
 *
 * For each way to tile the work, the device's own time of each program (min and median over rounds in which the tilings
 * take turns), and TFLOP/s of the products it needs: 2 · pairs of query and visible slot · features for each. Results are
 * first compared with those of plain operations. --shape takes those whose line has the text. --plain compares whole steps with plain operations instead: "GPU ms" by
 * the device's timestamps, "ms" of one run with its result awaited, and of 20 runs in a row divided by 20, which shows
 * what encoding costs. --tiny for software drivers, PATH their .json file.
 */

import { disposeBackend, useBackend } from '@lethe/backends'
import { attend, registerGradients, setAttentionKernel } from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { attentionKernel, overrideTilings } from '../dist/index.js'
import { median, programTimes } from './timing.mjs'

const option = (name) => process.argv[process.argv.indexOf(name) + 1]
const tiny = process.argv.includes('--tiny')
const softwareVulkan = process.argv.includes('--software') ? option('--software') : undefined
const only = process.argv.includes('--only') ? option('--only') : undefined
const wanted = process.argv.includes('--shape') ? option('--shape') : ''
const rounds = tiny ? 1 : 7
const inARow = tiny ? 1 : 20

// Browsers and Dawn otherwise round timestamps to tenths of milliseconds.
const dawn = ['disable-dawn-features=timestamp_quantization']
const info = await useBackend('webgpu', { dawn, ...(softwareVulkan && { softwareVulkan }) })
registerGradients()
console.log(info.device, info.software ? '(software: times say nothing about a GPU)' : '')

let dispatches = 0
const { recordAndSubmit } = tf.backend()
tf.backend().recordAndSubmit = function (...given) {
  dispatches++
  return recordAndSubmit.apply(this, given)
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

const tinyShape = { batch: 1, heads: 2, size: 16, block: 32, memory: 64 }
const training = tiny ? tinyShape : { batch: 8, heads: 4, size: 64, block: 128, memory: 512 }
const large = tiny
  ? { batch: 1, heads: 1, size: 8, block: 72, memory: 132 }
  : { batch: 8, heads: 8, size: 64, block: 512, memory: 1024 }
const decoding = tiny ? { ...tinyShape, block: 1 } : { batch: 1, heads: 8, size: 64, block: 1, memory: 4095 }
const cases = [
  ['training, rotary or none', training, true],
  ['training, learned positions', { ...training, positions: true }, true],
  ['training, persistent slots', { ...training, persistent: 64 }, true],
  ['training, large', { ...large, positions: true }, true],
  ['decoding', { ...decoding, scattered: true }, false],
  ['decoding, learned positions', { ...decoding, scattered: true, positions: true }, false],
]

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

async function wholeSteps() {
  const line = (name, ...columns) =>
    console.log(name.padEnd(36) + columns.map((c) => c.padStart(12)).join(''))
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
}

const tiling = (threads, quads, features = [16, 32], workgroups = 512) => ({
  threads,
  quads,
  features,
  workgroups,
})
const tilings = {
  chosen: undefined,
  '32x32 of 64': tiling([8, 8], [1, 1]),
  '32x32 of 64, whole': tiling([8, 8], [1, 1], [16, 32], 1),
  '64x64 of 64': tiling([8, 8], [2, 2]),
  '64x64 of 128': tiling([8, 16], [2, 1]),
  '64x64 of 128, deep': tiling([8, 16], [2, 1], [32, 64]),
  '64x64 of 128, more': tiling([8, 16], [2, 1], [16, 32], 2048),
  '64x64 of 256': tiling([16, 16], [1, 1]),
  '64x64 of 256, deep': tiling([16, 16], [1, 1], [32, 64]),
  '128x64 of 256': tiling([16, 16], [2, 1]),
  '64x128 of 256': tiling([16, 16], [1, 2]),
}

function take(tiling) {
  overrideTilings(
    tiling
      ? Object.fromEntries(['forward', 'queries', 'slots', 'positions'].map((name) => [name, tiling]))
      : {},
  )
}

/** Products of queries × slots × features that a program needs. */
const products = {
  forward: (placed) => (placed ? 3 : 2),
  single: (placed) => (placed ? 3 : 2),
  'slots-back': (placed) => (placed ? 5 : 4),
  'queries-back': (placed) => (placed ? 2 : 1),
  'positions-back': () => 1,
}

function visiblePairs({ batch, heads, block, memory }) {
  return batch * heads * (block * (memory + 1) + (block * (block - 1)) / 2)
}

const deviation = async (values, expected) => {
  const largest = tf.tidy(() =>
    tf.stack(
      values.map((value, index) =>
        tf.div(tf.max(tf.abs(tf.sub(value, expected[index]))), tf.max(tf.abs(expected[index]))),
      ),
    ),
  )
  const found = await largest.data()
  largest.dispose()
  return found.some(Number.isNaN) ? Number.NaN : Math.max(...found)
}

async function programs() {
  if (!tf.backend().supportTimestampQuery) throw new Error('The device has no timestamp-query: use --plain.')
  const learned = (tiny ? [large] : [training, large]).flatMap((shape) => [
    shape,
    { ...shape, positions: true },
  ])
  const decoded = [
    { ...decoding, scattered: true },
    { ...decoding, scattered: true, positions: true },
  ]
  for (const shape of [...learned, ...decoded]) {
    const { batch, heads, size, block, memory, positions, scattered } = shape
    const line = `batch ${batch}, heads ${heads}, headSize ${size}, block ${block}, memory ${memory}${positions ? ', learned positions' : ''}`
    if (!line.includes(wanted)) continue
    console.log(`\n${line}`)
    const { learning, request } = windowed(shape)
    const names = Object.keys(learning)
    const tensors = Object.values(learning)
    const context = (...given) =>
      attend(request(Object.fromEntries(names.map((key, index) => [key, given[index]])))).context
    const weights = tf.randomNormal([batch, heads, size, block])
    const work = () =>
      scattered
        ? [context(...tensors)]
        : tf.grads((...given) => tf.sum(tf.mul(context(...given), weights)))(tensors)
    setAttentionKernel('webgpu', null)
    const expected = tf.tidy(() => [context(...tensors), ...work()])
    setAttentionKernel('webgpu', attentionKernel)
    const results = new Map()
    for (const [name, tiling] of Object.entries(tilings)) {
      if (only && name !== only) continue
      if (scattered && tiling) continue // One query is not tiled.
      take(tiling)
      const values = tf.tidy(() => [context(...tensors), ...work()])
      const worst = await deviation(values, expected)
      tf.dispose(values)
      if (!(worst < 1e-3)) {
        console.log(`  ${name}: WRONG, deviates by ${worst} from plain operations`)
        process.exitCode = 1
        continue
      }
      results.set(name, { tiling, worst, rounds: [] })
    }
    tf.dispose(expected)
    for (let round = 0; round < (tiny ? 1 : 9); round++)
      for (const { tiling, rounds } of results.values()) {
        take(tiling)
        rounds.push(await programTimes(work))
      }
    for (const [name, { worst, rounds: taken }] of results) {
      console.log(`  ${name} (largest deviation ${worst.toExponential(1)})`)
      let total = 0
      for (const program of Object.keys(taken[0])) {
        const times = taken.map((each) => each[program]).sort((one, other) => one - other)
        const needed = products[program]?.(positions) ?? 0
        const rate = (ms) => (2 * needed * visiblePairs(shape) * size) / ms / 1e9
        total += times[times.length >> 1]
        console.log(
          `    ${program.padEnd(16)}${times[0].toFixed(4).padStart(10)}${times[times.length >> 1].toFixed(4).padStart(10)} ms` +
            (needed ? `${rate(times[0]).toFixed(2).padStart(8)} TFLOP/s` : ''),
        )
      }
      console.log(`    ${'all'.padEnd(16)}${''.padStart(10)}${total.toFixed(4).padStart(10)} ms`)
    }
    tf.dispose([...tensors, weights])
  }
  take(undefined)
}

await (process.argv.includes('--plain') ? wholeSteps() : programs())
info.throwIfFailed()
await disposeBackend()
