#!/usr/bin/env node
/**
 * node tools/peer/run.mjs --python PYTHON --code CHECKOUT [--threads 2] [--wait passive|active] [-- lethe options]
 *
 * Training steps of ours against the authors' code (facebookresearch/transformer-sequential in CHECKOUT, under a Python
 * that has torch), by turns in one run: a table with medians, the ratio, slots and memory of both. Whatever follows `--`
 * goes to `lethe bench train` and wins: --backend, --methods, --spans, --steps, --json, …
 *
 * Both sides get the same settings. The learning rate is next to nothing, so that spans stay where they start and all
 * steps of both sides compute the same; `--authors` makes ours delete and compress as their code does.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = join(dirname(fileURLToPath(import.meta.url)), '../..')
const split = process.argv.indexOf('--')
const own = process.argv.slice(2, split === -1 ? undefined : split)
const passedOn = split === -1 ? [] : process.argv.slice(split + 1)
const refuse = (problem) => {
  console.error(`run.mjs: ${problem}`)
  process.exit(2)
}
const read = () =>
  parseArgs({
    args: own,
    options: {
      python: { type: 'string' },
      code: { type: 'string' },
      threads: { type: 'string', default: '2' },
      wait: { type: 'string', default: 'passive' },
      device: { type: 'string', default: 'cpu' },
    },
  }).values
let given
try {
  given = read()
} catch (error) {
  refuse(error.message)
}
if (!given.python || !given.code)
  refuse('give --python, one that has torch, and --code, a checkout of transformer-sequential')
if (!existsSync(join(given.code, 'trainer.py')))
  refuse(`${given.code} is no checkout of transformer-sequential: it has no trainer.py`)
const main = join(root, 'apps/cli/dist/main.js')
if (!existsSync(main)) refuse('apps/cli is not built: run npm start -- --help')

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)
const driver = [given.python, join(root, 'tools/peer/transformer_sequential.py'), '--code', given.code]
const options = ['threads', 'wait', 'device'].flatMap((name) => [`--${name}`, given[name]])
const defaults = {
  preset: 'fair',
  methods: 'fixed-span,adaptive-span,expire-span,compressive',
  'learning-rate': '1e-8',
  steps: '40',
}
// Options given are replaced as a whole: --method takes the place of --methods.
const named = (name) => passedOn.some((word) => word === `--${name}` || word.startsWith(`--${name}=`))
const replaced = { methods: () => named('method') }
const settings = Object.entries(defaults).flatMap(([name, value]) =>
  named(name) || replaced[name]?.() ? [] : [`--${name}`, value],
)
// Some methods alone have it.
const authors = named('authors') || named('method') || named('methods') ? [] : ['--authors']
const printed = named('json') || named('markdown') ? [] : ['--markdown']
const { status } = spawnSync(
  process.execPath,
  [
    ...[main, 'bench', 'train', ...settings, ...authors, ...printed],
    ...['--against', [...driver, ...options].map(quoted).join(' '), ...passedOn],
  ],
  { stdio: 'inherit' },
)
process.exitCode = status ?? 1
