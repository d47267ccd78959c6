/**
 * What is trained and evaluated on, whatever it is: rows of tokens side by side, block after block, with a target for
 * each position. A text becomes this in streams.ts; a task (`taskSource` of @lethe/tasks) is this by itself.
 */
import type { Decoder, GradientOptions, GradientResult, Memory } from '@lethe/core'
import { dispose, type Tensor, type Tensor2D, tensor2d, tidy } from '@tensorflow/tfjs-core'
import type { Rollout } from './rollouts'

/** Each row goes on where it ended in the block before. */
export interface Block {
  /** Row-major [batch, block]. */
  readonly inputs: Int32Array
  /** Row-major [batch, block]: what is to be said after each input. */
  readonly targets: Int32Array
  /** Row-major [batch, block]: weights of the targets in the mean loss, 0 for none. Without them all count the same. */
  readonly weights?: Float32Array | undefined
  /** Rows whose stream begins anew here: their memory is emptied before the block is read. */
  readonly resets?: readonly number[] | undefined
}

export interface BlockShape {
  /** Rows. */
  readonly batch: number
  /** Tokens of each row. */
  readonly block: number
}

/** Endless streams, one per row, to train on. */
export interface BlockStream {
  /** Where the next block begins, as JSON: the data cursor of a checkpoint. */
  readonly position: unknown
  next(): Block | Promise<Block>
}

/** Streams that end, to evaluate on. */
export interface EvaluationBlocks {
  /** Inputs of all blocks together. */
  readonly tokens: number
  /** In order; each row begins with an empty memory. The last blocks may be shorter than the others. */
  readonly blocks: AsyncIterable<Block>
}

/** Where blocks come from. */
export interface BlockSource {
  /** Every token is less than this. */
  readonly vocabulary: number
  /** Tells these data from others, so that a run is not resumed on other data. */
  readonly identity: string
  /** Tokens in all; none of an endless source. */
  readonly length?: number | undefined
  /** Bytes of text that a token stands for, on average: what bits per byte divides by. Without it there are none. */
  readonly bytesPerToken?: number | undefined
  /**
   * The part of the targets with a weight, the answers, that guessing gets right. Where it is given, evaluations say
   * how many answers are right.
   */
  readonly chance?: number | undefined
  /**
   * @param position goes on where a stream of the same shape said it was; otherwise from the start
   * @throws where there is too little for the shape, or the position is that of other streams
   */
  stream(shape: BlockShape, position?: unknown): BlockStream
  /** Everything there is to evaluate on, once. @throws where that is too little for the shape */
  evaluation(shape: BlockShape): EvaluationBlocks
}

/** A block as tensors [batch, block], the caller's to dispose of. */
export function blockTensors(
  { inputs, targets, weights }: Block,
  batch: number,
): { readonly inputs: Tensor2D; readonly targets: Tensor2D; readonly weights?: Tensor2D } {
  const shape: [number, number] = [batch, inputs.length / batch]
  return tidy(() => ({
    inputs: tensor2d(inputs, shape, 'int32'),
    targets: tensor2d(targets, shape, 'int32'),
    ...(weights && { weights: tensor2d(weights, shape, 'float32') }),
  }))
}

/**
 * Forward and backward through a block or a rollout: rows that begin anew are emptied first. Consumes `memory`, on an
 * error too if there are such rows; the loss is the mean over targets that count, or the rollout's own.
 */
export function gradientsOf(
  decoder: Decoder,
  next: Block | Rollout,
  memory: Memory,
  options: GradientOptions = {},
): GradientResult {
  const { batch } = memory
  const from = next.resets?.length ? memory.reset(next.resets) : memory
  let made: Tensor[] = []
  try {
    if ('loss' in next) {
      const inputs = tensor2d(next.inputs, [batch, next.inputs.length / batch], 'int32')
      made = [inputs]
      return decoder.gradientsOf(inputs, from, next.loss, options)
    }
    const { inputs, targets, ...rest } = blockTensors(next, batch)
    made = [inputs, targets, ...Object.values(rest)]
    return decoder.gradients(inputs, targets, from, { ...options, ...rest })
  } catch (error) {
    if (from !== memory) from.dispose()
    throw error
  } finally {
    dispose(made)
  }
}
