/** Checkpoints on disk: whole or not there, and damage is noticed. No tensors are needed for that. */
import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FormatError } from '@lethe/core'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Checkpoint, decodeCheckpoint } from './checkpoint'
import { CheckpointFolder, MetricsFile, RunFolder, readCheckpoint, readRun } from './folder'
import { unwritable } from './storage'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lethe-folder-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const checkpoint = (step: number): Checkpoint => ({
  step,
  model: {
    tensors: new Map([['weight', { dtype: 'float32', shape: [2], data: Float32Array.of(step, Math.PI) }]]),
    metadata: { format: 'lethe-model-1' },
  },
  optimizer: { tensors: new Map(), metadata: {} },
  memory: Uint8Array.of(1, 2, 3, step),
  state: {
    format: 'lethe-checkpoint-1',
    step,
    tokens: step * 10,
    position: 3,
    random: [1, -2, 3, -4],
    training: { learningRate: 7e-4 },
    decoder: { width: 8 },
    data: { identity: 'x', tokens: 100, vocabulary: 256 },
    validation: [],
  },
})

async function filled(steps: number[], keep = 3) {
  const store = await CheckpointFolder.open(join(folder, 'checkpoints'), { keep })
  for (const step of steps) await store.save(checkpoint(step))
  return store
}

test('what is saved is read back, the last k are kept, the newest is found', async () => {
  const store = await filled([5, 10, 15, 20, 1000000], 2)
  expect(await store.steps()).toEqual([1000000, 20])
  const latest = await store.latest()
  expect(latest).toEqual({ ...checkpoint(1000000), path: join(folder, 'checkpoints', 'step-1000000') })
  expect((await readdir(store.path)).filter((name) => name.startsWith('tmp-'))).toEqual([])
  expect((await readdir(join(store.path, 'step-000020'))).sort()).toEqual([
    'memory.safetensors',
    'model.safetensors',
    'optimizer.safetensors',
    'state.json',
  ])
})

test('what a killed process left is ignored and removed', async () => {
  const { path } = await filled([5])
  await mkdir(join(path, 'tmp-step-000010-99'))
  await writeFile(join(path, 'tmp-step-000010-99', 'model.safetensors'), 'half')
  expect((await readRunCheckpoints()).step).toBe(5)
  const again = await CheckpointFolder.open(path)
  expect((await again.latest())!.step).toBe(5)
  expect(await readdir(path)).toEqual(['step-000005'])
  await mkdir(join(path, 'tmp-of-mine'))
  await CheckpointFolder.open(path)
  expect(await readdir(path)).toContain('tmp-of-mine')
})

async function readRunCheckpoints() {
  await writeFile(join(folder, 'config.json'), '{}')
  return (await readRun(folder)).checkpoint!
}

test.each(['model.safetensors', 'optimizer.safetensors', 'memory.safetensors', 'state.json'])(
  'a truncated or changed %s is named, and so is the previous good checkpoint',
  async (name) => {
    const store = await filled([5, 10])
    const file = join(store.path, 'step-000010', name)
    const bytes = await readFile(file)
    for (const length of [0, 1, Math.floor(bytes.length / 2), bytes.length - 2]) {
      if (length >= bytes.length) continue
      await truncate(file, length)
      const error = await store.latest().catch((error) => error)
      expect(FormatError.isInstance(error)).toBe(true)
      expect(error.message).toContain(join('step-000010', name))
      expect(error.message).toMatch(/the previous good checkpoint is .*step-000005$/)
      await writeFile(file, bytes)
    }
    const changed = new Uint8Array(bytes)
    const at = name === 'state.json' ? new TextDecoder().decode(bytes).indexOf('100,') + 1 : bytes.length - 1
    changed[at]! ^= 1
    await writeFile(file, changed)
    await expect(store.latest()).rejects.toThrow(/was changed after it was saved/)
    await rm(file)
    await expect(store.latest()).rejects.toThrow(`${name} is missing: the previous good checkpoint is`)
  },
)

test('the previous good checkpoint is the newest that is good', async () => {
  const store = await filled([5, 10, 15])
  await truncate(join(store.path, 'step-000010', 'model.safetensors'), 3)
  await truncate(join(store.path, 'step-000015', 'model.safetensors'), 3)
  await expect(store.latest()).rejects.toThrow(/the previous good checkpoint is .*step-000005/)
  await rm(join(store.path, 'step-000005', 'state.json'))
  await expect(readCheckpoint(join(store.path, 'step-000015'))).rejects.toThrow(/no earlier good checkpoint/)
})

test('a run goes on from an older checkpoint, and later ones are kept under another name', async () => {
  const run = await RunFolder.create(join(folder, 'run'), { preset: 'modern' })
  for (const step of [1, 2, 3]) {
    await run.record({ type: 'step', step } as never)
    await run.checkpoints.save(checkpoint(step))
  }
  await run.close()
  const older = await RunFolder.resume(join(folder, 'run/checkpoints/step-000001'))
  expect(older.checkpoint!.step).toBe(1)
  expect(older.run.config).toEqual({ preset: 'modern' })
  expect(await readFile(older.run.metricsPath, 'utf8')).toBe('{"type":"step","step":1}\n')
  expect((await readdir(join(folder, 'run/checkpoints'))).sort()).toEqual([
    'set-aside-step-000002',
    'set-aside-step-000003',
    'step-000001',
  ])
  await older.run.close()
})

