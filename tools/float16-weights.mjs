#!/usr/bin/env node
/**
 * node tools/float16-weights.mjs RUN TEXT [--tokens 512] [--software PATH]
 *
 * What float16 weights change for a model of text (RUN: the folder of a `lethe train`) that decodes one stream on WebGPU: bytes
 * of the matrices, milliseconds per token, log-probabilities of a text. Both formats read the first tokens of the last
 * tenth of TEXT, a file, by turns. --software: the .json file of a Vulkan driver in software. There, too, products in
 * float32 are then those of @lethe/kernels-webgpu, as on a GPU, and not tfjs's.
 */
import { parseArgs } from 'node:util'
import { adaptiveSpan } from '@lethe/adaptive-span'
import { disposeBackend, useBackend } from '@lethe/backends'
import { compressive } from '@lethe/compressive'
import { fixedSpan, wrappers } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import { loadModel } from '@lethe/trainer'
import { openText, readRun } from '@lethe/trainer/node'
import * as tf from '@tensorflow/tfjs-core'
import { batchMatMul } from '../packages/kernels-webgpu/dist/index.js'

const { values: given, positionals } = parseArgs({
  allowPositionals: true,
  options: { tokens: { type: 'string', default: '512' }, software: { type: 'string' } },
})
const [run, file] = positionals
if (!file) throw new Error('usage: node tools/float16-weights.mjs RUN TEXT [--tokens 512] [--software PATH]')

const info = await useBackend('webgpu', given.software ? { softwareVulkan: given.software } : {})
if (info.software) {
  const stock = tf.getKernel('BatchMatMul', 'webgpu')
  tf.unregisterKernel('BatchMatMul', 'webgpu')
  tf.registerKernel({ ...stock, kernelFunc: batchMatMul(stock.kernelFunc) })
}
const { checkpoint } = await readRun(run)
if (!checkpoint) throw new Error(`the run in ${run} has no checkpoint`)
const methods = {
  'fixed-span': fixedSpan,
  'adaptive-span': adaptiveSpan,
  'expire-span': expireSpan,
  compressive,
  selective,
  ...wrappers,
}
const { decoder, tokenizer } = await loadModel(checkpoint.model, methods)
await decoder.afterUpdate()
const { validation: text } = await openText(file, { tokenizer })
const tokens = await text.read(0, Math.min(text.length, Number(given.tokens) + 1))
const weights = await decoder.float16Weights()

const formats = ['float32', 'float16'].map((name) => ({
  name,
  options: name === 'float16' ? { weights } : {},
  memory: decoder.startDecoding(decoder.initialMemory(1)),
  times: [],
  nats: 0,
}))

/** Reads a token: log-probabilities of the next one, in float64. */
async function read(format, token) {
  const began = performance.now()
  const input = tf.tensor1d([token], 'int32')
  const { logits, memory } = decoder.decode(input, format.memory, format.options)
  const values = await logits.data()
  format.times.push(performance.now() - began)
  tf.dispose([input, logits])
  format.memory = memory
  const largest = Math.max(...values)
  let total = 0
  for (const value of values) total += Math.exp(value - largest)
  return Float64Array.from(values, (value) => value - largest - Math.log(total))
}

const likeliest = (values) => values.indexOf(Math.max(...values))
let [ofNext, mostOfNext, mostOfAll, agreed] = [0, 0, 0, 0]
const count = tokens.length - 1
for (let at = 0; at < count; at++) {
  const found = {}
  for (const format of at % 2 === 0 ? formats : formats.toReversed())
    found[format.name] = await read(format, tokens[at])
  const { float32, float16 } = found
  const next = tokens[at + 1]
  for (const format of formats) format.nats -= found[format.name][next]
  const apart = Math.abs(float32[next] - float16[next])
  ofNext += apart / count
  mostOfNext = Math.max(mostOfNext, apart)
  for (const [token, value] of float32.entries())
    mostOfAll = Math.max(mostOfAll, Math.abs(value - float16[token]))
  if (likeliest(float32) === likeliest(float16)) agreed++
}
info.throwIfFailed()

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1]
/** The first tokens compile shaders and fill the arena. */
const steady = formats.map(({ times }) => times.slice(count >> 2))
const [slow, fast] = steady.map(median)
console.log(`${info.device}${info.software ? ' (software)' : ''}; ${decoder.parameterCount} parameters`)
console.log(`matrices: ${weights.bytes * 2} bytes in float32, ${weights.bytes} in float16, kept beside them`)
console.log(
  `ms per token, medians of ${steady[0].length} by turns: float32 ${slow.toFixed(2)}, float16 ${fast.toFixed(2)} (${(fast / slow).toFixed(2)})`,
)
console.log(
  `log-probabilities, nats, ${count} tokens: of the next token ${ofNext.toExponential(1)} apart on average, ${mostOfNext.toExponential(1)} at most; ` +
    `of any token ${mostOfAll.toExponential(1)} at most; the likeliest token is the same after ${agreed}`,
)
console.log(
  `nats per token: ${formats.map(({ name, nats }) => `${name} ${(nats / count).toFixed(5)}`).join(', ')}`,
)
for (const { memory } of formats) memory.dispose()
weights.dispose()
decoder.dispose()
await disposeBackend()
