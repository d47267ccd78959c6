/**
 * What is learned from by acting: worlds side by side, one in each row of the batch, in which the model makes its own
 * inputs. A rollout is what it read in so many steps, with the loss by which it learns from what came of its actions.
 * `actorCriticSource` of @lethe/tasks is such a source.
 */
import type { Decoder, Memory, Random } from '@lethe/core'
import type { Scalar, Tensor3D } from '@tensorflow/tfjs-core'
import type { BlockShape, BlockSource } from './blocks'
import type { Evaluation } from './evaluate'
import type { Source } from './streams'

/** The model as it is when a rollout begins. */
export interface Learner {
  readonly decoder: Decoder
  /** Where the rollout before ended. It stays as it is. */
  readonly memory: Memory
  /** What its actions are drawn from. */
  readonly random: Random
}

export interface Rollout {
  /** Row-major [batch, tokens]: what was observed. */
  readonly inputs: Int32Array
  /** Rows in which an episode begins here: their memory was empty, and is emptied before the gradients' pass. */
  readonly resets?: readonly number[] | undefined
  /** What an update makes smaller, of the logits [batch, tokens, vocabulary]. */
  readonly loss: (logits: Tensor3D) => Scalar
  /** Inputs that are learned from; in the others a row is idle. */
  readonly tokens: number
  readonly played: Played
}

/** What happened in a rollout, summed over its rows. */
export interface Played {
  /** Actions taken. */
  readonly actions: number
  /** Actions that were not taken, since a row is idle after the end of its episode. */
  readonly idle: number
  /** Sum of the policies' entropies, in nats, over actions. */
  readonly entropy: number
  /** Episodes that ended, how many of them well, and the sum of their undiscounted returns. */
  readonly episodes: number
  readonly solved: number
  readonly returns: number
}

/** Worlds, one per row, to train in. */
export interface RolloutStream {
  /** Worlds, episodes under way and their random numbers, as JSON: what a checkpoint goes on from. */
  readonly position: unknown
  /** Acts for one rollout. */
  play(learner: Learner): Promise<Rollout>
}

/** Where rollouts come from. */
export interface RolloutSource {
  /** Every token is less than this, and so are the logits that the loss reads. */
  readonly vocabulary: number
  /** Tells these worlds and this loss from others, so that a run is not resumed with others. */
  readonly identity: string
  /**
   * @param shape rows, and the steps of the world in a rollout
   * @param position goes on where a stream of the same batch said it was; otherwise new episodes begin
   */
  stream(shape: BlockShape, position?: unknown): RolloutStream
  /** Plays so many episodes side by side, always the same ones, from an empty memory each. */
  evaluate(options: {
    readonly decoder: Decoder
    readonly episodes: number
    readonly signal?: AbortSignal | undefined
    /** Told after every step of the worlds, from 1, how many episodes took it and how many slots these hold, on average. */
    readonly onStep?:
      | ((step: { readonly step: number; readonly episodes: number; readonly slots: number }) => void)
      | undefined
  }): Promise<RolloutEvaluation>
}

/** How episodes ended that were not trained on. */
export interface RolloutEvaluation {
  readonly episodes: number
  /** Part of them that ended well. */
  readonly solved: number
  /** The same of guessing, and of a policy in plain code that knows the world, in these very episodes. */
  readonly chance: number
  readonly oracle: number
  /** Mean over episodes of the undiscounted sum of rewards, and the same of the oracle. */
  readonly meanReturn: number
  readonly oracleReturn: number
  /** Mean steps of an episode. */
  readonly meanSteps: number
  /** Slots alive after a step, mean over layers, episodes and their steps. */
  readonly slots: number
  /** Whether the most probable action was taken; otherwise actions were drawn from the policy. */
  readonly greedy: boolean
}

/** What can be trained on. */
export type TrainingSource = Source | RolloutSource

/** What an evaluation of such a source finds. */
export type EvaluationOf<S extends TrainingSource> = S extends RolloutSource ? RolloutEvaluation : Evaluation

export const isRolloutSource = (source: Source | BlockSource | RolloutSource): source is RolloutSource =>
  'evaluate' in source

/** Of the rollouts of one update. */
export interface PlayedFigures {
  /** Episodes that ended. */
  readonly episodes: number
  /** Of those episodes the part that ended well, and the mean undiscounted sum of rewards; none where no episode ended. */
  readonly solved?: number
  readonly meanReturn?: number
  /** Mean entropy of the policy, in nats. */
  readonly entropy: number
  /** Part of the steps in which a row was idle, since its episode had ended. */
  readonly idle: number
}

export function playedFigures(parts: readonly Played[]): PlayedFigures {
  const sum = (name: keyof Played) => parts.reduce((total, part) => total + part[name], 0)
  const [actions, idle, episodes] = [sum('actions'), sum('idle'), sum('episodes')]
  return {
    episodes,
    ...(episodes > 0 && { solved: sum('solved') / episodes, meanReturn: sum('returns') / episodes }),
    entropy: sum('entropy') / actions,
    idle: idle / (actions + idle),
  }
}
