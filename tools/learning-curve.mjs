#!/usr/bin/env node
/**
 * node tools/learning-curve.mjs --data FILE --method NAME --seed N --out FILE.jsonl [--backend wasm] [--steps 1500]
 *
 * Trains the set-up in which the authors' PyTorch code was measured (docs/results/README.md), or one of ours at the same sizes, and
 * writes one JSON line per step and evaluation, and at the end what each layer remembers (`report`).
 */
import { open } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { adaptiveSpan } from '@lethe/adaptive-span'
import { disposeBackend, useBackend } from '@lethe/backends'
import { compressive } from '@lethe/compressive'
import { Decoder, fixedSpan, presets } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import { train } from '@lethe/trainer'
import { openText } from '@lethe/trainer/node'

const block = 64
const span = 256
const expire = { maxSpan: span, ramp: 32, penalty: 1e-6, deletion: 'blocks', initialSlots: block }

/** Name → decoder fields. The first four are the authors' set-ups. */
const setups = {
  'fixed-span': { method: fixedSpan({ span }) },
  'adaptive-span': { method: adaptiveSpan({ maxSpan: span, ramp: 32, penalty: 2e-6 }) },
  'expire-span': { method: expireSpan({ ...expire, loss: 'ramp' }), learnedDistances: block },
  compressive: {
    method: compressive({ memory: span, compressed: 64, rate: 4, compression: 'mean', overlap: true }),
  },
  'expire-span-mean-loss': { method: expireSpan({ ...expire, loss: 'mean' }), learnedDistances: block },
  // Distances count slots here: compressed, memory with its remainder, block.
  'compressive-paper': {
    method: compressive({ memory: span, compressed: 64, rate: 4, compression: 'mean' }),
    learnedDistances: 64 + span + 3 + block,
  },
  'compressive-conv': {
    method: compressive({ memory: span, compressed: 64, rate: 4, compression: 'conv', loss: 'attention' }),
    learnedDistances: 64 + span + 3 + block,
  },
  'selective-window-256': { method: selective({ span }), learnedDistances: span },
  'selective-budget-64': { method: selective({ span, budget: 64 }), learnedDistances: span },
  'selective-budget-64-memory-loss': {
    method: selective({ span, budget: 64, memoryLoss: 0.1 }),
    learnedDistances: span,
  },
}

const { values } = parseArgs({
  options: {
    data: { type: 'string' },
    method: { type: 'string', default: 'fixed-span' },
    seed: { type: 'string', default: '0' },
    out: { type: 'string' },
    backend: { type: 'string', default: 'wasm' },
    steps: { type: 'string', default: '1500' },
  },
})
const setup = setups[values.method]
if (!values.data || !values.out || !setup)
  throw new Error(`give --data FILE, --out FILE.jsonl and --method, one of ${Object.keys(setups).join(', ')}`)

await useBackend(values.backend)
const data = await openText(values.data)
const seed = Number(values.seed)
const decoder = new Decoder(
  {
    ...presets.fair.decoder,
    vocabulary: data.tokenizer.vocabulary,
    layers: 4,
    width: 128,
    heads: 4,
    feedForward: 512,
    ...setup,
  },
  { seed },
)
const file = await open(values.out, 'w')
const events = train({
  ...presets.fair.training,
  decoder,
  train: data.train,
  validation: data.validation,
  steps: Number(values.steps),
  batch: 16,
  block,
  validBatch: 8,
  evalEvery: 500,
  seed,
})
for await (const event of events) {
  if (event.type === 'evaluating') continue
  // Every evaluation and every tenth step are enough to draw the curve.
  if (event.type !== 'step' || event.step % 10 === 0) await file.write(`${JSON.stringify(event)}\n`)
  if (event.type === 'eval')
    console.log(
      `${values.method}, seed ${seed}, step ${event.step}: ${event.bitsPerByte.toFixed(4)} bits per byte, ${event.slots.toFixed(1)} slots`,
    )
}
const memory = decoder.initialMemory(1)
for (const [layer, { figures, attended }] of (await decoder.report(memory)).entries()) {
  const spans = figures.span ? Array.from(figures.span.data) : undefined
  await file.write(`${JSON.stringify({ type: 'report', layer, attended, ...(spans && { spans }) })}\n`)
}
memory.dispose()
await file.close()
decoder.dispose()
await disposeBackend()
