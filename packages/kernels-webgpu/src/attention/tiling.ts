/** How the work of a program over queries × slots is divided among workgroups and threads: chosen here alone. */
import { backend } from '@tensorflow/tfjs-core'
import type { Plan } from './plan'

export interface Tiling {
  /** Threads of a workgroup along the queries and along the slots of its tile. */
  readonly threads: readonly [queries: number, slots: number]
  /** Quads of queries and of slots that each thread holds. */
  readonly quads: readonly [queries: number, slots: number]
  /** Features in workgroup memory at a time: of products over features, and of sums over steps. */
  readonly features: readonly [product: number, sum: number]
  /** Where tiles of queries give fewer workgroups than these, their slots are attended to in parts. */
  readonly workgroups: number
}

/** The tile of a program, for heads of a size. */
export interface Tile {
  readonly program: TiledProgram
  /** Whatever code depends on it has this in its key. */
  readonly key: string
  readonly threads: number
  /** Threads along the queries and the slots: `ty` and `tx` count them. */
  readonly down: number
  readonly across: number
  /** Quads that each thread holds. */
  readonly rows: number
  readonly columns: number
  readonly queries: number
  readonly slots: number
  readonly productChunk: number
  readonly sumChunk: number
  /** Quads of the pairs that workgroup memory holds beside the features of a sum. */
  readonly pairs: number
  /** Parts in which slots are attended to. */
  readonly splits: number
}

const upTo = (size: number, multiple: number) => Math.ceil(size / multiple) * multiple

function tileOf({ threads, quads, features, workgroups }: Tiling, plan: Plan, program: TiledProgram): Tile {
  const { size } = plan
  const [down, across] = threads
  const [rows, columns] = quads
  const productChunk = Math.min(features[0], upTo(size, 4))
  const sumChunk = Math.min(Math.max(features[1], across), upTo(size, across))
  const [queries, slots] = [4 * down * rows, 4 * across * columns]
  const tile = {
    program,
    key: [threads, quads, productChunk, sumChunk].join(),
    threads: down * across,
    down,
    across,
    rows,
    columns,
    queries,
    slots,
    productChunk,
    sumChunk,
    pairs: (queries * slots) / 4,
  }
  const places = program === 'queries' ? placesAtATime(plan) : plan.batch * plan.heads
  return { ...tile, splits: splitsOf(plan, tile, places, workgroups) }
}

/** Floats from one query's pairs to the next. */
export const pairPitch = ({ slots, persistent }: Plan): number => upTo(slots + persistent, 4)

/** Floats of a head's pairs: a row for each query and, behind these, the gradient of its span by each tile of slots. */
export function floatsOfPairs(plan: Plan): number {
  const { block, span, groups } = plan
  const tile = span && chooseTile(plan, 'slots')
  const tiles = tile ? groups.reduce((count, group) => count + Math.ceil(group.slots / tile.slots), 0) : 0
  return block * pairPitch(plan) + tiles * upTo(block, 4)
}

/** Rows of slots' gradients: keys, values and, where there are lives, these. */
export const slotRows = ({ size, life }: Plan) => 2 * size + (life ? 1 : 0)

/** Floats of all slots' gradients, which follow those of pairs. */
export const floatsOfSlots = (plan: Plan): number =>
  plan.batch * plan.heads * slotRows(plan) * (plan.slots + plan.persistent)

/** Heads of streams for which gradients of pairs are kept at a time. */
export function placesAtATime(plan: Plan): number {
  const { batch, heads } = plan
  const room = limitOf('maxStorageBufferBindingSize') / 4 - floatsOfSlots(plan)
  const places = Math.floor(Math.min(pairsAtATime, room) / floatsOfPairs(plan))
  return Math.max(1, Math.min(batch * heads, places))
}

const limitOf = (name: 'maxComputeWorkgroupStorageSize' | 'maxStorageBufferBindingSize'): number =>
  (backend() as unknown as { device: { limits: Record<string, number> } }).device.limits[name]!

/** A part has at least so many tiles that adding it up later is little beside it. */
const leastTiles = 2

function splitsOf(
  { block, groups }: Plan,
  { queries, slots }: Pick<Tile, 'queries' | 'slots'>,
  places: number,
  workgroups: number,
): number {
  const there = places * Math.ceil(block / queries)
  const tiles = groups.reduce((count, group) => count + Math.ceil(group.slots / slots), 0)
  return Math.max(1, Math.min(Math.floor(workgroups / there), Math.floor(tiles / leastTiles)))
}

/** Quads of slots that each thread has where sums over queries are held by slot. */
export const slotQuads = ({ across, columns, down }: Tile): number => (across * columns) / down

