/** A trained model from the folder of a run or of a checkpoint. */
import { ConfigError, type Decoder } from '@lethe/core'
import { CheckpointError, loadModel, type Tokenizer } from '@lethe/trainer'
import { readRun } from '@lethe/trainer/node'
import { parseConfig } from './command-line'
import { UsageError } from './errors'
import { methodFactories } from './methods'
import type { CommandName, Given } from './options'

export interface TrainedModel {
  readonly decoder: Decoder
  /** Of a model of text. */
  readonly tokenizer: Tokenizer | undefined
  /** What its run was started with. */
  readonly config: Given
  readonly step: number
}

/**
 * Opens the model named on the command line; `start` starts the backend once the files were read.
 * @throws UsageError, CheckpointError
 */
export async function openModel(
  command: CommandName,
  positionals: readonly string[],
  start: () => Promise<unknown>,
): Promise<TrainedModel> {
  const [path, ...rest] = positionals
  if (path === undefined || rest.length > 0)
    throw new UsageError(
      `lethe ${command} needs the folder of one run or checkpoint: lethe ${command} FOLDER`,
    )
  const { root, config, checkpoint } = await readRun(path)
  if (!checkpoint)
    throw new CheckpointError(
      `the run in ${path} has no checkpoint yet: train on with lethe train --resume ${path}`,
      { path },
    )
  await start()
  const { decoder, tokenizer } = await loadModel(checkpoint.model, methodFactories, {
    bpe: async (description) => (await import('@lethe/trainer/bpe')).bpeFromDescription(description),
  })
  const options = parseConfig(config, 'train', `${root}/config.json`)
  if (!tokenizer && !options.task)
    throw new ConfigError(`the model in ${path} has no tokenizer: train it with lethe train`, { path })
  return { decoder, tokenizer, config: options, step: checkpoint.step }
}

/** A model of text. @throws UsageError for one that was trained on a task */
export async function openTextModel(
  ...[command, positionals, start]: Parameters<typeof openModel>
): Promise<TrainedModel & { readonly tokenizer: Tokenizer }> {
  const { tokenizer, ...model } = await openModel(command, positionals, start)
  if (!tokenizer)
    throw new UsageError(
      `lethe ${command} is for models of text, and that in ${positionals[0]} was trained on the task ${model.config.task}: see lethe eval and lethe measure`,
    )
  return { ...model, tokenizer }
}
