/**
 * Matrix products of a training step on the wasm backend: tfjs's own kernel and the patched one, in the same run.
 * Run after a build: node bench/matmul.mjs [--no-stock]. One core, about two minutes (seconds with --no-stock).
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
  ['one row 256 to 1024', [1, 256], [256, 1024], false, false],
  ['one column 1024 from 256', [1, 256, 1024], [1, 1, 256], true, true],
  ['one query, 512 slots', [4, 64, 1], [4, 64, 512], true, false],
  ['32 tiny ones', [32, 8, 8], [32, 8, 8], true, false],
]

function milliseconds(work, budget) {
  tf.tidy(work)
  let runs = 0
  const start = performance.now()
  do {
    tf.tidy(work)
    runs++
  } while (performance.now() - start < budget)
  return (performance.now() - start) / runs
}

await useBackend('wasm', { patch: false })
const rows = shapes.map(([name, a, b, transposeA, transposeB]) => {
  const [left, right] = [tf.randomNormal(a), tf.randomNormal(b)]
  const product = () => void tf.matMul(left, right, transposeA, transposeB)
  const inner = transposeA ? a.at(-2) : a.at(-1)
  const operations = tf.tidy(() => 2 * inner * tf.matMul(left, right, transposeA, transposeB).size)
  const stock = process.argv.includes('--no-stock') ? Number.NaN : milliseconds(product, 100)
  return { name, product, operations, stock }
})
patchWasmBackend()
console.log(
  `${'product'.padEnd(26)}${'stock'.padStart(10)}${'patched ms'.padStart(12)}${'GFLOPS'.padStart(8)}${'times'.padStart(8)}`,
)
for (const { name, product, operations, stock } of rows) {
  const now = milliseconds(product, 300)
  const columns = [
    stock.toFixed(3).padStart(10),
    now.toFixed(3).padStart(12),
    (operations / now / 1e6).toFixed(1).padStart(8),
    (stock / now).toFixed(1).padStart(8),
  ]
  console.log(name.padEnd(26) + columns.join(''))
}
