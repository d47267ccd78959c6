/**
 * The training loop: an async iterator of plain events, so that a command line, a worker and a page each show it in
 * their own way. It ends when the steps are done or its signal is aborted (after a checkpoint), and throws when the
 * loss is no longer a number. Leaving the `for await` early frees everything.
 */
import type { Decoder, LayerReport } from '@lethe/core'
import { breathe, Random, registerGradients } from '@lethe/core'
import type { Scalar, Tensor } from '@tensorflow/tfjs-core'
import { add, clone, dispose, mul, tidy } from '@tensorflow/tfjs-core'
import { type BlockSource, gradientsOf } from './blocks'
import type { Checkpoint, CheckpointState, CheckpointStore, ValidationRecord } from './checkpoint'
import { loadParameters, saveModel } from './checkpoint'
import { checkVocabulary, checkWhole } from './checks'
import { CheckpointError, OptionError, TrainingError } from './errors'
import type { Evaluation, Scores } from './evaluate'
import { evaluation, scores } from './evaluate'
import type { OptimizerName } from './optimizers'
import { checkOptimizer, Optimizer } from './optimizers'
import {
  type EvaluationOf,
  isRolloutSource,
  type Played,
  type PlayedFigures,
  playedFigures,
  type RolloutEvaluation,
  type RolloutSource,
  type TrainingSource,
} from './rollouts'
import type { ScheduleName } from './schedules'
import { learningRateAt, scheduleNames } from './schedules'
import { blockSource } from './streams'
import type { Tokenizer } from './tokenizers'

export interface TrainOptions<S extends TrainingSource = TrainingSource> {
  /** Trained in place. It remains the caller's to dispose of. */
  readonly decoder: Decoder
  /** A text, a task, or worlds to act in. */
  readonly train: S
  /** Without it there is no evaluation. */
  readonly validation?: S | undefined
  /** Saved with the model, so that a checkpoint alone can generate text. */
  readonly tokenizer?: Tokenizer | undefined
  /** Updates in all, those before a resumed checkpoint included. */
  readonly steps: number
  /** Streams read, or worlds acted in, side by side. */
  readonly batch: number
  /** Tokens of each stream read at a time; steps of each world in a rollout. */
  readonly block: number
  /** Default 'adam'. */
  readonly optimizer?: OptimizerName
  /** Default 7e-4. */
  readonly learningRate?: number
  /** Steps of linear warm-up: default 200. */
  readonly warmup?: number
  /** What follows the warm-up: default 'constant'. */
  readonly schedule?: ScheduleName
  /** Largest global gradient norm, 0 for no clipping: default 0.3. */
  readonly clip?: number
  /** Default 0. */
  readonly weightDecay?: number
  /** SGD's: default 0. */
  readonly momentum?: number
  /** Consecutive blocks whose mean gradient makes one update: default 1. */
  readonly accumulate?: number
  /**
   * Consecutive blocks that one gradient reaches back through (BPTT through the memory): an update then reads
   * `unroll` blocks at once, or a rollout of so many. Default 1: memories are constants.
   */
  readonly unroll?: number
  /** Of dropout and whatever else is drawn while training: default 0. The decoder's own seed sets its first weights. */
  readonly seed?: number
  /** Steps between evaluations: default 500; 0 for only one at the end. */
  readonly evalEvery?: number
  /** Tells, whenever an evaluation is due, what each layer remembers (`decoder.report`): default false. */
  readonly report?: boolean
  /** Streams of an evaluation: default 8; of worlds its episodes: default 64. */
  readonly validBatch?: number
  readonly checkpoints?: CheckpointStore | undefined
  /** Steps between checkpoints: default 500; 0 for only one at the end. */
  readonly checkpointEvery?: number
  /**
   * Goes on from here. Data, model and options must be those of the checkpoint, but for what does not change what is
   * learned: `steps` may be more, `evalEvery`, `checkpointEvery` and `report` others.
   */
  readonly resume?: Checkpoint | undefined
  /**
   * Called after each step, evaluation and before each checkpoint, when their results have been read: throws where the device
   * has failed (`throwIfFailed` of `useBackend`), so that what a lost GPU left is neither told nor saved.
   */
  readonly check?: (() => void) | undefined
  /** Ends the run after the step at hand: with a checkpoint, if there is a store. */
  readonly signal?: AbortSignal | undefined
}

