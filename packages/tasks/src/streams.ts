/** A task as blocks for training and evaluation: one endless stream per row, each block where the last one ended. */
import { ConfigError } from '@lethe/core'
import type { SequenceTask, StreamState, TaskStream } from './task'

/** Row-major [batch, block]. */
export interface TaskBlock {
  readonly inputs: Int32Array
  readonly targets: Int32Array
  /** 1 at answers, else 0: `weights` of the decoder's `gradients` and `evaluate`. */
  readonly weights: Float32Array
  /** How many answers there are. In long tasks many blocks have none. */
  readonly answers: number
}

export interface TaskStreamsOptions {
  readonly task: SequenceTask
  readonly batch: number
  readonly block: number
  /** The same seed gives the same blocks: take others for validation. Default 0. */
  readonly seed?: number
  /** Goes on from here instead: the `position` of streams of the same task and batch. */
  readonly position?: readonly StreamState[] | undefined
}

export class TaskStreams {
  readonly batch: number
  readonly block: number
  private readonly rows: readonly TaskStream[]

  /** @throws ConfigError for sizes that are no whole numbers from 1 up, and for the position of another batch */
  constructor({ task, batch, block, seed = 0, position }: TaskStreamsOptions) {
    for (const [name, value] of Object.entries({ batch, block })) checkSize(name, value)
    if (position && position.length !== batch)
      throw new ConfigError(
        `the position is that of ${position.length} streams, not of ${batch}: go on with the same batch`,
        { position: position.length, batch },
      )
    this.batch = batch
    this.block = block
    this.rows = Array.from({ length: batch }, (_, row) =>
      position ? task.resume(position[row]!) : task.stream(seed, row),
    )
  }

  /** Where the next block begins, as JSON. */
  get position(): readonly StreamState[] {
    return this.rows.map(({ state }) => state)
  }

  /** @param block tokens of each row, where not as many as always */
  next(block = this.block): TaskBlock {
    const size = this.batch * block
    const inputs = new Int32Array(size)
    const targets = new Int32Array(size)
    const weights = new Float32Array(size)
    let answers = 0
    let at = 0
    for (const row of this.rows)
      for (const end = at + block; at < end; at++) {
        const { input, target, scored } = row.next()
        inputs[at] = input
        targets[at] = target
        if (!scored) continue
        weights[at] = 1
        answers++
      }
    return { inputs, targets, weights, answers }
  }
}

export interface TaskSourceOptions {
  /** Of the streams: take another one for validation than for training. Default 0. */
  readonly seed?: number
  /** Tokens of each stream that an evaluation reads: default 1024. */
  readonly tokens?: number
}

/** A task as `train` and `evaluate` of @lethe/trainer read it (its `BlockSource`). */
export interface TaskSource {
  readonly vocabulary: number
  readonly identity: string
  readonly chance: number
  stream(shape: { readonly batch: number; readonly block: number }, position?: unknown): TaskStreams
  evaluation(shape: { readonly batch: number; readonly block: number }): {
    readonly tokens: number
    readonly blocks: AsyncIterable<TaskBlock>
  }
}

/**
 * The streams of a seed, endless to train on, `tokens` of each to evaluate on. Only answers count.
 * @throws ConfigError for a seed or a number of tokens that cannot be; on evaluation, where nothing is asked in them
 */
export function taskSource(
  task: SequenceTask,
  { seed = 0, tokens = 1024 }: TaskSourceOptions = {},
): TaskSource {
  checkSize('tokens', tokens)
  task.stream(seed)
  return {
    vocabulary: task.vocabulary,
    identity: `${task.name} ${JSON.stringify(task.options)}, seed ${seed}`,
    chance: task.chance,
    stream: (shape, position) =>
      new TaskStreams({ task, seed, ...shape, position: position as readonly StreamState[] | undefined }),
    evaluation({ batch, block }) {
      if (!asks(task, seed, batch, tokens))
        throw new ConfigError(
          `${task.name} asks for nothing in the first ${tokens} tokens of ${batch} streams: evaluate on more tokens`,
          { task: task.name, tokens, batch },
        )
      return {
        tokens: batch * tokens,
        blocks: blocksOf(new TaskStreams({ task, seed, batch, block }), tokens),
      }
    },
  }
}

async function* blocksOf(streams: TaskStreams, tokens: number): AsyncGenerator<TaskBlock> {
  for (let read = 0; read < tokens; read += streams.block)
    yield streams.next(Math.min(streams.block, tokens - read))
}

/** Whether there is an answer in the first tokens of these streams. */
const asks = (task: SequenceTask, seed: number, batch: number, tokens: number) => {
  for (let row = 0; row < batch; row++) {
    const stream = task.stream(seed, row)
    for (let read = 0; read < tokens; read++) if (stream.next().scored) return true
  }
  return false
}

function checkSize(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1)
    throw new ConfigError(`${name} must be a whole number from 1 up, not ${value}`, { [name]: value })
}
