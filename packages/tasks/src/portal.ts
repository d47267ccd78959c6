/**
 * Multi-Room Portal: of two doors in each room one leads on and the other back to the first room; which one has to be
 * tried, and remembered. Named by Expire-Span, whose rules were not published with its code; these are recalled ones,
 * hence options.
 *
 *     # # # # # # #      A room of 5 x 5 cells. The agent enters at its centre; the doors stand in the middle of its
 *     # . . . . . #      left and right walls, one red and one blue. Which colour stands where, and which door leads
 *     # . . . . . #      on, is drawn for each room and stays for the episode; only the first is seen. An observation
 *     R . . @ . . B      is two tokens: the room's number, then the place in it together with the side of the red door.
 */
import { Random, type RandomState } from '@lethe/core'
import { checkMove, down, left, moves, right, up } from './moves'
import { number, odd, randomOf, readOptions, whole } from './options'
import type { Environment, EnvironmentTask, Outcome, StreamState } from './task'

export interface PortalOptions {
  /** Rooms in a row: default 50. */
  readonly rooms?: number
  /** Rows and columns of a room, an odd number: default 5. */
  readonly size?: number
  /** Mistakes in one room that end the episode: default 2. */
  readonly mistakes?: number
  /** Passing on from room k, counted from 1, gives k times this: default 0.1. */
  readonly reward?: number
  /** Actions after which an episode ends unsolved: default 1000. */
  readonly limit?: number
}

const rules = () => ({
  rooms: whole(50, 2, 1000),
  size: odd(5, 1, 1001),
  mistakes: whole(2, 1, 10),
  reward: number(0.1, 'a number', () => true),
  limit: whole(1000, 1),
})

interface Room {
  /** Whether the red door is on the left. */
  readonly redLeft: boolean
  /** Whether the left door leads on. */
  readonly leftOn: boolean
  readonly mistakes: number
}

interface World {
  readonly random: RandomState
  readonly rooms: readonly Room[]
  readonly room: number
  readonly row: number
  readonly column: number
  readonly steps: number
  readonly done: boolean
}

type Rules = Required<PortalOptions>

export function portal(given: PortalOptions = {}): EnvironmentTask {
  const options: Rules = readOptions('portal', rules(), given)
  const { rooms, size } = options
  return {
    kind: 'environment',
    name: 'portal',
    description:
      'a row of rooms in each of which one of two doors leads on and the other back to the first (Multi-Room Portal, Expire-Span, Sukhbaatar et al. 2021; rules recalled, not published)',
    options: { ...options },
    observations: rooms + 2 * size * size,
    observationLength: 2,
    actions: moves,
    chance: solvedByGuessing(options),
    start: (seed, row = 0) => new Portal(options, begin(options, randomOf(seed, row))),
    resume: (state) => new Portal(options, state as unknown as World),
    oracle() {
      // The door that leads on from each room, as far as it is known, and the one gone through just now.
      const onward = new Map<number, number>()
      let tried: { readonly room: number; readonly side: number } | undefined
      return {
        act([room, view]) {
          if (tried) {
            const on = room === tried.room + 1
            onward.set(tried.room, on ? tried.side : other(tried.side))
          }
          const side = onward.get(room!) ?? left
          const column = Math.floor((view! - rooms) / 2) % size
          tried = column === doorColumn(side, size) ? { room: room!, side } : undefined
          return side
        },
      }
    },
  }
}

const other = (side: number) => (side === left ? right : left)
const doorColumn = (side: number, size: number) => (side === left ? 0 : size - 1)

/**
 * The part of the episodes that an agent solves which tosses a coin at each pair of doors, with time enough. Such an
 * episode is a row of walks from the first room that fail in rooms j1, j2, ..., each room at most mistakes - 1 times,
 * and one that passes all n - 1 rooms; a walk that fails in room j has probability 2^-j. So the sum over all orders of
 * failures is 2^-(n-1) times sum_r r! [x^r] prod_j sum_{i < mistakes} (x 2^-j)^i / i!.
 */
function solvedByGuessing({ rooms, mistakes }: Rules): number {
  let product = [1]
  for (let room = 1; room < rooms; room++) {
    const next = new Array<number>(product.length + mistakes - 1).fill(0)
    let term = 1
    for (let failures = 0; failures < mistakes; failures++) {
      if (failures > 0) term *= 2 ** -room / failures
      for (const [power, value] of product.entries()) next[power + failures]! += value * term
    }
    product = next
  }
  let sum = 0
  let factorial = 1
  for (const [power, value] of product.entries()) {
    if (power > 0) factorial *= power
    // Beyond what a float holds there is nothing left to add.
    if (value === 0 || !Number.isFinite(factorial)) break
    sum += factorial * value
  }
  return sum * 2 ** (1 - rooms)
}

function begin({ rooms, size }: Rules, random: Random): World {
  const drawn = Array.from({ length: rooms - 1 }, () => ({
    redLeft: random.integer(2) === 0,
    leftOn: random.integer(2) === 0,
    mistakes: 0,
  }))
  return { rooms: drawn, random: random.state, room: 0, ...centre(size), steps: 0, done: false }
}

const centre = (size: number) => ({ row: (size - 1) / 2, column: (size - 1) / 2 })

class Portal implements Environment {
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
    const { rooms, size } = this.rules
    const { room, row, column } = this.world
    const side = this.world.rooms[room]?.redLeft ? 0 : 1
    return [room, rooms + 2 * (row * size + column) + side]
  }

  step(action: number): Outcome {
    checkMove('portal', this.world.done, action)
    const { size, limit } = this.rules
    const { row, column, steps } = this.world
    const beside = row === (size - 1) / 2 && column === doorColumn(action, size)
    if (beside && (action === left || action === right)) return this.through(action === left)
    const within = (place: number) => Math.min(size - 1, Math.max(0, place))
    const done = steps + 1 >= limit
    this.world = {
      ...this.world,
      row: within(row + (action === down ? 1 : action === up ? -1 : 0)),
      column: within(column + (action === right ? 1 : action === left ? -1 : 0)),
      steps: steps + 1,
      done,
    }
    return { reward: 0, done, solved: false }
  }

  /** Through the left or the right door of the room. */
  private through(byLeft: boolean): Outcome {
    const { rooms: count, size, mistakes, reward, limit } = this.rules
    const { rooms, room, steps } = this.world
    const { leftOn, mistakes: before } = rooms[room]!
    const on = byLeft === leftOn
    const solved = on && room + 1 === count - 1
    const failed = !on && before + 1 >= mistakes
    const done = solved || failed || steps + 1 >= limit
    this.world = {
      ...this.world,
      rooms: on ? rooms : rooms.map((one, at) => (at === room ? { ...one, mistakes: before + 1 } : one)),
      room: on ? room + 1 : 0,
      ...centre(size),
      steps: steps + 1,
      done,
    }
    return { reward: on ? reward * (room + 1) : 0, done, solved }
  }

  asText(): string {
    const { rooms: count, size } = this.rules
    const { rooms, room, row, column } = this.world
    const [middle, redLeft] = [(size - 1) / 2, rooms[room]?.redLeft]
    const lines = Array.from({ length: size }, (_, y) => {
      const cells = Array.from({ length: size }, (_, x) => (y === row && x === column ? '@' : '.')).join('')
      const [first, last] = y === middle && room < count - 1 ? (redLeft ? 'RB' : 'BR') : '##'
      return `${first}${cells}${last}`
    })
    const wall = '#'.repeat(size + 2)
    return [`room ${room + 1} of ${count}`, wall, ...lines, wall].join('\n')
  }
}
