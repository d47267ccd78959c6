/**
 * What a task is. A sequence task is an endless stream of tokens with answers in it; an environment is a world that an
 * agent acts in. Both are plain code and JSON: no tensors, so that they run wherever their data is wanted.
 */

/** One position of a stream. */
export interface TaskStep {
  /** The token that is read. */
  readonly input: number
  /** What is to be said after reading it: the next token, or a label where the task has labels of its own. */
  readonly target: number
  /** Whether the target is an answer, determined by what was read so far. Only answers are trained on and counted. */
  readonly scored: boolean
}

/** Where a stream is, as JSON: `task.resume` goes on from it. */
export type StreamState = Readonly<Record<string, unknown>>

/** One endless stream: a row of a batch. */
export interface TaskStream {
  next(): TaskStep
  /** The state before the next step. Its size does not grow with the stream. */
  readonly state: StreamState
}

/** Reads a stream's inputs as a model would, and knows the answers. */
export interface Oracle {
  /** @returns the answer after this input; undefined where none is asked for */
  read(input: number): number | undefined
}

/** A stream of tokens with answers that depend on what came before. */
export interface SequenceTask {
  readonly kind: 'sequence'
  readonly name: string
  /** What is asked, and the paper it comes from. */
  readonly description: string
  /** The options in full, defaults included: `createTask(name, options)` makes the same task again. */
  readonly options: Readonly<Record<string, unknown>>
  /** Inputs and targets are less than this. */
  readonly vocabulary: number
  /** The part of the answers that guessing gets right, for the best guesser that sees the input and remembers nothing. */
  readonly chance: number
  /**
   * The stream of one row. The same seed and row give the same stream.
   * @param seed a whole number from 0 up to 2^32 - 1
   * @param row a whole number from 0 up to 2^20 - 1: default 0
   */
  stream(seed: number, row?: number): TaskStream
  /** The stream that goes on where the state was taken. */
  resume(state: StreamState): TaskStream
  /** A solver in plain code: proof that the answers follow from what was read. It remembers whatever it needs. */
  oracle(): Oracle
  /** Tokens for a human reader. */
  asText(tokens: Iterable<number>): string
}

/** What an action led to. */
export interface Outcome {
  readonly reward: number
  /** The episode ended: before the next action the environment must be reset. */
  readonly done: boolean
  /** It ended well. */
  readonly solved: boolean
}

/** One world with one agent in it: a row of a batch. */
export interface Environment {
  /** What the agent sees: `observationLength` tokens. */
  observe(): readonly number[]
  /** @param action an index into the task's `actions` */
  step(action: number): Outcome
  /** Starts the next episode, drawn from the same random numbers. */
  reset(): void
  /** The world as JSON; `task.resume` goes on from it. */
  readonly state: StreamState
  /** The world for a human reader. */
  asText(): string
}

/** Chooses actions from observations. */
export interface Policy {
  act(observation: readonly number[]): number
}

/** A world to act in, whose episodes need memory. */
export interface EnvironmentTask {
  readonly kind: 'environment'
  readonly name: string
  readonly description: string
  readonly options: Readonly<Record<string, unknown>>
  /** Tokens of observations are less than this. */
  readonly observations: number
  /** Tokens of one observation. */
  readonly observationLength: number
  readonly actions: readonly string[]
  /** The part of the episodes that is solved, of those that time does not end, by an agent that guesses between doors. */
  readonly chance: number
  /** @param seed, row as for sequences */
  start(seed: number, row?: number): Environment
  resume(state: StreamState): Environment
  /** A policy in plain code that solves whatever can be solved. One for each episode. */
  oracle(): Policy
}
