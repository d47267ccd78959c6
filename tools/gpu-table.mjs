#!/usr/bin/env node
/**
 * node tools/gpu-table.mjs [--backend webgpu|tensorflow] [--python PYTHON --code CHECKOUT [--device cuda]] [--tiny]
 *                          [--methods A,B] [--steps 20] [--span 1024] [--batch 8]
 *
 * Training steps on a GPU, as Markdown: ms per step, tokens/s, slots and memory at the sizes of docs/benchmarks.md and
 * at the paper's (12 layers, width 512, 8 heads, feed-forward 2048, block 512), and where the time of a step goes:
 * WebGPU's by timestamps where the device has them, else calls only. With a Python that has torch and a checkout of
 * facebookresearch/transformer-sequential, the authors' code takes the same steps by turns, on --device.
 *
 * --tiny takes sizes that any machine can compute, to see that everything runs.
 */
import { spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const refuse = (problem) => {
  console.error(`gpu-table: ${problem}`)
  process.exit(2)
}
const optionsOf = (options) => {
  try {
    return parseArgs({ options }).values
  } catch (error) {
    return refuse(error.message)
  }
}
const given = optionsOf({
  backend: { type: 'string', default: 'webgpu' },
  python: { type: 'string' },
  code: { type: 'string' },
  device: { type: 'string', default: 'cuda' },
  methods: { type: 'string', default: 'fixed-span,adaptive-span,expire-span,compressive' },
  steps: { type: 'string', default: '20' },
  span: { type: 'string', default: '1024' },
  batch: { type: 'string', default: '8' },
  tiny: { type: 'boolean', default: false },
})
if ((given.python === undefined) !== (given.code === undefined))
  refuse('--python and --code belong together: give both, or none of them')

const shape = (layers, width, heads, feedForward, block, span, batch) =>
  Object.entries({ layers, width, heads, 'feed-forward': feedForward, block, span, batch }).flatMap(
    ([name, value]) => [`--${name}`, String(value)],
  )
const sizes = given.tiny
  ? { 'A tiny model': shape(2, 16, 2, 32, 8, 16, 2) }
  : {
      '4 layers of width 256': shape(4, 256, 4, 1024, 128, 512, 8),
      "The paper's 12 layers of width 512": shape(12, 512, 8, 2048, 512, given.span, given.batch),
    }

const measured = ['--methods', given.methods, '--backend', given.backend, '--steps', given.steps, '--parts']
// Two processes change places slowly on a GPU.
const settings = ['--preset', 'fair', '--learning-rate', '1e-8', '--turn', '10', '--markdown']
const authors = /expire-span|compressive|all/.test(given.methods) ? ['--authors'] : []
let failed = false
for (const [title, size] of Object.entries(sizes)) {
  console.log(`\n### ${title}\n`)
  const options = [...settings, ...authors, ...measured, ...size]
  const peer = ['--python', given.python, '--code', given.code, '--device', given.device]
  const args = given.python
    ? [join(root, 'tools/peer/run.mjs'), ...peer, '--', ...options]
    : [join(root, 'apps/cli/dist/main.js'), 'bench', 'train', ...options]
  // One size that does not fit shall not take the others with it.
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' })
  failed ||= status !== 0
}
process.exitCode = failed ? 1 : 0
