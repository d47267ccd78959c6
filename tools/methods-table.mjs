#!/usr/bin/env node
/**
 * node tools/methods-table.mjs train --data FILE --folder DIR [--only NAME;…] [--steps 1500] [--backend wasm]
 * node tools/methods-table.mjs measure --data FILE --folder DIR [--backend wasm]
 *
 * One model size on one text over all methods at two memory sizes. `train` trains each (several processes may share the
 * work by --only) and leaves its weights and validation figures in DIR; `measure` then times them one after the other
 * in one process and prints the table of docs/results.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { adaptiveSpan } from '@lethe/adaptive-span'
import { disposeBackend, useBackend } from '@lethe/backends'
import { compressive } from '@lethe/compressive'
import {
  Decoder,
  decodeSafetensors,
  encodeSafetensors,
  fixedSpan,
  presets,
  Random,
  registerGradients,
} from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import { train } from '@lethe/trainer'
import { openText } from '@lethe/trainer/node'
import * as tf from '@tensorflow/tfjs-core'

const sizes = [64, 256]
const [batch, block] = [16, 64]
const shape = { layers: 4, width: 128, heads: 4, feedForward: 512 }

/** At memory size n: the most steps (or slots) that a layer can remember. */
const methods = {
  'fixed span': (n) => fixedSpan({ span: n }),
  'Expire-Span': (n) => expireSpan({ maxSpan: n, ramp: 16, penalty: 1e-5, initialPercentage: 0.5 }),
  'Adaptive-Span': (n) =>
    adaptiveSpan({ maxSpan: n, ramp: 16, penalty: 1e-5, initialSpan: n / 8, trimStep: 16, growth: 16 }),
  'Compressive, mean': (n) => compressive({ memory: n / 2, compressed: n / 2, rate: 4, compression: 'mean' }),
  'Compressive, conv': (n) => compressive({ memory: n / 2, compressed: n / 2, rate: 4 }),
  'Selective, budget': (n) => selective({ budget: n }),
}
const runs = Object.entries(methods).flatMap(([name, method]) =>
  sizes.map((size) => ({ name, size, method })),
)

const { values: given, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: 'string' },
    folder: { type: 'string' },
    only: { type: 'string' },
    steps: { type: 'string', default: '1500' },
    backend: { type: 'string', default: 'wasm' },
  },
})
if (!given.data || !given.folder || !['train', 'measure'].includes(positionals[0]))
  throw new Error('give train or measure, --data FILE and --folder DIR')

const decoderOf = ({ size, method }, vocabulary) =>
  new Decoder({ ...presets.modern.decoder, vocabulary, ...shape, method: method(size) }, { seed: 0 })
const pathOf = ({ name, size }) => join(given.folder, `${name.replace(/\W+/g, '-')}-${size}.safetensors`)

async function trainOne(run, data) {
  const decoder = decoderOf(run, data.tokenizer.vocabulary)
  let last
  const events = train({
    ...{ decoder, train: data.train, validation: data.validation, batch, block, seed: 0 },
    ...{
      steps: Number(given.steps),
      evalEvery: 0,
      learningRate: 1e-3,
      warmup: 100,
      schedule: 'cosine',
      clip: 1,
    },
  })
  for await (const event of events) if (event.type === 'eval') last = event
  const { bitsPerByte, slots } = last
  writeFileSync(
    pathOf(run),
    encodeSafetensors({
      tensors: await decoder.exportParameters(),
      metadata: { figures: JSON.stringify({ bitsPerByte, slots }) },
    }),
  )
  console.log(`${run.name} ${run.size}: ${bitsPerByte.toFixed(4)} bits per byte, ${slots.toFixed(1)} slots`)
  decoder.dispose()
}

const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1]

/** Times of a block forward (batch 8) and of a decoded token (batch 1) on real text, the memory filled before. */
async function measureOne(run, data) {
  const file = decodeSafetensors(readFileSync(pathOf(run)), pathOf(run))
  const decoder = decoderOf(run, data.tokenizer.vocabulary)
  decoder.importParameters(file.tensors)
  await decoder.afterUpdate()
  const text = await data.validation.read(0, 40_000)
  const rows = 8
  const at = (row, start) => text.subarray(row * 4000 + start, row * 4000 + start + block)
  let memory = decoder.initialMemory(rows)
  const forward = []
  const step = []
  const random = new Random(0)
  for (let index = 0; index < 24; index++) {
    const values = Int32Array.from([...Array(rows).keys()].flatMap((row) => [...at(row, index * block)]))
    const tokens = tf.tensor2d(values, [rows, block], 'int32')
    let began = performance.now()
    const trained = decoder.gradients(tokens, tokens, memory.clone(), { random })
    await trained.loss.data()
    if (index >= 8) step.push(performance.now() - began)
    tf.dispose([trained.loss, trained.penalty, Object.values(trained.gradients)])
    trained.memory.dispose()
    began = performance.now()
    const result = decoder.forward(tokens, memory)
    memory = await decoder.compact(result.memory)
    await result.logits.data()
    if (index >= 8) forward.push(performance.now() - began)
    tf.dispose([tokens, result.logits, result.penalty])
  }
  const { bytes, slots } = memory
  memory.dispose()
  let arena = decoder.startDecoding(decoder.initialMemory(1))
  const times = []
  for (let index = 0; index < 600; index++) {
    const began = performance.now()
    const input = tf.tensor1d(text.subarray(index, index + 1), 'int32')
    const result = decoder.decode(input, arena)
    await result.logits.data()
    arena = index % 64 === 63 ? await decoder.compactDecoding(result.memory) : result.memory
    tf.dispose([input, result.logits])
    if (index >= 300) times.push(performance.now() - began)
  }
  const decodeBytes = arena.bytes
  arena.dispose()
  decoder.dispose()
  return {
    ...JSON.parse(file.metadata.figures),
    ...{ bytesPerRow: bytes / rows, slotsNow: slots, decodeBytes },
    ...{ msPerBlock: median(forward), msPerGradient: median(step), tokensPerSecond: 1000 / median(times) },
  }
}

mkdirSync(given.folder, { recursive: true })
await useBackend(given.backend)
registerGradients()
const data = await openText(given.data)
if (positionals[0] === 'train') {
  for (const run of runs) {
    const name = `${run.name} ${run.size}`
    if (given.only && !given.only.split(';').includes(name)) continue
    if (!existsSync(pathOf(run))) await trainOne(run, data)
  }
} else {
  console.log(
    '| method | memory | bits per byte | mean slots per layer | bytes of memory per stream | ms per block, forward | with gradients | decode, tokens/s | bytes in decode |',
  )
  console.log('|---|---:|---:|---:|---:|---:|---:|---:|---:|')
  for (const run of runs) {
    if (!existsSync(pathOf(run))) continue
    const f = await measureOne(run, data)
    console.log(
      `| ${run.name} | ${run.size} | ${f.bitsPerByte.toFixed(3)} | ${f.slots.toFixed(0)} | ${f.bytesPerRow.toLocaleString('en')} | ${f.msPerBlock.toFixed(0)} | ${f.msPerGradient.toFixed(0)} | ${f.tokensPerSecond.toFixed(0)} | ${f.decodeBytes.toLocaleString('en')} |`,
    )
  }
}
await disposeBackend()