/** `E`: what evaluations find. */
export type TrainEvent<E = Evaluation | RolloutEvaluation> =
  | StartEvent
  | StepEvent
  | EvaluatingEvent
  | EvalEvent<E>
  | ReportEvent
  | CheckpointEvent
  | EndEvent

export interface StartEvent {
  readonly type: 'start'
  /** Steps done before: 0, or those of the resumed checkpoint. */
  readonly step: number
  readonly steps: number
  readonly parameters: number
  /** Tokens of the training and of the validation part; none where they are endless or not there. */
  readonly trainTokens?: number
  readonly validationTokens?: number
}

/**
 * The loss is the mean of the step's blocks, without the penalty. Perplexity is that of targets, and the figures of
 * what was played are those of worlds.
 */
export interface StepEvent
  extends Pick<Scores, 'loss'>,
    Partial<Omit<Scores, 'loss'>>,
    Partial<PlayedFigures> {
  readonly type: 'step'
  readonly step: number
  /** Of data with weights: targets that counted. Where there are none, the loss is 0. */
  readonly answers?: number
  /** What the forgetting method adds to the loss. */
  readonly penalty: number
  readonly learningRate: number
  /** Global norm before clipping. */
  readonly gradientNorm: number
  /** Slots alive, mean over layers and rows. */
  readonly slots: number
  /** Bytes allocated for memories. */
  readonly memoryBytes: number
  /** Tokens trained on since step 1: of worlds those of observations that were acted on. */
  readonly tokens: number
  /** Timing, the only fields that differ between two runs of the same seed: seconds since this process began. */
  readonly seconds: number
  readonly tokensPerSecond: number
}

export interface EvaluatingEvent {
  readonly type: 'evaluating'
  readonly step: number
  readonly tokens: number
  readonly of: number
}

export type EvalEvent<E = Evaluation | RolloutEvaluation> = E & {
  readonly type: 'eval'
  readonly step: number
  /** Timing. */
  readonly seconds: number
}

export interface ReportEvent {
  readonly type: 'report'
  readonly step: number
  /** Of the memory of training: slots, what each head attends to, the method's own figures. */
  readonly layers: readonly LayerReport[]
}

export interface CheckpointEvent {
  readonly type: 'checkpoint'
  readonly step: number
  /** What the store returned: a path. */
  readonly path: string
}

export interface EndEvent {
  readonly type: 'end'
  readonly step: number
  /** 'aborted': there are steps left, or an evaluation that is due. */
  readonly reason: 'finished' | 'aborted'
}

const defaults = {
  optimizer: 'adam',
  learningRate: 7e-4,
  warmup: 200,
  schedule: 'constant',
  clip: 0.3,
  weightDecay: 0,
  momentum: 0,
  accumulate: 1,
  unroll: 1,
  seed: 0,
  evalEvery: 500,
  checkpointEvery: 500,
} as const satisfies Partial<TrainOptions>

type Settings = Omit<TrainOptions, 'train' | 'validation'> &
  Required<Pick<TrainOptions, keyof typeof defaults | 'validBatch'>> & {
    readonly train: BlockSource | RolloutSource
    readonly validation: BlockSource | RolloutSource | undefined
  }

const sourceOf = (source: TrainingSource) => (isRolloutSource(source) ? source : blockSource(source))

/**
 * Throws what `train` would throw before its first step, and changes nothing: for callers that want to know before
 * they make a folder.
 * @throws OptionError, DataError, CheckpointError
 */
export function checkTraining(options: TrainOptions): void {
  const settings = settingsOf(options)
  openStream(settings)
  if (settings.resume) checkResume(settings, settings.resume)
}

function settingsOf({ train, validation, ...options }: TrainOptions): Settings {
  return check({
    ...defaults,
    validBatch: validation && isRolloutSource(validation) ? 64 : 8,
    ...withoutUndefined(options),
    train: sourceOf(train),
    validation: validation && sourceOf(validation),
  })
}

/** An update with `unroll` reads that many blocks at once. */
const openStream = ({ train, batch, block, unroll }: Settings, position?: unknown) =>
  train.stream({ batch, block: block * unroll }, position)

export function train<S extends TrainingSource>(
  options: TrainOptions<S>,
): AsyncGenerator<TrainEvent<EvaluationOf<S>>, void, undefined> {
  return run(options) as AsyncGenerator<TrainEvent<EvaluationOf<S>>, void, undefined>
}

