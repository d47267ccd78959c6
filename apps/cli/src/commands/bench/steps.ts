/** Measures training steps: one case in this process, several, or two sides, in processes of their own by turns. */

import { startBackend } from '../../backend'
import type { CommandLine } from '../../command-line'
import { UsageError } from '../../errors'
import type { Given } from '../../options'
import { type Settings, settingsOf } from '../../settings'
import { progress } from './report'
import { benchDefaults, casesOf, commandOf, ofOneCase } from './setup'
import { median, type Ratio, ratioOfMedians } from './statistics'
import { type Figures, Side, serveTurns, takeTurns } from './turns'
import { openWorkload, TrainingRun } from './workload'

/** Figures of one side. */
export interface SideRow extends Figures {
  readonly ms_per_step: number
  readonly min_ms: number
  readonly tokens_per_s: number
}

export interface StepRow extends SideRow {
  readonly method: string
  readonly span: number
  readonly backend: string
  readonly settings: Settings
  /** The method's options, defaults included. */
  readonly options: Readonly<Record<string, unknown>>
  /** The side it was measured against. */
  readonly reference?: SideRow & { readonly name: string }
  /** The reference's time over ours. */
  readonly times_as_fast?: Ratio
}

const steadySteps = 2

/** What is trained: as options say, or the trained model in a folder. */
interface Case {
  readonly name: string
  readonly options: Given
  readonly folder: readonly string[]
}

/** Whole training steps of all cases on the command line. `defaults`: where a command's differ. */
export async function measureSteps(
  what: string,
  { given, positionals: [, ...folders] }: CommandLine,
  defaults: { readonly steps: number; readonly everyMethod?: boolean },
): Promise<readonly StepRow[]> {
  check(given, folders)
  const cases =
    folders.length > 0 ? casesOfFolders(given, folders) : casesOfOptions(given, defaults.everyMethod)
  const steps = given.steps ?? defaults.steps
  const lonely = cases.length === 1 && given.against === undefined && !given.stock
  if (lonely) return [await measureHere(cases[0]!, steps)]
  const rows: StepRow[] = []
  for (const each of cases) {
    const first = cases.find(({ options }) => options.span === each.options.span)!
    const reference = given.against ?? referenceOf(given, each, first)
    rows.push(await measureByTurns(what, each, reference, { steps, turn: given.turn }))
  }
  return rows
}

const casesOfFolders = (given: Given, folders: readonly string[]): readonly Case[] =>
  folders.map((path) => ({ name: path, options: ofOneCase(given), folder: [path] }))

function casesOfOptions(given: Given, everyMethod = false): readonly Case[] {
  return casesOf(given, everyMethod).map((options) => {
    const { method, span } = settingsOf(options, benchDefaults)
    return { name: `${method}, span ${span}`, options, folder: [] }
  })
}

function check(given: Given, folders: readonly string[]): void {
  if (given.against !== undefined && given.stock)
    throw new UsageError('--against and --stock each name what to compare with: give one of the two')
  const stray = (['method', 'methods', 'span', 'spans', 'against'] as const).find(
    (name) => given[name] !== undefined,
  )
  if (folders.length > 0 && stray)
    throw new UsageError(`${folders[0]} says itself what it is made of: leave out --${stray}`)
}

/** tfjs's own backend where that was asked for, else the first of several cases. */
function referenceOf(given: Given, each: Case, first: Case): Case | undefined {
  if (given.stock)
    return {
      ...each,
      name: 'tfjs’s own wasm',
      options: { ...each.options, backend: 'wasm', unpatched: true },
    }
  return each === first ? undefined : first
}

/** Serves as a side of another process's measurement. */
export async function serveSteps({ given, positionals: [, ...folder] }: CommandLine): Promise<void> {
  const { run, about } = await start({ options: given, folder })
  await serveTurns(
    { ready: `lethe, ${about.backend}`, about },
    { step: () => run.step(), finish: () => run.figures() },
  )
  run.dispose()
}

/** A run that is warm, and what it is. */
async function start({ options: given, folder }: Pick<Case, 'options' | 'folder'>) {
  let backend = ''
  const workload = await openWorkload(given, folder, async () => {
    backend = (await startBackend(given, given.unpatched ? { patch: false } : {})).name
  })
  const run = await TrainingRun.start(workload)
  for (let step = 0; step < steadySteps; step++) await run.step()
  const { settings, decoder } = workload
  const { name, options } = decoder.config.method[0]!
  const about: About = { method: name, span: settings.span, backend, settings, options }
  return { run, about }
}

type About = Pick<StepRow, 'method' | 'span' | 'backend' | 'settings' | 'options'>

async function measureHere(what: Case, steps: number): Promise<StepRow> {
  const { run, about } = await start(what)
  const times: number[] = []
  for (let step = 0; step < steps; step++) times.push(await run.step())
  const figures = await run.figures()
  run.dispose()
  return { ...about, ...sideRow(times, figures, about.settings.batch * about.settings.block) }
}

async function measureByTurns(
  what: string,
  each: Case,
  reference: string | Case | undefined,
  { steps, turn }: { readonly steps: number; readonly turn: number | undefined },
): Promise<StepRow> {
  const sides: Side[] = []
  const begin = async (name: string, command: string | readonly string[], settings?: Settings) => {
    const side = await Side.start(name, command, settings)
    sides.push(side)
    return side
  }
  const beginOwn = ({ name, options, folder }: Case) =>
    begin(name, commandOf(what, folder, { ...options, 'by-turns': true }))
  const status = progress()
  try {
    status.update(() => `${each.name}: starting`)
    const ours = await beginOwn(each)
    const about = ours.ready.about as About
    const other =
      reference === undefined
        ? undefined
        : typeof reference === 'string'
          ? await begin('the other side', reference, about.settings)
          : await beginOwn(reference)
    const watched = {
      take: (count: number) => {
        status.update(() => `${each.name}: ${ours.times.length} of ${steps} steps`)
        return ours.take(count)
      },
    }
    const rounds = await takeTurns(other ?? { take: async () => [] }, watched, steps, turn)
    const row = async (side: Side) =>
      sideRow(side.times, await side.finish(), about.settings.batch * about.settings.block)
    return {
      ...about,
      ...(await row(ours)),
      ...(other && {
        reference: {
          name: typeof reference === 'string' ? other.ready.ready : other.name,
          ...(await row(other)),
        },
        times_as_fast: ratioOfMedians(rounds),
      }),
    }
  } finally {
    for (const side of sides) side.end()
    status.print()
  }
}

const sideRow = (times: readonly number[], figures: Figures, tokens: number): SideRow => ({
  ms_per_step: median(times),
  min_ms: Math.min(...times),
  tokens_per_s: (1000 * tokens) / median(times),
  ...figures,
})
