/** Tables of figures, for a terminal or a document. */

import { StatusLine } from '../../output'
import { ownCommand, type whereabouts } from './setup'
import type { Ratio } from './statistics'
import type { Part } from './turns'

export interface Column<Row> {
  readonly title: string
  /** Text of a cell; undefined where there is no such figure. */
  readonly cell: (row: Row) => string | undefined
  readonly left?: boolean
}

/** Columns in which no row has anything are left out. */
export function table<Row>(rows: readonly Row[], columns: readonly Column<Row>[], markdown: boolean): string {
  const used = columns
    .map((column) => ({ ...column, cells: rows.map((row) => column.cell(row) ?? '') }))
    .filter(({ cells }) => cells.some((cell) => cell !== ''))
  if (markdown)
    return [
      `| ${used.map(({ title }) => title).join(' | ')} |`,
      `|${used.map(({ left }) => (left ? '---' : '---:')).join('|')}|`,
      ...rows.map((_, row) => `| ${used.map(({ cells }) => cells[row]).join(' | ')} |`),
    ].join('\n')
  const widths = used.map(({ title, cells }) => Math.max(title.length, ...cells.map(({ length }) => length)))
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) =>
        used[column]!.left ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!),
      )
      .join('  ')
      .trimEnd()
  return [
    line(used.map(({ title }) => title)),
    ...rows.map((_, row) => line(used.map(({ cells }) => cells[row]!))),
  ].join('\n')
}

/** What stands over a table in a document: the command that makes it again, when and where. */
export function heading(
  { date, machine, node, load }: ReturnType<typeof whereabouts>,
  notes: readonly string[],
) {
  return [
    `    ${ownCommand()}`,
    '',
    `${date}, ${machine}, Node ${node}, load ${load.toFixed(1)} before${load > 1 ? ' (a busy machine: no figures to keep)' : ''}. ${notes.join(' ')}`,
    '',
  ].join('\n')
}

export const ratioText = ({ value, interval }: Ratio) =>
  `${value.toFixed(2)}${interval ? ` (${interval.map((edge) => edge.toFixed(2)).join('–')})` : ''}`

/** A line of progress on a terminal, nothing elsewhere. */
export const progress = (): Pick<StatusLine, 'update' | 'print'> =>
  process.stderr.isTTY ? new StatusLine(process.stderr) : { update() {}, print() {} }

/** Where the time of a step went: the kernels that take the most. */
export function partsTable(parts: readonly Part[], markdown: boolean): string {
  const total = parts.reduce((sum, { ms }) => sum + ms, 0)
  return table<Part>(
    parts.slice(0, 12),
    [
      { title: 'kernel', cell: ({ name }) => name, left: true },
      { title: 'calls', cell: ({ calls }) => String(calls) },
      { title: 'ms', cell: ({ ms }) => ms.toFixed(2) },
      { title: 'share', cell: ({ ms }) => (total > 0 ? `${((100 * ms) / total).toFixed(0)} %` : undefined) },
    ],
    markdown,
  )
}
