/**
 * A checkpoint: everything from which a run goes on as if it had never stopped. It is plain data, so that a folder
 * (`@lethe/trainer/node`), a page's storage, or a test's variable can hold it.
 */
import type { Decoder, ForgettingMethod, HostTensor, RandomState, TensorFile } from '@lethe/core'
import { Decoder as DecoderClass, FormatError } from '@lethe/core'
import { tensor } from '@tensorflow/tfjs-core'
import { CheckpointError } from './errors'
import type { Evaluation } from './evaluate'
import type { Tokenizer } from './tokenizers'
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
  /** The data cursor: where in its stream each row is. */
  readonly position: number
  readonly random: RandomState
  /** What must be the same when the run goes on. */
  readonly training: Readonly<Record<string, unknown>>
  readonly decoder: unknown
  /** Text and tokenizer. */
  readonly data: { readonly identity: string; readonly tokens: number; readonly vocabulary: number }
  readonly validation: readonly ValidationRecord[]
}

export interface ValidationRecord extends Evaluation {
  readonly step: number
}

/** Where a training loop puts its checkpoints. */
export interface CheckpointStore {
  /** Saves whole or not at all. @returns how the user finds it again, such as its path */
  save(checkpoint: Checkpoint): Promise<string>
}

const modelFormat = 'lethe-model-1'

/** The decoder's parameters and description (and the tokenizer's) as safetensors content. */
export async function saveModel(decoder: Decoder, tokenizer?: Tokenizer): Promise<TensorFile> {
  const tensors = new Map<string, HostTensor>()
  const values = [...decoder.parameters].map(
    async ([name, parameter]) => [name, parameter.shape, (await parameter.data()) as Float32Array] as const,
  )
  // A copy, since on some backends what was read is a view of memory that the next step overwrites.
  for (const [name, shape, data] of await Promise.all(values))
    tensors.set(name, { dtype: 'float32', shape: [...shape], data: data.slice() })
  const metadata: Record<string, string> = {
    format: modelFormat,
    decoder: JSON.stringify(decoder.describe()),
  }
  if (tokenizer) metadata.tokenizer = JSON.stringify(tokenizer.describe())
  return { tensors, metadata }
}

/** Puts saved parameters into a decoder of the same shape. @throws CheckpointError naming what does not fit */
export async function loadParameters(decoder: Decoder, model: TensorFile): Promise<void> {
  const unknown = [...model.tensors.keys()].find((name) => !decoder.parameters.has(name))
  if (unknown !== undefined)
    throw new CheckpointError(
      `the checkpoint has a parameter "${unknown}" that this model does not have: use the configuration it was trained with`,
      { name: unknown },
    )
  for (const [name, { shape }] of decoder.parameters) {
    const saved = model.tensors.get(name)
    if (saved && saved.shape.join() === shape.join()) continue
    throw new CheckpointError(
      `the checkpoint is of another shape: its "${name}" is ${saved ? `[${saved.shape.join(', ')}]` : 'missing'}, ` +
        `this model's is [${shape.join(', ')}]: use the configuration it was trained with`,
      { name, saved: saved?.shape, needed: shape },
    )
  }
  for (const [name, parameter] of decoder.parameters) {
    const saved = model.tensors.get(name)!
    const value = tensor(saved.data, [...saved.shape], 'float32')
    parameter.assign(value)
    value.dispose()
  }
  await decoder.afterUpdate()
}

/** Builds the decoder (and tokenizer) that a saved model describes. */
export async function loadModel(
  model: TensorFile,
  methods: Readonly<Record<string, (options: never) => ForgettingMethod>>,
): Promise<{ decoder: Decoder; tokenizer: Tokenizer | undefined }> {
  const { format, decoder: description, tokenizer } = model.metadata
  if (format !== modelFormat || description === undefined)
    throw new FormatError(`this is not a model of Lethe: its format is "${format}", not "${modelFormat}"`, {
      format,
    })
  const decoder = DecoderClass.fromDescription(JSON.parse(description), methods as never)
  try {
    await loadParameters(decoder, model)
    return {
      decoder,
      tokenizer: tokenizer === undefined ? undefined : tokenizerFromDescription(JSON.parse(tokenizer)),
    }
  } catch (error) {
    decoder.dispose()
    throw error
  }
}