async function* run(options: TrainOptions): AsyncGenerator<TrainEvent, void, undefined> {
  const settings = settingsOf(options)
  const { decoder, validation, batch, block, steps, accumulate, unroll, signal, resume, checkpoints } =
    settings
  if (resume) checkResume(settings, resume)
  const stream = openStream(settings, resume?.state.position)
  registerGradients()

  // What shapes depend on is read before the first memory is made.
  await decoder.afterUpdate()
  const began = performance.now()
  const seconds = () => (performance.now() - began) / 1000
  let random = new Random(settings.seed)
  const optimizer = new Optimizer(decoder.parameters, settings)
  let step = 0
  let tokens = 0
  const history: ValidationRecord[] = []
  let saved: string | undefined
  let savedStep = 0
  let memory = resume ? undefined : decoder.initialMemory(batch)

  async function save(): Promise<CheckpointEvent> {
    const checkpoint: Checkpoint = {
      step,
      model: await saveModel(decoder, settings.tokenizer),
      optimizer: { tensors: await optimizer.state(), metadata: { optimizer: settings.optimizer } },
      memory: await memory!.serialize(),
      state: {
        format: 'lethe-checkpoint-1',
        step,
        tokens,
        position: stream.position,
        random: random.state,
        training: describeTraining(settings),
        decoder: decoder.describe(),
        data: describeData(settings.train),
        validation: [...history],
      },
    }
    settings.check?.()
    saved = await checkpoints!.save(checkpoint)
    savedStep = step
    return { type: 'checkpoint', step, path: saved }
  }

  /** One update; what it returns is read when the device is done. */
  async function update(learningRate: number) {
    const losses: Scalar[] = []
    const penalties: Scalar[] = []
    let norm: Scalar | undefined
    let gradients: Record<string, Tensor> = {}
    let answers: number | undefined
    let read = 0
    const played: Played[] = []
    try {
      for (let part = 0; part < accumulate; part++) {
        const learner = { decoder, memory: memory!, random }
        const next = 'play' in stream ? await stream.play(learner) : await stream.next()
        const result = gradientsOf(decoder, next, memory!, { random, unroll })
        memory = result.memory
        if ('loss' in next) {
          read += next.tokens
          played.push(next.played)
        } else {
          read += next.inputs.length
          if (next.weights)
            answers = (answers ?? 0) + next.weights.reduce((sum, each) => sum + Number(each > 0), 0)
        }
        losses.push(result.loss)
        penalties.push(result.penalty)
        const divisor = part === accumulate - 1 ? accumulate : 1
        gradients = part === 0 ? result.gradients : accumulateGradients(gradients, result.gradients, divisor)
        memory = await decoder.compact(memory)
      }
      norm = optimizer.update(gradients, learningRate)
      dispose(gradients)
      await decoder.afterUpdate()
      const scalars = [norm, ...losses, ...penalties]
      const [gradientNorm, ...values] = (await Promise.all(scalars.map((value) => value.data()))).map(
        (data) => data[0]!,
      )
      const mean = (list: number[]) => list.reduce((a, b) => a + b, 0) / accumulate
      const loss = mean(values.slice(0, accumulate))
      return {
        read,
        ...(isRolloutSource(settings.train)
          ? { loss, ...playedFigures(played) }
          : { ...scores(loss, settings.train), ...(answers !== undefined && { answers }) }),
        penalty: mean(values.slice(accumulate)),
        gradientNorm: gradientNorm!,
      }
    } finally {
      // Of what is still there: an error may come at any point.
      dispose([...losses, ...penalties, ...Object.values(gradients), ...(norm ? [norm] : [])])
    }
  }

  const evaluationIsDue = () => step === steps || (settings.evalEvery > 0 && step % settings.evalEvery === 0)

  const evaluationIsOutstanding = () =>
    validation !== undefined && evaluationIsDue() && step > 0 && history.at(-1)?.step !== step

  function evaluated(found: Evaluation | RolloutEvaluation): EvalEvent {
    settings.check?.()
    if ('loss' in found && found.tokens > 0 && !Number.isFinite(found.loss))
      throw notFinite(
        { step, validationLoss: found.loss, learningRate: learningRateAt(step, settings) },
        saved,
      )
    history.push({ step, ...found })
    return { type: 'eval', step, ...found, seconds: seconds() }
  }

  /** Evaluates when it is due; an aborted evaluation is done anew when the run is resumed. */
  async function* evaluateIfDue(): AsyncGenerator<TrainEvent, void, undefined> {
    if (!validation || !evaluationIsOutstanding() || signal?.aborted) return
    if (isRolloutSource(validation)) {
      const episodes = settings.validBatch
      const found = await validation.evaluate({ decoder, episodes, signal }).catch((error) => {
        if (!signal?.aborted) throw error
      })
      if (found) yield evaluated(found)
      return
    }
    const blocks = evaluation({ decoder, source: validation, batch: settings.validBatch, block, signal })
    try {
      for (;;) {
        const next = await blocks.next()
        if (next.done) {
          yield evaluated(next.value)
          return
        }
        yield { type: 'evaluating', step, ...next.value }
      }
    } catch (error) {
      if (!signal?.aborted) throw error
    } finally {
      await blocks.return(undefined as never)
    }
  }

  try {
    if (resume) {
      const { state } = resume
      await loadParameters(decoder, resume.model)
      optimizer.load(state.step, resume.optimizer.tensors)
      memory = decoder.restoreMemory(resume.memory)
      random = new Random(state.random)
      step = state.step
      tokens = state.tokens
      history.push(...state.validation)
      saved = resume.path ?? `step ${step}`
      savedStep = step
    }
    yield {
      type: 'start',
      step,
      steps,
      parameters: decoder.parameterCount,
      ...lengthOf('trainTokens', settings.train),
      ...lengthOf('validationTokens', validation),
    }
    yield* evaluateIfDue()
    while (step < steps && !signal?.aborted) {
      const start = performance.now()
      const learningRate = learningRateAt(step + 1, settings)
      const { read, ...found } = await update(learningRate)
      const { loss, penalty, gradientNorm } = found
      settings.check?.()
      step++
      if (!Number.isFinite(loss + penalty + gradientNorm))
        throw notFinite({ step, loss, penalty, gradientNorm, learningRate }, saved)
      tokens += read
      await breathe()
      yield {
        type: 'step',
        step,
        ...found,
        learningRate,
        slots: memory!.slots,
        memoryBytes: memory!.bytes,
        tokens,
        seconds: seconds(),
        tokensPerSecond: read / ((performance.now() - start) / 1000),
      }
      yield* evaluateIfDue()
      if (settings.report && evaluationIsDue())
        yield { type: 'report', step, layers: await decoder.report(memory!) }
      const due = settings.checkpointEvery > 0 && step % settings.checkpointEvery === 0
      if (checkpoints && due && step < steps && !signal?.aborted) yield await save()
    }
    if (checkpoints && step > savedStep) yield await save()
    yield { type: 'end', step, reason: step < steps || evaluationIsOutstanding() ? 'aborted' : 'finished' }
  } finally {
    memory?.dispose()
    optimizer.dispose()
  }
}

