/**
 * lethe bench attention: attention alone, with the requests that a decoder of one layer makes: by plain operations that
 * tfjs differentiates, by those with core's own backward pass, and by the backend's own kernel where it has one.
 */
import {
  type AttentionKernel,
  type AttentionRequest,
  type AttentionResult,
  attend,
  attendPlain,
  setAttentionKernel,
  takeApart,
} from '@lethe/core'
import {
  clone,
  dispose,
  engine,
  env,
  keep,
  profile,
  type Scalar,
  sum,
  type Tensor,
  tensor1d,
  tidy,
} from '@tensorflow/tfjs-core'
import { startBackend } from '../../backend'
import type { CommandLine } from '../../command-line'
import type { Given } from '../../options'
import { bytes, count } from '../../output'
import { type Column, heading, progress, ratioText, table } from './report'
import { benchDefaults, casesOf, ownCommand, whereabouts } from './setup'
import { median, type Ratio, ratioOfMedians } from './statistics'
import { fillMemory, openWorkload, randomTokens, vocabulary, type Workload } from './workload'

/** Of one way to compute attention. */
interface WayFigures {
  readonly ms: number
  readonly peak_tensor_bytes: number
  /** The time of plain operations over this. */
  readonly times_as_fast?: Ratio
}

interface AttentionRow {
  readonly method: string
  readonly pass: 'forward' | 'forward and backward' | 'one query'
  readonly batch: number
  readonly block: number
  readonly slots: number
  readonly plain: WayFigures
  /** Plain operations with a backward pass written by hand. */
  readonly written: WayFigures
  /** Missing where the backend has no kernel that takes this request. */
  readonly fused?: WayFigures
}

export async function benchAttention({ given }: CommandLine): Promise<number> {
  const where = whereabouts()
  const { name: backend } = await startBackend(given, given.unpatched ? { patch: false } : {})
  const steps = given.steps ?? benchDefaults.steps
  const status = progress()
  const rows: AttentionRow[] = []
  for (const options of casesOf(given, true)) {
    status.update(() => `${options.method}${options.span ? `, span ${options.span}` : ''}`)
    rows.push(...(await measureAttention(options, backend, steps)))
  }
  status.print()
  if (given.json) console.log(JSON.stringify({ ...where, command: ownCommand(), backend, rows }))
  else {
    if (given.markdown)
      console.log(
        heading(where, [
          `Backend ${backend}; one layer's attention, medians of ${steps}, by turns. Times as fast: plain operations' ms over the`,
          "way's, 95 % bootstrap interval.",
        ]),
      )
    console.log(table(rows, columns, given.markdown ?? false))
  }
  return 0
}

async function measureAttention(given: Given, backend: string, steps: number): Promise<AttentionRow[]> {
  const workload = await openWorkload({ ...given, layers: 1 }, [], async () => {})
  const { decoder, settings, random, next } = workload
  await decoder.afterUpdate()
  const memory = await fillMemory(workload, decoder.initialMemory(settings.batch))
  const [inputs, targets] = await next()
  const block = capture(backend, () => {
    const result = decoder.forward(inputs, memory)
    dispose([result.logits, result.penalty])
    result.memory.dispose()
  })
  dispose([inputs, targets])

  const shape: [number, number] = [1, settings.block]
  const single: Workload = {
    ...workload,
    next: async () => [randomTokens(random, shape), randomTokens(random, shape)] as const,
  }
  const arena = decoder.startDecoding(await fillMemory(single, decoder.initialMemory(1)))
  const query = capture(backend, () => {
    const token = tensor1d([random.integer(vocabulary)], 'int32')
    const result = decoder.decode(token, arena)
    dispose([token, result.logits])
    result.memory.dispose()
  })
  const rows: AttentionRow[] = []
  for (const [pass, request] of [
    ['forward', block],
    ['forward and backward', block],
    ['one query', query],
  ] as const) {
    const [batch, , , slots] = request.keys.shape as [number, number, number, number]
    rows.push({
      method: settings.method,
      pass,
      batch,
      block: request.queries.shape[3]!,
      slots,
      ...(await compare(backend, request, pass === 'forward and backward', steps)),
    })
  }
  for (const { learning, constant } of [takeApart(block), takeApart(query)])
    dispose({ ...learning, ...constant })
  decoder.dispose()
  return rows
}

