/**
 * Object collision, by the rules of the authors' generator (transformer-sequential, gen_data_collisions.py): two particles
 * move on a grid and change colour; asked is where the last collision of two colours was. With the default options the
 * stream is theirs, but for the random numbers.
 */
import { Random, type RandomState } from '@lethe/core'
import { even, fraction, number, randomOf, readOptions, whole } from './options'
import type { SequenceTask, StreamState, TaskStep, TaskStream } from './task'

export interface CollisionOptions {
  /** Rows and columns, an even number: default 16. */
  readonly grid?: number
  /** Default 5. */
  readonly colours?: number
  /** Part of the questions that are about the latest collision: default 0.4. */
  readonly easyQuestions?: number
  /** Chance of a particle to get a colour drawn anew, per step: default 0.05. */
  readonly recolour?: number
  /** Standard deviation of velocities, in cells per step and direction: default 0.5. */
  readonly speed?: number
}

const rules = () => ({
  grid: even(16, 2, 2 ** 10),
  colours: whole(5, 1, 1000),
  easyQuestions: fraction(0.4),
  recolour: fraction(0.05),
  speed: number(0.5, 'a number from 0 up to 10', (value) => value >= 0 && value <= 10),
})

/** Tokens of one time step: row, column, colour of each particle, then the two colours of the question. */
const tokensPerStep = 8

interface Particle {
  readonly location: readonly [row: number, column: number]
  readonly velocity: readonly [number, number]
  readonly colour: number
}

type Pair = readonly [number, number]

/** A time step, whose tokens are being read, and what the next one follows from. */
interface World {
  readonly random: RandomState
  readonly particles: readonly [Particle, Particle]
  /** Quadrant of the latest collision of a pair of colours [first particle's, second particle's], by 'a,b'. */
  readonly crossings: Readonly<Record<string, number>>
  readonly latest: Pair | null
  readonly tokens: readonly number[]
  readonly label: number
}

/** What a stream's state is: `at` tokens of the time step were read. */
type CollisionState = World & { readonly at: number }

type Rules = Required<CollisionOptions>

export function collision(given: CollisionOptions = {}): SequenceTask {
  const options: Rules = readOptions('collision', rules(), given)
  const { grid, colours } = options
  const [column, colour, question] = [grid, 2 * grid, 2 * grid + colours]
  return {
    kind: 'sequence',
    name: 'collision',
    description:
      'the quadrant in which particles of two colours last met (object collision, Expire-Span, Sukhbaatar et al. 2021)',
    options: { ...options },
    vocabulary: 2 * grid + 2 * colours,
    // Rows and columns, and with them quadrants, are symmetric.
    chance: 1 / 4,
    stream: (seed, row = 0) => new CollisionStream(options, start(options, randomOf(seed, row))),
    resume: (state) => new CollisionStream(options, state as unknown as CollisionState),
    oracle() {
      const quadrants = new Map<string, number>()
      let step: number[] = []
      return {
        read(input) {
          step.push(input)
          const [row0, column0, colour0, row1, column1, colour1, first, second] = step
          if (step.length === 6 && row0 === row1 && column0 === column1) {
            const half = (cell: number) => (cell < grid / 2 ? 0 : 1)
            const quadrant = 2 * half(row0!) + half(column0! - column)
            quadrants.set(`${colour0! - colour} ${colour1! - colour}`, quadrant)
          }
          if (step.length < tokensPerStep) return undefined
          step = []
          const asked = quadrants.get(`${first! - question} ${second! - question}`)
          return asked === undefined ? undefined : 1 + asked
        },
      }
    },
    asText: (tokens) =>
      Array.from(tokens, (token) => {
        if (token < column) return `r${token}`
        if (token < colour) return `c${token - column}`
        return token < question ? `#${token - colour}` : `?${token - question}`
      }).join(' '),
  }
}

function start({ grid, colours, speed }: Rules, random: Random): CollisionState {
  const particle = (): Particle => ({
    location: [random.uniform() * (grid - 1), random.uniform() * (grid - 1)],
    velocity: [random.normal() * speed, random.normal() * speed],
    colour: random.integer(colours),
  })
  const particles = [particle(), particle()] as const
  // All read: the first token is that of the first step.
  const nothing = { tokens: [], label: 0, at: tokensPerStep }
  return { random: random.state, particles, crossings: {}, latest: null, ...nothing }
}

class CollisionStream implements TaskStream {
  private world: World
  private at: number

  constructor(
    private readonly options: Rules,
    { at, ...world }: CollisionState,
  ) {
    this.world = world
    this.at = at
  }

  get state(): StreamState {
    return { ...this.world, at: this.at }
  }

  next(): TaskStep {
    if (this.at === tokensPerStep) {
      this.world = nextWorld(this.options, this.world)
      this.at = 0
    }
    const { tokens, label } = this.world
    const input = tokens[this.at++]!
    const target = this.at === tokensPerStep ? label : 0
    return { input, target, scored: target > 0 }
  }
}

function nextWorld(rules: Rules, world: World): World {
  const { grid, colours, easyQuestions } = rules
  const random = new Random(world.random)
  const particles = world.particles.map((particle) => move(rules, particle, random)) as [Particle, Particle]
  const [first, second] = particles.map(({ location, colour }) => ({
    row: Math.round(location[0]),
    column: Math.round(location[1]),
    colour,
  })) as [Cell, Cell]

  let { crossings, latest } = world
  if (first.row === second.row && first.column === second.column) {
    latest = [first.colour, second.colour]
    crossings = { ...crossings, [latest.join()]: quadrant(first, grid) }
  }
  const easy = random.uniform() < easyQuestions
  const drawn: Pair = [random.integer(colours), random.integer(colours)]
  // Before any collision the pair is (-1, -1), which has no answer.
  const asked: Pair = easy ? (latest ?? [-1, -1]) : drawn
  const found = crossings[asked.join()]
  return {
    random: random.state,
    particles,
    crossings,
    latest,
    tokens: [
      ...[first, second].flatMap(({ row, column, colour }) => [row, column + grid, colour + 2 * grid]),
      ...asked.map((colour) => colour + 2 * grid + colours),
    ],
    label: found === undefined ? 0 : 1 + found,
  }
}

interface Cell {
  readonly row: number
  readonly column: number
  readonly colour: number
}

function move(
  { grid, colours, recolour, speed }: Rules,
  { location, velocity, colour }: Particle,
  random: Random,
): Particle {
  const [row, column] = location
  let [down, right] = velocity
  const inside = (place: number) => place > 0 && place < grid - 1
  while (!inside(row + down) || !inside(column + right)) {
    down = random.normal() * speed
    right = random.normal() * speed
  }
  return {
    location: [row + down, column + right],
    velocity: [down, right],
    colour: random.uniform() < recolour ? random.integer(colours) : colour,
  }
}

function quadrant({ row, column }: Cell, grid: number): number {
  const half = (cell: number) => Math.round((cell + 0.5) / grid)
  return 2 * half(row) + half(column)
}
