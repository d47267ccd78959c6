/** The built `lethe bench`: every benchmark runs, prints what it promises, and compares sides with equal settings. */
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { temporaryFolder } from './temporary-folder'

const main = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const folder = temporaryFolder('bench')

const tiny =
  '--layers 1 --width 16 --heads 2 --feed-forward 16 --span 16 --block 8 --batch 2 --backend cpu'.split(' ')

function lethe(...args: string[]): Promise<string> {
  return new Promise((done, fail) => {
    execFile(process.execPath, [main, ...args], { cwd: folder }, (error, stdout) =>
      error ? fail(error) : done(stdout),
    )
  })
}
const bench = async (...args: string[]) =>
  JSON.parse((await lethe('bench', ...args, ...tiny, '--json')).trim().split('\n').at(-1)!)

test('train: one method', async () => {
  const figures = await bench('train', '--steps', '2')
  for (const name of ['ms_per_step', 'min_ms', 'tokens_per_s', 'held_tensor_bytes', 'peak_rss_bytes'])
    expect(figures[name], name).toBeGreaterThan(0)
  expect(figures).toMatchObject({ method: 'fixed-span', span: 16, backend: 'cpu', memory_slots: 16 })
  expect(figures.options).toMatchObject({ span: 16 })
  expect(figures.min_ms).toBeLessThanOrEqual(figures.ms_per_step)
  expect(figures.peak_tensor_bytes).toBeGreaterThan(figures.held_tensor_bytes)
  expect(figures.parts).toBe(undefined)
})

test('train: where the time goes', async () => {
  const { parts } = await bench('train', '--steps', '1', '--parts')
  const names = parts.map(({ name }: { name: string }) => name)
  expect(names).toContain('BatchMatMul')
  expect(names).not.toContain('forward')
  expect(parts[0].ms).toBeGreaterThan(0)
})

test('train: methods and spans by turns with the first method', async () => {
  const { rows } = await bench(
    'train',
    '--steps',
    '4',
    '--methods',
    'fixed-span,selective',
    '--spans',
    '8,16',
  )
  expect(rows.map(({ method, span }: Row) => [method, span])).toEqual([
    ['fixed-span', 8],
    ['fixed-span', 16],
    ['selective', 8],
    ['selective', 16],
  ])
  for (const { method, span, memory_slots, reference, times_as_fast } of rows as Row[]) {
    expect(memory_slots).toBe(span)
    if (method === 'fixed-span') expect(reference).toBe(undefined)
    else {
      expect(reference).toMatchObject({ name: `fixed-span, span ${span}`, memory_slots: span })
      const [low, high] = times_as_fast!.interval
      expect(times_as_fast!.value).toBeGreaterThanOrEqual(low)
      expect(times_as_fast!.value).toBeLessThanOrEqual(high)
    }
  }
})

interface Row {
  readonly method: string
  readonly span: number
  readonly memory_slots: number
  readonly reference?: Record<string, unknown>
  readonly times_as_fast?: { readonly value: number; readonly interval: readonly [number, number] }
}

test('train: another program takes the same steps, and gets the same settings', async () => {
  const rival = join(folder, 'rival.mjs')
  writeFileSync(
    rival,
    `import { createInterface } from 'node:readline'
     let settings
     const say = (reply) => console.log(JSON.stringify(reply))
     for await (const line of createInterface({ input: process.stdin })) {
       const message = JSON.parse(line)
       if (message.settings) { settings = message.settings; say({ ready: 'a rival' }) }
       if (message.take) say({ ms: Array(message.take).fill(1e6) })
       // Its slots: what it was told, in one number.
       if (message.finish) say({ figures: { memory_slots: settings.span * settings.width, peak_rss_bytes: 7 } })
     }`,
  )
  const against = ['--against', `${process.execPath} ${rival}`]
  const row = await bench('train', '--steps', '3', '--method', 'expire-span', '--authors', ...against)
  expect(row.reference).toMatchObject({
    name: 'a rival',
    ms_per_step: 1e6,
    memory_slots: 256,
    peak_rss_bytes: 7,
  })
  expect(row.settings).toMatchObject({ method: 'expire-span', authors: true, layers: 1, batch: 2 })
  expect(row.options).toMatchObject({ maxSpan: 16, deletion: 'blocks', loss: 'ramp', initialSlots: 8 })
  expect(row.times_as_fast.value).toBeCloseTo(1e6 / row.ms_per_step, 3)
  const text = await lethe('bench', 'memory', ...tiny, '--steps', '1', '--markdown', ...against)
  expect(text).toMatch(/^ {4}.*bench memory/)
  expect(text).toContain('- fixed-span: span 16')
  expect(text).toContain('- compressive: memory 16, compressed 4')
  expect(text.match(/^\| (fixed|expire|adaptive|compressive|selective)/gm)).toHaveLength(5)
})

