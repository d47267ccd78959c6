/** lethe train: trains a model, or goes on with a run. */
import { join, resolve } from 'node:path'
import { disposeBackend } from '@lethe/backends'
import { checkTraining } from '@lethe/trainer'
import { RunFolder, readRun } from '@lethe/trainer/node'
import { startBackend } from '../backend'
import { type CommandLine, parseConfig } from '../command-line'
import { absolute, openData } from '../data'
import { UsageError } from '../errors'
import type { Given } from '../options'
import { written } from '../output'
import { createRun, DeviceError, runTraining, trainOptions } from '../session'
import { decoderOf, settingsOf } from '../settings'

/** Options that may differ when a run goes on, and then hold from there on; the others are part of what it is. */
const free: readonly (keyof Given)[] = [
  'steps',
  'retry',
  'backend',
  'threads',
  'eval-every',
  'checkpoint-every',
  'keep',
  'tensorboard',
  'json',
  'resume',
  'config',
  'help',
]

export async function trainCommand(line: CommandLine): Promise<number> {
  const given = absolute(line.given)
  const resumed = given.resume === undefined ? undefined : await readResumed(given.resume, given)
  const options: Given = { ...resumed?.options, ...given }
  if (!options.data?.length && !options.task)
    throw new UsageError('lethe train needs a text, --data PATH, or a task, --task NAME')
  const out = given.resume ?? given.out
  if (out === undefined) throw new UsageError('lethe train needs a folder for the run: --out FOLDER')

  const settings = settingsOf(options)
  const data = await openData(options)
  const backend = await startBackend(options)
  const decoder = decoderOf(settings, data.vocabulary)
  const training = trainOptions(settings, decoder, data, resumed?.checkpoint)
  checkTraining(training)

  // Only now is anything written.
  const { keep } = settings
  const { tensorboard } = options
  const config = {
    ...settings,
    ...(options.data && { data: options.data }),
    ...(options.backend && { backend: options.backend }),
    ...(tensorboard !== undefined && { tensorboard: tensorboard && resolve(tensorboard) }),
  }
  const run = resumed
    ? (await RunFolder.resume(out, { keep, config })).run
    : await createRun(out, config, keep)
  const json = given.json ?? false
  const curves = tensorboard === undefined ? undefined : resolve(tensorboard || join(run.path, 'tensorboard'))
  try {
    const { finished } = await runTraining({ options: training, run, json, backend, curves })
    return finished ? 0 : 130
  } catch (error) {
    if (!(error instanceof DeviceError && given.retry)) throw error
    process.stderr.write(`lethe: ${error.message}\nlethe: trying once more\n`)
    await disposeBackend()
    const again = free.filter((name) => name !== 'retry' && name in options)
    const same: Given = Object.fromEntries(again.map((name) => [name, options[name]]))
    return trainCommand({ given: { ...same, resume: run.path }, positionals: [] })
  }
}

/** A run's options and newest checkpoint. @throws UsageError where the command line contradicts the options */
async function readResumed(path: string, given: Given) {
  if (given.out !== undefined)
    throw new UsageError('--resume goes on in the folder of the run: leave out --out')
  const { config, root, checkpoint } = await readRun(path)
  const saved = parseConfig(config, 'train', `${root}/config.json`)
  for (const [name, value] of Object.entries(given)) {
    if (free.includes(name as keyof Given)) continue
    const before = saved[name as keyof Given]
    const same = JSON.stringify(value) === JSON.stringify(before)
    if (!same)
      throw new UsageError(
        `the run in ${path} has --${name} ${written(before)}, not ${written(value)}: leave the option out, or start another run with --out`,
      )
  }
  return { options: saved, checkpoint }
}
