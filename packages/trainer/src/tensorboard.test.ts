/** Event files: byte for byte what TensorBoard's own writer makes, and what its own reader finds in those of a run. */
import { execFileSync } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { TensorBoardFile } from './tensorboard'
import type { EvalEvent, ReportEvent, StepEvent } from './train'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lethe-tensorboard-'))
  vi.useFakeTimers({ toFake: ['Date'], now: 1_700_000_000_500 })
})
afterEach(async () => {
  vi.useRealTimers()
  await rm(folder, { recursive: true })
})

const evaluated: EvalEvent = {
  ...{ type: 'eval', step: 300, seconds: 1, tokens: 8 },
  ...{ loss: 0, perplexity: 1, accuracy: 0.75, chance: 0.5, slots: 12.5 },
}
const reported: ReportEvent = {
  ...{ type: 'report', step: 300 },
  layers: [
    {
      ...{ method: 'adaptive-span', slots: 16, bytes: 64, attended: [3.5], flopsPerStep: 1 },
      figures: { span: { shape: [2], data: Float32Array.of(0, 0) } },
    },
  ],
}
const stepped = (step: number, more: Partial<StepEvent> = {}): StepEvent => ({
  ...{ type: 'step', step, loss: step / 4, perplexity: 2, bitsPerByte: 1, penalty: 0, learningRate: 0.5 },
  ...{ gradientNorm: 3, slots: 8, memoryBytes: 256, tokens: 16, seconds: 1, tokensPerSecond: 100 },
  ...more,
})

/** What tensorboard 2.21's RecordWriter writes of the same Event and Summary messages. */
const golden = {
  begin: '1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110',
  evaluated:
    '79000000000000008a13537b0900002040fc54d94110ac022a6b0a160a0f76616c69646174696f6e2f6c6f737315000000000a1c0a1576616c69646174696f6e2f706572706c6578697479150000803f0a1a0a1376616c69646174696f6e2f6163637572616379150000403f0a170a1076616c69646174696f6e2f736c6f74731500004841ec134294',
  reported:
    '73000000000000000d737cc80900002040fc54d94110ac022a650a140a0d736c6f74732f6c617965725f3015000080410a1e0a17617474656e6465642f6c617965725f302f686561645f3015000060400a2d0a0c7370616e2f6c617965725f302a1d190000000000000040320800000000000000003a0800000000000000409529cfc9',
  started: '100000000000000095fbfe180900002040fc54d94110c9013a020801c451f9e5',
}

async function write(step: number, ...events: Parameters<TensorBoardFile['append']>[0][]): Promise<string> {
  const file = await TensorBoardFile.create(folder, step)
  for (const event of events) await file.append(event)
  await file.close()
  return file.path
}
const hex = async (path: string) => (await readFile(path)).toString('hex')

test('records are those of TensorBoard’s own writer, byte for byte', async () => {
  const path = await write(0, evaluated, { type: 'end', step: 300, reason: 'finished' }, reported)
  expect(await hex(path)).toBe(golden.begin + golden.evaluated + golden.reported)
  expect(path).toMatch(/events\.out\.tfevents\.1700000000\./)
  // Within the same second: a later name, and a start of session at the step that comes next.
  const next = await write(200)
  expect(await hex(next)).toBe(golden.begin + golden.started)
  expect((await readdir(folder)).sort()).toEqual([path, next].map((each) => each.split('/').at(-1)))
})

const python = process.env.LETHE_TEST_PYTHON ?? 'python3'
const reader = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'histograms': 0, 'tensors': 0}).Reload()
print(json.dumps({
  'scalars': {tag: [[e.step, e.value] for e in found.Scalars(tag)] for tag in found.Tags()['scalars']},
  'histograms': {tag: [[e.step, e.histogram_value.num, list(e.histogram_value.bucket)] for e in found.Histograms(tag)]
                 for tag in found.Tags()['histograms']}}))
`

function hasTensorBoard(): boolean {
  try {
    execFileSync(python, ['-c', 'import tensorboard'], { stdio: 'ignore', timeout: 60_000 })
    return true
  } catch {
    return false
  }
}

test('TensorBoard reads the curves of a run that was killed and resumed, each step once', async ({
  skip,
}) => {
  if (!hasTensorBoard())
    skip(`${python} has no tensorboard: pip install tensorboard (LETHE_TEST_PYTHON names another Python)`)
  await write(0, ...[1, 2, 3, 4].map((step) => stepped(step, { loss: 9 })))
  const again = reported.layers[0]!
  const spans = { ...again, figures: { span: { shape: [3], data: Float32Array.of(0, 1, 1) } } }
  await write(2, stepped(3), stepped(4, { answers: 0 }), evaluated, { ...reported, layers: [spans] })
  const { scalars, histograms } = JSON.parse(
    execFileSync(python, ['-c', reader, folder], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
  )
  // Steps 3 and 4 are those of the second file; that without answers has no loss.
  expect(scalars['train/loss']).toEqual([
    [1, 9],
    [2, 9],
    [3, 0.75],
  ])
  expect(scalars['train/learning_rate'].map(([step]: [number]) => step)).toEqual([1, 2, 3, 4])
  expect(scalars['validation/accuracy']).toEqual([[300, 0.75]])
  expect(scalars['attended/layer_0/head_0']).toEqual([[300, 3.5]])
  const [[step, values, buckets]] = histograms['span/layer_0']
  expect([step, values, buckets[0], buckets.at(-1), buckets.length]).toEqual([300, 3, 1, 2, 30])
})
