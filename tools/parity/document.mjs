/** The cells as text: a line each while they are measured, and the generated part of docs/backends.md. */
import { faults, rowOf } from './cells.mjs'
import { backendNames, backendOf, rowsOf, tolerance } from './rows.mjs'

const scientific = (value) =>
  typeof value !== 'number' ? 'not a number' : value === 0 ? '0' : value.toExponential(1)
const milliseconds = (value) => value.toFixed(value < 10 ? 1 : 0)
const duration = (seconds) => (seconds < 100 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`)

const goldenText = ({ cases }) => {
  const values = Object.values(cases)
  const good = values.filter((value) => typeof value === 'number' && value <= tolerance)
  const numbers = values.filter((value) => typeof value !== 'string')
  return {
    count: `${good.length} of ${values.length}`,
    deviation: numbers.length ? scientific(worst(numbers)) : '–',
  }
}
const worst = (values) => (values.includes(null) ? null : Math.max(...values))
const lawsText = ({ kits }) => {
  const all = Object.values(kits)
  const held = all.reduce((sum, kit) => sum + kit.held, 0)
  return `${held} of ${held + all.reduce((sum, { broken }) => sum + Object.keys(broken).length, 0)}`
}
const runsOf = ({ methods }) => Object.values(methods).filter((run) => typeof run === 'object')
const trainingText = (training) => {
  const runs = runsOf(training)
  return {
    deviation: runs.length ? scientific(worst(runs.map(({ deviation }) => deviation))) : '–',
    tensors: runs.length ? String(Math.max(...runs.map(({ tensors }) => tensors.left))) : '–',
  }
}

const kernelsText = ({ kernels }) => (kernels === undefined ? '' : kernels ? 'with' : 'without')

/** One line for the terminal. */
export function summaryOf(cell) {
  const { status, problem, parts, seconds } = cell
  if (status === 'absent') return `${fullName(cell)}: absent. ${problem}`
  const found = faults(cell)
  const figures = [
    parts.golden && `golden ${goldenText(parts.golden).count}, at most ${goldenText(parts.golden).deviation}`,
    parts.laws && `laws ${lawsText(parts.laws)}`,
    parts.training && `losses within ${trainingText(parts.training).deviation}`,
    parts.speed?.ms && `${milliseconds(parts.speed.ms)} ms a step`,
  ].filter(Boolean)
  const verdict = found.length > 0 ? `WRONG\n  ${found.join('\n  ')}` : 'all right'
  return `${fullName(cell)}: ${figures.join('; ')}; ${duration(seconds)}: ${verdict}`
}

/** As rows are run: Node by version, then Chromium; several machines side by side. */
function inOrder(cells) {
  const versions = cells.filter(({ host }) => host === 'node').map(({ runtime }) => runtime.split(' ')[1])
  const nodes = [...new Set(versions)].sort((a, b) => a - b)
  const order = rowsOf(backendNames, ['node', 'chromium'], nodes).map(rowOf)
  return [...cells].sort((a, b) => order.indexOf(rowOf(a)) - order.indexOf(rowOf(b)))
}

const table = (columns, cells) => [
  `| ${columns.map(([title]) => title).join(' | ')} |`,
  `|${columns.map(([, , right]) => (right ? '---:' : '---')).join('|')}|`,
  ...cells.map((cell) => `| ${columns.map(([, text]) => text(cell) ?? '').join(' | ')} |`),
]

/** Machines by a letter, in the order in which they appear. */
function lettersOf(cells) {
  const letters = new Map()
  for (const { machine } of cells)
    if (!letters.has(machine)) letters.set(machine, String.fromCharCode(97 + letters.size))
  return letters
}

const verdict = (cell) =>
  cell.status === 'absent' ? '🟥 not run' : faults(cell).length > 0 ? '🟥 wrong' : '✅'

const secondsOf = ({ parts }) => Object.values(parts).reduce((sum, { seconds = 0 }) => sum + seconds, 0)
const dated = ({ date, parts }) => parts.golden?.date ?? parts.training?.date ?? date

function matrix(cells, letters) {
  const of = (part, text) => (cell) => cell.parts[part] && text(cell.parts[part])
  return table(
    [
      ['backend', ({ title }) => title],
      ['where', ({ version, runtime }) => version ?? runtime],
      ['our kernels', kernelsText],
      ['', verdict],
      ['golden cases', of('golden', (part) => goldenText(part).count), true],
      ['largest deviation', of('golden', (part) => goldenText(part).deviation), true],
      ['laws', of('laws', lawsText), true],
      ['20 steps: losses from cpu’s', of('training', (part) => trainingText(part).deviation), true],
      ['tensors left', of('training', (part) => trainingText(part).tensors), true],
      ['device', ({ status, device }) => status !== 'absent' && device],
      [
        'measured',
        (cell) =>
          cell.status !== 'absent' &&
          `${dated(cell)} (${letters.get(cell.machine)}), ${duration(secondsOf(cell))}`,
      ],
    ].map(([title, text, right]) => [title, (cell) => text(cell) || '', right]),
    cells,
  )
}

/** Loads from which times are none to keep. */
const busy = 0.5

function speeds(cells, letters) {
  const measured = cells.filter(({ parts }) => parts.training || parts.speed)
  const names = [...new Set(measured.flatMap(({ parts }) => Object.keys(parts.training?.methods ?? {})))]
  const when = (cell) => {
    const parts = [cell.parts.speed, cell.parts.training].filter(Boolean)
    const load = Math.max(...parts.map((part) => part.load))
    return `${parts[0].date} (${letters.get(cell.machine)})${load > busy ? `, busy (load ${load.toFixed(1)})` : ''}`
  }
  const fair = ({ parts: { speed } }) =>
    speed && (speed.ms ? milliseconds(speed.ms) : speed.skipped ? '–' : '🟥')
  return table(
    [
      ['backend', ({ title }) => title],
      ['where', ({ version }) => version],
      ['our kernels', kernelsText],
      ['`fair`, fixed span', fair, true],
      ...names.map((name) => [
        name,
        ({ parts }) => {
          const run = parts.training?.methods[name]
          return run?.ms && milliseconds(run.ms)
        },
        true,
      ]),
      ['device', ({ device }) => device],
      ['measured', when],
    ],
    measured,
  )
}

/** The rows of which there is no cell: nobody has run them. */
function missing(cells) {
  const known = new Set(cells.map(rowOf))
  return rowsOf(backendNames, ['node', 'chromium'], ['20', '24'])
    .filter((row) => !known.has(rowOf(row)))
    .map((row) => ({
      ...row,
      ...{ status: 'absent', parts: {} },
      problem: row.remedy ?? `Nobody has tried: pnpm parity --backends ${backendOf(row)} --hosts ${row.host}`,
    }))
}

/** Of a row or its cell. */
export const fullName = (cell) =>
  `${cell.title}${cell.kernels === false ? ', without our kernels' : ''} (${cell.version ?? cell.runtime})`

/** What stands behind the red cells, said once for all that share it. */
function redCells(cells) {
  const names = new Map()
  const note = (problem, cell) => names.set(problem, [...(names.get(problem) ?? []), fullName(cell)])
  for (const cell of cells) {
    if (cell.status === 'absent') note(`not run. ${cell.problem}`, cell)
    for (const fault of faults(cell)) note(`wrong. ${fault}`, cell)
  }
  return [...names].map(([problem, cells]) => `- **${cells.join('; ')}**: ${problem}`)
}

const [begin, end] = [
  '<!-- pnpm parity writes what follows, to its end mark -->',
  '<!-- the end of what pnpm parity wrote -->',
]

/**
 * @param document the text of docs/backends.md, of which all but what stands between the two marks is kept
 * @throws Error where the marks are missing
 */
export function documentWith(document, cells) {
  const [from, to] = [document.indexOf(begin), document.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`docs/backends.md has lost its marks: ${begin} … ${end}`)
  const sorted = inOrder([...cells, ...missing(cells)])
  const letters = lettersOf(sorted.filter(({ status }) => status !== 'absent'))
  const red = redCells(sorted)
  const lines = [
    begin,
    '',
    ...matrix(sorted, letters),
    '',
    ...[...letters].map(([machine, letter]) => `(${letter}) ${machine}`),
    '',
    '### Red cells',
    '',
    ...(red.length > 0 ? red : ['None.']),
    '',
    '### Milliseconds per training step',
    '',
    ...speeds(sorted, letters),
    '',
  ]
  return `${document.slice(0, from)}${lines.join('\n')}${document.slice(to)}`
}
