/** What a comparison found: results of runs, rows of the table, and the smallest memory that is good enough. */
import { bytes, count } from '../output'
import type { Figures } from './figures'

export interface CurvePoint {
  readonly step: number
  /** Of training, evaluations included. */
  readonly seconds: number
  readonly bitsPerByte: number
}

export interface RunResult {
  readonly id: string
  readonly method: string
  readonly budget: number
  readonly seed: number
  /** What went wrong; then there are no figures. */
  readonly error?: string
  readonly figures?: Figures
  /** Training loss, means of neighbouring steps. */
  readonly training: readonly CurvePoint[]
  readonly validation: readonly CurvePoint[]
}

export interface Comparison {
  readonly format: 'lethe-comparison-1'
  readonly date: string
  readonly machine: {
    readonly node: string
    readonly platform: string
    readonly processor: string
    readonly cores: number
  }
  readonly backend: string
  readonly data: readonly string[]
  /** Options that all runs share. */
  readonly options: Readonly<Record<string, unknown>>
  readonly runs: readonly RunResult[]
}

/** Mean and sample standard deviation over seeds; no deviation of a single one. */
export interface Spread {
  readonly mean: number
  readonly deviation: number | undefined
}

/** One method with one budget, over all seeds that finished. */
export interface Row {
  readonly method: string
  readonly budget: number
  readonly seeds: number
  readonly failed: readonly string[]
  readonly bitsPerByte: Spread
  readonly perplexity: Spread
  /** Held, mean over layers, rows and blocks of the evaluation. */
  readonly slots: Spread
  /** That a step attends to, mean over layers and heads. */
  readonly attended: Spread
  readonly memoryBytes: Spread
  readonly peakTensorBytes: Spread
  readonly trainingMsPerBlock: Spread
  readonly trainingTokensPerSecond: Spread
}

export function spreadOf(values: readonly number[]): Spread {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  if (values.length < 2) return { mean, deviation: undefined }
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  return { mean, deviation: Math.sqrt(squares / (values.length - 1)) }
}

/** Rows in the order of the runs. */
export function rowsOf(runs: readonly RunResult[]): Row[] {
  const groups = new Map<string, RunResult[]>()
  for (const run of runs) {
    const key = `${run.method} ${run.budget}`
    groups.set(key, [...(groups.get(key) ?? []), run])
  }
  return [...groups.values()].map((group) => {
    const figures = group.flatMap((run) => run.figures ?? [])
    const spread = (read: (figures: Figures) => number) => spreadOf(figures.map(read))
    return {
      method: group[0]!.method,
      budget: group[0]!.budget,
      seeds: figures.length,
      failed: group.flatMap(({ error }) => error ?? []),
      bitsPerByte: spread((figure) => figure.bitsPerByte!),
      perplexity: spread((figure) => figure.perplexity),
      slots: spread((figure) => figure.slots),
      attended: spread(({ layers }) => spreadOf(layers.flatMap(({ attended }) => attended)).mean),
      memoryBytes: spread((figure) => figure.memoryBytes),
      peakTensorBytes: spread((figure) => figure.peakTensorBytes),
      trainingMsPerBlock: spread((figure) => figure.trainingMsPerBlock),
      trainingTokensPerSecond: spread((figure) => figure.trainingTokensPerSecond),
    }
  })
}

/** The answer to "with how little memory is a method as good as the reference, within so many bits per byte?" */
export interface EqualQuality {
  readonly method: string
  /** The row with the fewest slots that is good enough; undefined if none is. */
  readonly row: Row | undefined
  /** Slots of the reference per slot of that row. */
  readonly saved: number | undefined
}

/**
 * For each method, its row with the fewest mean slots whose mean bits per byte are at most `within` above the
 * reference's: the fixed span with the largest budget.
 */
export function equalQuality(
  rows: readonly Row[],
  within: number,
): { readonly reference: Row; readonly methods: readonly EqualQuality[] } | undefined {
  const done = rows.filter(({ seeds }) => seeds > 0)
  const fixed = done.filter(({ method }) => method === 'fixed-span')
  if (fixed.length === 0) return undefined
  const reference = fixed.reduce((a, b) => (b.budget > a.budget ? b : a))
  const limit = reference.bitsPerByte.mean + within
  const methods = [...new Set(done.map(({ method }) => method))].map((method) => {
    const enough = done.filter((row) => row.method === method && row.bitsPerByte.mean <= limit)
    const row =
      enough.length === 0 ? undefined : enough.reduce((a, b) => (b.slots.mean < a.slots.mean ? b : a))
    return { method, row, saved: row && reference.slots.mean / row.slots.mean }
  })
  return { reference, methods }
}

/** How much memory that is, beside the reference's. */
export const slotsSaved = (row: Row, saved: number): string =>
  `${row.slots.mean.toFixed(1)} slots${saved >= 1.05 ? `, ${saved.toFixed(1)} times fewer` : ''}`

/** The table as lines of text: absolute numbers, with the spread over seeds where there are several. */
export function tableOf(rows: readonly Row[]): string[] {
  const number = (digits: number) => (value: number) => value.toFixed(digits)
  const cell = ({ mean, deviation }: Spread, format: (value: number) => string) =>
    deviation === undefined ? format(mean) : `${format(mean)} ± ${format(deviation)}`
  const lines = [
    [
      'method',
      'budget',
      'mean slots',
      'attended',
      'bits/byte',
      'memory/stream',
      'peak tensors',
      'ms/block',
      'tokens/s',
      'seeds',
    ],
    ...rows.map((row) =>
      row.seeds === 0
        ? [row.method, String(row.budget), `failed: ${row.failed[0]}`]
        : [
            row.method,
            String(row.budget),
            cell(row.slots, number(1)),
            cell(row.attended, number(1)),
            cell(row.bitsPerByte, number(4)),
            bytes(row.memoryBytes.mean),
            bytes(row.peakTensorBytes.mean),
            cell(row.trainingMsPerBlock, number(1)),
            count(row.trainingTokensPerSecond.mean),
            row.failed.length > 0 ? `${row.seeds} (${row.failed.length} failed)` : String(row.seeds),
          ],
    ),
  ]
  const widths = lines[0]!.map((_, column) =>
    Math.max(...lines.filter((line) => line.length > 3).map((line) => line[column]!.length)),
  )
  return lines.map((line) =>
    line
      .map((text, column) => (column === 0 ? text.padEnd(widths[0]!) : text.padStart(widths[column]!)))
      .join('  ')
      .trimEnd(),
  )
}
