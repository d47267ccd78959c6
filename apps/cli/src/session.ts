/** A training run as the command line shows it: progress, Ctrl-C, checkpoints, what to do next. */
import { resolve } from 'node:path'
import type { BackendError, BackendInfo } from '@lethe/backends'
import type { Decoder } from '@lethe/core'
import type { EvalEvent, Evaluation, RolloutEvaluation, StepEvent, TextScores } from '@lethe/trainer'
import { type Checkpoint, CheckpointError, type TrainOptions, train } from '@lethe/trainer'
import { RunFolder, TensorBoardFile } from '@lethe/trainer/node'
import { backendFailure } from './backend'
import type { RunData } from './data'
import { problemOf } from './errors'
import { interruptible } from './interruption'
import {
  bytes,
  colours,
  count,
  duration,
  percent,
  program,
  relativePath,
  StatusLine,
  shellQuoted,
} from './output'
import type { Settings } from './settings'

export interface Session {
  /** As `trainOptions` made them. */
  readonly options: TrainOptions
  readonly run: RunFolder
  readonly json: boolean
  /** Folder of curves for TensorBoard. */
  readonly curves?: string | undefined
  /** Of the backend that computes. */
  readonly backend: BackendInfo
}

/** The device failed while a run was trained. */
export class DeviceError extends Error {
  override readonly name = 'DeviceError'

  /** @param saved the last good checkpoint */
  constructor(cause: BackendError, command: string, saved: string | undefined) {
    const where = saved === undefined ? 'there is no checkpoint yet' : `the last good checkpoint is ${saved}`
    super(`${problemOf(cause)} Of this run, ${where}; go on with: ${command}`, { cause })
  }
}

/** The trainer's options from the command line's. */
export function trainOptions(
  settings: Settings,
  decoder: Decoder,
  data: RunData,
  resume?: Checkpoint | undefined,
): TrainOptions {
  return {
    decoder,
    train: data.train,
    validation: data.validation,
    tokenizer: data.tokenizer,
    steps: settings.steps,
    batch: settings.batch,
    block: settings.block,
    optimizer: settings.optimizer,
    learningRate: settings['learning-rate'],
    schedule: settings.schedule,
    warmup: settings.warmup,
    clip: settings.clip,
    weightDecay: settings['weight-decay'],
    momentum: settings.momentum,
    accumulate: settings.accumulate,
    unroll: settings.unroll,
    evalEvery: settings['eval-every'],
    validBatch: settings['valid-batch'],
    checkpointEvery: settings['checkpoint-every'],
    seed: settings.seed,
    resume,
  }
}

/** Makes the folder of a new run. @throws CheckpointError: a run that is there is never overwritten */
export async function createRun(out: string, config: unknown, keep: number): Promise<RunFolder> {
  try {
    return await RunFolder.create(out, config, { keep })
  } catch (error) {
    if (!CheckpointError.isInstance(error) || !error.values.run) throw error
    throw new CheckpointError(
      `${out} already holds a run: go on with it (${program()} train --resume ${shellQuoted(out)}) or choose another --out`,
      error.values,
      { cause: error },
    )
  }
}

interface Outcome {
  /** False: interrupted. */
  readonly finished: boolean
  /** The last evaluation. */
  readonly last: EvalEvent | undefined
}

/** Trains to the end, or until it is interrupted. */
export function runTraining(session: Session): Promise<Outcome> {
  const status = new StatusLine(process.stdout)
  const print = (...lines: string[]) => {
    if (!session.json) status.print(...lines)
  }
  return interruptible(
    (signal) => trainUntil(signal, session, status, print),
    () => print('stopping after this step; Ctrl-C again to end at once'),
  )
}

