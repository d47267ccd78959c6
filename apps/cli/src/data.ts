/** What a run is trained and evaluated on: a text, or one of the papers' tasks. */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { ConfigError } from '@lethe/core'
import { createTask, environments, type SequenceTask, taskSource } from '@lethe/tasks'
import { DataError, type Source, type TextData, type TextOptions, type Tokenizer } from '@lethe/trainer'
import { openText } from '@lethe/trainer/node'
import { dataFolder, dataSets } from './datasets/sets'
import { UsageError } from './errors'
import type { Given } from './options'
import { program, relativePath } from './output'
import { suggestion } from './suggestion'

export interface RunData {
  readonly train: Source
  readonly validation: Source
  readonly vocabulary: number
  /** Of text. */
  readonly tokenizer?: Tokenizer
  readonly text?: TextData
  readonly files?: readonly string[]
}

/** Streams that no run trains on. */
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
    ...(data && { data: data.map((path) => (path in dataSets ? path : resolve(path))) }),
    ...(tokenizer !== undefined && !named && { tokenizer: resolve(tokenizer) }),
  }
}

function locate(data: string): string {
  if (!(data in dataSets)) return resolve(data)
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

/** The task of a run; undefined where it is trained on text. @throws UsageError, ConfigError */
export function taskOf(given: Given): SequenceTask | undefined {
  const { task: names = [], 'task-options': options, data, tokenizer, vocabulary } = given
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
  if (Object.hasOwn(environments, name))
    throw new ConfigError(
      `${name} is a world to act in, not a stream to read: train an agent in it with trainActorCritic of @lethe/tasks`,
      { task: name },
    )
  return createTask(name, options)
}