/** What must stay the same for a resumed run to equal the uninterrupted one. */
function describeTraining(settings: Settings): Record<string, unknown> {
  const { batch, block, optimizer, learningRate, warmup, schedule, clip, weightDecay, momentum, accumulate } =
    settings
  const { seed, validBatch } = settings
  return {
    ...{ batch, block, optimizer, learningRate, warmup, schedule, clip, weightDecay, momentum, accumulate },
    ...{ seed, validBatch },
    ...(settings.unroll > 1 ? { unroll: settings.unroll } : {}),
    // The cosine depends on where it ends; other schedules do not.
    ...(schedule === 'cosine' ? { steps: settings.steps } : {}),
  }
}

function describeData(source: BlockSource | RolloutSource): CheckpointState['data'] {
  const { identity, vocabulary } = source
  return { identity, vocabulary, ...lengthOf('tokens', source) }
}

/** The tokens of a text under that name; nothing of what is endless. */
const lengthOf = <N extends string>(name: N, source: BlockSource | RolloutSource | undefined) =>
  (source && 'length' in source && source.length !== undefined ? { [name]: source.length } : {}) as {
    [name in N]?: number
  }

function checkResume(settings: Settings, { state, path = 'the checkpoint' }: Checkpoint): void {
  const refuse = (what: string, saved: unknown, given: unknown, fix: string) => {
    throw new CheckpointError(
      `${path} was made with ${what} ${JSON.stringify(saved)}, not ${JSON.stringify(given)}: ${fix}`,
      { what, saved, given },
    )
  }
  const given = describeTraining(settings)
  for (const name of new Set([...Object.keys(state.training), ...Object.keys(given)]))
    if (state.training[name] !== given[name])
      refuse(
        name,
        state.training[name] ?? null,
        given[name] ?? null,
        name === 'steps'
          ? 'the cosine schedule ends there, so start another run for more steps'
          : 'resume with the same options',
      )
  const decoder = settings.decoder.describe() as unknown as Record<string, unknown>
  const savedDecoder = state.decoder as Record<string, unknown>
  for (const name of new Set([...Object.keys(savedDecoder), ...Object.keys(decoder)]))
    if (canonical(savedDecoder[name]) !== canonical(decoder[name]))
      refuse(`${name} (model)`, savedDecoder[name], decoder[name], 'resume with the same model')
  const data = describeData(settings.train)
  if (state.data.tokens !== data.tokens)
    refuse('training data of', sized(state.data), sized(data), 'resume with the same data')
  if (state.data.identity !== data.identity)
    refuse('the data', state.data.identity, data.identity, 'resume with the same data and tokenizer')
  if (state.step > settings.steps)
    refuse('more steps,', state.step, settings.steps, `give ${state.step} steps or more`)
}