test('memory: what each method holds', async () => {
  const { rows } = await bench('memory', '--methods', 'fixed-span,compressive')
  for (const row of rows) expect(row.peak_tensor_bytes).toBeGreaterThan(row.held_tensor_bytes)
  expect(rows[1].memory_slots).toBeGreaterThan(rows[0].memory_slots)
  const one = JSON.parse(
    await lethe('bench', 'memory', ...tiny, '--backend', 'wasm', '--method', 'selective', '--json'),
  )
  expect(one.rows[0].heap_bytes % 65536).toBe(0)
  expect(one.rows[0].heap_bytes).toBeGreaterThan(one.rows[0].peak_tensor_bytes)
})

test('decode: streams with short and long contexts', async () => {
  const row = await bench('decode', '--contexts', '40,80,1000000', '--tokens', '40')
  expect(row).toMatchObject({ method: 'fixed-span', backend: 'cpu', tokens_measured: 20 })
  expect(row.contexts.map(({ context }: { context: number }) => context)).toEqual([40, 80, 1_000_000])
  expect(row.contexts[0].reached).toBe('read from its first token')
  expect(row.contexts[2].reached).toMatch(/^began at step 999,\d+, read \d+ tokens$/)
  expect(row.contexts[0].ratio).toBe(undefined)
  for (const { slots, memory_bytes, ms_per_token } of row.contexts) {
    expect(slots).toBe(17)
    expect(memory_bytes).toEqual([row.contexts[0].memory_bytes[0], row.contexts[0].memory_bytes[0]])
    expect(ms_per_token).toBeGreaterThan(0)
  }
  expect(row.tensors[0]).toBe(row.tensors[1])
  expect(row.tensor_bytes[0]).toBe(row.tensor_bytes[1])
})

test('decode: all tokens, and several methods', async () => {
  const { rows } = await bench(
    'decode',
    '--contexts',
    '30,600',
    '--read-all',
    '--methods',
    'selective,compressive',
  )
  expect(rows.map(({ method }: Row) => method)).toEqual(['selective', 'compressive'])
  for (const { contexts } of rows) expect(contexts[1].reached).toBe('read from its first token')
  // Compressed slots are among those of the span.
  expect(rows[1].contexts[1].slots).toBe(16)
})

test('attention: both passes and one query, of every method', async () => {
  const { rows } = await bench('attention', '--steps', '2')
  expect(rows).toHaveLength(15)
  for (const { plain, written, slots, pass, block } of rows) {
    expect(plain.ms).toBeGreaterThan(0)
    expect(written.times_as_fast.value).toBeGreaterThan(0)
    expect(block).toBe(pass === 'one query' ? 1 : 8)
    expect(slots).toBeGreaterThan(16)
  }
})

test('a trained model goes on in its own text', async () => {
  writeFileSync(join(folder, 'text.txt'), 'Lethe is the river of forgetting. '.repeat(60))
  const sizes =
    '--layers 1 --width 16 --heads 2 --feed-forward 16 --span 24 --block 8 --batch 2 --valid-batch 2'.split(
      ' ',
    )
  for (const method of ['expire-span', 'adaptive-span'])
    await lethe(
      ...['train', ...sizes, '--data', 'text.txt', '--out', method, '--method', method],
      ...['--steps', '2', '--backend', 'cpu'],
    )
  const models = await lethe(
    'bench',
    'train',
    'expire-span',
    'adaptive-span',
    '--steps',
    '2',
    '--backend',
    'cpu',
    '--json',
  )
  const { rows } = JSON.parse(models)
  expect(rows.map(({ method, span }: Row) => [method, span])).toEqual([
    ['expire-span', 24],
    ['adaptive-span', 24],
  ])
  expect(rows[1].reference.name).toBe('expire-span')
  expect(rows[1].settings).toMatchObject({ width: 16, block: 8, batch: 2 })
})
