/**
 * A run moves: begun on one backend in Node, stopped, and gone on with on others, in Node by the command line and in
 * Chromium by a page, always from the checkpoint and memory that the one before left. Its losses are those of a run that
 * never moved. Stations that this machine does not have are left out, and named.
 *
 * LETHE_MOVE_LOG=FILE.jsonl writes what was measured, a line per step.
 */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import {
  type CheckpointFile,
  type CheckpointState,
  checkpointFiles,
  decodeCheckpoint,
  type TrainEvent,
} from '@lethe/trainer'
import { RunFolder, readRun } from '@lethe/trainer/node'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { chromiumPath, inPage, openSite, type Site } from '../tools/chromium.mjs'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const main = here('../apps/cli/dist/main.js')
const stepsPerStation = 10
const sentence =
  'the river takes what was said and what was left unsaid, and forgets the names of both banks. '
const text = Array.from({ length: 60 }, (_, i) => `${i * 37} ${sentence.slice(i % 20)}`).join('\n')
const model =
  '--layers 2 --width 32 --heads 2 --feed-forward 64 --span 32 --block 16 --batch 4 --valid-batch 4 --warmup 5 --eval-every 0 --learning-rate 2e-3'.split(
    ' ',
  )

let folder: string
let site: Site | undefined
const run = promisify(execFile)
const lethe = (...args: string[]) => run(process.execPath, [main, ...args], { cwd: folder, timeout: 300_000 })

const page = `
  import { disposeBackend, useBackend } from '@lethe/backends'
  import { fixedSpan } from '@lethe/core'
  import { expireSpan } from '@lethe/expire-span'
  import { decodeCheckpoint, encodeCheckpoint, loadModel, openString, train } from '@lethe/trainer'

  const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0))
  const textOf = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))
  const mapped = (files, change) => Object.fromEntries(Object.entries(files).map(([name, value]) => [name, change(value)]))

  window.goOn = async ({ text, files, state, steps }) => {
    const info = await useBackend('webgpu')
    const resume = decodeCheckpoint(mapped(files, bytesOf), state)
    const { decoder, tokenizer } = await loadModel(resume.model, { 'fixed-span': fixedSpan, 'expire-span': expireSpan })
    const data = await openString(text, { tokenizer })
    let saved
    const checkpoints = { async save(checkpoint) { saved = checkpoint; return 'the page' } }
    const events = []
    for await (const event of train({ ...state.training, decoder, tokenizer, train: data.train, validation: data.validation, steps, resume, checkpoints }))
      events.push(event)
    info.throwIfFailed()
    decoder.dispose()
    await disposeBackend()
    return { device: info.device, events, state: saved.state, files: mapped(encodeCheckpoint(saved), textOf) }
  }
`

beforeAll(async () => {
  if (!existsSync(main)) throw new Error('apps/cli is not built: npm test builds it')
  folder = await mkdtemp(join(tmpdir(), 'lethe-move-'))
  await writeFile(join(folder, 'text.txt'), text)
  if (!chromiumPath) return
  const alias = Object.fromEntries(
    ['core', 'trainer', 'expire-span', 'kernels-wasm'].map((name) => [
      `@lethe/${name}`,
      here(`../packages/${name}/src/index.ts`),
    ]),
  )
  alias['@lethe/backends'] = here('../packages/backends/src/browser.ts')
  site = await openSite(here('../node_modules/.cache/move-run-test'), page, alias)
})

afterAll(async () => {
  await site?.close()
  await rm(folder, { recursive: true, force: true })
})

interface StepLine {
  readonly type: string
  readonly step: number
  readonly loss: number
  readonly slots: number
}

async function stepsOf(path: string): Promise<StepLine[]> {
  const lines = (await readFile(join(folder, path, 'metrics.jsonl'), 'utf8')).trim().split('\n')
  return lines.map((line) => JSON.parse(line) as StepLine).filter(({ type }) => type === 'step')
}

const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')

/** Goes on in a page, from the files of the newest checkpoint, and puts what comes back into the run's folder. */
async function inChromium(path: string, steps: number): Promise<string> {
  const { checkpoint } = await readRun(join(folder, path))
  const files = Object.fromEntries(
    await Promise.all(
      checkpointFiles.map(async (name) => [name, base64(await readFile(join(checkpoint!.path!, name)))]),
    ),
  )
  const state = JSON.parse(await readFile(join(checkpoint!.path!, 'state.json'), 'utf8'))
  const input = JSON.stringify({ text, files, state, steps })
  const result: {
    device: string
    events: TrainEvent[]
    state: CheckpointState
    files: Record<CheckpointFile, string>
  } = await inPage(await site!.serve(), 'goOn', (tab) => tab.evaluate(`goOn(${input})`))
  const { run } = await RunFolder.resume(join(folder, path))
  for (const event of result.events) await run.record(event)
  const bytes = Object.fromEntries(
    Object.entries(result.files).map(([name, value]) => [name, new Uint8Array(Buffer.from(value, 'base64'))]),
  ) as Record<CheckpointFile, Uint8Array>
  await run.checkpoints.save(decodeCheckpoint(bytes, result.state))
  await run.close()
  return result.device
}

test.each([
  ['fixed-span', []],
  ['expire-span', ['--ramp', '8', '--span-penalty', '1e-4']],
])('%s: the loss goes on as if the run had never moved', { timeout: 900_000 }, async (method, options) => {
  const tensorflow = await lethe('doctor', '--backend', 'tensorflow', '--json').then(
    () => true,
    () => false,
  )
  const stations = ['tensorflow', 'wasm', 'webgpu in Chromium', 'cpu', 'tensorflow', 'wasm'].filter(
    (name) => (name !== 'tensorflow' || tensorflow) && (name !== 'webgpu in Chromium' || site !== undefined),
  )
  console.log(
    `${method}: ${stations.join(' → ')}${tensorflow ? '' : ' (no tfjs-node here)'}${site ? '' : ' (no Chromium here)'}`,
  )
  const made = ['--data', join(folder, 'text.txt'), '--method', method, ...options, ...model]
  const path = `moved-${method}`
  let steps = 0
  for (const station of stations) {
    const begin = steps === 0 ? ['train', ...made, '--out', path] : ['train', '--resume', path]
    steps += stepsPerStation
    if (station === 'webgpu in Chromium') expect(await inChromium(path, steps)).toMatch(/swiftshader/i)
    else await lethe(...begin, '--steps', String(steps), '--backend', station)
    expect((await readRun(join(folder, path))).checkpoint!.step).toBe(steps)
  }
  await lethe('train', ...made, '--out', `stayed-${method}`, '--steps', String(steps), '--backend', 'cpu')

  const [moved, stayed] = [await stepsOf(path), await stepsOf(`stayed-${method}`)]
  expect(moved.map(({ step }) => step)).toEqual(Array.from({ length: steps }, (_, i) => i + 1))
  expect(moved.at(-1)!.loss).toBeLessThan(moved[0]!.loss - 0.5)
  const log = moved.map(({ step, loss, slots }, i) => ({
    method,
    step,
    station: stations[Math.floor(i / stepsPerStation)],
    loss,
    stayed: stayed[i]!.loss,
    difference: Math.abs(loss - stayed[i]!.loss),
    slots,
  }))
  if (process.env.LETHE_MOVE_LOG)
    await writeFile(process.env.LETHE_MOVE_LOG, log.map((line) => `${JSON.stringify(line)}\n`).join(''), {
      flag: 'a',
    })
  for (const { step, station, difference } of log)
    expect(difference, `step ${step}, ${station}`).toBeLessThan(1e-3)
})
