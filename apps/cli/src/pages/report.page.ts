/** The script of report.html: charts of a comparison. */
import type { Comparison, Row, RunResult } from '../compare/results'
import { type Axis, type ChartOptions, drawChart, type Point, type Series } from './chart'

const { comparison, rows } = JSON.parse(document.getElementById('data')!.textContent!) as {
  comparison: Comparison
  rows: Row[]
}
const methods = [...new Set(comparison.runs.map(({ method }) => method))]
const colourOf = (method: string) => `var(--series-${methods.indexOf(method) % 6})`
const several = new Set(comparison.runs.map(({ budget }) => budget)).size > 1
const done = comparison.runs.filter((run) => run.figures !== undefined)

const short = (value: number) =>
  value >= 1e9
    ? `${+(value / 1e9).toFixed(1)}G`
    : value >= 1e6
      ? `${+(value / 1e6).toFixed(1)}M`
      : value >= 1e4
        ? `${+(value / 1e3).toFixed(1)}k`
        : `${+value.toFixed(value < 10 ? 1 : 0)}`
const quality: Axis = { label: 'bits per byte', format: (value) => value.toFixed(3) }

function chart(id: string, options: ChartOptions): void {
  const place = document.getElementById(id)
  if (place) drawChart(place, options)
}

/** A row's quality with its spread, over whichever figure stands for its memory. */
const front = (read: (row: Row) => number): Series[] =>
  methods.map((method) => ({
    name: method,
    colour: colourOf(method),
    dots: true,
    points: rows
      .filter((row) => row.method === method && row.seeds > 0)
      .map((row): Point => {
        const { mean, deviation } = row.bitsPerByte
        return {
          x: read(row),
          y: mean,
          label: `budget ${row.budget}, ${row.seeds} ${row.seeds === 1 ? 'seed' : 'seeds'}`,
          ...(deviation !== undefined && { low: mean - deviation, high: mean + deviation }),
        }
      })
      .sort((a, b) => a.x - b.x),
  }))

/** One line for each run. */
const lines = (
  points: (run: RunResult) => readonly Point[],
  more: Partial<Series> = {},
  runs = done,
): Series[] =>
  runs.map((run) => ({
    name: run.method,
    colour: colourOf(run.method),
    points: points(run).map((point) => ({
      ...point,
      label: `${several ? `budget ${run.budget}, ` : ''}seed ${run.seed}`,
    })),
    ...more,
  }))

chart('front-slots', {
  x: { label: 'mean slots per layer', log: true, format: short },
  y: quality,
  series: front((row) => row.slots.mean),
})
chart('front-bytes', {
  x: { label: 'bytes of memory per stream', log: true, format: short },
  y: quality,
  series: front((row) => row.memoryBytes.mean),
})
const everyRun = comparison.runs.filter(({ training }) => training.length > 0)
const curves = (x: (point: RunResult['training'][number]) => number) => [
  ...lines(
    (run) => run.training.map((point) => ({ x: x(point), y: point.bitsPerByte })),
    { dashed: true },
    everyRun,
  ),
  ...lines(
    (run) => run.validation.map((point) => ({ x: x(point), y: point.bitsPerByte })),
    { dots: true },
    everyRun,
  ),
]
chart('by-step', { x: { label: 'step', format: short }, y: quality, series: curves(({ step }) => step) })
chart('by-time', {
  x: { label: 'seconds of training', format: short },
  y: quality,
  series: curves(({ seconds }) => seconds),
})
chart('by-position', {
  x: { label: 'tokens read before', log: true, format: short },
  y: quality,
  series: lines(
    ({ figures }) =>
      figures!.byPosition.map(({ from, to, bitsPerByte }) => ({ x: (from + to) / 2, y: bitsPerByte! })),
    { dots: true },
  ),
})
chart('slots-over-time', {
  x: { label: 'tokens read', log: true, format: short },
  y: { label: 'slots per layer', format: short },
  series: lines(({ figures }) =>
    figures!.slotsOverTime.map(({ position, slots }) => ({ x: position, y: slots })),
  ),
})
