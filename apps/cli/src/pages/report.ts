/** report.html of a comparison: the table and the answer in the markup, the charts by the page's script. */
import { type Comparison, equalQuality, type Row, rowsOf, type Spread, slotsSaved } from '../compare/results'
import { bytes, count } from '../output'
import { escaped, renderPage } from './page'

/** @param within bits per byte that count as equal */
export function reportPage(comparison: Comparison, within: number): string {
  const rows = rowsOf(comparison.runs)
  const names = comparison.data.map((path) => path.split('/').at(-1)!)
  const text = names.length > 3 ? `${names.length} files` : names.join(', ')
  const { machine } = comparison
  const section = (id: string, title: string, what: string) =>
    `<section><h2>${title}</h2><p class="quiet">${what}</p><div id="${id}"></div></section>`
  return renderPage({
    title: `Lethe: forgetting methods on ${text}`,
    script: 'report',
    data: { comparison, rows },
    body: [
      `<h1>Which forgetting method, with what memory</h1>`,
      `<p class="quiet">${escaped(text)}; ${escaped(String(comparison.options.steps))} steps; ${escaped(comparison.backend)} on ${escaped(machine.processor)}, ` +
        `${machine.cores} cores, Node ${escaped(machine.node)}; ${escaped(comparison.date.slice(0, 16).replace('T', ' '))} UTC</p>`,
      answer(rows, within),
      `<section class="scroll">${table(rows)}<p class="quiet">Mean slots are held (mean over layers and blocks); attended: what a step looks at, mean over heads.</p></section>`,
      '<div class="charts">',
      section(
        'front-slots',
        'Quality for memory',
        'Lower left is better. Bars: one standard deviation over seeds.',
      ),
      section('front-bytes', 'Quality for bytes', 'What one stream’s memory takes at most.'),
      section('by-step', 'Learning', 'Dashed: training loss; dots: whole validation text.'),
      section(
        'by-time',
        'Learning, by the clock',
        'Runs side by side share the machine; ms per block in the table were taken alone.',
      ),
      section(
        'by-position',
        'What memory is worth',
        'Validation loss by how many tokens of the stream were read before.',
      ),
      section('slots-over-time', 'Slots held', 'While reading the validation text.'),
      '</div>',
      spans(comparison),
    ].join('\n'),
  })
}

function answer(rows: readonly Row[], within: number): string {
  const equal = equalQuality(rows, within)
  if (!equal) return ''
  const { reference, methods } = equal
  const others = methods.filter(({ row }) => row !== reference)
  if (others.length === 0) return ''
  const lines = others.map(({ method, row, saved }) =>
    row
      ? `<li><b>${escaped(method)}</b>: ${slotsSaved(row, saved!)} (${row.bitsPerByte.mean.toFixed(4)})</li>`
      : `<li><b>${escaped(method)}</b>: with none of these budgets</li>`,
  )
  return `<p>Within ${within} bits per byte of the fixed span with ${reference.budget} slots (${reference.bitsPerByte.mean.toFixed(4)}):</p><ul>${lines.join('')}</ul>`
}

function table(rows: readonly Row[]): string {
  const cell = ({ mean, deviation }: Spread, format: (value: number) => string) =>
    `<td>${format(mean)}${deviation === undefined ? '' : ` ± ${format(deviation)}`}</td>`
  const fixed = (digits: number) => (value: number) => value.toFixed(digits)
  const heads = [
    'method',
    'budget',
    'mean slots',
    'attended',
    'bits per byte',
    'memory per stream',
    'peak tensors',
    'ms per block',
    'tokens per s',
    'seeds',
  ]
  const body = rows.map((row) => {
    const start = `<tr><td>${escaped(row.method)}</td><td>${row.budget}</td>`
    if (row.seeds === 0)
      return `${start}<td class="failed" colspan="${heads.length - 2}">${escaped(row.failed[0] ?? 'not run')}</td></tr>`
    return [
      start,
      cell(row.slots, fixed(1)),
      cell(row.attended, fixed(1)),
      cell(row.bitsPerByte, fixed(4)),
      cell(row.memoryBytes, bytes),
      cell(row.peakTensorBytes, bytes),
      cell(row.trainingMsPerBlock, fixed(1)),
      cell(row.trainingTokensPerSecond, count),
      `<td>${row.seeds}${row.failed.length > 0 ? ` (${row.failed.length} failed)` : ''}</td></tr>`,
    ].join('')
  })
  return `<table><thead><tr>${heads.map((head) => `<th>${head}</th>`).join('')}</tr></thead><tbody>${body.join('')}</tbody></table>`
}

/** Slots that each head attends to, of each method's run with the largest budget and the first seed. */
function spans({ runs }: Comparison): string {
  const done = runs.filter(({ figures }) => figures !== undefined)
  const most = Math.max(...done.flatMap(({ figures }) => figures!.layers.flatMap(({ attended }) => attended)))
  const methods = [...new Set(done.map(({ method }) => method))]
  const tables = methods.map((method, index) => {
    const own = done.filter((run) => run.method === method)
    const budget = Math.max(...own.map((run) => run.budget))
    const { figures, seed } = own.find((run) => run.budget === budget)!
    const body = figures!.layers.map(({ attended }, layer) => {
      const cells = attended.map((value) => {
        const width = (4 * value) / most
        return `<td><span class="bar" style="width:${width.toFixed(2)}rem;background:var(--series-${index % 6})"></span>${value.toFixed(0)}</td>`
      })
      return `<tr><td>layer ${layer}</td>${cells.join('')}</tr>`
    })
    return `<section><h2>${escaped(method)}</h2><p class="quiet">budget ${budget}, seed ${seed}</p><div class="scroll"><table class="spans">${body.join('')}</table></div></section>`
  })
  return `<section><h2>What each head attends to</h2><p class="quiet">Slots per step, by layer and head, after training.</p><div class="charts">${tables.join('')}</div></section>`
}
