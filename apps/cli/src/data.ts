/** What a run is trained and evaluated on: a text, or one of the papers' tasks. */
import { resolve } from 'node:path'
import { createTask, type SequenceTask, taskSource } from '@lethe/tasks'
import type { Source, Tokenizer } from '@lethe/trainer'
import { openText } from '@lethe/trainer/node'
import { UsageError } from './errors'
import type { Given } from './options'

export interface RunData {
  readonly train: Source
  readonly validation: Source
  readonly vocabulary: number
  /** Of text. */
  readonly tokenizer?: Tokenizer
  readonly files?: readonly string[]
}

/** Streams that no run trains on. */
const validationSeed = 2 ** 32 - 1

/**
 * Opens the data that the options of a run name.
 * @param tokenizer the trained model's, of a run that is there
 * @throws UsageError, DataError, ConfigError
 */
export async function openData(given: Given, tokenizer?: Tokenizer): Promise<RunData> {
  const task = taskOf(given)
  if (task) {
    const { seed = 0, 'valid-tokens': tokens = validTokens } = given
    if (seed >= validationSeed)
      throw new UsageError(`--seed must be less than ${validationSeed}, not ${seed}`)
    return {
      train: taskSource(task, { seed }),
      validation: taskSource(task, { seed: validationSeed, tokens }),
      vocabulary: task.vocabulary,
    }
  }
  const data = await openText(given.data?.map((path) => resolve(path)) ?? [], {
    tokenizer: tokenizer ?? (given.tokenizer as 'bytes' | 'characters' | undefined) ?? 'bytes',
  })
  return { ...data, vocabulary: data.tokenizer.vocabulary }
}

/** The task of a run; undefined where it is trained on text. @throws UsageError, ConfigError */
export function taskOf(given: Given): SequenceTask | undefined {
  const { task: names = [], 'task-options': options, data, tokenizer } = given
  if (names.length === 0) {
    if (options) throw new UsageError('--task-options are those of a task: give its name, --task NAME')
    return undefined
  }
  if (names.length > 1) throw new UsageError(`--task takes one name here, not ${names.join(', ')}`)
  if (data?.length)
    throw new UsageError('--data and --task: a run is trained on a text or on a task, not both')
  if (tokenizer !== undefined) throw new UsageError('--tokenizer is for text: a task has tokens of its own')
  return createTask(names[0]!, options)
}

/** Tokens of each stream that an evaluation on a task reads. */
const validTokens = 1024
