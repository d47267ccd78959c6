#!/usr/bin/env node
/** lethe: reads the command line, runs one command, turns errors into one line and an exit code. */
import { BackendError, disposeBackend } from '@lethe/backends'
import { LetheError } from '@lethe/core'
import { backendFailure, expectSoundBackend } from './backend'
import { type CommandLine, parseCommandLine } from './command-line'
import { benchCommand, benchDefaults } from './commands/bench'
import { compareCommand } from './commands/compare'
import { dataCommand } from './commands/data'
import { demoCommand, demoDefaults } from './commands/demo'
import { doctorCommand } from './commands/doctor'
import { evalCommand } from './commands/eval'
import { generateCommand } from './commands/generate'
import { inspectCommand } from './commands/inspect'
import { measureCommand } from './commands/measure'
import { setupCommand } from './commands/setup'
import { trainCommand } from './commands/train'
import { compareDefaults } from './compare/plan'
import { problemOf, SetupError, UsageError } from './errors'
import { generalHelp, helpOf } from './help'
import { outputClosed } from './interruption'
import { type CommandName, commandNames } from './options'
import { program } from './output'
import { DeviceError } from './session'
import { suggestion } from './suggestion'

const commands: Readonly<Record<CommandName, (line: CommandLine) => Promise<number>>> = {
  train: trainCommand,
  eval: evalCommand,
  generate: generateCommand,
  compare: compareCommand,
  measure: measureCommand,
  inspect: inspectCommand,
  bench: benchCommand,
  data: dataCommand,
  doctor: doctorCommand,
  setup: setupCommand,
  demo: demoCommand,
}

const defaults: Readonly<Partial<Record<CommandName, Readonly<Record<string, unknown>>>>> = {
  compare: compareDefaults as Readonly<Record<string, unknown>>,
  bench: benchDefaults,
  demo: demoDefaults,
}

/** Commands that take something beside options. */
const withPositionals: readonly CommandName[] = [
  'eval',
  'generate',
  'measure',
  'inspect',
  'bench',
  'data',
  'setup',
]

async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(generalHelp())
    return name === undefined ? 2 : 0
  }
  if (!(commandNames as readonly string[]).includes(name))
    throw new UsageError(
      `unknown command "${name}"${suggestion(name, commandNames, 'lethe ')}; see lethe --help`,
    )
  const command = name as CommandName
  const line = parseCommandLine(command, rest)
  if (line.given.help) {
    process.stdout.write(helpOf(command, defaults[command]))
    return 0
  }
  if (line.positionals.length > 0 && !withPositionals.includes(command))
    throw new UsageError(
      `lethe ${command} takes options only, not "${line.positionals[0]}"; see lethe ${command} --help`,
    )
  try {
    const code = await commands[command](line)
    expectSoundBackend()
    return code
  } catch (error) {
    throw error instanceof DeviceError ? error : ((await backendFailure()) ?? error)
  } finally {
    await disposeBackend()
  }
}

/** Of what helps, the command line names commands only. */
const backendText = (error: BackendError) =>
  error.fix.startsWith('Run: ')
    ? error.message
    : `${problemOf(error)} What works here, and how to mend the rest: ${program()} doctor`

/** A reader that went away (`lethe generate … | head`) is no failure. */
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE' && error.code !== 'ERR_STREAM_DESTROYED') throw error
  outputClosed()
})

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  const expected =
    error instanceof UsageError ||
    error instanceof SetupError ||
    error instanceof DeviceError ||
    LetheError.isInstance(error) ||
    BackendError.isInstance(error)
  const text = BackendError.isInstance(error)
    ? backendText(error)
    : error instanceof Error
      ? error.message
      : String(error)
  process.stderr.write(
    `lethe: ${expected ? text : `unexpected failure: ${(error as Error).stack ?? text}`}\n`,
  )
  process.exitCode = error instanceof UsageError ? 2 : 1
}
