#!/usr/bin/env node
/**
 * node tools/parity.mjs [--backends cpu,wasm,…] [--hosts node,chromium] [--nodes 20,24] [--methods A,B]
 *                       [--kernels with,without] [--parts golden,laws,training,speed] [--steps 20] [--minutes 60]
 *                       [--check] [--json FILE | --merge FILE]
 *
 * Every backend that is here, with and without our kernels: golden vectors, laws of attention and of methods, a short
 * training of every method beside the cpu backend's, a step at the size of the benchmarks. Writes docs/backends.md, and
 * what it is made from, docs/results/backends.json. Runs the built packages (`pnpm parity` builds them).
 *
 * --backends cpu, wasm, webgpu, tensorflow, tensorflow-gpu: default all. --nodes: major versions of Node, default this
 * one, 20 and 24. --kernels, --parts, --methods: default all. --minutes: for a row, at most. --json FILE: write the measurement to
 * FILE alone, to be merged into the documents elsewhere (--merge FILE, which measures nothing). --check: exit with 1
 * where anything deviates by more than 1e-4, breaks a law, leaks or crashes; what is absent does not count.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { cpus, loadavg } from 'node:os'
import { parseArgs } from 'node:util'
import { Cell, faults, mergeCells } from './parity/cells.mjs'
import { documentWith, fullName, summaryOf } from './parity/document.mjs'
import { ChromiumHost, inNode, nodeOf } from './parity/hosts.mjs'
import { methods } from './parity/methods.mjs'
import { backendNames, partNames, rowsOf } from './parity/rows.mjs'

const format = 'lethe-parity-1'
const here = (path) => new URL(path, import.meta.url)
const [document, results] = [here('../docs/backends.md'), here('../docs/results/backends.json')]

const list = (name, given, known) => {
  const values = given?.split(',').filter(Boolean) ?? known
  const stray = values.find((value) => !known.includes(value))
  if (stray !== undefined || values.length === 0)
    throw new UsageError(`--${name} takes ${known.join(', ')}, separated by commas, not "${stray ?? given}"`)
  return values
}
const whole = (name, given) => {
  if (!/^[1-9]\d*$/.test(given))
    throw new UsageError(`--${name} takes a whole number from 1 on, not "${given}"`)
  return Number(given)
}
class UsageError extends Error {}

function options() {
  const text = { type: 'string' }
  const { values } = parseArgs({
    options: {
      ...{ backends: text, hosts: text, nodes: text, kernels: text, methods: text, parts: text },
      ...{ json: text, merge: text },
      steps: { ...text, default: '20' },
      minutes: { ...text, default: '60' },
      check: { type: 'boolean', default: false },
    },
  })
  if (values.json && values.merge)
    throw new UsageError('--json measures, --merge does not: give one of the two')
  const nodes = (
    values.nodes ?? [...new Set([process.versions.node.split('.')[0], '20', '24'])].join()
  ).split(',')
  for (const major of nodes) whole('nodes', major)
  return {
    ...values,
    nodes,
    backends: list('backends', values.backends, backendNames),
    hosts: list('hosts', values.hosts, ['node', 'chromium']),
    kernels: list('kernels', values.kernels, ['with', 'without']),
    methods: list('methods', values.methods, Object.keys(methods)),
    parts: list('parts', values.parts, partNames),
    steps: whole('steps', values.steps),
    minutes: whole('minutes', values.minutes),
  }
}

async function readCells(file) {
  try {
    const content = JSON.parse(await readFile(file, 'utf8'))
    if (content.format !== format) throw new Error(`its format is not ${format}`)
    return content.cells
  } catch (cause) {
    throw new UsageError(`${file} cannot be read: ${cause.message}; --merge takes what --json wrote`, {
      cause,
    })
  }
}
/** A line for each cell. */
const writeCells = (file, cells) => {
  const lines = cells.map((cell) => JSON.stringify(cell))
  return writeFile(file, `{"format":"${format}","cells":[\n${lines.join(',\n')}\n]}\n`)
}

async function publish(newer) {
  const cells = mergeCells(await readCells(results), newer)
  await writeCells(results, cells)
  await writeFile(document, documentWith(await readFile(document, 'utf8'), cells))
}

/** Losses of the cpu backend in this Node, by method. */
async function referenceLosses(request) {
  const losses = {}
  const asked = { ...request, backend: 'cpu', options: {}, parts: ['training'] }
  const onEvent = (event) => {
    if (event.error) throw new Error(`cpu, the reference, cannot train ${event.method}: ${event.error}`)
    if (event.type === 'training') losses[event.method] = event.losses
  }
  await inNode(process.execPath, { backend: 'cpu' }, asked, { onEvent, minutes: 30 })
  return losses
}

/** Measures all rows; `save` is called after each with the cells so far. */
async function measureRows(given, save) {
  const { backends, hosts, nodes, kernels, parts, methods, steps, minutes } = given
  const place = {
    machine: `${cpus().length} × ${cpus()[0]?.model.trim() ?? 'processor'}, ${process.platform} ${process.arch}`,
    date: new Date().toISOString().slice(0, 10),
    /** Processes that wanted to run in the minute before: near 0 on an idle machine. */
    load: loadavg()[0],
  }
  const files = (await readdir(here('../test/golden'))).filter((name) => name.endsWith('.safetensors')).sort()
  const golden = files.map((name) => name.replace(/\.safetensors$/, ''))
  const request = { parts, methods, golden, steps }
  const reference = parts.includes('training') ? await referenceLosses(request) : {}

  const cells = []
  let browser
  for (const row of rowsOf(backends, hosts, nodes, kernels)) {
    const began = performance.now()
    const cell = new Cell(row, place, reference)
    const title = fullName(row)
    const onEvent = (event) => {
      cell.take(event)
      if (event.type === 'started') console.log(`${title}: ${event.device}`)
      if (event.type === 'part') console.log(`${title}: ${event.name} took ${event.seconds.toFixed(0)} s`)
    }
    const asked = { ...request, backend: row.backend, options: row.options ?? {}, expect: row.expect?.source }
    try {
      if (row.host === 'node') {
        const node = await nodeOf(row.runtime.split(' ')[1]).catch((error) => cell.fail(error.message, true))
        if (node) await inNode(node, row, asked, { onEvent, minutes })
      } else {
        browser ??= await ChromiumHost.open().catch((error) => ({ missing: error.message }))
        if (browser.missing) cell.fail(browser.missing, true)
        else await browser.run(row, asked, { onEvent, minutes })
      }
    } catch (error) {
      cell.fail(error.message)
    }
    cells.push({ ...cell.result, seconds: (performance.now() - began) / 1000 })
    console.log(summaryOf(cells.at(-1)))
    await save(cells)
  }
  await browser?.close?.()
  return cells
}

async function main() {
  const given = options()
  if (given.merge) {
    await publish(await readCells(given.merge))
    return 0
  }
  const save = given.json ? (cells) => writeCells(given.json, cells) : publish
  const cells = await measureRows(given, save)
  const wrong = cells.filter((cell) => faults(cell).length > 0)
  if (wrong.length > 0) console.log(`${wrong.length} of ${cells.length} rows have faults`)
  return given.check && wrong.length > 0 ? 1 : 0
}

try {
  process.exitCode = await main()
} catch (error) {
  const usage = error instanceof UsageError || error.code?.startsWith('ERR_PARSE_ARGS')
  console.error(`parity: ${usage ? error.message : error.stack}`)
  process.exitCode = 2
}
