/**
 * Corridor: an object at the start has the colour of the door that is to be taken at the far end. Named by Expire-Span,
 * whose rules were not published with its code; these are recalled ones, hence options.
 *
 *     # # # # # R        One cell wide. The agent starts at S beside the object o (red or blue), in whose colour a
 *     o S . . . .        door stands above or below the far end. It sees the 3 x 3 cells around itself: every view
 *     # # # # # B        there can be is one token.
 */
import { Random, type RandomState } from '@lethe/core'
import { checkMove, down, left, moves, right, up } from './moves'
import { draw, number, type Range, randomOf, range, readOptions, whole } from './options'
import type { Environment, EnvironmentTask, Outcome, StreamState } from './task'

export interface CorridorOptions {
  /** Cells from the start to the doors, both included: a number, or the least and the most of them. Default [3, 200]. */
  readonly length?: number | Range
  /** Actions after which an episode ends unsolved: default 1000. */
  readonly limit?: number
  /** For the door of the other colour: default 0. */
  readonly wrongReward?: number
}

const rules = () => ({
  length: range([3, 200], 3, 2 ** 20),
  limit: whole(1000, 1),
  wrongReward: number(0, 'a number', () => true),
})
const colours = ['red', 'blue'] as const
/** Views: nothing but walls; the object, by its colour; the doors ahead and beside, by the colour of the upper one. */
const [object, doorsAhead, doorsHere, views] = [1, 3, 5, 7]

interface World {
  readonly random: RandomState
  readonly length: number
  /** The object's colour and the upper door's: 0 or 1. */
  readonly colour: number
  readonly upper: number
  readonly place: number
  readonly steps: number
  readonly done: boolean
}

type Rules = { readonly length: Range; readonly limit: number; readonly wrongReward: number }

export function corridor(given: CorridorOptions = {}): EnvironmentTask {
  const options = readOptions('corridor', rules(), given)
  return {
    kind: 'environment',
    name: 'corridor',
    description:
      'the door at the end of a corridor whose colour was seen at its start (Expire-Span, Sukhbaatar et al. 2021; rules recalled, not published)',
    options,
    observations: views,
    observationLength: 1,
    actions: moves,
    chance: 1 / 2,
    start: (seed, row = 0) => new Corridor(options, begin(options, randomOf(seed, row))),
    resume: (state) => new Corridor(options, state as unknown as World),
    oracle() {
      let colour = 0
      return {
        act([view]) {
          if (view! >= object && view! < doorsAhead) colour = view! - object
          if (view! < doorsHere) return right
          return view! - doorsHere === colour ? up : down
        },
      }
    },
  }
}

function begin({ length }: Rules, random: Random): World {
  const drawn = { length: draw(random, length), colour: random.integer(2), upper: random.integer(2) }
  return { ...drawn, random: random.state, place: 0, steps: 0, done: false }
}

class Corridor implements Environment {
  constructor(
    private readonly rules: Rules,
    private world: World,
  ) {}

  get state(): StreamState {
    return { ...this.world }
  }

  reset(): void {
    this.world = begin(this.rules, new Random(this.world.random))
  }

  observe(): readonly number[] {
    const { length, colour, upper, place } = this.world
    if (place === 0) return [object + colour]
    if (place === length - 2) return [doorsAhead + upper]
    return [place === length - 1 ? doorsHere + upper : 0]
  }

  step(action: number): Outcome {
    checkMove('corridor', this.world.done, action)
    const { length, colour, upper, place, steps } = this.world
    const { limit, wrongReward } = this.rules
    const through = place === length - 1 && (action === up || action === down)
    const moved = place + (action === right ? 1 : action === left ? -1 : 0)
    const done = through || steps + 1 >= limit
    this.world = {
      ...this.world,
      place: Math.min(length - 1, Math.max(0, moved)),
      steps: steps + 1,
      done,
    }
    if (!through) return { reward: 0, done, solved: false }
    const solved = (action === up ? upper : 1 - upper) === colour
    return { reward: solved ? 1 : wrongReward, done, solved }
  }

  asText(): string {
    const { length, colour, upper, place } = this.world
    const initial = (which: number) => colours[which]![0]!
    const cells = Array.from({ length }, (_, at) => (at === place ? '@' : '.')).join('')
    const [above, below] = [upper, 1 - upper].map(
      (which) => `#${'#'.repeat(length - 1)}${initial(which).toUpperCase()}`,
    )
    return [above, `${initial(colour)}${cells}`, below].join('\n')
  }
}
