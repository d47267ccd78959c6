#!/usr/bin/env node
/**
 * node tools/memory-freed.mjs [stream|falling] [--tokens 100000] [--blocks 2000] [--backend wasm] [--only NAME] [--out FILE.jsonl]
 *
 * stream: each method trains for many blocks and then decodes a long stream; the number of tensors, the bytes of the
 * memory against the bound of its README, and the resident memory are watched. Fails when one is exceeded or grows.
 * falling: alive slots, allocated bytes and time per block as spans shrink or budgets are lowered.
 */
import { open } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { adaptiveSpan } from '@lethe/adaptive-span'
import { disposeBackend, useBackend } from '@lethe/backends'
import { compressive } from '@lethe/compressive'
import { Decoder, fixedSpan, Random, registerGradients, sinks } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import { Optimizer } from '@lethe/trainer'
import * as tf from '@tensorflow/tfjs-core'

const { values: given, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: 'string', default: '100000' },
    blocks: { type: 'string', default: '2000' },
    backend: { type: 'string', default: 'wasm' },
    only: { type: 'string' },
    out: { type: 'string' },
  },
})
const what = positionals[0] ?? 'stream'
const vocabulary = 64

const tokensOf = (random, batch, length) =>
  Int32Array.from({ length: batch * length }, () => random.integer(vocabulary))

/** Floats per slot of a memory between blocks, beside its hidden state, as the READMEs give them. */
const setups = [
  { name: 'fixed-span', method: fixedSpan({ span: 48 }), perSlot: 0, state: 0 },
  {
    name: 'expire-span',
    method: expireSpan({ maxSpan: 64, ramp: 8, penalty: 1e-4, initialPercentage: 0.4 }),
    perSlot: 3,
    state: 1,
  },
  {
    name: 'expire-span, budget',
    method: expireSpan({ maxSpan: 64, ramp: 8, penalty: 1e-4, initialPercentage: 0.4, budget: 20 }),
    perSlot: 3,
    state: 1,
  },
  {
    name: 'adaptive-span',
    method: adaptiveSpan({ maxSpan: 64, ramp: 8, penalty: 1e-4, initialSpan: 24, trimStep: 8, growth: 8 }),
    perSlot: 0,
    state: 0,
  },
  {
    name: 'compressive',
    method: compressive({ memory: 32, compressed: 16, rate: 4, compression: 'conv', loss: 'attention' }),
    perSlot: 1,
    state: 0,
    condensed: 16,
  },
  { name: 'selective, budget', method: selective({ budget: 32 }), perSlot: 4, state: 2 },
  { name: 'selective, span', method: selective({ span: 48 }), perSlot: 4, state: 2 },
  {
    name: 'sinks around expire-span',
    method: sinks({ count: 4, method: expireSpan({ maxSpan: 64, ramp: 8, initialPercentage: 0.4 }) }),
    perSlot: 3,
    state: 2,
  },
]

const rss = () => {
  globalThis.gc?.()
  return process.memoryUsage().rss
}

/** Ten times on the way, the first tenth left out. */
const sampled = (index, of) => index >= of / 10 && index % Math.floor(of / 10) === 0

const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1]