/** The attention request that one pass of a one-layer decoder makes. Its tensors are the caller's. */
function capture(backend: string, pass: () => void): AttentionRequest {
  let request: AttentionRequest | undefined
  const listener: AttentionKernel = {
    covers(asked) {
      const parts = takeApart(asked)
      const copies = Object.entries({ ...parts.learning, ...parts.constant }).map(
        ([name, tensor]) => [name, keep(clone(tensor))] as const,
      )
      request = parts.with(Object.fromEntries(copies))
      return false
    },
    forward: () => unasked(),
    backward: () => unasked(),
  }
  const own = setAttentionKernel(backend, listener)
  try {
    pass()
  } finally {
    setAttentionKernel(backend, own)
  }
  return request!
}

function unasked(): never {
  throw new Error('a kernel that covers nothing was asked to compute')
}

type Ways = Pick<AttentionRow, 'plain' | 'written' | 'fused'>
type Compute = (request: AttentionRequest) => AttentionResult

/** All ways to compute a request, by turns. */
async function compare(
  backend: string,
  request: AttentionRequest,
  backward: boolean,
  steps: number,
): Promise<Ways> {
  const own = setAttentionKernel(backend, null)
  /** What computes, with which kernel behind the seam. */
  const ways: { name: keyof Ways; kernel: AttentionKernel | null; run: () => Tensor[] }[] = []
  const add = (name: keyof Ways, kernel: AttentionKernel | null, compute: Compute) =>
    ways.push({
      name,
      kernel,
      run: backward ? passes(request, compute) : () => [compute(request).context],
    })
  add('plain', null, attendPlain)
  add('written', null, attend)
  if (own?.covers(request)) add('fused', own, attend)
  const times = ways.map(() => [] as number[])
  const peaks: number[] = []
  try {
    env().set('CHECK_COMPUTATION_FOR_ERRORS', false)
    for (const { kernel, run } of ways) {
      setAttentionKernel(backend, kernel)
      peaks.push(await peakOf(run))
      await timeOf(run)
    }
    for (let step = 0; step < steps; step++)
      for (let place = 0; place < ways.length; place++) {
        // The order changes: each way comes first as often.
        const index = (place + step) % ways.length
        const { kernel, run } = ways[index]!
        setAttentionKernel(backend, kernel)
        times[index]!.push(await timeOf(run))
      }
  } finally {
    setAttentionKernel(backend, own)
  }
  const figures = ways.map(({ name }, index): [keyof Ways, WayFigures] => {
    const rounds = times[0]!.map((ms, step) => ({ numerator: [ms], denominator: [times[index]![step]!] }))
    return [
      name,
      {
        ms: median(times[index]!),
        peak_tensor_bytes: peaks[index]!,
        ...(index > 0 && { times_as_fast: ratioOfMedians(rounds) }),
      },
    ]
  })
  return Object.fromEntries(figures) as unknown as Ways
}

/** Forward and backward: the gradients of the sum of all contexts for all that may learn. */
function passes(request: AttentionRequest, compute: Compute): () => Tensor[] {
  const learning = Object.values(takeApart(request).learning)
  return () => {
    const { value, grads } = engine().gradients(() => sum(compute(request).context) as Scalar, learning)
    return [value, ...grads.filter((gradient) => gradient !== null)]
  }
}

async function timeOf(run: () => Tensor[]): Promise<number> {
  const began = performance.now()
  const results = tidy(run)
  // What was computed last is there when all is.
  await results.at(-1)!.data()
  const ms = performance.now() - began
  dispose(results)
  return ms
}

async function peakOf(run: () => Tensor[]): Promise<number> {
  let results: Tensor[] = []
  const { peakBytes } = await profile(() => {
    results = tidy(run)
    return null as never
  })
  dispose(results)
  return peakBytes
}

const milliseconds = (way: WayFigures | undefined) => way?.ms.toFixed(way.ms < 10 ? 2 : 1)

const columns: readonly Column<AttentionRow>[] = [
  { title: 'method', cell: ({ method }) => method, left: true },
  { title: 'pass', cell: ({ pass }) => pass, left: true },
  {
    title: 'batch × queries × slots',
    cell: ({ batch, block, slots }) => `${batch} × ${block} × ${count(slots)}`,
  },
  { title: 'plain ms', cell: ({ plain }) => milliseconds(plain) },
  { title: 'peak tensors', cell: ({ plain }) => bytes(plain.peak_tensor_bytes) },
  ...(['written', 'fused'] as const).flatMap((way): Column<AttentionRow>[] => [
    { title: `${way} ms`, cell: (row) => milliseconds(row[way]) },
    { title: 'times as fast', cell: (row) => row[way]?.times_as_fast && ratioText(row[way].times_as_fast) },
    { title: 'peak tensors', cell: (row) => row[way] && bytes(row[way].peak_tensor_bytes) },
  ]),
]
