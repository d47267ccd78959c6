/**
 * What the shaders over tiles of queries × slots share. A workgroup of 8 × 8 threads holds one such tile of pairs, each
 * thread four queries by four slots of it, and walks over the features in chunks through workgroup memory. Everything
 * is stored along the step axis, so quads of steps are what is loaded, and quads are placed so (`at`, `pairAt`) that
 * threads side by side meet different banks. Under 16 KB of workgroup memory, which every device has.
 */
import { far, type GroupPlan, type Plan } from './plan'

/** Queries, slots and distances of a tile. */
export const tile = 32
/** Features that are in workgroup memory at a time. */
const chunk = 16
export const tileThreads = 64
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
const chunkSize = ${chunk};`
}

/** Reading the queries' buffer, and what is known of a pair. For all shaders. */
export function pairCode(plan: Plan, bound: Bound): string {
  const { life, span } = plan
  const place = '((stream * (uniforms.sizes.z + 1) + i) * uniforms.sizes.w + j)'
  const read = (name: string, origin: string) =>
    `fn ${name}At(stream: i32, i: i32, j: i32) -> f32 { return ${origin}; }`
  return `${constants(plan, bound)}
fn rowAt(stream: i32, head: i32, row: i32, i: i32) -> f32 {
  return queries[((stream * uniforms.sizes.y + head) * rowCount + row) * uniforms.sizes.z + i];
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
${plan.groups.map(groupCode(bound)).join('\n')}`
}

/** One group's keys and values, distances, and the columns of its distances. */
const groupCode =
  ({ names }: Bound) =>
  (group: GroupPlan, g: number) => {
    const isPersistent = group.index === undefined
    const passed = group.pace === 1 ? 'i' : `i / uniforms.group${g}.z`
    const read = (source: 'keys' | 'values') =>
      isPersistent
        ? `persistent[(head * 2 * D + ${source === 'values' ? 'D + ' : ''}feature) * uniforms.more.x + j]`
        : `${source}[((stream * uniforms.sizes.y + head) * D + feature) * uniforms.sizes.w + uniforms.group${g}.x + j]`
    const p = `uniforms.positions${g}`
    return `
fn keyAt${g}(stream: i32, head: i32, feature: i32, j: i32) -> f32 { return ${read('keys')}; }
${names.includes('values') ? `fn valueAt${g}(stream: i32, head: i32, feature: i32, j: i32) -> f32 { return ${read('values')}; }` : ''}
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
}
fn positionAt${g}(head: i32, feature: i32, column: i32) -> f32 {
  let origin = head * uniforms.steps.x + feature * uniforms.steps.y + (${p}.z + column) * uniforms.steps.z;
  return select(0.0, positions[max(origin, 0)], column >= 0);
}`
    : ''
}
`
  }

