/**
 * What the shaders over tiles of queries × slots share. A workgroup's threads stand in a grid over one such tile, each
 * holds quads of its queries by quads of its slots, and they walk over the features in chunks through workgroup memory.
 * Everything is stored along the step axis, so quads of steps are what is loaded.
 */
import { far, type GroupPlan, type Plan } from './plan'
import { inChunks, type Stage, type Staged, stageOf } from './stage'
import { memoryOf, slotQuads, sourceOf, type Tile } from './tiling'

/** Slots of one part of a single query's attention. */
export const part = 128
/** Rows of a partial result behind its features: the largest logit, Σ m·e, Σ e. */
export const partialRows = 3
/** Rows of the queries' buffer in the backward pass behind the gradient: largest logit, 1 / total, Σ weight · gradient. */
export const statisticRows = 3
/** Plain operations divide by total + this, as a share of the total without strengths. */
export const epsilon = 1e-8

export const four = (line: (x: number, letter: 'x' | 'y' | 'z' | 'w') => string): string =>
  (['x', 'y', 'z', 'w'] as const).map((letter, x) => line(x, letter)).join('\n')

/** What a shader binds. */
export interface Bound {
  /** Names of the inputs, see Inputs. */
  readonly names: readonly string[]
  /** The backward pass: gradients and statistics stand behind the queries. */
  readonly backward: boolean
}

const constants = (plan: Plan, { backward }: Bound) => {
  const { rows, size } = plan
  const gradient = rows.count
  const count = rows.count + (backward ? size + statisticRows : 0)
  return `
const D = ${size};
const rowCount = ${count};
const gradientRow = ${gradient};
const statisticRow = ${gradient + size};
const far = ${far};
const none = -${far};
`
}

/** Reading the queries' buffer, and what is known of a pair. For all shaders. */
export function pairCode(plan: Plan, bound: Bound, tiled = false): string {
  const { life, span } = plan
  const place = '((stream * (uniforms.sizes.z + 1) + i) * uniforms.sizes.w + j)'
  const read = (name: string, origin: string) =>
    `fn ${name}At(stream: i32, i: i32, j: i32) -> f32 { return ${origin}; }`
  return `${constants(plan, bound)}
fn rowAt(stream: i32, head: i32, row: i32, i: i32) -> f32 {
  let origin = ((stream * uniforms.sizes.y + head) * rowCount + row) * uniforms.sizes.z + i;
  return ${plan.aligned ? 'queries[origin >> 2u][origin & 3]' : 'queries[origin]'};
}
struct Slot { base: f32, farthest: f32, life: f32, flags: f32 };
fn slotAt(stream: i32, j: i32) -> Slot {
  let origin = (stream * uniforms.sizes.w + j) * 4;
  return Slot(slots[origin], slots[origin + 1], slots[origin + 2], slots[origin + 3]);
}
fn isExempt(flags: f32) -> bool { return flags == 1.0; }
/** The ramps before they are cut off at 0 and 1. */
fn lifeRamp(distance: f32, life: f32) -> f32 { return (life - distance) * uniforms.terms.y + 1.0; }
fn spanRamp(distance: f32, flags: f32, span: f32) -> f32 {
  return select((span + uniforms.terms.w - distance) * uniforms.terms.z + 1.0, 2.0, isExempt(flags));
}
fn within01(x: f32) -> f32 { return clamp(x, 0.0, 1.0); }
/** Slope of a ramp where it is not cut off. */
fn slopeOf(ramp: f32, slope: f32) -> f32 { return select(0.0, slope, (ramp >= 0.0) & (ramp <= 1.0)); }
/** 0 .. 1: how strongly a slot may be attended to from a distance within the window. */
fn strengthAt(distance: f32, life: f32, flags: f32, span: f32) -> f32 {
  return ${[life && 'within01(lifeRamp(distance, life))', span && 'within01(spanRamp(distance, flags, span))'].filter(Boolean).join(' * ') || '1.0'};
}
${bound.names.includes('selected') ? read('voted', `selected[${place}]`) : ''}
${bound.names.includes('voted') ? `${read('voted', `voted[${place} * 2]`)}\n${read('voteGradient', `voted[${place} * 2 + 1]`)}` : ''}
${plan.groups.map(groupCode(plan, bound, tiled)).join('\n')}`
}

