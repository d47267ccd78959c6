/**
 * Matrix products of a training step and of decoding on the wasm backend: tfjs's own kernel, the one through XNNPACK and
 * our own (@lethe/kernels-wasm). The last two by turns, medians of each, so that other work on the machine hits both.
 * Run after a build: node bench/matmul.mjs [--no-stock]. One core, about two minutes (30 seconds with --no-stock).
 */
import * as tf from '@tensorflow/tfjs-core'
import { patchWasmBackend, useBackend } from '../dist/index.js'

const shapes = [
  ['K^T = W^T H^T', [1, 256, 256], [8, 640, 256], true, true],
  ['  its dW', [8, 640, 256], [8, 256, 640], true, true],
  ['  its dH', [8, 256, 640], [1, 256, 256], true, true],
  ['logits = q^T k', [8, 4, 64, 128], [8, 4, 64, 640], true, false],
  ['  its dq', [8, 4, 64, 640], [8, 4, 128, 640], false, true],
  ['  its dk', [8, 4, 64, 128], [8, 4, 128, 640], false, false],
  ['out = v w^T', [8, 4, 64, 640], [8, 4, 128, 640], false, true],
  ['  its dv', [8, 4, 64, 128], [8, 4, 128, 640], false, false],
  ['  its dw', [8, 4, 64, 128], [8, 4, 64, 640], true, false],
  ['y = O^T Wo', [8, 256, 128], [1, 256, 256], true, false],
  ['  its dO', [1, 256, 256], [8, 128, 256], false, true],
  ['  its dWo', [8, 256, 128], [8, 128, 256], false, false],
  ['linear 256 to 1024', [1024, 256], [256, 1024], false, false],
  ['  its dx', [1024, 1024], [256, 1024], false, true],
  ['  its dW', [1024, 256], [1024, 1024], true, false],
  ['linear 1024 to 256', [1024, 1024], [1024, 256], false, false],
  ['decode: row 256 to 256', [1, 256], [256, 256], false, false],
  ['  row 256 to 1024', [1, 256], [256, 1024], false, false],
  ['  row 1024 to 256', [1, 1024], [1024, 256], false, false],
  ['  column 256 from 256', [1, 256, 256], [1, 1, 256], true, true],
  ['  one query, 512 slots', [4, 64, 1], [4, 64, 512], true, false],
  ['  one row of 512 weights', [4, 64, 512], [4, 1, 512], false, true],
  ['8 rows 256 to 1024', [8, 256], [256, 1024], false, false],
  ['32 tiny ones', [32, 8, 8], [32, 8, 8], true, false],
]

/** Milliseconds of one run: the mean of as many as fit into `budget`. */
function milliseconds(work, budget) {
  let runs = 0
  const start = performance.now()
  do {
    tf.tidy(work)
    runs++
  } while (performance.now() - start < budget)
  return (performance.now() - start) / runs
}

const median = (values) => values.sort((one, other) => one - other)[values.length >> 1]

await useBackend('wasm', { patch: false })
const rows = shapes.map(([name, a, b, transposeA, transposeB]) => {
  const [left, right] = [tf.randomNormal(a), tf.randomNormal(b)]
  const product = () => void tf.matMul(left, right, transposeA, transposeB)
  const inner = transposeA ? a.at(-2) : a.at(-1)
  const operations = tf.tidy(() => 2 * inner * tf.matMul(left, right, transposeA, transposeB).size)
  const stock = process.argv.includes('--no-stock') ? Number.NaN : milliseconds(product, 100)
  return { name, product, operations, stock }
})
const line = (name, ...columns) => console.log(name.padEnd(26) + columns.map((c) => c.padStart(11)).join(''))
line('ms per product', 'stock', 'XNNPACK', 'kernels', 'GFLOPS', 'XNNPACK /')
for (const { name, product, operations, stock } of rows) {
  const times = { true: [], false: [] }
  for (let turn = 0; turn < 12; turn++) {
    const kernels = turn % 2 === 0
    patchWasmBackend({ kernels })
    tf.tidy(product)
    times[kernels].push(milliseconds(product, 50))
  }
  const [own, override] = [median(times.true), median(times.false)]
  const gigaflops = (operations / own / 1e6).toFixed(1)
  line(name, stock.toFixed(3), override.toFixed(3), own.toFixed(3), gigaflops, (override / own).toFixed(2))
}
