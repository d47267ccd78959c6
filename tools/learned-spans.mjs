#!/usr/bin/env node
/**
 * node tools/learned-spans.mjs --data FILE --folder DIR [--spans 4096,2048,1024] [--steps 500] [--backend auto]
 *                              [--methods expire-span,adaptive-span,compressive,fixed-span] [--bytes 300000]
 *
 * The table of the Expire-Span paper (Table 4: time and memory of a training step, spans as they were learned) at our
 * sizes. Each method trains on the first --bytes of the text at the largest of --spans that fits into memory; then their
 * steps are measured on the same text, by turns with the first method's, and printed as Markdown with the slots that are
 * remembered. Methods whose memory does not depend on what they learn train a few steps only.
 *
 * Runs that are in DIR already are not trained again. On 2 vCPUs with the wasm backend, --spans 2048 --steps 250: four minutes.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
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
    methods: { type: 'string', default: 'expire-span,adaptive-span,compressive,fixed-span' },
    bytes: { type: 'string', default: '300000' },
    layers: { type: 'string', default: '4' },
    width: { type: 'string', default: '256' },
    batch: { type: 'string', default: '8' },
    block: { type: 'string', default: '128' },
    'measured-steps': { type: 'string', default: '10' },
  },
})
if (!given.data || !given.folder) throw new Error('give --data FILE and --folder DIR')

const lethe = (...args) => spawnSync(process.execPath, [main, ...args], { stdio: 'inherit' }).status === 0
const sizes = ['layers', 'width', 'batch', 'block', 'backend'].flatMap((name) => [`--${name}`, given[name]])
/** What a method remembers depends on what it learned; of the others a few steps make the run. */
const learns = ['expire-span', 'adaptive-span']
const stepsOf = (method) => (learns.includes(method) ? given.steps : Math.min(5, Number(given.steps)))
mkdirSync(given.folder, { recursive: true })
const text = join(given.folder, 'text.txt')
writeFileSync(text, readFileSync(given.data).subarray(0, Number(given.bytes)))

/** Their own variants, as the authors trained them. */
const variants = { compressive: ['--authors'], 'expire-span': ['--authors'] }

/** The folder of a run at the largest span at which there is one. */
function trained(method) {
  for (const span of given.spans.split(',')) {
    const out = join(given.folder, `${method}-${span}`)
    if (existsSync(join(out, 'checkpoints'))) return out
    const options = ['--preset', 'fair', '--method', method, '--span', span, ...(variants[method] ?? [])]
    const training = ['--steps', String(stepsOf(method)), '--eval-every', '0']
    if (lethe('train', '--data', text, '--out', out, ...options, ...sizes, ...training)) return out
    console.error(`${method} does not fit with a span of ${span}`)
    rmSync(out, { recursive: true, force: true })
  }
  throw new Error(`${method} fits with none of --spans ${given.spans}: give smaller ones`)
}

const runs = given.methods.split(',').map(trained)
const measure = ['--steps', given['measured-steps'], '--backend', given.backend, '--learning-rate', '1e-8']
process.exitCode = lethe('bench', 'train', ...runs, ...measure, '--markdown') ? 0 : 1