/** One group's keys and values, distances, and the columns of its distances. */
const groupCode =
  ({ aligned }: Plan, { names }: Bound, tiled: boolean) =>
  (group: GroupPlan, g: number) => {
    const isPersistent = group.index === undefined
    const passed = group.pace === 1 ? 'i' : `i / uniforms.group${g}.z`
    const read = (source: 'keys' | 'values') =>
      isPersistent
        ? `persistent[(head * 2 * D + ${source === 'values' ? 'D + ' : ''}feature) * uniforms.more.x + j]`
        : `${source}[((stream * uniforms.sizes.y + head) * D + feature) * uniforms.sizes.w + uniforms.group${g}.x + j]`
    const p = `uniforms.positions${g}`
    // Where quads of them are bound, they are read as such.
    const one = (kind: 'key' | 'value') =>
      names.includes(isPersistent ? 'persistent' : `${kind}s`) && (isPersistent || !aligned)
        ? `fn ${kind}At${g}(stream: i32, head: i32, feature: i32, j: i32) -> f32 { return ${read(`${kind}s`)}; }`
        : ''
    return `
${one('key')}
${one('value')}
fn slotOf${g}(stream: i32, j: i32) -> Slot {
  if (j >= uniforms.group${g}.y) { return Slot(0.0, none, 0.0, 0.0); }
  ${isPersistent ? 'return Slot(0.0, far, far, 1.0);' : `return slotAt(stream, uniforms.group${g}.x + j);`}
}
fn passed${g}(i: i32) -> i32 { return ${passed}; }
fn mayAttend${g}(distance: f32, farthest: f32) -> bool {
  return (distance >= uniforms.nearest${g}.x) & (distance <= farthest);
}
${
  group.positions
    ? `/** Which key a distance has, -1 for none. */
fn columnOf${g}(distance: i32) -> i32 {
  let column = ${p}.y - distance;
  let clamped = select(column, 0, (column < 0) & (${p}.w == 1));
  return select(-1, clamped, (clamped >= 0) & (distance >= ${p}.x));
}`
    : ''
}
${
  group.positions && names.includes('positions')
    ? `fn positionAt${g}(head: i32, feature: i32, column: i32) -> f32 {
  let origin = head * uniforms.steps.x + feature * uniforms.steps.y + (${p}.z + column) * uniforms.steps.z;
  return select(0.0, ${tiled ? 'positions[max(origin, 0) >> 2u][origin & 3]' : 'positions[max(origin, 0)]'}, column >= 0);
}`
    : ''
}
`
  }

/**
 * Where a pair's quad is: rows of the steps that are summed, quads of those that are kept. A quad left free behind every
 * four rows puts the rows that threads write at a time in different banks.
 */
export const pairAt = (row: string, quad: string, quads: number, quadOfRow = `((${row}) >> 2u)`) =>
  `(${row}) * ${quads} + ${quadOfRow} + ${quad}`

/** Where a feature's quad is, beside the pairs: a quad left free behind every row does the same. */
const sourceAt = (tile: Tile, feature: string, quad: string, quads: number) =>
  `${sourceOf(tile)} + (${feature}) * ${quads + 1} + ${quad}`

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

export const times = (count: number, line: (k: number) => string): string =>
  Array.from({ length: count }, (_, k) => line(k)).join('\n')

/** The quad of a tile's queries that is this thread's `row`th, and of its slots. */
export const queryQuad = ({ rows }: Tile, row: number) => (rows === 1 ? 'ty' : `(ty * ${rows} + ${row})`)
export const slotQuad = ({ across }: Tile, column: number) =>
  column === 0 ? 'tx' : `(tx + ${across * column})`
/** The first query and slot of a block. */
export const queryOf = (tile: Tile, { row }: Block) => `i0 + 4 * ${queryQuad(tile, row)}`
export const slotOf = (tile: Tile, { column }: Block) => `j0 + 4 * ${slotQuad(tile, column)}`

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

/** The distance of which a tile of group g has keys from there down: pair (i, j) has number queries + j - i of them. */
const firstDistance = (tile: Tile, g: number) => `uniforms.group${g}.w - j0 + i0 + ${tile.queries}`

/**
 * Sums over features of queries × keys or values, keys' positions included: `name` + a block's `at` is a matrix with a
 * column for each of four queries.
 */
