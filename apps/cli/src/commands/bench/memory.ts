/** lethe bench memory: what a training step holds at most, per method. */
import type { CommandLine } from '../../command-line'
import { bytes, count } from '../../output'
import { type Column, heading, table } from './report'
import { ownCommand, whereabouts } from './setup'
import { measureSteps, type StepRow } from './steps'
import { both, notesOf, optional, withoutParts } from './train'

/** Enough for the heap to have grown to what a step needs. */
const defaultSteps = 4

export async function benchMemory(line: CommandLine): Promise<number> {
  const { given } = line
  const where = whereabouts()
  const rows = await measureSteps('memory', line, { steps: defaultSteps, everyMethod: true })
  const shown = rows.map(withoutParts)
  if (given.json) console.log(JSON.stringify({ ...where, command: ownCommand(), rows: shown }))
  else {
    if (given.markdown) console.log(heading(where, notesOf(rows, given.steps ?? defaultSteps)))
    console.log(table(rows, columns, given.markdown ?? false))
  }
  return 0
}

const columns: readonly Column<StepRow>[] = [
  { title: 'method', cell: ({ method }) => method, left: true },
  { title: 'span', cell: ({ span }) => count(span) },
  ...both('slots', ({ memory_slots }) => optional(memory_slots, count)),
  ...both('tensors between steps', ({ held_tensor_bytes }) => optional(held_tensor_bytes, bytes)),
  ...both('peak tensors', ({ peak_tensor_bytes }) => optional(peak_tensor_bytes, bytes)),
  { title: 'wasm heap', cell: ({ heap_bytes }) => optional(heap_bytes, bytes) },
  ...both('GPU buffers', ({ gpu_bytes }) => optional(gpu_bytes, bytes)),
  ...both('peak resident', ({ peak_rss_bytes }) => optional(peak_rss_bytes, bytes)),
]