const sized = ({ tokens }: CheckpointState['data']) => (tokens === undefined ? 'no end' : `${tokens} tokens`)

/** JSON in which the order of keys does not matter. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, part) =>
    part && typeof part === 'object' && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  )
}

const figureNames: Readonly<Record<string, string>> = {
  loss: 'loss',
  penalty: 'penalty',
  gradientNorm: 'gradient norm',
  validationLoss: 'validation loss',
}

function notFinite(
  values: Record<string, number> & { step: number },
  saved: string | undefined,
): TrainingError {
  const broken = Object.keys(values).find((name) => name in figureNames && !Number.isFinite(values[name]))!
  const where = saved ? `the last good checkpoint is ${saved}` : 'no checkpoint was saved before'
  return new TrainingError(
    `the ${figureNames[broken]} became ${values[broken]} at step ${values.step}; ` +
      `${where}: try a smaller learning rate (it was ${values.learningRate}), a longer warm-up or a smaller clip`,
    { ...values, checkpoint: saved },
  )
}

/** Adds up gradients (a layer that was dropped has none), and divides by the number of blocks at the last of them. Consumes both. */
function accumulateGradients(
  sum: Record<string, Tensor>,
  next: Record<string, Tensor>,
  divisor: number,
): Record<string, Tensor> {
  const result = tidy(() =>
    Object.fromEntries(
      [...new Set([...Object.keys(sum), ...Object.keys(next)])].map((name) => {
        const [before, gradient] = [sum[name], next[name]]
        const total = before && gradient ? add(before, gradient) : clone((before ?? gradient)!)
        return [name, divisor === 1 ? total : mul(total, 1 / divisor)]
      }),
    ),
  )
  dispose(sum)
  dispose(next)
  return result
}

function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T
}

function check(settings: Settings): Settings {
  for (const name of ['steps', 'batch', 'block', 'accumulate', 'unroll', 'validBatch'] as const)
    checkWhole(name, settings[name])
  for (const name of ['warmup', 'evalEvery', 'checkpointEvery', 'seed'] as const)
    checkWhole(name, settings[name], 0)
  if (!(settings.learningRate > 0 && Number.isFinite(settings.learningRate)))
    throw new OptionError(`learningRate must be more than 0, not ${settings.learningRate}`, {
      learningRate: settings.learningRate,
    })
  if (!scheduleNames.includes(settings.schedule))
    throw new OptionError(`unknown schedule "${settings.schedule}"; known are ${scheduleNames.join(', ')}`, {
      schedule: settings.schedule,
    })
  checkOptimizer(settings)
  for (const source of [settings.train, settings.validation])
    if (source) checkVocabulary(source, settings.decoder)
  if (settings.validation && !isRolloutSource(settings.validation))
    settings.validation.evaluation({ batch: settings.validBatch, block: settings.block })
  return settings
}
