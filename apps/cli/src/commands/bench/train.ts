/** lethe bench train: times whole training steps with a full memory. */
import type { CommandLine } from '../../command-line'
import { bytes, count } from '../../output'
import { type Column, heading, partsTable, ratioText, table } from './report'
import { benchDefaults, optionsText, ownCommand, sizesText, whereabouts } from './setup'
import { measureSteps, type StepRow } from './steps'

export async function benchTrain(line: CommandLine): Promise<number> {
  const { given } = line
  const where = whereabouts()
  const rows = await measureSteps('train', line, { steps: benchDefaults.steps })
  const shown = given.parts ? rows : rows.map(withoutParts)
  if (given.json)
    console.log(
      JSON.stringify(rows.length === 1 ? shown[0] : { ...where, command: ownCommand(), rows: shown }),
    )
  else {
    if (given.markdown) console.log(heading(where, notesOf(rows, given.steps ?? benchDefaults.steps)))
    console.log(table(rows, columns, given.markdown ?? false))
    if (given.parts)
      for (const { method, parts, reference } of rows)
        for (const [name, those] of [
          [method, parts],
          [`${method}, ${reference?.name}`, reference?.parts],
        ] as const)
          if (those)
            console.log(`\n${name}, one step observed:\n\n${partsTable(those, given.markdown ?? false)}`)
  }
  return 0
}

/** Kernel by kernel only where it was asked for. */
export function withoutParts({ parts, reference, ...row }: StepRow): StepRow {
  if (!reference) return row
  const { parts: _, ...rest } = reference
  return { ...row, reference: rest }
}

/** A figure of the reference beside ours. */
export const both = (
  title: string,
  of: (row: StepRow | NonNullable<StepRow['reference']>) => string | undefined,
) =>
  [
    { title, cell: of },
    { title: `its ${title}`, cell: ({ reference }) => reference && of(reference) },
  ] satisfies Column<StepRow>[]

export const optional = (value: number | undefined, format: (value: number) => string) =>
  value === undefined ? undefined : format(value)

const columns: readonly Column<StepRow>[] = [
  { title: 'method', cell: ({ method }) => method, left: true },
  { title: 'span', cell: ({ span }) => count(span) },
  ...both('slots', ({ memory_slots }) => optional(memory_slots, count)),
  ...both('ms per step', ({ ms_per_step }) => ms_per_step.toFixed(ms_per_step < 100 ? 1 : 0)),
  { title: 'least', cell: ({ min_ms }) => min_ms.toFixed(min_ms < 100 ? 1 : 0) },
  { title: 'tokens/s', cell: ({ tokens_per_s }) => count(tokens_per_s) },
  { title: 'times as fast (95 %)', cell: ({ times_as_fast }) => times_as_fast && ratioText(times_as_fast) },
  ...both('peak tensors', ({ peak_tensor_bytes }) => optional(peak_tensor_bytes, bytes)),
  ...both('GPU buffers', ({ gpu_bytes }) => optional(gpu_bytes, bytes)),
  ...both('peak resident', ({ peak_rss_bytes }) => optional(peak_rss_bytes, bytes)),
]

/** What one has to know beside the command: every setting that decides what is computed. */
export function notesOf(rows: readonly StepRow[], steps: number): readonly string[] {
  const references = [...new Set(rows.flatMap(({ reference }) => reference?.name ?? []))]
  const { backend, settings } = rows[0]!
  const methods = new Map(rows.map(({ method, options }) => [method, options]))
  return [
    `Backend ${backend}. ${sizesText(settings)}; ${settings.optimizer}, learning rate ${settings['learning-rate']}, clip ${settings.clip};`,
    `medians of ${steps} steps after two to warm up.`,
    ...(references.length > 0
      ? [
          `By turns with (“its”): ${references.join('; ')}. Times as fast: its ms over ours, 95 % bootstrap interval.`,
        ]
      : []),
    `\n\n${[...methods].map(([method, options]) => `- ${method}: ${optionsText(options)}`).join('\n')}`,
  ]
}
