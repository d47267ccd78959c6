/** What a comparison found: results of runs, rows of the table, and the smallest memory that is good enough. */
import { bytes, count, percent } from '../output'
import type { Figures } from './figures'
import { type Measured, type Quality, qualityOf } from './quality'

/** An evaluation has the quality that models are compared by; so has training, but for the accuracy of answers. */
export interface CurvePoint extends Measured {
  readonly step: number
  /** Of training, evaluations included. */
  readonly seconds: number
}

export interface RunResult {
  /** It is the model of this budget, measured with a smaller one. */
  readonly trainedBudget?: number
  readonly id: string
  /** What it learned, where that is no text. */
  readonly task?: string
  readonly method: string
  readonly budget: number
  readonly seed: number
  /** What went wrong; then there are no figures. */
  readonly error?: string
  readonly figures?: Figures
  /** Means of neighbouring steps. */
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
  /** Files of the text; none of tasks. */
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

/** One method with one budget on one task (or the text), over all seeds that finished. */
export interface Row {
  readonly task?: string
  /** The models are those of this budget, measured with a smaller one. */
  readonly trainedBudget?: number
  readonly method: string
  readonly budget: number
  readonly seeds: number
  readonly failed: readonly string[]
  /** Of text. */
  readonly bitsPerByte?: Spread
  /** Of tasks: the part of the answers that are right. */
  readonly accuracy?: Spread
  /** Of worlds: the part of the episodes that are solved, and the mean undiscounted sum of an episode's rewards. */
  readonly solved?: Spread
  readonly meanReturn?: Spread
  /** The quality of guessing, and in worlds that of an oracle in the same episodes. */
  readonly chance?: number
  readonly oracle?: number
  /** Per target. */
  readonly perplexity?: Spread
  /** Held, mean over layers, rows and blocks of the evaluation; of worlds over its steps. */
  readonly slots: Spread
  /** That a step attends to, mean over layers and heads. Not of worlds: rows that are idle would count. */
  readonly attended?: Spread
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
    const key = `${run.task ?? ''} ${run.method} ${run.budget} ${run.trainedBudget ?? ''}`
    groups.set(key, [...(groups.get(key) ?? []), run])
  }
  return [...groups.values()].map((group) => {
    const figures = group.flatMap((run) => run.figures ?? [])
    const spread = (read: (figures: Figures) => number) => spreadOf(figures.map(read))
    const { task, method, budget, trainedBudget } = group[0]!
    const [first] = figures
    return {
      ...(task !== undefined && { task }),
      ...(trainedBudget !== undefined && { trainedBudget }),
      method,
      budget,
      seeds: figures.length,
      failed: group.flatMap(({ error }) => error ?? []),
      ...(first && { [qualityOf(first).name]: spread((figure) => qualityOf(figure).of(figure)!) }),
      ...(first?.chance !== undefined && { chance: first.chance }),
      ...(first?.oracle !== undefined && { oracle: first.oracle }),
      ...(first?.meanReturn !== undefined && { meanReturn: spread((figure) => figure.meanReturn!) }),
      ...(first?.perplexity !== undefined && { perplexity: spread((figure) => figure.perplexity!) }),
      slots: spread((figure) => figure.slots),
      ...(first?.solved === undefined && {
        attended: spread(({ layers }) => spreadOf(layers.flatMap(({ attended }) => attended)).mean),
      }),
      memoryBytes: spread((figure) => figure.memoryBytes),
      peakTensorBytes: spread((figure) => figure.peakTensorBytes),
      trainingMsPerBlock: spread((figure) => figure.trainingMsPerBlock),
      trainingTokensPerSecond: spread((figure) => figure.trainingTokensPerSecond),
    }
  })
}

/** The figure that a row is judged by. */
export const qualityIn = (row: Row): { readonly quality: Quality; readonly spread: Spread } => {
  const quality: Quality = qualityOf({ accuracy: row.accuracy?.mean, solved: row.solved?.mean })
  return { quality, spread: row[quality.name]! }
}

/** Rows by their task, in order; of a text, all under undefined. */
export function byTask<T extends { readonly task?: string }>(
  rows: readonly T[],
): [string | undefined, T[]][] {
  const tasks = [...new Set(rows.map(({ task }) => task))]
  return tasks.map((task) => [task, rows.filter((row) => row.task === task)])
}

/** How a method is called whose models are those of a larger budget. */
export const nameOf = ({ method, trainedBudget }: Pick<Row, 'method' | 'trainedBudget'>): string =>
  trainedBudget === undefined ? method : `${method}, pruned`

