/** report.html of a comparison: the table and the answer in the markup, the charts by the page's script. */
import {
  byTask,
  type Comparison,
  columnsOf,
  doubts,
  equalQuality,
  memorySaved,
  qualityIn,
  type Row,
  rowsOf,
  withinOf,
} from '../compare/results'
import { escaped, renderPage } from './page'

/** @param within what counts as equal, in bits per byte or parts of the answers or episodes */
export function reportPage(comparison: Comparison, within: number): string {
  const rows = rowsOf(comparison.runs)
  const names = comparison.data.map((path) => path.split('/').at(-1)!)
  const tasks = byTask(rows)
  const subject =
    names.length === 0
      ? tasks.map(([task]) => task).join(', ')
      : names.length > 3
        ? `${names.length} files`
        : names.join(', ')
  const { machine } = comparison
  const done = rows.filter(({ seeds }) => seeds > 0)
  const acts = done.length > 0 && done.every(({ solved }) => solved)
  const legend = acts
    ? 'Solved: of the episodes of an evaluation. Mean slots are held by those under way (mean over layers and steps).'
    : 'Mean slots are held (mean over layers and blocks); attended: what a step looks at, mean over heads.'
  const pruned = rows.some(({ trainedBudget }) => trainedBudget !== undefined)
  return renderPage({
    title: `Lethe: forgetting methods on ${subject}`,
    script: 'report',
    data: { comparison, rows },
    body: [
      `<h1>Which forgetting method, with what memory</h1>`,
      `<p class="quiet">${escaped(subject)}; ${escaped(String(comparison.options.steps))} steps; ${comparison.backend && `${escaped(comparison.backend)} on `}${escaped(machine.processor)}, ` +
        `${machine.cores} cores, Node ${escaped(machine.node)}; ${escaped(comparison.date.slice(0, 16).replace('T', ' '))}&nbsp;UTC</p>`,
      answers(rows, within),
      `<section class="scroll">${table(rows)}<p class="quiet">${legend}${pruned ? ' A budget of a larger one: models of that, measured with a smaller one.' : ''}</p></section>`,
      ...tasks.flatMap(([task, own], index) => charts(task, own, index)),
      ...tasks.map(([task]) => spans(task, comparison)),
    ].join('\n'),
  })
}

/** Places for the charts of a task or the text; report.page.ts fills them. */
function charts(task: string | undefined, rows: readonly Row[], index: number): string[] {
  const section = (id: string, title: string, what: string) =>
    `<section><h2>${title}</h2><p class="quiet">${what}</p><div id="${id}-${index}"></div></section>`
  const done = rows.find(({ seeds }) => seeds > 0)
  if (!done) return []
  const paler = new Set(rows.map(({ budget }) => budget)).size > 1 ? ' Paler: smaller budgets.' : ''
  const { quality } = qualityIn(done)
  const corner = quality.worse === 1 ? 'Lower left' : 'Upper left'
  const acts = quality.parts === 'episodes'
  const curves = {
    bitsPerByte: 'Dashed: training loss; dots: whole validation text.',
    accuracy: 'Accuracy of evaluations.',
    solved: 'Dashed: episodes of training; dots: evaluations.',
  }[quality.name]
  return [
    ...(task === undefined ? [] : [`<h2 class="task">${escaped(task)}</h2>`]),
    '<div class="charts">',
    section(
      'front-slots',
      'Quality for memory',
      `${corner} is better. Bars: one standard deviation over seeds. Grey: the Pareto front, where nothing else is better with as little.`,
    ),
    section('front-bytes', 'Quality for bytes', 'What one stream’s memory takes at most.'),
    section('by-step', 'Learning', curves + paler),
    section(
      'by-time',
      'Learning, by the clock',
      `Runs side by side share the machine; ms per block in the table were taken alone.${paler}`,
    ),
    ...(acts
      ? [
          section(
            'slots-over-time',
            'Slots held',
            `By steps of the episode, in those that last so long.${paler}`,
          ),
        ]
      : [
          section(
            'by-position',
            'What memory is worth',
            `Validation: ${quality.label} by how many tokens of the stream were read before.${paler}`,
          ),
          section('slots-over-time', 'Slots held', `While the validation part is read.${paler}`),
        ]),
    '</div>',
  ]
}