export function productCode(
  plan: Plan,
  tile: Tile,
  g: number,
  source: 'key' | 'value',
  name: string,
): Staged {
  const group = plan.groups[g]!
  const { rows } = plan
  const blocks = blocksOf(tile)
  const { right, turned, positions } = memoryOf(plan, tile)
  const [queries, slots, chunk] = [tile.queries / 4, tile.slots / 4, tile.productChunk]
  const row = group.index === undefined ? rows.persistent : rows.content
  const placed = source === 'key' && group.positions !== undefined
  const apart = placed && rows.position !== rows.content
  const turnedOf = (r: number) => (apart ? `turned${r}` : `left${r}`)
  const even = placed && group.even
  const columns = placed && !group.even
  const rowsFrom = (begin: string | number) => (row: string, quad: string) =>
    `rowQuad(stream, head, ${begin}, ${row}, i0 + 4 * ${quad})`
  const stages = [
    stageOf(
      tile,
      `${name}Left`,
      [chunk, queries],
      rowsFrom(source === 'key' ? row : 'gradientRow'),
      (number) => number,
    ),
    ...(apart
      ? [
          stageOf(
            tile,
            `${name}Turned`,
            [chunk, queries],
            rowsFrom(rows.position),
            (number) => `${turned} + ${number}`,
          ),
        ]
      : []),
    stageOf(
      tile,
      `${name}Right`,
      [chunk, slots],
      (row, quad) => `${source}Quad${g}(stream, head, ${row}, j0 + 4 * ${quad})`,
      (number) => `${right} + ${number}`,
    ),
    ...(even
      ? [
          stageOf(
            tile,
            `${name}Distances`,
            [chunk, queries + slots],
            (row, quad) => `distanceQuad${g}(head, ${row}, ${firstDistance(tile, g)} - 4 * ${quad})`,
            (number) => `${positions} + ${number}`,
          ),
        ]
      : []),
  ]
  const steps = inChunks(
    stages,
    { size: plan.size, chunk },
    `
    for (var f = 0; f < ${chunk}; f++) {
      ${times(tile.rows, (r) => `let left${r} = tileMemory[f * ${queries} + ${queryQuad(tile, r)}];`)}
      ${times(tile.columns, (c) => `let right${c} = tileMemory[${right} + f * ${slots} + ${slotQuad(tile, c)}];`)}
      ${blocks.map(({ row: r, column: c, at }) => `${name}${at} += outer(left${r}, right${c});`).join('\n')}
      ${apart ? times(tile.rows, (r) => `let turned${r} = tileMemory[${turned} + f * ${queries} + ${queryQuad(tile, r)}];`) : ''}
      ${
        even
          ? times(
              tile.columns,
              (
                c,
              ) => `let place${c} = ${positions} + f * ${queries + slots} + ${slotQuad(tile, c)} + tyBack * ${tile.rows};
      ${times(tile.rows + 1, (k) => `let key${c}_${k} = tileMemory[place${c} + ${tile.rows - k}];`)}`,
            )
          : ''
      }
      ${
        even
          ? blocks
              .map(({ row: r, column: c, at }) => {
                const [q, high, low] = [turnedOf(r), `key${c}_${r}`, `key${c}_${r + 1}`]
                return `${name}${at} += mat4x4<f32>(${q}.x * ${high}, ${q}.y * vec4<f32>(${low}.w, ${high}.xyz),
          ${q}.z * vec4<f32>(${low}.zw, ${high}.xy), ${q}.w * vec4<f32>(${low}.yzw, ${high}.x));`
              })
              .join('\n')
          : ''
      }
      ${
        columns
          ? `if (begin + f < D) {
        ${blocks
          .map(({ row: r, at }) =>
            four(
              (x, letter) =>
                `${name}${at}[${x}] += ${turnedOf(r)}.${letter} * positionQuad${g}(head, begin + f, columns${at}${x});`,
            ),
          )
          .join('\n')}
      }`
          : ''
      }
    }`,
  )
  const placesOfColumns = columns
    ? blocks
        .map((block) =>
          four(
            (x) =>
              `let columns${block.at}${x} = columnsOf${g}(slotsOf(${slotQuad(tile, block.column)}).base, ${queryOf(tile, block)} + ${x});`,
          ),
        )
        .join('\n')
    : ''
  return {
    fetch: steps.fetch,
    code: `
  ${blocks.map(({ at }) => `var ${name}${at} = mat4x4<f32>();`).join(' ')}
  {
    ${placesOfColumns}
    ${steps.code}
  }`,
  }
}

/** The steps whose sums over the other steps are kept: each thread has some quads of them by some features. */
export type Axis = 'queries' | 'slots'

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