/** Workgroup memory, and the logits of a tile's pairs. */
export function tileCode(plan: Plan, bound: Bound): string {
  const { rows, groups, size } = plan
  const apart = rows.position !== rows.content
  const last = size % chunk
  const inside = (expression: string) => (last === 0 ? expression : `select(0.0, ${expression}, feature < D)`)
  const quad = (read: (step: string) => string, limit: string) =>
    `vec4<f32>(${[0, 1, 2, 3].map((k) => `select(0.0, ${read(`origin + ${k}`)}, origin + ${k} < ${limit})`).join(', ')})`
  const placed = groups.some(({ even, positions }) => even && positions)
  return `${pairCode(plan, bound)}
var<workgroup> leftTile: array<vec4<f32>, ${(chunk * tile) / 4}>;
var<workgroup> rightTile: array<vec4<f32>, ${(chunk * tile) / 4}>;
${apart ? `var<workgroup> turnedTile: array<vec4<f32>, ${(chunk * tile) / 4}>;` : ''}
${placed ? `var<workgroup> positionTile: array<vec4<f32>, ${(chunk * tile) / 2}>;` : ''}
var<workgroup> slotTile: array<vec4<f32>, ${tile}>;
/** Of each query: largest logit, 1 / total, Σ weight · gradient, span. */
var<workgroup> rowTile: array<vec4<f32>, ${tile}>;
var<workgroup> anySeen: atomic<u32>;
var<workgroup> seen: u32;
var<private> tx: i32;
var<private> ty: i32;

fn at(feature: i32, quad: i32) -> i32 { return feature * ${tile / 4} + (quad ^ (feature & 7)); }
fn pairAt(row: i32, quad: i32) -> i32 { return row * ${tile / 4} + (quad ^ ((row >> 2u) & 7)); }
fn distanceAt(feature: i32, quad: i32) -> i32 { return feature * ${tile / 2} + (quad ^ (feature & 7)); }

/** Four queries' row of the queries' buffer. */
fn rowQuad(stream: i32, head: i32, begin: i32, feature: i32, origin: i32) -> vec4<f32> {
  if (feature >= D) { return vec4<f32>(); }
  return ${quad((step) => `rowAt(stream, head, begin + feature, ${step})`, 'uniforms.sizes.z')};
}
/** Statistics of a tile's queries. */
fn loadRows(stream: i32, head: i32, i0: i32) {
  let k = i32(localIndex);
  if (k < ${tile}) {
    let i = i0 + k;
    let within = i < uniforms.sizes.z;
    rowTile[k] = vec4<f32>(
      ${bound.backward ? [0, 1, 2].map((row) => `select(0.0, rowAt(stream, head, statisticRow + ${row}, i), within)`).join(', ') : '0.0, 0.0, 0.0'},
      ${rows.span === undefined ? 'none' : `select(none, rowAt(stream, head, ${rows.span}, i), within)`});
  }
}
struct Slots { base: vec4<f32>, farthest: vec4<f32>, life: vec4<f32>, flags: vec4<f32> };
fn slotsOfThread() -> Slots {
  let a = slotTile[4 * tx]; let b = slotTile[4 * tx + 1]; let c = slotTile[4 * tx + 2]; let d = slotTile[4 * tx + 3];
  return Slots(vec4<f32>(a.x, b.x, c.x, d.x), vec4<f32>(a.y, b.y, c.y, d.y),
    vec4<f32>(a.z, b.z, c.z, d.z), vec4<f32>(a.w, b.w, c.w, d.w));
}
fn outer(a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> { return mat4x4<f32>(b * a.x, b * a.y, b * a.z, b * a.w); }
${groups.map((group, g) => groupTiles(plan, bound, group, g, inside, quad)).join('\n')}`
}