/** Where the features of sums begin in workgroup memory: behind the pairs, and a quad for every four rows of these. */
export const sourceOf = ({ pairs, queries, slots }: Pick<Tile, 'pairs' | 'queries' | 'slots'>): number =>
  pairs + Math.max(queries, slots) / 4

/** Where things are in workgroup memory, in quads. Sums over steps follow the products and use it anew. */
export function memoryOf(plan: Plan, tile: Tile) {
  const { program, queries, slots, productChunk, sumChunk } = tile
  const [left, right] = [queries / 4, slots / 4]
  const even = plan.groups.some((group) => group.even && group.positions)
  const turned = productChunk * (left + right)
  const positions = turned + (plan.rows.position === plan.rows.content ? 0 : productChunk * left)
  const products = positions + (even ? productChunk * (left + right) : 0)
  const summed = {
    forward: right,
    queries: even ? left + right : right,
    slots: left,
    positions: left,
    others: 0,
  }[program]
  const sums = summed && sourceOf(tile) + sumChunk * (summed + 1)
  const isProduct = program !== 'queries' && program !== 'positions'
  return {
    right: productChunk * left,
    turned,
    positions,
    size: Math.max(isProduct ? products : 0, sums),
  }
}

/** Bytes of workgroup memory that a program takes at most. */
function bytesOf(plan: Plan, tile: Tile): number {
  const { program, queries, slots, threads, rows, pairs } = tile
  const more = program === 'forward' ? threads * rows : program === 'positions' ? pairs : threads
  return 16 * (memoryOf(plan, tile).size + queries + slots + more + 2)
}

/** The programs that have a tiling of their own; 'others' are those that are rarely needed. */
export type TiledProgram = 'forward' | 'queries' | 'slots' | 'positions' | 'others'

/** Tiles of 32 × 32 in 16 KB of workgroup memory, which every device has. */
const small: Tiling = { threads: [8, 8], quads: [1, 1], features: [16, 32], workgroups: 512 }

/** Tiles of 64 × 64: half as many reads, from global and from workgroup memory. */
export const largeTiling: Tiling = { threads: [16, 16], quads: [1, 1], features: [32, 64], workgroups: 512 }

/** The same with fewer features at a time, which leaves registers for two workgroups where little else needs them. */
const lean: Tiling = { ...largeTiling, features: [16, 16] }

/** Large tiles where there are some of them, of votes and mass many, since these are rare and rather compiled quickly. */
function ruleOf({ block, slots, persistent }: Plan, program: TiledProgram): Tiling {
  const [queries, all] = program === 'others' ? [256, 512] : [64, 128]
  if (block < queries || slots + persistent < all) return small
  return program === 'positions' ? lean : largeTiling
}

/**
 * Floats for gradients of pairs at a time, where one head of one stream does not need more: 256 MB. Four times less are 11 ms
 * more of 113 at the paper's size on an H100, whose last workgroups then leave most of it idle.
 */
const mostPairs = 2 ** 26

let overrides: Partial<Record<TiledProgram, Tiling>> = {}

let pairsAtATime = mostPairs

/** Takes the choice of tilings away from the rule, to measure and test them; called with nothing, gives it back. */
export function overrideTilings(
  tilings: Partial<Record<TiledProgram, Tiling>> = {},
  mostPairsAtATime = mostPairs,
): void {
  overrides = tilings
  pairsAtATime = mostPairsAtATime
}

/** The tile of a program, with as many features at a time as workgroup memory has room for. */
export function chooseTile(plan: Plan, program: TiledProgram): Tile {
  return fitted(plan, program, overrides[program] ?? ruleOf(plan, program))
}

function fitted(plan: Plan, program: TiledProgram, tiling: Tiling): Tile {
  const room = limitOf('maxComputeWorkgroupStorageSize')
  let tile: Tile | undefined
  for (const features of fewerFeatures(tiling)) {
    tile = tileOf({ ...tiling, features }, plan, program)
    if (bytesOf(plan, tile) <= room) return tile
  }
  return tiling.threads === small.threads ? tile! : fitted(plan, program, small)
}

type Features = Tiling['features']

const known = new WeakMap<Tiling, readonly Features[]>()

/** As many features at a time as a tiling has and all the fewer that make sense, those first that take the fewest turns. */
function fewerFeatures(tiling: Tiling): readonly Features[] {
  const { features, threads } = tiling
  const turns = ([product, sum]: Features) => 1 / product + 1 / sum
  const all =
    known.get(tiling) ??
    halvesOf(features[0], 8)
      .flatMap((product) =>
        halvesOf(features[1], Math.max(8, threads[1])).map((sum): Features => [product, sum]),
      )
      .sort((one, other) => turns(one) - turns(other) || other[1] - one[1])
  known.set(tiling, all)
  return all
}

const halvesOf = (most: number, least: number): number[] =>
  most / 2 < least ? [most] : [most, ...halvesOf(most / 2, least)]
