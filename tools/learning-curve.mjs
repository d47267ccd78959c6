#!/usr/bin/env node
/**
 * node tools/learning-curve.mjs --data FILE --seed N --out FILE.jsonl [--backend wasm] [--steps 1500]
 *
 * Trains the set-up in which the authors' PyTorch code was measured (docs/results/learning.md) and writes one JSON
 * line per step and evaluation.
 */
import { open } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { disposeBackend, useBackend } from '@lethe/backends'
import { Decoder, fixedSpan, presets } from '@lethe/core'
import { train } from '@lethe/trainer'
import { openText } from '@lethe/trainer/node'

const { values } = parseArgs({
  options: {
    data: { type: 'string' },
    seed: { type: 'string', default: '0' },
    out: { type: 'string' },
    backend: { type: 'string', default: 'wasm' },
    steps: { type: 'string', default: '1500' },
  },
})
if (!values.data || !values.out) throw new Error('give --data FILE and --out FILE.jsonl')

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
    method: fixedSpan({ span: 256 }),
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
  block: 64,
  validBatch: 8,
  evalEvery: 500,
  seed,
})
for await (const event of events) {
  if (event.type === 'evaluating') continue
  await file.write(`${JSON.stringify(event)}\n`)
  if (event.type === 'eval') console.log(`step ${event.step}: ${event.bitsPerByte.toFixed(4)} bits per byte`)
}
await file.close()
decoder.dispose()
await disposeBackend()