function answers(rows: readonly Row[], within: number): string {
  return equalQuality(rows, within)
    .map((one) => {
      const { task, reference, methods } = one
      const careful = doubts(one).map((warning) => `<p>Careful: ${escaped(warning)}.</p>`)
      const others = methods.filter(({ row }) => row !== reference)
      if (others.length === 0) return ''
      const found = qualityIn(reference)
      const { format } = found.quality
      const lines = others.map((found) => {
        const measured = found.row ? `; ${format(qualityIn(found.row).spread.mean)}` : ''
        return `<li><b>${escaped(found.method)}</b>: ${memorySaved(found)}${measured}</li>`
      })
      const where = task === undefined ? 'Within' : `${escaped(task)}: within`
      return `<p>${where} ${withinOf(within, found)} of the fixed span with ${reference.budget} slots (${format(found.spread.mean)}):</p><ul>${lines.join('')}</ul>${careful.join('')}`
    })
    .join('')
}

function table(rows: readonly Row[]): string {
  const columns = columnsOf(rows)
  const named = columns.filter(({ always }) => always)
  const cells = (row: Row, list = columns) =>
    list.map(({ words, cell }) => `<td${words ? ' class="words"' : ''}>${escaped(cell(row))}</td>`).join('')
  const body = rows.map((row) =>
    row.seeds === 0
      ? `<tr>${cells(row, named)}<td class="failed" colspan="${columns.length - named.length}">${escaped(row.failed[0] ?? 'not run')}</td></tr>`
      : `<tr>${cells(row)}</tr>`,
  )
  return `<table><thead><tr>${columns.map(({ head, words }) => `<th${words ? ' class="words"' : ''}>${head}</th>`).join('')}</tr></thead><tbody>${body.join('')}</tbody></table>`
}

/** Slots that each head attends to, of each method's run with the largest budget and the first seed. */
function spans(task: string | undefined, { runs }: Comparison): string {
  const done = runs.filter((run) => run.task === task && run.figures !== undefined)
  if (done.length === 0) return ''
  const acts = done.some(({ figures }) => figures!.solved !== undefined)
  const most = Math.max(...done.flatMap(({ figures }) => figures!.layers.flatMap(({ attended }) => attended)))
  const methods = [...new Set(done.map(({ method }) => method))]
  // Colours as in the charts.
  const all = [...new Set(runs.map(({ method }) => method))]
  const tables = methods.map((method) => {
    const own = done.filter((run) => run.method === method)
    const budget = Math.max(...own.map((run) => run.budget))
    const { figures, seed } = own.find((run) => run.budget === budget)!
    const body = figures!.layers.map(({ attended }, layer) => {
      const cells = attended.map((value) => {
        const width = (4 * value) / most
        return `<td><span class="bar" style="width:${width.toFixed(2)}rem;background:var(--series-${all.indexOf(method) % 6})"></span>${value.toFixed(0)}</td>`
      })
      return `<tr><td>layer ${layer}</td>${cells.join('')}</tr>`
    })
    return `<section><h2>${escaped(method)}</h2><p class="quiet">budget ${budget}, seed ${seed}</p><div class="scroll"><table class="spans">${body.join('')}</table></div></section>`
  })
  return `<section><h2>What each head attends to${task === undefined ? '' : `: ${escaped(task)}`}</h2><p class="quiet">Slots per step, by layer and head, after training${acts ? '; in blocks of training, idle rows included' : ''}.</p><div class="charts">${tables.join('')}</div></section>`
}
