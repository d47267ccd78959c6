/** How many answers of a task a decoder gets right. */
import { breathe, type Decoder } from '@lethe/core'
import { argMax, dispose, tensor2d, tidy } from '@tensorflow/tfjs-core'
import { TaskStreams } from './streams'
import type { SequenceTask } from './task'

export interface TaskEvaluationOptions {
  readonly decoder: Decoder
  readonly task: SequenceTask
  /** Of the streams: one that was not trained on. */
  readonly seed: number
  /** Streams side by side: default 8. */
  readonly batch?: number
  /** Tokens read at a time: default 64. */
  readonly block?: number
  /** Blocks read: default 16. */
  readonly blocks?: number
  /** Stops by throwing the signal's reason. */
  readonly signal?: AbortSignal | undefined
}

export interface TaskEvaluation {
  /** Part of the answers whose most probable token is right; NaN where none was asked for. */
  readonly accuracy: number
  /** Answers asked for. */
  readonly answers: number
  /** Slots alive, mean over layers, rows and blocks. */
  readonly slots: number
}

/** Reads streams from an empty memory on, with the right answers fed back as in training. */
export async function evaluateTask(options: TaskEvaluationOptions): Promise<TaskEvaluation> {
  const { decoder, task, seed, batch = 8, block = 64, blocks = 16, signal } = options
  const streams = new TaskStreams({ task, batch, block, seed })
  let memory = decoder.initialMemory(batch)
  let [right, answers, slots] = [0, 0, 0]
  try {
    for (let read = 0; read < blocks; read++) {
      signal?.throwIfAborted()
      const { inputs, targets, weights, answers: asked } = streams.next()
      const tokens = tensor2d(inputs, [batch, block], 'int32')
      const result = decoder.forward(tokens, memory)
      memory = result.memory
      const said = tidy(() => argMax(result.logits, -1))
      dispose([tokens, result.logits, result.penalty])
      const values = await said.data()
      said.dispose()
      for (const [at, weight] of weights.entries()) if (weight && values[at] === targets[at]) right++
      answers += asked
      memory = await decoder.compact(memory)
      slots += memory.slots
      await breathe()
    }
  } finally {
    memory.dispose()
  }
  return { accuracy: right / answers, answers, slots: slots / blocks }
}
