/**
 * What the shaders over tiles of queries × slots share. A workgroup's threads stand in a grid over one such tile, each
 * holds quads of its queries by quads of its slots, and they walk over the features in chunks through workgroup memory.
 * Everything is stored along the step axis, so quads of steps are what is loaded.
 */
import { type Bound, pairCode } from './pairs'
import type { GroupPlan, Plan } from './plan'
import { memoryOf, type Tile } from './tiling'

export const four = (line: (x: number, letter: 'x' | 'y' | 'z' | 'w') => string): string =>
  (['x', 'y', 'z', 'w'] as const).map((letter, x) => line(x, letter)).join('\n')

export const times = (count: number, line: (k: number) => string): string =>
  Array.from({ length: count }, (_, k) => line(k)).join('\n')

/** The blocks of four queries by four slots that a thread holds. */
export interface Block {
  readonly row: number
  readonly column: number
  /** Ends the names of what is held for it. */
  readonly at: string
}

export const blocksOf = ({ rows, columns }: Tile): Block[] =>
  Array.from({ length: rows * columns }, (_, k) => {
    const [row, column] = [Math.floor(k / columns), k % columns]
    return { row, column, at: `${row}_${column}` }
  })

/** The quad of a tile's queries that is this thread's `row`th, and of its slots. */
export const queryQuad = ({ rows }: Tile, row: number) => (rows === 1 ? 'ty' : `(ty * ${rows} + ${row})`)

export const slotQuad = ({ across }: Tile, column: number) =>
  column === 0 ? 'tx' : `(tx + ${across * column})`

/** The first query and slot of a block. */
export const queryOf = (tile: Tile, { row }: Block) => `i0 + 4 * ${queryQuad(tile, row)}`

export const slotOf = (tile: Tile, { column }: Block) => `j0 + 4 * ${slotQuad(tile, column)}`

/**
 * Where a pair's quad is: rows of the steps that are summed, quads of those that are kept. A quad left free behind every
 * four rows puts the rows that threads write at a time in different banks.
 */
export const pairAt = (row: string, quad: string, quads: number, quadOfRow = `((${row}) >> 2u)`) =>
  `(${row}) * ${quads} + ${quadOfRow} + ${quad}`

/** Workgroup memory, and what is known of a tile's pairs. */
export function tileCode(plan: Plan, bound: Bound, tile: Tile): string {
  const { rows, groups } = plan
  const { size } = memoryOf(plan, tile)
  return `${pairCode(plan, bound, true)}
var<workgroup> tileMemory: array<vec4<f32>, ${size}>;
var<workgroup> slotTile: array<vec4<f32>, ${tile.slots}>;
/** Of each query: largest logit, 1 / total, Σ weight · gradient, span. */
var<workgroup> rowTile: array<vec4<f32>, ${tile.queries}>;
var<workgroup> anySeen: atomic<u32>;
var<workgroup> seen: u32;

/** Four queries' row of the queries' buffer. */
fn rowQuad(stream: i32, head: i32, begin: i32, feature: i32, origin: i32) -> vec4<f32> {
  ${inWholeChunks(plan, tile) ? '' : 'if (feature >= D) { return vec4<f32>(); }'}
  ${
    plan.aligned
      ? `if (origin >= uniforms.sizes.z) { return vec4<f32>(); }
  return queries[(((stream * uniforms.sizes.y + head) * rowCount + begin + feature) * uniforms.sizes.z + origin) >> 2u];`
      : `return ${guardedQuad((step) => `rowAt(stream, head, begin + feature, ${step})`, 'uniforms.sizes.z')};`
  }
}
/** Statistics of a tile's queries. */
fn loadRows(stream: i32, head: i32, i0: i32) {
  let k = i32(ownIndex);
  if (k < ${tile.queries}) {
    let i = i0 + k;
    let within = i < uniforms.sizes.z;
    rowTile[k] = vec4<f32>(
      ${bound.backward ? [0, 1, 2].map((row) => `select(0.0, rowAt(stream, head, statisticRow + ${row}, i), within)`).join(', ') : '0.0, 0.0, 0.0'},
      ${rows.span === undefined ? 'none' : `select(none, rowAt(stream, head, ${rows.span}, i), within)`});
  }
}
struct Slots { base: vec4<f32>, farthest: vec4<f32>, life: vec4<f32>, flags: vec4<f32> };
fn slotsOf(quad: i32) -> Slots {
  let a = slotTile[4 * quad]; let b = slotTile[4 * quad + 1]; let c = slotTile[4 * quad + 2]; let d = slotTile[4 * quad + 3];
  return Slots(vec4<f32>(a.x, b.x, c.x, d.x), vec4<f32>(a.y, b.y, c.y, d.y),
    vec4<f32>(a.z, b.z, c.z, d.z), vec4<f32>(a.w, b.w, c.w, d.w));
}
fn outer(a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> { return mat4x4<f32>(b * a.x, b * a.y, b * a.z, b * a.w); }
${groups.map((group, g) => groupTiles(plan, bound, tile, group, g)).join('\n')}`
}

