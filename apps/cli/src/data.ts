/** What a run is trained and evaluated on: a text, or one of the papers' tasks: streams to read or worlds to act in. */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { ConfigError } from '@lethe/core'
import {
  actorCriticSource,
  createEnvironment,
  createTask,
  type EnvironmentTask,
  environments,
  type SequenceTask,
  taskSource,
  tasks,
} from '@lethe/tasks'
import {
  DataError,
  type TextData,
  type TextOptions,
  type Tokenizer,
  type TrainingSource,
} from '@lethe/trainer'
import { openText } from '@lethe/trainer/node'
import { dataFolder, isDataSet } from './datasets/sets'
import { UsageError } from './errors'
import type { Given } from './options'
import { program, relativePath } from './output'
import { suggestion } from './suggestion'

export interface RunData {
  readonly train: TrainingSource
  readonly validation: TrainingSource
  readonly vocabulary: number
  /** Of text. */
  readonly tokenizer?: Tokenizer
  readonly text?: TextData
  readonly files?: readonly string[]
}

/** Streams and episodes that no run trains on. */
const validationSeed = 2 ** 32 - 1

/**
 * Opens the data that the options of a run name.
 * @param tokenizer the trained model's, of a run that is there
 * @param only the parts of a text whose tokens are wanted: default all
 * @throws UsageError, DataError, ConfigError
 */
export async function openData(
  given: Given,
  tokenizer?: Tokenizer,
  only?: TextOptions['only'],
): Promise<RunData> {
  const task = taskOf(given)
  if (task) {
    const { seed = 0, 'valid-tokens': tokens } = given
    if (seed >= validationSeed)
      throw new UsageError(`--seed must be less than ${validationSeed}, not ${seed}`)
    if (task.kind === 'environment') return agentsIn(task, given, seed)
    return {
      train: taskSource(task, { seed }),
      validation: taskSource(task, { seed: validationSeed, ...(tokens !== undefined && { tokens }) }),
      vocabulary: task.vocabulary,
    }
  }
  return openTexts(given.data ?? [], {
    ...(tokenizer ? { tokenizer } : await tokenizerOf(given)),
    ...(only && { only }),
  })
}

function agentsIn(task: EnvironmentTask, given: Given, seed: number): RunData {
  const { discount, 'entropy-cost': entropyCost, 'value-cost': valueCost, greedy } = given
  const costs = {
    ...(discount !== undefined && { discount }),
    ...(entropyCost !== undefined && { entropyCost }),
    ...(valueCost !== undefined && { valueCost }),
  }
  const train = actorCriticSource(task, { ...costs, seed })
  const validation = actorCriticSource(task, { ...costs, seed: validationSeed, ...(greedy && { greedy }) })
  return { train, validation, vocabulary: train.vocabulary }
}

/** Texts by their paths, or a data set by its name. @throws DataError where it is not there yet */
export async function openTexts(data: readonly string[], options: TextOptions): Promise<RunData> {
  const text = await openText(data.map(locate), options)
  const { train, validation, tokenizer, files } = text
  return { train, validation, tokenizer, files, text, vocabulary: tokenizer.vocabulary }
}

const tokenizerNames = ['bytes', 'characters', 'words'] as const

/** Options as a run's folder keeps them: paths of texts and of a tokenizer.json are absolute, names stay as they are. */
export function absolute<T extends Given>(given: T): T {
  const { data, tokenizer } = given
  const named = (tokenizerNames as readonly (string | undefined)[]).includes(tokenizer)
  return {
    ...given,
    ...(data && { data: data.map((path) => (isDataSet(path) ? path : resolve(path))) }),
    ...(tokenizer !== undefined && !named && { tokenizer: resolve(tokenizer) }),
  }
}

function locate(data: string): string {
  if (!isDataSet(data)) return resolve(data)
  const folder = join(resolve(dataFolder()), data)
  if (existsSync(folder)) return folder
  const own = existsSync(data) ? `; for the file or folder of that name, --data ./${data}` : ''
  throw new DataError(
    `the data set ${data} is not in ${folder}: get it with ${program()} data ${data}${own}`,
    { data, folder },
  )
}

/** @throws UsageError */
async function tokenizerOf(given: Given): Promise<TextOptions> {
  const { tokenizer = 'bytes', vocabulary } = given
  if (vocabulary !== undefined && tokenizer !== 'words')
    throw new UsageError('--vocabulary is for --tokenizer words: other tokenizers have their own')
  const name = tokenizerNames.find((name) => name === tokenizer)
  if (name) return { tokenizer: name, vocabulary }
  let json: unknown
  try {
    json = JSON.parse(await readFile(tokenizer, 'utf8'))
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const given = relativePath(tokenizer)
    throw new UsageError(
      `--tokenizer must be ${tokenizerNames.join(', ')} or the path of a tokenizer.json, not "${given}"` +
        (code === 'ENOENT' ? suggestion(given, tokenizerNames, '') : `: ${message}`),
    )
  }
  const { bpeTokenizer } = await import('@lethe/trainer/bpe')
  return { tokenizer: bpeTokenizer(json) }
}

/** Worlds to act in; other tasks are streams to read. */
export const isWorld = (task: string | undefined): boolean =>
  task !== undefined && Object.hasOwn(environments, task)

/** Options of an agent in a world. */
const worldOptions = ['discount', 'entropy-cost', 'value-cost', 'greedy'] as const

/** Options that are of no use with this task; without one: with a text. */
export const foreignOptions = (task: string | undefined): readonly (keyof Given)[] =>
  isWorld(task) ? ['valid-tokens'] : worldOptions

/** @throws UsageError that says what the option is for */
export function refuseForeign(name: keyof Given): never {
  throw new UsageError(
    name === 'valid-tokens'
      ? '--valid-tokens is for tasks that are read: an evaluation in a world plays whole episodes, --valid-batch of them'
      : `--${name} is for an agent in a world: --task ${Object.keys(environments).join(' or ')}`,
  )
}

/** The task of a run; undefined where it is trained on text. @throws UsageError, ConfigError */
export function taskOf(given: Given): SequenceTask | EnvironmentTask | undefined {
  const { task: names = [], 'task-options': options, data, tokenizer, vocabulary } = given
  const foreign = foreignOptions(names[0]).find((name) => given[name] !== undefined)
  if (foreign && names.length <= 1) refuseForeign(foreign)
  if (names.length === 0) {
    if (options) throw new UsageError('--task-options are those of a task: give its name, --task NAME')
    return undefined
  }
  if (names.length > 1) throw new UsageError(`--task takes one name here, not ${names.join(', ')}`)
  if (data?.length)
    throw new UsageError('--data and --task: a run is trained on a text or on a task, not both')
  const forText = tokenizer !== undefined ? '--tokenizer' : vocabulary !== undefined && '--vocabulary'
  if (forText) throw new UsageError(`${forText} is for text: a task has tokens of its own`)
  const [name] = names as [string]
  if (isWorld(name)) return createEnvironment(name, options)
  const known = [...Object.keys(tasks), ...Object.keys(environments)]
  if (!known.includes(name))
    throw new ConfigError(
      `unknown task "${name}"; known are ${known.join(', ')}${suggestion(name, known, '')}`,
      { task: name },
    )
  return createTask(name, options)
}
