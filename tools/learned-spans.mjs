#!/usr/bin/env node
/**
 * node tools/learned-spans.mjs --data FILE --folder DIR [--spans 4096,2048,1024] [--steps 500] [--backend auto]
 *                              [--methods expire-span,adaptive-span,compressive]
 *
 * The table of the Expire-Span paper (Table 4: time and memory of a training step, spans as they were learned) at our
 * sizes. Each method trains on the text at the largest of --spans that fits into memory; then their steps are measured
 * on the same text, by turns with the first method's, and printed as Markdown with the slots that are remembered.
 *
 * Runs that are in DIR already are not trained again.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const main = join(dirname(fileURLToPath(import.meta.url)), '../apps/cli/dist/main.js')
const { values: given } = parseArgs({
  options: {
    data: { type: 'string' },
    folder: { type: 'string' },
    spans: { type: 'string', default: '4096,2048,1024' },
    steps: { type: 'string', default: '500' },
    backend: { type: 'string', default: 'auto' },
    methods: { type: 'string', default: 'expire-span,adaptive-span,compressive' },
    layers: { type: 'string', default: '4' },
    width: { type: 'string', default: '256' },
    batch: { type: 'string', default: '8' },
    block: { type: 'string', default: '128' },
    'measured-steps': { type: 'string', default: '20' },
  },
})
if (!given.data || !given.folder) throw new Error('give --data FILE and --folder DIR')

const lethe = (...args) => spawnSync(process.execPath, [main, ...args], { stdio: 'inherit' }).status === 0
const sizes = ['layers', 'width', 'batch', 'block', 'steps', 'backend'].flatMap((name) => [
  `--${name}`,
  given[name],
])
/** Their own variants, as the authors trained them. */
const variants = { compressive: ['--authors'], 'expire-span': ['--authors'] }

/** The folder of a run at the largest span at which there is one. */
function trained(method) {
  for (const span of given.spans.split(',')) {
    const out = join(given.folder, `${method}-${span}`)
    if (existsSync(join(out, 'checkpoints'))) return out
    const options = ['--preset', 'fair', '--method', method, '--span', span, ...(variants[method] ?? [])]
    if (lethe('train', '--data', given.data, '--out', out, ...options, ...sizes, '--eval-every', '0'))
      return out
    console.error(`${method} does not fit with a span of ${span}`)
    rmSync(out, { recursive: true, force: true })
  }
  throw new Error(`${method} fits with none of --spans ${given.spans}: give smaller ones`)
}

const runs = given.methods.split(',').map(trained)
const measure = ['--steps', given['measured-steps'], '--backend', given.backend, '--learning-rate', '1e-8']
process.exitCode = lethe('bench', 'train', ...runs, ...measure, '--markdown') ? 0 : 1
