/**
 * A checkpoint: everything from which a run goes on as if it had never stopped. It is plain data, so that a folder
 * (`@lethe/trainer/node`), a page's storage, or a test's variable can hold it.
 */
import type { MethodFactories, RandomState, TensorFile } from '@lethe/core'
import { Decoder, decodeSafetensors, encodeSafetensors, FormatError, ShapeError } from '@lethe/core'
import { CheckpointError } from './errors'
import type { Evaluation } from './evaluate'
import type { RolloutEvaluation } from './rollouts'
import type { Tokenizer, TokenizerFactories } from './tokenizers'
import { tokenizerFromDescription } from './tokenizers'

export interface Checkpoint {
  readonly step: number
  /** Parameters; its metadata holds the decoder's and the tokenizer's description, so that it stands alone. */
  readonly model: TensorFile
  readonly optimizer: TensorFile
  /** The memory of all rows, as `Memory.serialize` made it. */
  readonly memory: Uint8Array
  readonly state: CheckpointState
  /** Where it was read from. */
  readonly path?: string
}

export interface CheckpointState {
  readonly format: 'lethe-checkpoint-1'
  readonly step: number
  /** Tokens trained on so far. */
  readonly tokens: number
  /** The data cursor, `BlockStream.position`: of a text, where in its stream each row is; of worlds, these (`RolloutStream`). */
  readonly position: unknown
  readonly random: RandomState
  /** What must be the same when the run goes on. */
  readonly training: Readonly<Record<string, unknown>>
  readonly decoder: unknown
  /** What was trained on; endless data have no number of tokens. */
  readonly data: { readonly identity: string; readonly tokens?: number; readonly vocabulary: number }
  readonly validation: readonly ValidationRecord[]
}

export type ValidationRecord = (Evaluation | RolloutEvaluation) & { readonly step: number }

/** The files of a checkpoint that hold tensors. */
export const checkpointFiles = ['model.safetensors', 'optimizer.safetensors', 'memory.safetensors'] as const
export type CheckpointFile = (typeof checkpointFiles)[number]

/** A checkpoint's tensors as the bytes of its files; its `state` goes beside them as JSON (`state.json`). */
export function encodeCheckpoint(checkpoint: Checkpoint): Record<CheckpointFile, Uint8Array> {
  return {
    'model.safetensors': encodeSafetensors(checkpoint.model),
    'optimizer.safetensors': encodeSafetensors(checkpoint.optimizer),
    'memory.safetensors': checkpoint.memory,
  }
}

/**
 * A checkpoint from its files and the content of its state.json: so a run that was begun in Node goes on in a page,
 * and back. `readCheckpoint` of '@lethe/trainer/node' also verifies the checksums.
 * @param path where they are from, for messages
 * @throws FormatError
 */
export function decodeCheckpoint(
  files: Readonly<Record<CheckpointFile, Uint8Array>>,
  state: CheckpointState,
  path = 'the checkpoint',
): Checkpoint {
  if (state?.format !== checkpointFormat)
    throw new FormatError(`${path} is not a checkpoint of this version: its format is "${state?.format}"`, {
      path,
      format: state?.format,
    })
  for (const name of checkpointFiles)
    if (!files[name]) throw new FormatError(`${path}/${name} is missing`, { path: `${path}/${name}` })
  const tensors = (name: CheckpointFile) => decodeSafetensors(files[name], `${path}/${name}`)
  return {
    step: state.step,
    model: tensors('model.safetensors'),
    optimizer: tensors('optimizer.safetensors'),
    memory: files['memory.safetensors'],
    state,
    path,
  }
}

const checkpointFormat = 'lethe-checkpoint-1'

/** Where a training loop puts its checkpoints. */
export interface CheckpointStore {
  /** Saves whole or not at all. @returns how the user finds it again, such as its path */
  save(checkpoint: Checkpoint): Promise<string>
}

const modelFormat = 'lethe-model-1'

/** The decoder's parameters and description (and the tokenizer's) as safetensors content. */
export async function saveModel(decoder: Decoder, tokenizer?: Tokenizer): Promise<TensorFile> {
  const metadata: Record<string, string> = {
    format: modelFormat,
    decoder: JSON.stringify(decoder.describe()),
  }
  if (tokenizer) metadata.tokenizer = JSON.stringify(tokenizer.describe())
  return { tensors: await decoder.exportParameters(), metadata }
}

/** Puts saved parameters into a decoder of the same shape. @throws CheckpointError naming what does not fit */
export async function loadParameters(decoder: Decoder, model: TensorFile): Promise<void> {
  try {
    decoder.importParameters(model.tensors)
  } catch (error) {
    if (!ShapeError.isInstance(error)) throw error
    throw new CheckpointError(`the checkpoint is of another shape: ${error.message}`, error.values, {
      cause: error,
    })
  }
  await decoder.afterUpdate()
}

/**
 * Builds the decoder (and tokenizer) that a saved model describes.
 * @param tokenizers makes those that this entry point does not have: `{ bpe: bpeFromDescription }`
 * @throws FormatError
 */
export async function loadModel(
  model: TensorFile,
  methods: MethodFactories,
  tokenizers: TokenizerFactories = {},
): Promise<{ decoder: Decoder; tokenizer: Tokenizer | undefined }> {
  const { format, decoder: description, tokenizer } = model.metadata
  if (format !== modelFormat || description === undefined)
    throw new FormatError(`this is not a model of Lethe: its format is "${format}", not "${modelFormat}"`, {
      format,
    })
  const decoder = Decoder.fromDescription(JSON.parse(description), methods)
  try {
    await loadParameters(decoder, model)
    const described = tokenizer === undefined ? undefined : JSON.parse(tokenizer)
    const factory = described && tokenizers[described.name]
    return {
      decoder,
      tokenizer: described && (factory ? await factory(described) : tokenizerFromDescription(described)),
    }
  } catch (error) {
    decoder.dispose()
    throw error
  }
}
