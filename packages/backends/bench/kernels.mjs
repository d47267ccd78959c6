/**
 * The replaced kernels besides BatchMatMul, with and without our own (@lethe/kernels-wasm), by turns; medians.
 * Run after a build: node bench/kernels.mjs. One core, half a minute.
 */
import * as tf from '@tensorflow/tfjs-core'
import { patchWasmBackend, useBackend } from '../dist/index.js'

const normal = (...shape) => tf.randomNormal(shape)

await useBackend('wasm')
const [weights, hidden, million] = [normal(8, 4, 128, 640), normal(8, 256, 640), normal(1024, 1024)]
const shifted = normal(32, 128, 641)
const votes = normal(8, 640, 128)
const perRow = normal(8, 256, 512)
const cases = {
  'Slice [32,128,641] to [32,128,512]': () => tf.slice(shifted, [0, 0, 0], [32, 128, 512]),
  'Slice [8,256,640] to [8,256,128]': () => tf.slice(hidden, [0, 0, 512], [8, 256, 128]),
  'SplitV [8,256,640] in halves': () => tf.split(hidden, 2, 1),
  'Sum [8,4,128,640] over the last axis': () => tf.sum(weights, -1),
  'Sum [8,256,512] over the first axis': () => tf.sum(perRow, 0),
  'Cumsum [8,640,128], last axis': () => tf.cumsum(votes, 2),
  'Cumsum [8,640,128], middle axis': () => tf.cumsum(votes, 1),
  'Reverse [8,640,128], last axis': () => tf.reverse(votes, 2),
  'Exp [1024,1024]': () => tf.exp(million),
  'Erf [1024,1024]': () => tf.erf(million),
}

function milliseconds(work, budget) {
  let runs = 0
  const start = performance.now()
  do {
    tf.tidy(() => void work())
    runs++
  } while (performance.now() - start < budget)
  return (performance.now() - start) / runs
}

const median = (values) => values.sort((one, other) => one - other)[values.length >> 1]
const line = (name, ...columns) => console.log(name.padEnd(40) + columns.map((c) => c.padStart(10)).join(''))
line('ms', 'without', 'with', 'ratio')
for (const [name, work] of Object.entries(cases)) {
  const times = { true: [], false: [] }
  for (let turn = 0; turn < 14; turn++) {
    const kernels = turn % 2 === 0
    patchWasmBackend({ kernels })
    tf.tidy(() => void work())
    times[kernels].push(milliseconds(work, 100))
  }
  const [own, other] = [median(times.true), median(times.false)]
  line(name, other.toFixed(2), own.toFixed(2), (other / own).toFixed(1))
}