function groupTiles(
  plan: Plan,
  { names, backward }: Bound,
  group: GroupPlan,
  g: number,
  inside: (expression: string) => string,
  quad: (read: (step: string) => string, limit: string) => string,
): string {
  const { rows, life, span, selection } = plan
  const row = group.index === undefined ? rows.persistent : rows.content
  const apart = group.positions && rows.position !== rows.content
  const products = (['key', 'value'] as const).map((source) => {
    if (source === 'value' && !(backward && names.includes('values'))) return ''
    const positions = source === 'key' ? group.positions : undefined
    const load = positions && group.even ? loadDistances(g, apart ? 'turnedTile' : 'leftTile') : undefined
    const columns = positions && !group.even
    return `
/** Sums over features of queries × ${source}s${positions ? ' and queries × distances' : ''}: a column for each of four queries. */
fn ${source}Product${g}(stream: i32, head: i32, i0: i32, j0: i32) -> mat4x4<f32> {
  var product = mat4x4<f32>();
  ${load?.begin ?? ''}
  ${
    columns
      ? `let slotsHere = slotsOfThread();
  ${four((x) => `let columns${x} = columnsOf${g}(slotsHere.base, i0 + 4 * ty + ${x});`)}`
      : ''
  }
  for (var begin = 0; begin < D; begin += chunkSize) {
    workgroupBarrier();
    for (var k = i32(localIndex); k < ${(chunk * tile) / 4}; k += ${tileThreads}) {
      let row = k / ${tile / 4}; let quad = k % ${tile / 4};
      leftTile[at(row, quad)] = rowQuad(stream, head, ${source === 'key' ? row : 'gradientRow'}, begin + row, i0 + 4 * quad);
      ${source === 'key' && apart ? `turnedTile[at(row, quad)] = rowQuad(stream, head, ${rows.position}, begin + row, i0 + 4 * quad);` : ''}
      rightTile[at(row, quad)] = ${source}Quad${g}(stream, head, begin + row, j0 + 4 * quad);
    }
    ${load?.load ?? ''}
    workgroupBarrier();
    for (var f = 0; f < chunkSize; f++) {
      let left = leftTile[at(f, ty)];
      product += outer(left, rightTile[at(f, tx)]);
      ${load?.use ?? ''}
      ${
        columns
          ? `if (begin + f < D) {
        let turned = ${apart ? 'turnedTile[at(f, ty)]' : 'left'};
        ${four((x, letter) => `product[${x}] += turned.${letter} * positionQuad${g}(head, begin + f, columns${x});`)}
      }`
          : ''
      }
    }
  }
  return product;
}`
  })
  return `
fn keyQuad${g}(stream: i32, head: i32, feature: i32, origin: i32) -> vec4<f32> {
  if (feature >= D) { return vec4<f32>(); }
  return ${quad((step) => `keyAt${g}(stream, head, feature, ${step})`, `uniforms.group${g}.y`)};
}
${
  names.includes('values')
    ? `fn valueQuad${g}(stream: i32, head: i32, feature: i32, origin: i32) -> vec4<f32> {
  if (feature >= D) { return vec4<f32>(); }
  return ${quad((step) => `valueAt${g}(stream, head, feature, ${step})`, `uniforms.group${g}.y`)};
}`
    : ''
}
${
  group.positions
    ? `fn columnsOf${g}(base: vec4<f32>, i: i32) -> vec4<i32> {
  let distance = vec4<i32>(base) + passed${g}(i);
  return vec4<i32>(columnOf${g}(distance.x), columnOf${g}(distance.y), columnOf${g}(distance.z), columnOf${g}(distance.w));
}
fn positionQuad${g}(head: i32, feature: i32, columns: vec4<i32>) -> vec4<f32> {
  return vec4<f32>(positionAt${g}(head, feature, columns.x), positionAt${g}(head, feature, columns.y),
    positionAt${g}(head, feature, columns.z), positionAt${g}(head, feature, columns.w));
}
fn positionOf${g}(head: i32, feature: i32, distance: i32) -> f32 {
  return ${inside(`positionAt${g}(head, feature, columnOf${g}(distance))`)};
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
  let k = i32(localIndex);
  if (k == 0) { atomicStore(&anySeen, 0u); }
  workgroupBarrier();
  if (k < ${tile}) {
    let slot = slotOf${g}(stream, j0 + k);
    slotTile[k] = vec4<f32>(slot.base, slot.farthest, slot.life, slot.flags);
    let nearest = slot.base + f32(passed${g}(i0));
    let farthest = slot.base + f32(passed${g}(min(i0 + ${tile}, uniforms.sizes.z) - 1));
    var within = (farthest >= max(least, uniforms.nearest${g}.x)) & (nearest <= min(most, slot.farthest));
    ${
      selection
        ? '// What is forgotten may still be voted on.'
        : `${life ? 'within &= (slot.life - nearest) * uniforms.terms.y > -1.0;' : ''}
    ${
      span
        ? `if (within & !isExempt(slot.flags)) {
      var reach = none;
      for (var q = 0; q < ${tile}; q++) { reach = max(reach, rowTile[q].w); }
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
}
${products.join('')}`

  /** Keys of a stretch of 64 distances; pair (i, j) of the tile has number 32 + j - i of it. */
  function loadDistances(group: number, left: string) {
    return {
      begin: `let distance0 = uniforms.group${group}.w - j0 + i0 + ${tile};`,
      load: distancesLoad(group, 'begin', 'distance0'),
      use: `{
        let turned = ${left}[at(f, ty)];
        let low = positionTile[distanceAt(f, tx - ty + 7)];
        let high = positionTile[distanceAt(f, tx - ty + 8)];
        product += mat4x4<f32>(turned.x * high, turned.y * vec4<f32>(low.w, high.xyz),
          turned.z * vec4<f32>(low.zw, high.xy), turned.w * vec4<f32>(low.yzw, high.x));
      }`,
    }
  }
}

/** Loads a chunk of the keys of the 64 distances from `distance0` down. */
export const distancesLoad = (g: number, begin: string, distance0: string) => `
    for (var k = i32(localIndex); k < ${(chunk * tile) / 2}; k += ${tileThreads}) {
      let row = k / ${tile / 2}; let quad = k % ${tile / 2};
      let distance = ${distance0} - 4 * quad;
      positionTile[distanceAt(row, quad)] = vec4<f32>(
        ${[0, 1, 2, 3].map((k) => `positionOf${g}(head, ${begin} + row, distance - ${k})`).join(', ')});
    }`

/** Features of a sum over a tile's pairs, as chunks that each thread holds two features by four steps of. */
export const accumulators = (name: string, size: number): string[] =>
  Array.from({ length: Math.ceil(size / chunk) * 2 }, (_, k) => `${name}${k}`)

/**
 * Adds pairs × features to accumulators: `pairTile` holds, for each of 32 steps, quads of the 32 steps that are
 * accumulated for.
 * @param source reads a quad of the summed steps: feature → WGSL
 */
export function accumulate(
  names: readonly string[],
  source: (feature: string, quad: string) => string,
  pairs = (row: string) => `pairTile[pairAt(${row}, ty)]`,
): string {
  return `
  {${names
    .filter((_, k) => k % 2 === 0)
    .map(
      (_, c) => `
    workgroupBarrier();
    for (var k = i32(localIndex); k < ${(chunk * tile) / 4}; k += ${tileThreads}) {
      let row = k / ${tile / 4}; let quad = k % ${tile / 4};
      rightTile[at(row, quad)] = ${source(`${c * chunk} + row`, 'quad')};
    }
    workgroupBarrier();
    for (var q = 0; q < ${tile / 4}; q++) {
      let a = rightTile[at(tx, q)];
      let b = rightTile[at(tx + 8, q)];
      ${four(
        (y, letter) => `let w${y} = ${pairs(`4 * q + ${y}`)};
      ${names[2 * c]} += w${y} * a.${letter};
      ${names[2 * c + 1]} += w${y} * b.${letter};`,
      )}
    }`,
    )
    .join('')}
  }`
}

/** The feature of an accumulator in this thread. */
export const featureOf = (k: number): string => `${Math.floor(k / 2) * chunk + (k % 2) * 8} + tx`

export const pairTile = `var<workgroup> pairTile: array<vec4<f32>, ${(tile * tile) / 4}>;`

/** Puts four queries' values for four slots where sums over slots read them. */
export const storeBySlot = (value: (x: number) => string) =>
  four(
    (y, letter) =>
      `pairTile[pairAt(4 * tx + ${y}, ty)] = vec4<f32>(${[0, 1, 2, 3].map((x) => `${value(x)}.${letter}`).join(', ')});`,
  )

/** Puts them where sums over queries read them. */
export const storeByQuery = (value: (x: number) => string) =>
  four((x) => `pairTile[pairAt(4 * ty + ${x}, tx)] = ${value(x)};`)