/** Whether no chunk reaches beyond the features. */
const inWholeChunks = ({ size }: Plan, { productChunk, sumChunk }: Tile) =>
  size % productChunk === 0 && size % sumChunk === 0

const guardedQuad = (read: (step: string) => string, limit: string) =>
  `vec4<f32>(${[0, 1, 2, 3].map((k) => `select(0.0, ${read(`origin + ${k}`)}, origin + ${k} < ${limit})`).join(', ')})`

function groupTiles(plan: Plan, { names }: Bound, tile: Tile, group: GroupPlan, g: number): string {
  const { life, span, selection } = plan
  const whole = inWholeChunks(plan, tile)
  const quadOf = (source: 'key' | 'value') => `
fn ${source}Quad${g}(stream: i32, head: i32, feature: i32, origin: i32) -> vec4<f32> {
  ${whole ? '' : 'if (feature >= D) { return vec4<f32>(); }'}
  ${
    plan.aligned && group.index !== undefined
      ? `if (origin >= uniforms.group${g}.y) { return vec4<f32>(); }
  return ${source}s[(((stream * uniforms.sizes.y + head) * D + feature) * uniforms.sizes.w + uniforms.group${g}.x + origin) >> 2u];`
      : `return ${guardedQuad((step) => `${source}At${g}(stream, head, feature, ${step})`, `uniforms.group${g}.y`)};`
  }
}`
  const source = (kind: 'key' | 'value') =>
    names.includes(group.index === undefined ? 'persistent' : `${kind}s`) ? quadOf(kind) : ''
  return `${source('key')}
${source('value')}
${
  group.positions && names.includes('positions')
    ? `fn columnsOf${g}(base: vec4<f32>, i: i32) -> vec4<i32> {
  let distance = vec4<i32>(base) + passed${g}(i);
  return vec4<i32>(columnOf${g}(distance.x), columnOf${g}(distance.y), columnOf${g}(distance.z), columnOf${g}(distance.w));
}
fn positionQuad${g}(head: i32, feature: i32, columns: vec4<i32>) -> vec4<f32> {
  return vec4<f32>(positionAt${g}(head, feature, columns.x), positionAt${g}(head, feature, columns.y),
    positionAt${g}(head, feature, columns.z), positionAt${g}(head, feature, columns.w));
}
/** Keys of four distances from there down, of a group that is even. */
fn distanceQuad${g}(head: i32, feature: i32, distance: i32) -> vec4<f32> {
  ${whole ? '' : 'if (feature >= D) { return vec4<f32>(); }'}
  return positions[(head * uniforms.steps.x + feature * uniforms.steps.y + uniforms.positions${g}.z + uniforms.positions${g}.y - distance) >> 2u];
}`
    : ''
}
/** Distances of four slots from a query. */
fn distances${g}(s: Slots, i: i32) -> vec4<f32> { return s.base + f32(passed${g}(i)); }
fn allowed${g}(s: Slots, distance: vec4<f32>, i: i32) -> vec4<bool> {
  return (distance >= vec4<f32>(uniforms.nearest${g}.x)) & (distance <= s.farthest) & vec4<bool>(i < uniforms.sizes.z);
}
/** Strengths of four slots, 0 for those that the query may not attend to. */
fn strengths${g}(s: Slots, i: i32, span: f32) -> vec4<f32> {
  let distance = distances${g}(s, i);
  let strength = vec4<f32>(
    ${['x', 'y', 'z', 'w'].map((y) => `strengthAt(distance.${y}, s.life.${y}, s.flags.${y}, span)`).join(', ')});
  return select(vec4<f32>(), strength, allowed${g}(s, distance, i));
}
${
  selection && group.index !== undefined
    ? `/** Whether a query's logits for four slots count as votes. */
fn counted${g}(s: Slots, i: i32) -> vec4<bool> {
  let distance = distances${g}(s, i);
  return allowed${g}(s, distance, i) & (distance > vec4<f32>()) & (s.flags >= vec4<f32>(2.0));
}`
    : ''
}
${
  group.index === undefined
    ? ''
    : [
        ...(names.includes('selected') || names.includes('voted') ? ['voted'] : []),
        ...(names.includes('voted') ? ['voteGradient'] : []),
      ]
        .map(
          (what) => `fn ${what}Quad${g}(stream: i32, i: i32, j: i32) -> vec4<f32> {
  let origin = uniforms.group${g}.x + j;
  return vec4<f32>(${[0, 1, 2, 3].map((y) => `${what}At(stream, i, origin + ${y})`).join(', ')});
}`,
        )
        .join('\n')
}
/** Loads a tile's slots. Whether, for the whole workgroup, any of them is within reach of any of the tile's queries,
 *  at a distance from least to most. */
fn loadSlots${g}(stream: i32, i0: i32, j0: i32, least: f32, most: f32) -> bool {
  workgroupBarrier();
  let k = i32(ownIndex);
  if (k == 0) { atomicStore(&anySeen, 0u); }
  workgroupBarrier();
  if (k < ${tile.slots}) {
    let slot = slotOf${g}(stream, j0 + k);
    slotTile[k] = vec4<f32>(slot.base, slot.farthest, slot.life, slot.flags);
    let nearest = slot.base + f32(passed${g}(i0));
    let farthest = slot.base + f32(passed${g}(min(i0 + ${tile.queries}, uniforms.sizes.z) - 1));
    var within = (farthest >= max(least, uniforms.nearest${g}.x)) & (nearest <= min(most, slot.farthest));
    ${
      selection
        ? '// What is forgotten may still be voted on.'
        : `${life ? 'within &= (slot.life - nearest) * uniforms.terms.y > -1.0;' : ''}
    ${
      span
        ? `if (within & !isExempt(slot.flags)) {
      var reach = none;
      for (var q = 0; q < ${tile.queries}; q++) { reach = max(reach, rowTile[q].w); }
      within = (reach + uniforms.terms.w - nearest) * uniforms.terms.z > -1.0;
    }`
        : ''
    }`
    }
    if (within) { atomicStore(&anySeen, 1u); }
  }
  workgroupBarrier();
  if (k == 0) { seen = atomicLoad(&anySeen); }
  return workgroupUniformLoad(&seen) == 1u;
}`
}

/** Puts four queries' values for four slots where sums over slots read them. */
export const storeBySlot = (tile: Tile, value: (block: Block, x: number) => string) => `
  workgroupBarrier();
  ${blocksOf(tile)
    .map((block) =>
      four(
        (y, letter) =>
          `tileMemory[${pairAt(`4 * ${slotQuad(tile, block.column)} + ${y}`, queryQuad(tile, block.row), tile.queries / 4, slotQuad(tile, block.column))}] = vec4<f32>(${[0, 1, 2, 3].map((x) => `${value(block, x)}.${letter}`).join(', ')});`,
      ),
    )
    .join('\n')}`

/** Puts them where sums over queries read them. */
export const storeByQuery = (tile: Tile, value: (block: Block, x: number) => string) => `
  workgroupBarrier();
  ${blocksOf(tile)
    .map((block) =>
      four(
        (x) =>
          `tileMemory[${pairAt(`4 * ${queryQuad(tile, block.row)} + ${x}`, slotQuad(tile, block.column), tile.slots / 4, queryQuad(tile, block.row))}] = ${value(block, x)};`,
      ),
    )
    .join('\n')}`
