/** A task as blocks for training: one endless stream per row of the batch, each block where the last one ended. */
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
  /** Goes on from here instead. */
  readonly state?: readonly StreamState[]
}

export class TaskStreams {
  readonly batch: number
  readonly block: number
  private readonly rows: readonly TaskStream[]

  /** @throws ConfigError for sizes that are no whole numbers from 1 up, and for the state of another batch */
  constructor({ task, batch, block, seed = 0, state }: TaskStreamsOptions) {
    for (const [name, value] of Object.entries({ batch, block }))
      if (!Number.isInteger(value) || value < 1)
        throw new ConfigError(`${name} must be a whole number from 1 up, not ${value}`, { [name]: value })
    if (state && state.length !== batch)
      throw new ConfigError(
        `the state is that of ${state.length} streams, not of ${batch}: go on with the same batch`,
        { state: state.length, batch },
      )
    this.batch = batch
    this.block = block
    this.rows = Array.from({ length: batch }, (_, row) =>
      state ? task.resume(state[row]!) : task.stream(seed, row),
    )
  }

  /** The state before the next block, as JSON. */
  get state(): readonly StreamState[] {
    return this.rows.map(({ state }) => state)
  }

  next(): TaskBlock {
    const size = this.batch * this.block
    const inputs = new Int32Array(size)
    const targets = new Int32Array(size)
    const weights = new Float32Array(size)
    let answers = 0
    let at = 0
    for (const row of this.rows)
      for (const end = at + this.block; at < end; at++) {
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
