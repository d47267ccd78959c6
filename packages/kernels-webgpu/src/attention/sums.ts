/** Sums of pairs × features over the other steps of a tile, which threads hold in registers. */
import { firstDistance } from './products'
import { type Stage, type Staged, stageOf } from './stage'
import { four, pairAt, queryQuad, times } from './tiles'
import { slotQuads, sourceOf, type Tile } from './tiling'

/** The steps whose sums over the other steps are kept: each thread has some quads of them by some features. */
type Axis = 'queries' | 'slots'

/** A sum of pairs × features in a thread, for a quad of steps. */
export interface Sum {
  readonly name: string
  /** Which of the thread's quads of steps. */
  readonly quad: number
  readonly chunk: number
  /** Which of the thread's features in the chunk. */
  readonly lane: number
  /** Its feature and its quad, in WGSL. */
  readonly feature: string
  readonly place: string
}

const quadsOf = (tile: Tile, axis: Axis) => (axis === 'queries' ? tile.rows : slotQuads(tile))

/** The quad of steps that is this thread's `k`th. */
const keptQuad = (tile: Tile, axis: Axis, k: number) => {
  const count = quadsOf(tile, axis)
  return count === 1 ? 'ty' : `(ty * ${count} + ${k})`
}

export function sumsOf(name: string, size: number, tile: Tile, axis: Axis): Sum[] {
  const sums: Sum[] = []
  const { sumChunk, across } = tile
  for (let chunk = 0; chunk * sumChunk < size; chunk++)
    for (let lane = 0; lane * across < sumChunk; lane++)
      for (let quad = 0; quad < quadsOf(tile, axis); quad++)
        sums.push({
          name: `${name}${chunk}_${lane}_${quad}`,
          quad,
          chunk,
          lane,
          feature: `${chunk * sumChunk + lane * across} + tx`,
          place: keptQuad(tile, axis, quad),
        })
  return sums
}

export const declareSums = (sums: readonly Sum[]) =>
  sums.map(({ name }) => `var ${name} = vec4<f32>();`).join(' ')

/** Where a feature's quad is, beside the pairs: a quad left free behind every row does the same. */
const sourceAt = (tile: Tile, feature: string, quad: string, quads: number) =>
  `${sourceOf(tile)} + (${feature}) * ${quads + 1} + ${quad}`

/** @param body adds a chunk's features to its sums */
function additionOf(
  { declare, fetch, store }: Stage,
  sums: readonly Sum[],
  chunk: number,
  body: (own: readonly Sum[]) => string,
): Staged {
  const chunks = chunksOf(sums)
  return {
    fetch: `${declare}\n${fetch('0')}`,
    code: chunks
      .map(
        (own, c) => `{
    workgroupBarrier();
    ${store}
    workgroupBarrier();
    ${c + 1 < chunks.length ? fetch(String((c + 1) * chunk)) : ''}
    ${body(own)}
  }`,
      )
      .join('\n'),
  }
}

/**
 * Adds pairs × features to sums: workgroup memory holds, for each step that is summed over, quads of the steps that are
 * kept.
 * @param name of what is held meanwhile
 * @param source reads a quad of the steps summed over: feature, quad → WGSL
 */
export function accumulate(
  tile: Tile,
  axis: Axis,
  name: string,
  sums: readonly Sum[],
  source: (feature: string, quad: string) => string,
): Staged {
  const [quads, kept] = [
    (axis === 'queries' ? tile.slots : tile.queries) / 4,
    axis === 'queries' ? tile.queries : tile.slots,
  ]
  const stage = stageOf(tile, name, [tile.sumChunk, quads], source, (_, row, quad) =>
    sourceAt(tile, row, quad, quads),
  )
  return additionOf(
    stage,
    sums,
    tile.sumChunk,
    (own) => `
    for (var q = 0; q < ${quads}; q++) {
      ${four((y) => times(quadsOf(tile, axis), (k) => `let w${y}_${k} = tileMemory[${pairAt(`4 * q + ${y}`, keptQuad(tile, axis, k), kept / 4, 'q')}];`))}
      ${lanesOf(own)
        .map(
          (lane) => `{
        let features = tileMemory[${sourceAt(tile, `tx + ${lane[0]!.lane * tile.across}`, 'q', quads)}];
        ${lane.map(({ name, quad }) => four((y, letter) => `${name} += w${y}_${quad} * features.${letter};`)).join('\n')}
      }`,
        )
        .join('\n')}
    }`,
  )
}

/** Adds pairs × keys of distances to queries' sums, where these come in stretches. */
export function accumulateDistances(tile: Tile, sums: readonly Sum[], g: number): Staged {
  const [queries, slots] = [tile.queries / 4, tile.slots / 4]
  const quads = queries + slots
  const values = (high: string, low: string) => [
    `${high}.x, ${low}.w, ${low}.z, ${low}.y`,
    `${high}.yx, ${low}.wz`,
    `${high}.zyx, ${low}.w`,
    `${high}.wzyx`,
  ]
  const stage = stageOf(
    tile,
    `distances${g}`,
    [tile.sumChunk, quads],
    (row, quad) => `distanceQuad${g}(head, ${row}, ${firstDistance(tile, g)} - 4 * ${quad})`,
    (_, row, quad) => sourceAt(tile, row, quad, quads),
  )
  return additionOf(
    stage,
    sums,
    tile.sumChunk,
    (own) => `
    for (var q = 0; q < ${slots}; q++) {
      ${four((y) => times(tile.rows, (k) => `let w${y}_${k} = tileMemory[${pairAt(`4 * q + ${y}`, queryQuad(tile, k), queries, 'q')}];`))}
      ${lanesOf(own)
        .map(
          (lane) => `{
        let place = ${sourceAt(tile, `tx + ${lane[0]!.lane * tile.across}`, `q + tyBack * ${tile.rows}`, quads)};
        ${times(tile.rows + 1, (k) => `let key${k} = tileMemory[place + ${tile.rows - k}];`)}
        ${lane
          .map(({ name, quad }) =>
            four(
              (y) => `${name} += w${y}_${quad} * vec4<f32>(${values(`key${quad}`, `key${quad + 1}`)[y]});`,
            ),
          )
          .join('\n')}
      }`,
        )
        .join('\n')}
    }`,
  )
}

const grouped = (sums: readonly Sum[], by: (sum: Sum) => number): Sum[][] => {
  const groups: Sum[][] = []
  for (const sum of sums) {
    const at = by(sum)
    groups[at] ??= []
    groups[at].push(sum)
  }
  return groups
}

const chunksOf = (sums: readonly Sum[]) => grouped(sums, ({ chunk }) => chunk)

const lanesOf = (sums: readonly Sum[]) => grouped(sums, ({ lane }) => lane)