async function stream({ name, method, perSlot, state, condensed = 0 }, blocks, tokens) {
  const random = new Random(1)
  const [batch, block] = [4, 16]
  const shape = { layers: 2, width: 32, heads: 2, feedForward: 64 }
  const decoder = new Decoder({ vocabulary, ...shape, positions: 'rotary', method }, { seed: 1 })
  await decoder.afterUpdate()
  const infos = decoder.config.method.map((_, index) => ({
    ...{ index, layers: 2, width: 32, heads: 2, headSize: 16, attendSelf: true, initialMemory: 'empty' },
  }))
  const capacity = (length) => Math.max(...infos.map((info) => method.capacity(info, length)))
  const optimizer = new Optimizer(decoder.parameters, { optimizer: 'adam', clip: 0.3 })

  // Training.
  const bound = 2 * batch * capacity(block) * (shape.width + perSlot) * 4
  let memory = decoder.initialMemory(batch)
  const seen = { tensors: new Set(), bytes: 0, slots: 0, rss: [] }
  for (let index = 0; index < blocks; index++) {
    const [x, y] = [0, 1].map(() => tf.tensor2d(tokensOf(random, batch, block), [batch, block], 'int32'))
    const result = decoder.gradients(x, y, memory, { random })
    memory = await decoder.compact(result.memory)
    const norm = optimizer.update(result.gradients, 1e-3)
    await decoder.afterUpdate()
    tf.dispose([x, y, norm, result.loss, result.penalty, Object.values(result.gradients)])
    if (index >= Math.min(20, blocks / 2)) seen.tensors.add(tf.memory().numTensors)
    seen.bytes = Math.max(seen.bytes, memory.bytes)
    seen.slots += memory.slots / blocks
    if (sampled(index, blocks)) seen.rss.push(rss())
  }
  const training = {
    ...{
      name,
      part: 'training',
      blocks,
      tensors: [...seen.tensors],
      bytes: seen.bytes,
      bound,
      slots: seen.slots,
    },
    rss: seen.rss,
  }
  memory.dispose()

  // Decoding.
  const most = Math.max(...infos.map((info) => method.decode.capacity(info, undefined)))
  const perPlace = 2 * shape.width + 2 + state + (condensed > 0 ? shape.width : 0)
  // Condensed slots: their keys also as they are before rotary positions turn them.
  const decodeBound = 2 * 4 * (most * perPlace + condensed * (3 * shape.width + 2 + state))
  let arena = decoder.startDecoding(decoder.initialMemory(1))
  const decoded = { tensors: new Set(), bytes: 0, rss: [] }
  for (let index = 0; index < tokens; index++) {
    const input = tf.tensor1d([random.integer(vocabulary)], 'int32')
    const result = decoder.decode(input, arena)
    arena = index % 64 === 63 ? await decoder.compactDecoding(result.memory) : result.memory
    tf.dispose([input, result.logits])
    if (index >= Math.min(1000, tokens / 2)) decoded.tensors.add(tf.memory().numTensors)
    decoded.bytes = Math.max(decoded.bytes, arena.bytes)
    if (sampled(index, tokens)) decoded.rss.push(rss())
    if (index % 2000 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  const decoding = {
    ...{
      name,
      part: 'decoding',
      tokens,
      tensors: [...decoded.tensors],
      bytes: decoded.bytes,
      bound: decodeBound,
    },
    ...{ slots: await arena.countSlots(), rss: decoded.rss },
  }
  arena.dispose()
  optimizer.dispose()
  decoder.dispose()
  return [training, decoding]
}

/** What is wrong with a figure, if anything. */
function faults({ tensors, bytes, bound, rss }) {
  const found = []
  if (tensors.length !== 1) found.push(`numTensors took the values ${tensors}`)
  if (bytes > bound) found.push(`${bytes} bytes exceed the bound of ${bound}`)
  // Collections come when they like: the middle of the first samples against that of the last.
  const [early, late] = [median(rss.slice(0, 4)), median(rss.slice(-4))]
  if (late > early * 1.1 + 8e6) found.push(`resident memory grew from ${early} to ${late}`)
  return found
}

/** Decoders whose spans or budgets are set by hand, largest first. */
function* fallingSetups() {
  const learned = (make, set) => (size) => ({ method: make(size), ...(set && { set: set(size) }) })
  const maxSpan = 512
  const expire = expireSpan({ maxSpan, ramp: 16 })
  const adaptive = adaptiveSpan({ maxSpan, ramp: 16, trimStep: 16, growth: 16 })
  const families = [
    ['fixed-span, span', learned((span) => fixedSpan({ span })), [512, 256, 128, 64, 32]],
    [
      'expire-span, spans set to',
      learned(
        () => expire,
        (span) => ({ bias: -Math.log(maxSpan / span - 1) }),
      ),
      [480, 256, 128, 64, 32],
    ],
    [
      'expire-span, budget',
      learned((budget) => expireSpan({ maxSpan, ramp: 16, initialPercentage: 0.9, budget })),
      [512, 256, 128, 64, 32],
    ],
    [
      'adaptive-span, spans set to',
      learned(
        () => adaptive,
        (span) => ({ span: span / maxSpan }),
      ),
      [480, 256, 128, 64, 32],
    ],
    [
      'compressive, memory + as many compressed',
      learned((size) =>
        compressive({ memory: size / 2, compressed: size / 2, rate: 4, compression: 'mean' }),
      ),
      [512, 256, 128, 64, 32],
    ],
    ['selective, budget', learned((budget) => selective({ budget })), [512, 256, 128, 64, 32]],
  ]
  for (const [family, make, sizes] of families)
    for (const size of sizes) yield { family, size, ...make(size) }
}

async function falling({ family, size, method, set }) {
  const random = new Random(1)
  const [batch, block] = [4, 64]
  const decoder = new Decoder(
    { vocabulary, layers: 2, width: 128, heads: 4, feedForward: 256, positions: 'rotary', method },
    { seed: 1 },
  )
  for (const [name, value] of Object.entries(set ?? {}))
    for (const [parameter, variable] of decoder.parameters)
      if (parameter.endsWith(`.method.${name}`))
        tf.tidy(() => variable.assign(tf.fill(variable.shape, value)))
  await decoder.afterUpdate()
  let memory = decoder.initialMemory(batch)
  const times = []
  for (let index = 0; index < 30; index++) {
    const x = tf.tensor2d(tokensOf(random, batch, block), [batch, block], 'int32')
    const began = performance.now()
    const result = decoder.forward(x, memory)
    memory = await decoder.compact(result.memory)
    await result.logits.data()
    if (index >= 12) times.push(performance.now() - began)
    tf.dispose([x, result.logits, result.penalty])
  }
  times.sort((a, b) => a - b)
  const line = {
    family,
    size,
    slots: memory.slots,
    bytes: memory.bytes,
    msPerBlock: times[times.length >> 1],
  }
  memory.dispose()
  decoder.dispose()
  return line
}

await useBackend(given.backend)
registerGradients()
const file = given.out && (await open(given.out, 'w'))
const write = (line) => file?.write(`${JSON.stringify(line)}\n`)
let failed = false
if (what === 'stream') {
  for (const setup of setups) {
    if (given.only && setup.name !== given.only) continue
    for (const line of await stream(setup, Number(given.blocks), Number(given.tokens))) {
      const wrong = faults(line)
      failed ||= wrong.length > 0
      await write({ ...line, faults: wrong })
      console.log(
        `${line.name}, ${line.part}: ${line.tensors} tensors, at most ${line.bytes} bytes (bound ${line.bound}), ${line.slots.toFixed(1)} slots, ` +
          `resident ${line.rss.map((bytes) => (bytes / 1e6).toFixed(0)).join(', ')} MB${wrong.length > 0 ? ` — WRONG: ${wrong.join('; ')}` : ''}`,
      )
    }
  }
} else {
  for (const setup of fallingSetups()) {
    if (given.only && !setup.family.startsWith(given.only)) continue
    const line = await falling(setup)
    await write(line)
    console.log(
      `${line.family} ${line.size}: ${line.slots.toFixed(1)} slots, ${line.bytes} bytes, ${line.msPerBlock.toFixed(1)} ms per block`,
    )
  }
}
await file?.close()
await disposeBackend()
process.exitCode = failed ? 1 : 0