async function trainUntil(
  signal: AbortSignal,
  { options, run, json, backend, curves }: Session,
  status: StatusLine,
  print: (...lines: string[]) => void,
): Promise<Outcome> {
  const before = options.resume?.step ?? 0
  const paint = colours(process.stdout)
  let tensorBoard: TensorBoardFile | undefined
  let saved = options.resume?.path
  let last: EvalEvent | undefined
  let finished = true
  const recent = new RecentEpisodes()
  try {
    if (curves) tensorBoard = await TensorBoardFile.create(curves, before)
    const events = train({
      ...options,
      report: curves !== undefined,
      checkpoints: run.checkpoints,
      signal,
      check: backend.throwIfFailed,
    })
    for await (const event of events) {
      await run.record(event)
      await tensorBoard?.append(event)
      if (json && event.type !== 'evaluating') console.log(JSON.stringify(event))
      if (json) {
        if (event.type === 'eval') last = event
        if (event.type === 'end') finished = event.reason === 'finished'
        continue
      }
      if (event.type === 'start')
        print(
          [
            `${count(event.parameters)} parameters`,
            ...(event.trainTokens === undefined ? [] : [`${count(event.trainTokens)} tokens to train on`]),
            ...(event.validationTokens === undefined ? [] : [`${count(event.validationTokens)} to validate`]),
          ].join(', '),
          ...(event.step > 0 ? [`going on after step ${event.step}`] : []),
        )
      else if (event.type === 'step') {
        recent.add(event)
        status.update(() => stepLine(event, options.steps, before, recent))
      } else if (event.type === 'evaluating')
        status.update(
          () => `evaluating: ${Math.floor((100 * event.tokens) / event.of)} % of ${count(event.of)} tokens`,
        )
      else if (event.type === 'eval') {
        last = event
        print(`step ${event.step}: validation ${evaluationText(event, paint.bold)}`)
      } else if (event.type === 'checkpoint') saved = event.path
      else if (event.type === 'end') finished = event.reason === 'finished'
    }
  } catch (error) {
    const failure = await backendFailure()
    if (failure === undefined) throw error
    throw new DeviceError(failure, resumeCommand(run), saved && relativePath(resolve(saved)))
  } finally {
    print()
    await run.close()
    await tensorBoard?.close()
  }
  if (saved) print(`checkpoint: ${relativePath(resolve(saved))}`)
  print(`metrics: ${relativePath(resolve(run.metricsPath))}`)
  if (curves) print(`curves: tensorboard --logdir ${shellQuoted(relativePath(curves))}`)
  if (!finished) {
    const command = resumeCommand(run)
    if (json) console.log(JSON.stringify({ type: 'interrupted', resume: command }))
    else print(`interrupted; go on with: ${command}`)
  }
  return { finished, last }
}

const resumeCommand = (run: RunFolder) =>
  `${program()} train --resume ${shellQuoted(relativePath(resolve(run.path)))}`

/** What an evaluation found, in words; `mark` is put on the figure that counts. */
export function evaluationText(
  found: Evaluation | RolloutEvaluation,
  mark: (figure: string) => string = (figure) => figure,
): string {
  if ('solved' in found) {
    const { solved, episodes, greedy, chance, oracle, meanReturn, oracleReturn, meanSteps } = found
    const actions = greedy ? 'the most probable actions' : 'drawn actions'
    return (
      `${mark(percent(solved))} of ${count(episodes)} episodes solved by ${actions} (chance ${percent(chance)}, oracle ${percent(oracle)}), ` +
      `mean return ${meanReturn.toFixed(3)} (oracle ${oracleReturn.toFixed(3)}), ${meanSteps.toFixed(1)} steps`
    )
  }
  const { bitsPerByte, accuracy, chance, loss, perplexity, tokens } = found
  if (accuracy !== undefined)
    return `${mark(percent(accuracy))} of ${count(tokens)} answers right (chance ${percent(chance!)}), loss ${loss.toFixed(4)} nats`
  const quality =
    bitsPerByte === undefined ? `${loss.toFixed(4)} nats` : `${bitsPerByte.toFixed(4)} bits per byte`
  return `${mark(quality)}, perplexity ${perplexity.toFixed(2)} per token`
}

/** The scores of a text that hold whatever its tokens are. */
export function wordsText({ words, wordPerplexity, bitsPerCharacter }: TextScores): string {
  return `perplexity ${perplexityText(wordPerplexity)} per word, over ${count(words)} words; ${bitsPerCharacter.toFixed(4)} bits per character`
}

/** Perplexities per word of small models of bytes are enormous. */
export const perplexityText = (value: number) => (value < 1e6 ? value.toFixed(2) : value.toExponential(3))

/** The last hundred episodes or so that ended while training. */
class RecentEpisodes {
  private updates: { readonly episodes: number; readonly solved: number }[] = []

  add({ episodes = 0, solved = 0 }: StepEvent): void {
    if (episodes === 0) return
    this.updates.push({ episodes, solved: solved * episodes })
    while (this.count - this.updates[0]!.episodes >= 100) this.updates.shift()
  }

  private get count(): number {
    return this.updates.reduce((sum, { episodes }) => sum + episodes, 0)
  }

  toString(): string {
    if (this.updates.length === 0) return 'no episode ended yet'
    const solved = this.updates.reduce((sum, update) => sum + update.solved, 0)
    return `${percent(solved / this.count)} of ${this.count} episodes solved`
  }
}

function stepLine(event: StepEvent, steps: number, before: number, recent: RecentEpisodes): string {
  const perStep = event.seconds / Math.max(1, event.step - before)
  return [
    `step ${event.step}/${steps}`,
    event.episodes !== undefined
      ? String(recent)
      : event.bitsPerByte === undefined
        ? `loss ${event.loss.toFixed(3)}`
        : `${event.bitsPerByte.toFixed(3)} bits/byte`,
    `ETA ${duration(perStep * (steps - event.step))}`,
    `${count(event.tokensPerSecond)} tokens/s`,
    `${count(event.slots)} slots`,
    // Last, so that a narrow terminal cuts off what is known anyway.
    `${bytes(event.memoryBytes)} of memory`,
  ].join(' · ')
}
