/**
 * Norms and cross entropy on WebGPU, whose workgroups combine what their threads have by subgroups or by way of workgroup
 * memory, by turns. Run after a build: node bench/rows.mjs [--quick] [--software PATH]; --quick for software drivers, PATH
 * their .json file.
 *
 * Results are first compared with those of plain operations. Times are the device's own of each program: the least and
 * the median of many rounds; beside them GB/s of what has to be read and written once.
 */

import { disposeBackend, useBackend } from '@lethe/backends'
import { fused } from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { withholdSubgroups } from '../dist/index.js'
import { median, programTimes } from './timing.mjs'

const quick = process.argv.includes('--quick')
const at = process.argv.indexOf('--software')
const softwareVulkan = at > 0 ? process.argv[at + 1] : undefined
const rounds = quick ? 1 : 50
const sizes = quick
  ? [[12, 20]]
  : [
      [1024, 256],
      [4096, 512],
      [4096, 1024],
      [4096, 8192],
    ]

const dawn = ['disable-dawn-features=timestamp_quantization']
const info = await useBackend('webgpu', {
  dawn,
  features: ['subgroups'],
  ...(softwareVulkan && { softwareVulkan }),
})
const { device } = tf.backend()
const { subgroupMinSize: least, subgroupMaxSize: most } = device.adapterInfo ?? {}
console.log(info.device, info.software ? '(software: times say nothing about a GPU)' : '')
console.log(`subgroups: ${device.features.has('subgroups') ? `of ${least} to ${most} threads` : 'none'}`)
if (!tf.backend().supportTimestampQuery) throw new Error('The device has no timestamp-query.')

/** What plain operations give. */
function plain({ x, dy, scale, bias, targets }) {
  const mean = tf.mean(x, -1, true)
  const centred = tf.sub(x, mean)
  const inverse = tf.rsqrt(tf.add(tf.mean(tf.square(centred), -1, true), 1e-5))
  const normal = tf.mul(centred, inverse)
  const weighted = tf.mul(dy, scale)
  const along = tf.mean(tf.mul(weighted, normal), -1, true)
  const dx = tf.mul(inverse, tf.sub(weighted, tf.add(tf.mean(weighted, -1, true), tf.mul(normal, along))))
  const largest = tf.max(x, -1, true)
  const logTotal = tf.log(tf.sum(tf.exp(tf.sub(x, largest)), -1, true))
  const chosen = tf.sum(tf.mul(x, tf.oneHot(targets, x.shape[1])), -1, true)
  return {
    LetheLayerNorm: [tf.add(tf.mul(normal, scale), bias), mean, inverse],
    LetheLayerNormGradient: [dx, tf.sum(tf.mul(dy, normal), 0), tf.sum(dy, 0)],
    LetheCrossEntropy: [tf.sub(tf.add(largest, logTotal), chosen), largest, logTotal],
  }
}

async function deviation(results, expected) {
  const apart = results.map((result, n) =>
    tf.div(tf.max(tf.abs(tf.sub(result, expected[n]))), tf.max(tf.abs(expected[n]))),
  )
  return Math.max(...(await tf.stack(apart).data()))
}

for (const [rows, width] of sizes) {
  const x = tf.randomNormal([rows, width])
  const dy = tf.randomNormal([rows, width])
  const [scale, bias] = [tf.randomNormal([width]), tf.randomNormal([width])]
  const targets = tf.randomUniform([rows], 0, width, 'int32')
  const expected = tf.tidy(() => plain({ x, dy, scale, bias, targets }))
  const [, mean, inverse] = expected.LetheLayerNorm
  const megabytes = (rows * width * 4) / 1e6
  const cases = [
    ['LetheLayerNorm', { x, scale, bias }, 2 * megabytes],
    ['LetheLayerNormGradient', { dy, x, scale, mean, inverse }, 3 * megabytes],
    ['LetheCrossEntropy', { logits: x, targets }, megabytes],
  ]
  for (const [name, inputs, moved] of cases) {
    const work = () => fused(name, inputs, { epsilon: 1e-5 })
    const taken = { 'by subgroups': [], 'by workgroup memory': [] }
    const worst = {}
    for (const way of Object.keys(taken)) {
      withholdSubgroups(way !== 'by subgroups')
      const results = tf.tidy(work)
      worst[way] = await deviation(results, expected[name])
      tf.dispose(results)
      if (!(worst[way] < 1e-4)) process.exitCode = 1
    }
    for (let round = 0; round < rounds; round++)
      for (const way of Object.keys(taken)) {
        withholdSubgroups(way !== 'by subgroups')
        taken[way].push(await programTimes(work))
      }
    console.log(`\n${name}, ${rows} rows of width ${width}`)
    for (const [way, times] of Object.entries(taken)) {
      const columns = Object.keys(times[0]).map((program) => {
        const all = times.map((each) => each[program] * 1000)
        const middle = median(all)
        return `${program} ${Math.min(...all).toFixed(1)} | ${middle.toFixed(1)} µs`
      })
      const whole = median(times.map((each) => Object.values(each).reduce((one, other) => one + other)))
      console.log(
        `  ${way.padEnd(20)} ${columns.join(', ')}; ${(moved / whole).toFixed(0)} GB/s; largest deviation ${worst[way].toExponential(1)}`,
      )
    }
  }
  tf.dispose([x, dy, scale, bias, targets, expected])
}
info.throwIfFailed()
await disposeBackend()