/** The full model of a task or the text: the fixed span with the largest budget. */
export function referenceOf(rows: readonly Row[]): Row | undefined {
  const fixed = rows.filter(({ method, seeds }) => method === 'fixed-span' && seeds > 0)
  return fixed.length === 0 ? undefined : fixed.reduce((a, b) => (b.budget > a.budget ? b : a))
}

/** By how much a row is worse than another one of the same task. */
export function lost(row: Row, reference: Row): number {
  const { quality, spread } = qualityIn(row)
  return quality.worse * (spread.mean - reference[quality.name]!.mean)
}

/** Standard error of the difference of two rows' mean qualities; 0, as nothing is known of it, with a single seed. */
function errorOfDifference(...pair: readonly [Row, Row]): number {
  const variances = pair.map((row) => (qualityIn(row).spread.deviation ?? 0) ** 2 / row.seeds)
  return Math.sqrt(variances[0]! + variances[1]!)
}

/** The answer to "with how little memory is a method as good as the reference, within so much?" */
export interface EqualQuality {
  /** By `nameOf`. */
  readonly method: string
  /** The row with the fewest slots that is good enough; undefined if none is. */
  readonly row: Row | undefined
  /** Slots and bytes of the reference per slot and byte of that row. */
  readonly saved: { readonly slots: number; readonly bytes: number } | undefined
}

export interface EqualQualities {
  readonly task?: string
  readonly reference: Row
  /** The best shorter span, where it is better than the reference by more than what counts as equal. */
  readonly better?: Row
  /** Of the rows below the one whose difference from the reference is known worst, where seeds leave more open than what counts as equal. */
  readonly unsure?: { readonly row: Row; readonly error: number }
  readonly methods: readonly EqualQuality[]
}

/**
 * For each task and method, its row with the fewest mean slots that is at most `within` worse (bits per byte, or the
 * part of the answers or episodes) than the reference: the fixed span with the largest budget. Nothing where there is none.
 */
export function equalQuality(rows: readonly Row[], within: number): EqualQualities[] {
  return byTask(rows.filter(({ seeds }) => seeds > 0)).flatMap(([task, done]) => {
    const reference = referenceOf(done)
    if (!reference) return []
    const methods = [...new Set(done.map(nameOf))].map((method) => {
      const enough = done.filter((row) => nameOf(row) === method && lost(row, reference) <= within)
      const row =
        enough.length === 0 ? undefined : enough.reduce((a, b) => (b.slots.mean < a.slots.mean ? b : a))
      const saved = row && {
        slots: reference.slots.mean / row.slots.mean,
        bytes: reference.memoryBytes.mean / row.memoryBytes.mean,
      }
      return { method, row, saved }
    })
    const best = done
      .filter(({ method }) => method === 'fixed-span')
      .reduce((a, b) => (lost(b, a) < 0 ? b : a))
    const better = lost(best, reference) < -within && { better: best }
    const unsure = methods
      .flatMap(({ row }) =>
        row && row !== reference ? [{ row, error: errorOfDifference(row, reference) }] : [],
      )
      .reduce<EqualQualities['unsure']>(
        (worst, one) => (one.error > Math.max(within, worst?.error ?? 0) ? one : worst),
        undefined,
      )
    return [{ ...(task !== undefined && { task }), reference, ...better, ...(unsure && { unsure }), methods }]
  })
}

/** The rows that no other one beats, by their means: none has as little memory and more quality. From the least memory up. */
export function paretoFront(rows: readonly Row[], memory: (row: Row) => number): Row[] {
  const worse = (row: Row) => qualityIn(row).quality.worse * qualityIn(row).spread.mean
  const sorted = rows
    .filter(({ seeds }) => seeds > 0)
    .sort((a, b) => memory(a) - memory(b) || worse(a) - worse(b))
  let best = Number.POSITIVE_INFINITY
  return sorted.filter((row) => {
    const better = worse(row) < best
    if (better) best = worse(row)
    return better
  })
}

/** Warnings: the reference is none, since a full model can only be worse for want of training; seeds say too little. */
export function doubts({ reference, better, unsure }: EqualQualities): string[] {
  const { quality } = qualityIn(reference)
  const shown = (row: Row) => `${row.method} ${row.budget} (${quality.format(qualityIn(row).spread.mean)})`
  return [
    ...(better
      ? [
          `${shown(better)} is better than ${shown(reference)}, which has not learned enough to be compared with: train longer (--steps)`,
        ]
      : []),
    ...(unsure
      ? [
          `the difference of ${shown(unsure.row)} and ${shown(reference)} has a standard error of ${quality.format(unsure.error)} over seeds, more than what counts as equal: give more --seeds`,
        ]
      : []),
  ]
}