test('an evaluation after the checkpoint of its step is done again; what changed is kept for the next time', async () => {
  const path = join(folder, 'run')
  const run = await RunFolder.create(path, { steps: 1 })
  await run.record({ type: 'step', step: 1 } as never)
  await run.checkpoints.save(checkpoint(1))
  await run.record({ type: 'eval', step: 1 } as never)
  await run.close()
  const again = await RunFolder.resume(path, { config: { steps: 2 } })
  expect(await readFile(again.run.metricsPath, 'utf8')).toBe('{"type":"step","step":1}\n')
  expect((await readRun(path)).config).toEqual({ steps: 2 })
  await again.run.close()
})

test('a folder that another process writes to is left alone; what a killed one left is not', async () => {
  const path = join(folder, 'run')
  const run = await RunFolder.create(path, {})
  await run.record({ type: 'step', step: 1 } as never)
  const lock = join(path, 'process.json')
  const own = JSON.parse(await readFile(lock, 'utf8'))
  await run.close()
  expect((await readdir(path)).sort()).toEqual(['checkpoints', 'config.json', 'metrics.jsonl'])
  const left = (holder: object) => writeFile(lock, JSON.stringify({ ...own, ...holder }))
  await left({ process: process.ppid })
  await expect(RunFolder.resume(path)).rejects.toThrow(
    `process ${process.ppid} is writing to ${path}: stop it`,
  )
  expect(await readFile(run.metricsPath, 'utf8')).toBe('{"type":"step","step":1}\n')
  // No process has such a number; that of another machine may be anything.
  for (const holder of [{ process: 2 ** 30 }, { process: process.ppid, host: 'elsewhere' }]) {
    await left(holder)
    await (await RunFolder.resume(path)).run.close()
  }
  await writeFile(lock, '{"proc')
  await (await RunFolder.resume(path)).run.close()
})

test('metrics stay whole where a run cannot be resumed', async () => {
  const run = await RunFolder.create(join(folder, 'run'), {})
  await run.record({ type: 'step', step: 1 } as never)
  await run.close()
  await rm(run.checkpoints.path, { recursive: true })
  await writeFile(run.checkpoints.path, '')
  await expect(RunFolder.resume(join(folder, 'run'))).rejects.toThrow(
    /checkpoints: there is a file of that name/,
  )
  expect(await readFile(run.metricsPath, 'utf8')).toBe('{"type":"step","step":1}\n')
})

test('files of a checkpoint that are not there are named', () => {
  const { state } = checkpoint(1)
  expect(() => decodeCheckpoint({} as never, state, 'page')).toThrow('page/model.safetensors is missing')
  expect(() => decodeCheckpoint({} as never, null as never)).toThrow(FormatError)
})

test('a run that was ended before its first checkpoint starts anew', async () => {
  const run = await RunFolder.create(join(folder, 'run'), {})
  await run.record({ type: 'step', step: 1 } as never)
  await run.close()
  const again = await RunFolder.resume(join(folder, 'run'))
  expect(again.checkpoint).toBeUndefined()
  expect(await readFile(again.run.metricsPath, 'utf8')).toBe('')
  await again.run.close()
})

test('metrics: a half-written line goes, and what is no step or evaluation is not recorded', async () => {
  const path = join(folder, 'metrics.jsonl')
  await writeFile(path, '{"step":1}\n{"step":2}\n{"step":3}\n{"st')
  const file = await MetricsFile.open(path, 10)
  await file.append({ type: 'checkpoint', step: 3, path: '' })
  await file.append({ type: 'eval', step: 4 } as never)
  await file.close()
  expect(await readFile(path, 'utf8')).toBe('{"step":1}\n{"step":2}\n{"step":3}\n{"type":"eval","step":4}\n')
})

test('nothing is overwritten, and what cannot be written says why', async () => {
  await (await RunFolder.create(join(folder, 'run'), {})).close()
  await expect(RunFolder.create(join(folder, 'run'), {})).rejects.toThrow(/run is not empty .*resume the run/)
  await writeFile(join(folder, 'file'), '')
  await expect(RunFolder.create(join(folder, 'file'), {})).rejects.toThrow(
    /cannot write to .*file: there is a file/,
  )
  await expect(RunFolder.create(join(folder, 'file/run'), {})).rejects.toThrow(/a part of the path is a file/)
  await expect(readRun(join(folder, 'nowhere'))).rejects.toThrow(/there is no run in .*no such folder/)
  await expect(readRun(folder)).rejects.toThrow(/config.json is missing/)
  const full = unwritable('/out', Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' }))
  expect(full.message).toBe(
    'cannot write to /out: the disk is full: free some space or choose another folder',
  )
})

test('a save that fails names the last good checkpoint and leaves it alone', async () => {
  const store = await filled([5])
  const broken = { ...checkpoint(10), memory: undefined as unknown as Uint8Array }
  await expect(store.save(broken)).rejects.toThrow(/last good checkpoint is .*step-000005/)
  expect(await readdir(store.path)).toEqual(['step-000005'])
})
