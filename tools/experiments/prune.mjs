#!/usr/bin/env node
/**
 * node tools/experiments/prune.mjs MODEL --data FILE [--backend wasm] [--budgets 256,…,8] [--bytes 131072] [--batch 64]
 *                                  [--block 16] [--greedy --full 64 --step 8]
 *
 * MODEL: the folder of a run or checkpoint, or a model.safetensors of one, such as run.mjs leaves beside its results.
 *
 * What a trained model of Selective Attention loses when its memory is cut to fewer slots: bits per byte on the first
 * --bytes of the validation part, once with all of its span, then with each budget, every layer the same; a line of JSON
 * each. A budget holds between blocks, so these are short: a step sees the budget and at most the block that it is in.
 * A model without votes is cut to as many last steps instead: what forgetting the oldest loses.
 *
 * --greedy then chooses budgets layer by layer (`allocateBudgets` of @lethe/selective) from --full slots down, in steps
 * of --step, on the next quarter of --bytes, and scores each on the same text as before.
 */
import { existsSync, readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { disposeBackend, useBackend } from '@lethe/backends'
import { decodeSafetensors, fixedSpan } from '@lethe/core'
import { allocateBudgets, selective } from '@lethe/selective'
import { evaluate, loadModel } from '@lethe/trainer'
import { openText, readRun } from '@lethe/trainer/node'

const { values: given, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: 'string' },
    backend: { type: 'string', default: 'wasm' },
    budgets: { type: 'string', default: '256,128,96,64,48,32,24,16,8' },
    bytes: { type: 'string', default: '131072' },
    batch: { type: 'string', default: '64' },
    block: { type: 'string', default: '16' },
    greedy: { type: 'boolean', default: false },
    full: { type: 'string', default: '64' },
    step: { type: 'string', default: '8' },
  },
})
if (!given.data || positionals.length !== 1)
  throw new Error('give one run, checkpoint or model, and --data FILE')
const [bytes, batch, block] = [given.bytes, given.batch, given.block].map(Number)

/** Tokens [from, to) of a source, a byte each. */
const part = (source, from, to) => ({
  ...{ length: to - from, bytes: to - from, vocabulary: source.vocabulary },
  identity: `${source.identity}-${from}-${to}`,
  read: (start, end) => source.read(from + start, Math.min(to, from + end)),
})

const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'
const [path] = positionals
const { checkpoint } = path.endsWith('.safetensors')
  ? { checkpoint: { model: decodeSafetensors(readFileSync(path), path) } }
  : await readRun(path)
if (!checkpoint) throw new Error(`the run in ${path} has no checkpoint`)
await useBackend(given.backend, existsSync(softwareVulkan) ? { softwareVulkan } : {})
const { decoder, tokenizer } = await loadModel(checkpoint.model, { 'fixed-span': fixedSpan, selective })
const { validation } = await openText(given.data, { tokenizer })
const used = Math.min(bytes, validation.length)
const scored = part(validation, 0, used)
const [{ name, options }] = decoder.config.method

const score = async (model, source) => (await evaluate({ decoder: model, source, batch, block })).bitsPerByte
const print = (line) => console.log(JSON.stringify({ step: checkpoint.step, block, bytes: used, ...line }))

print({ kind: 'whole', span: options.span, bitsPerByte: await score(decoder, scored) })
const budgets = given.budgets.split(',').map(Number)
if (name === 'fixed-span')
  for (const span of budgets.filter((slots) => slots < options.span))
    print({
      kind: 'window',
      budget: span,
      bitsPerByte: await score(decoder.withMethod(fixedSpan({ ...options, span })), scored),
    })
if (name === 'selective') {
  const { budget: _, ...unpruned } = options
  const pruned = (budget) => decoder.withMethod(selective({ ...unpruned, budget }))
  for (const budget of budgets)
    print({ kind: 'uniform', budget, bitsPerByte: await score(pruned(budget), scored) })
  if (given.greedy) {
    const chosenOn = part(validation, used, Math.min(validation.length, used + Math.ceil(bytes / 4)))
    const { layers } = decoder.config
    const [full, step] = [Number(given.full), Number(given.step)]
    const { path } = await allocateBudgets({
      ...{ layers, full, step },
      evaluate: async (budget) => (await score(pruned(budget), chosenOn)) * Math.LN2,
      target: { total: layers * (full - Math.floor((full - 1) / step) * step) },
    })
    for (const { budgets } of path)
      print({ kind: 'greedy', budgets, bitsPerByte: await score(pruned(budgets), scored) })
  }
}
decoder.dispose()
await disposeBackend()
