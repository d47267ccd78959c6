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

/** A tiling for heads of a size. */
export interface Tile {
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
    // Those of distances are stored as floats.
    pairs: program === 'positions' ? 0 : (queries * slots) / 4,
  }
  return { ...tile, splits: splitsOf(plan, tile, workgroups) }
}

/** A part has at least so many tiles that adding it up later is little beside it. */
const leastTiles = 2

function splitsOf(
  { batch, heads, block, groups }: Plan,
  { queries, slots }: Pick<Tile, 'queries' | 'slots'>,
  workgroups: number,
): number {
  const there = batch * heads * Math.ceil(block / queries)
  const tiles = groups.reduce((count, group) => count + Math.ceil(group.slots / slots), 0)
  return Math.max(1, Math.min(Math.floor(workgroups / there), Math.floor(tiles / leastTiles)))
}

/** Quads of slots that each thread has where sums over queries are held by slot. */
export const slotQuads = ({ across, columns, down }: Tile): number => (across * columns) / down

/** Where things are in workgroup memory, in quads. Sums over steps follow the products and use it anew. */
export function memoryOf(plan: Plan, tile: Tile) {
  const [queries, slots] = [tile.queries / 4, tile.slots / 4]
  const chunk = tile.productChunk
  const even = plan.groups.some((group) => group.even && group.positions)
  const apart = plan.rows.position !== plan.rows.content
  const left = 0
  const right = left + chunk * queries
  const turned = right + chunk * slots
  const positions = turned + (apart ? chunk * queries : 0)
  const products = positions + (even ? chunk * (queries + slots) : 0)
  const source = tile.pairs
  const pitch = even ? queries + slots + 1 : Math.max(queries, slots) + 1
  const size = Math.max(products, source + tile.sumChunk * pitch)
  return { left, right, turned, positions, source, size }
}

/** Bytes of workgroup memory that a program takes at most. */
function bytesOf(plan: Plan, tile: Tile): number {
  const { queries, slots, threads, rows, pairs } = tile
  const more = pairs > 0 ? 2 * threads * rows : (queries * slots) / 4
  return 16 * (memoryOf(plan, tile).size + queries + slots + more + 2)
}

/** The programs that have a tiling of their own; 'others' are those that are rarely needed. */
export type TiledProgram = 'forward' | 'queries' | 'slots' | 'positions' | 'others'

/** Tiles of 32 × 32 in 16 KB of workgroup memory, which every device has. */
const small: Tiling = { threads: [8, 8], quads: [1, 1], features: [16, 32], workgroups: 512 }

let overrides: Partial<Record<TiledProgram, Tiling>> = {}

/** Takes the choice of tilings away from the rule, to measure them. */
export function overrideTilings(tilings: Partial<Record<TiledProgram, Tiling>>): void {
  overrides = tilings
}

/** The tile of a program, with as many features at a time as workgroup memory has room for. */
export function chooseTile(plan: Plan, program: TiledProgram): Tile {
  return fitted(plan, program, overrides[program] ?? small)
}

function fitted(plan: Plan, program: TiledProgram, tiling: Tiling): Tile {
  const { device } = backend() as unknown as {
    device: { limits: { maxComputeWorkgroupStorageSize: number } }
  }
  const tile = tileOf(tiling, plan, program)
  if (bytesOf(plan, tile) <= device.limits.maxComputeWorkgroupStorageSize) return tile
  const [product, sum] = tiling.features
  if (sum > Math.max(8, tiling.threads[1]))
    return fitted(plan, program, { ...tiling, features: [product, sum / 2] })
  if (product > 8) return fitted(plan, program, { ...tiling, features: [product / 2, sum] })
  return tiling.threads === small.threads ? tile : fitted(plan, program, small)
}
