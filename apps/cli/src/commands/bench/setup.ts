/** What all benchmarks start from: sizes, the cases that a command line asks for, and processes for them. */
import { cpus, loadavg } from 'node:os'
import { UsageError } from '../../errors'
import { type MethodOptionName, methodOptionNames, methods } from '../../methods'
import type { Given, OptionName } from '../../options'
import { program, shellQuoted } from '../../output'
import type { Settings } from '../../settings'

/** The sizes that the authors' code was measured at. */
export const benchDefaults = {
  layers: 4,
  width: 256,
  heads: 4,
  'feed-forward': 1024,
  span: 512,
  block: 128,
  batch: 8,
  steps: 8,
} satisfies Partial<Settings>

/** Options that say how to measure, not what: no case inherits them. */
const ofTheWhole: readonly OptionName[] = [
  ...(['methods', 'spans', 'against', 'stock', 'turn', 'by-turns'] as const),
  ...(['parts', 'json', 'markdown', 'config', 'data', 'help'] as const),
]

/** What a case inherits. */
export function ofOneCase(given: Given): Given {
  const options = { ...given }
  for (const name of ofTheWhole) delete options[name]
  return options
}

/** The options of each case that the command line asks for: every method at every span. */
export function casesOf(given: Given, everyMethod = false): readonly Given[] {
  if (given.method !== undefined && given.methods !== undefined)
    throw new UsageError('--method names one method, --methods several: give one of the two')
  const names = given.methods ?? (given.method || !everyMethod ? [given.method] : Object.keys(methods))
  const chosen = methodOptionNames.filter((name) => given[name] !== undefined)
  const takes = (method: string, option: MethodOptionName) => methods[method]!.options.includes(option)
  const stray = chosen.find((option) => !names.some((name) => takes(name ?? 'fixed-span', option)))
  if (stray)
    throw new UsageError(`--${stray} is no option of ${names.map((name) => name ?? 'fixed-span').join(', ')}`)
  return names.flatMap((method) =>
    (given.spans ?? [given.span]).map((span) => {
      const options = { ...ofOneCase(given), ...(method && { method }), ...(span && { span }) }
      for (const name of chosen) if (!takes(method ?? 'fixed-span', name)) delete options[name]
      return options
    }),
  )
}

/** The command line of a process of our own. */
export function commandOf(what: string, folder: readonly string[], given: Given): readonly string[] {
  const options = Object.entries(given).flatMap(([name, value]) => [
    `--${name}`,
    ...(value === true ? [] : [String(value)]),
  ])
  return [process.execPath, ...process.execArgv, process.argv[1]!, 'bench', what, ...folder, ...options]
}

/** When and where, for the head of a report. */
export function whereabouts() {
  return {
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpus().length} × ${cpus()[0]?.model.trim() ?? 'processor'}`,
    node: process.versions.node,
    /** Processes that wanted to run in the minute before the measurement began: near 0 on an idle machine. */
    load: loadavg()[0]!,
  }
}

/** This run's command line, as it can be copied. */
export const ownCommand = () => [program(), ...process.argv.slice(2).map(shellQuoted)].join(' ')

/** What decides how much there is to compute, methods aside. */
export const sizesText = (settings: Settings) =>
  `Preset ${settings.preset}, ${settings.layers} layers, width ${settings.width}, ${settings.heads} heads, ` +
  `feed-forward ${settings['feed-forward']}, block ${settings.block}, batch ${settings.batch}`

export const optionsText = (options: Readonly<Record<string, unknown>>) =>
  Object.entries(options)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ')
