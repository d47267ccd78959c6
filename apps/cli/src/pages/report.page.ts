/** The script of report.html: charts of a comparison. */
import type { PositionFigures } from '../compare/figures'
import type { Quality } from '../compare/quality'
import {
  byTask,
  type Comparison,
  type CurvePoint,
  nameOf,
  paretoFront,
  qualityIn,
  type Row,
  type RunResult,
} from '../compare/results'
import { bytes } from '../output'
import { type Axis, type ChartOptions, drawChart, type Point, type Series } from './chart'

const { comparison, rows } = JSON.parse(document.getElementById('data')!.textContent!) as {
  comparison: Comparison
  rows: Row[]
}
const methods = [...new Set(comparison.runs.map(({ method }) => method))]
const colourOf = (method: string) => `var(--series-${methods.indexOf(method) % 6})`
const budgets = [...new Set(comparison.runs.map(({ budget }) => budget))].sort((a, b) => a - b)
/** Lines of smaller budgets are paler. */
const opacityOf = (budget: number) =>
  budgets.length > 1 ? 0.35 + (0.65 * budgets.indexOf(budget)) / (budgets.length - 1) : 1

const short = (value: number) =>
  value >= 1e9
    ? `${+(value / 1e9).toFixed(1)}G`
    : value >= 1e6
      ? `${+(value / 1e6).toFixed(1)}M`
      : value >= 1e4
        ? `${+(value / 1e3).toFixed(1)}k`
        : `${+value.toFixed(value < 10 ? 1 : 0)}`

for (const [index, [task, own]] of byTask(rows).entries()) {
  const found = own.find(({ seeds }) => seeds > 0)
  if (found) charts(index, task, own, qualityIn(found).quality)
}

/** The charts of one task, or of the text. */
function charts(
  index: number,
  task: string | undefined,
  own: readonly Row[],
  { name, label, parts }: Quality,
): void {
  const runs = comparison.runs.filter((run) => run.task === task)
  const done = runs.filter(({ figures }) => figures !== undefined)
  const y: Axis = {
    label,
    format: parts ? (value) => `${+(100 * value).toFixed(1)} %` : (value) => value.toFixed(3),
  }
  const chart = (id: string, options: ChartOptions) => {
    const place = document.getElementById(`${id}-${index}`)
    if (place) drawChart(place, options)
  }

  /** A row's quality with its spread, over whichever figure stands for its memory; the best of all behind them. */
  const front = (read: (row: Row) => number): Series[] => [
    {
      ...{ name: 'Pareto front', colour: 'var(--quiet)', band: true },
      points: paretoFront(own, read).map((row) => ({ x: read(row), y: qualityIn(row).spread.mean })),
    },
    ...[...new Map(own.map((row) => [nameOf(row), row])).values()].map(({ method, trainedBudget }) => ({
      name: nameOf({ method, ...(trainedBudget !== undefined && { trainedBudget }) }),
      colour: colourOf(method),
      dots: true,
      dashed: trainedBudget !== undefined,
      points: own
        .filter((row) => row.method === method && row.trainedBudget === trainedBudget && row.seeds > 0)
        .map((row): Point => {
          const { mean, deviation } = qualityIn(row).spread
          return {
            x: read(row),
            y: mean,
            label: `budget ${row.budget}, ${row.seeds} ${row.seeds === 1 ? 'seed' : 'seeds'}`,
            ...(deviation !== undefined && { low: mean - deviation, high: mean + deviation }),
          }
        })
        .sort((a, b) => a.x - b.x),
    })),
  ]

  /** One line for each run. */
  const lines = (
    points: (run: RunResult) => readonly Point[],
    more: Partial<Series> = {},
    chosen = done,
  ): Series[] =>
    chosen.map((run) => ({
      name: nameOf(run),
      colour: colourOf(run.method),
      opacity: opacityOf(run.budget),
      points: points(run).map((point) => ({
        ...point,
        label: `${budgets.length > 1 ? `budget ${run.budget}, ` : ''}seed ${run.seed}`,
      })),
      ...more,
    }))

  /** Those of these figures that have this quality: of answers, training has none. */
  const points = <T extends CurvePoint | PositionFigures>(
    list: readonly T[],
    x: (one: T) => number,
  ): Point[] =>
    list.flatMap((one) => {
      const value = one[name]
      return value === undefined ? [] : [{ x: x(one), y: value }]
    })
  const curves = (x: (point: CurvePoint) => number) => [
    ...lines((run) => points(run.training, x), { dashed: true }, runs).filter(
      ({ points }) => points.length > 0,
    ),
    ...lines((run) => points(run.validation, x), { dots: true }, runs).filter(
      ({ points }) => points.length > 0,
    ),
  ]

  chart('front-slots', {
    x: { label: 'mean slots per layer', log: true, format: short },
    y,
    series: front((row) => row.slots.mean),
  })
  chart('front-bytes', {
    x: { label: 'memory per stream', log: true, format: bytes },
    y,
    series: front((row) => row.memoryBytes.mean),
  })
  chart('by-step', { x: { label: 'step', format: short }, y, series: curves(({ step }) => step) })
  chart('by-time', {
    x: { label: 'seconds of training', format: short },
    y,
    series: curves(({ seconds }) => seconds),
  })
  chart('by-position', {
    x: { label: 'tokens read before', log: true, format: short },
    y,
    series: lines(({ figures }) => points(figures!.byPosition, ({ from, to }) => (from + to) / 2), {
      dots: true,
    }),
  })
  chart('slots-over-time', {
    x: { label: parts === 'episodes' ? 'step of the episode' : 'tokens read', log: true, format: short },
    y: { label: 'slots per layer', format: short },
    series: lines(({ figures }) =>
      figures!.slotsOverTime.map(({ position, slots }) => ({ x: position, y: slots })),
    ),
  })
}
