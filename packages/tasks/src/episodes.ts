/**
 * Tasks made of episodes, one after the other without a break: each is written as a generator of tokens, and the target
 * of a position is the token that follows. The state of a stream is the random state at the start of an episode and the
 * number of tokens since, so that no episode is ever held: going on means writing it again up to that place.
 */
import { Random, type RandomState } from '@lethe/core'
import { randomOf } from './options'
import type { Oracle, SequenceTask, StreamState, TaskStep, TaskStream } from './task'

/** A token of an episode; an answer is one that follows from what came before. */
export interface EpisodeToken {
  readonly token: number
  readonly answer: boolean
}

export const say = (token: number): EpisodeToken => ({ token, answer: false })
export const answer = (token: number): EpisodeToken => ({ token, answer: true })

export type Episode = (random: Random) => Generator<EpisodeToken, void, undefined>

interface EpisodeState {
  /** At the start of the episode. */
  readonly random: RandomState
  /** Tokens of the episode already read. */
  readonly offset: number
}

export interface EpisodeTask {
  readonly name: string
  readonly description: string
  readonly options: Readonly<Record<string, unknown>>
  readonly vocabulary: number
  readonly chance: number
  readonly episode: Episode
  oracle(): Oracle
  asText(tokens: Iterable<number>): string
}

export function episodeTask({ episode, ...task }: EpisodeTask): SequenceTask {
  return {
    ...task,
    kind: 'sequence',
    stream: (seed, row = 0) => new EpisodeStream(episode, { random: randomOf(seed, row).state, offset: 0 }),
    resume: (state) => new EpisodeStream(episode, state as unknown as EpisodeState),
  }
}

class EpisodeStream implements TaskStream {
  private readonly random: Random
  private start: RandomState
  private offset = 0
  private tokens: ReturnType<Episode>
  private current: EpisodeToken

  constructor(
    private readonly episode: Episode,
    { random, offset }: EpisodeState,
  ) {
    this.start = random
    this.random = new Random(random)
    this.tokens = episode(this.random)
    this.current = this.tokens.next().value!
    while (this.offset < offset) this.next()
  }

  get state(): StreamState {
    return { random: this.start, offset: this.offset }
  }

  next(): TaskStep {
    const input = this.current.token
    const following = this.tokens.next()
    this.offset++
    if (following.done) {
      this.start = this.random.state
      this.offset = 0
      this.tokens = this.episode(this.random)
      this.current = this.tokens.next().value!
    } else this.current = following.value
    return { input, target: this.current.token, scored: this.current.answer }
  }
}