/** How much memory that is, beside the reference's. */
export function memorySaved({ row, saved }: EqualQuality): string {
  if (!row || !saved) return 'none of these budgets'
  const times = (factor: number) => (factor >= 1.05 ? ` (${factor.toFixed(1)} times fewer)` : '')
  return `budget ${row.budget}: ${row.slots.mean.toFixed(1)} slots${times(saved.slots)}, ${bytes(row.memoryBytes.mean)}${times(saved.bytes)}`
}

/** What counts as equal, in words. */
export const withinOf = (within: number, { quality }: { readonly quality: Quality }): string =>
  quality.parts === undefined ? `${within} ${quality.label}` : `${percent(within)} of the ${quality.parts}`

interface Column {
  readonly head: string
  /** Written from the left. */
  readonly words?: true
  /** What a row that has no figures has, too. */
  readonly always?: true
  readonly cell: (row: Row) => string
}

/** Columns of the table: absolute numbers, with the spread over seeds where there are several. */
export function columnsOf(rows: readonly Row[]): Column[] {
  const spread = ({ mean, deviation }: Spread, format: (value: number) => string) =>
    deviation === undefined ? format(mean) : `${format(mean)} ± ${format(deviation)}`
  const number = (value: number) => value.toFixed(1)
  const tasks = rows.some(({ task }) => task !== undefined)
  const done = rows.filter(({ seeds }) => seeds > 0)
  const heads = new Set(done.map((row) => qualityIn(row).quality.head))
  const quality = (row: Row) => {
    const { quality, spread: found } = qualityIn(row)
    return spread(found, quality.format)
  }
  /** A column that there is where some row has the figure. */
  const where = (name: keyof Row, head: string, cell: (row: Row) => string): Column[] =>
    done.some((row) => row[name] !== undefined)
      ? [{ head, cell: (row) => (row[name] === undefined ? '–' : cell(row)) }]
      : []
  return [
    ...(tasks ? [{ head: 'task', words: true, always: true, cell: ({ task }: Row) => task! } as const] : []),
    { head: 'method', words: true, always: true, cell: ({ method }) => method },
    {
      head: 'budget',
      always: true,
      cell: ({ budget, trainedBudget }) =>
        trainedBudget === undefined ? String(budget) : `${budget} of ${trainedBudget}`,
    },
    { head: 'mean slots', cell: (row) => spread(row.slots, number) },
    ...where('attended', 'attended', ({ attended }) => spread(attended!, number)),
    { head: [...heads].join(' / ') || 'quality', cell: quality },
    ...where('chance', 'chance', ({ chance }) => percent(chance!)),
    ...where('oracle', 'oracle', ({ oracle }) => percent(oracle!)),
    ...where('meanReturn', 'mean return', ({ meanReturn }) =>
      spread(meanReturn!, (value) => value.toFixed(3)),
    ),
    { head: 'memory/stream', cell: (row) => bytes(row.memoryBytes.mean) },
    { head: 'peak tensors', cell: (row) => bytes(row.peakTensorBytes.mean) },
    { head: 'ms/block', cell: (row) => spread(row.trainingMsPerBlock, number) },
    { head: 'tokens/s', cell: (row) => count(row.trainingTokensPerSecond.mean) },
    {
      head: 'seeds',
      cell: ({ seeds, failed }) => (failed.length > 0 ? `${seeds} (${failed.length} failed)` : String(seeds)),
    },
  ]
}

/** The table as lines of text. */
export function tableOf(rows: readonly Row[]): string[] {
  const columns = columnsOf(rows)
  const named = columns.filter(({ always }) => always)
  const lines = [
    columns.map(({ head }) => head),
    ...rows.map((row) =>
      row.seeds === 0
        ? [...named.map(({ cell }) => cell(row)), `failed: ${row.failed[0]}`]
        : columns.map(({ cell }) => cell(row)),
    ),
  ]
  const widths = columns.map((_, column) =>
    Math.max(
      ...lines
        .filter((line) => line.length === columns.length || column < named.length)
        .map((line) => line[column]!.length),
    ),
  )
  return lines.map((line) =>
    line
      .map((text, column) =>
        columns[column]!.words ? text.padEnd(widths[column]!) : text.padStart(widths[column]!),
      )
      .join('  ')
      .trimEnd(),
  )
}
