/** The program by tiles of distances: pairs × queries. */
import { ownSteps, type Plan, type PositionsPlan } from '../plan'
import { slotRange, threadCode } from '../shader'
import type { Staged } from '../stage'
import { accumulate, declareSums, sumsOf } from '../sums'
import { pairAt, queryQuad, slotQuad, tileCode } from '../tiles'
import type { Tile } from '../tiling'
import { loadPairs, pairsCode, perQuery, placesOfPairs } from './pairs'

/** By tiles of distances: pairs × queries. */
export const positionsCode = (
  plan: Plan,
  names: readonly string[],
  tile: Tile,
  slotsTile: Tile,
  g: number,
  positions: PositionsPlan,
) => {
  const sums = sumsOf('sum', plan.size, tile, 'slots')
  const [feature, column] = ownSteps(positions, plan.size)
  // The number of columns is no part of the code.
  const place = positions.featureMajor
    ? 'feature * columns + column'
    : `feature * ${feature} + column * ${column}`
  const { even } = plan.groups[g]!
  const added = accumulate(
    tile,
    'slots',
    'queryRows',
    sums,
    (f, quad) => `rowQuad(stream, head, ${plan.rows.position}, ${f}, i0 + 4 * ${quad})`,
  )
  return `${tileCode(plan, { names, backward: true }, tile)}
${placesOfPairs(plan, slotsTile)}
${pairsCode(plan)}
${even ? `${slotRange}${plan.aligned ? quadFromCode : ''}` : spreadCode(tile, g)}
fn main(index: i32) {
  ${threadCode(tile)}
  let high = uniforms.positions${g}.y;
  let columns = high - uniforms.positions${g}.x + 1;
  let tiles = (columns + ${tile.slots - 1}) / ${tile.slots};
  let workgroup = index / ${tile.threads};
  let c0 = (workgroup % tiles) * ${tile.slots};
  let own = workgroup / tiles;
  let head = (uniforms.places.x + own) % uniforms.sizes.y;
  let stream = (uniforms.places.x + own) / uniforms.sizes.y;
  ${declareSums(sums)}
  ${even ? evenPairs(plan, tile, g, added) : anyPairs(tile, g, added)}
  if (own >= uniforms.places.y) { return; }
  ${sums.map(({ name, feature: f, place: quad }) => `writeColumns(stream, head, columns, ${f}, c0 + 4 * ${quad}, ${name});`).join('\n  ')}
}
fn writeColumns(stream: i32, head: i32, columns: i32, feature: i32, begin: i32, values: vec4<f32>) {
  if (feature >= D) { return; }
  for (var k = 0; k < 4; k++) {
    let column = begin + k;
    if (column < columns) {
      result[(stream * uniforms.sizes.y + head) * columns * D + ${place}] = values[k];
    }
  }
}`
}

/** Four pairs from anywhere in quads of them. */
const quadFromCode = `
fn quadFrom(origin: i32) -> vec4<f32> {
  let a = pairs[origin >> 2u];
  let b = pairs[(origin >> 2u) + 1];
  let shifted = origin & 3;
  let odd = select(vec4<f32>(a.yzw, b.x), vec4<f32>(a.w, b.xyz), shifted == 3);
  return select(select(a, vec4<f32>(a.zw, b.xy), shifted == 2), odd, (shifted & 1) == 1);
}`

/** Loops over a tile's queries where each distance is one slot's, the next one's of the next query. */
const evenPairs = ({ aligned }: Plan, tile: Tile, g: number, added: Staged) => `
  // Pair (i, c) is that of slot i + c + shift.
  let shift = uniforms.group${g}.w - high;
  if (localIndex == 0u) {
    let first = max(0, -(shift + c0 + ${tile.slots - 1}));
    partOfSlots = vec2<i32>(first / ${tile.queries} * ${tile.queries}, min(uniforms.sizes.z, uniforms.group${g}.y - shift - c0));
  }
  let range = workgroupUniformLoad(&partOfSlots);
  for (var i0 = range.x; i0 < range.y; i0 += ${tile.queries}) {
    ${added.fetch}
    workgroupBarrier();
    for (var k = i32(localIndex); k < ${tile.pairs}; k += ${tile.threads}) {
      let row = k / ${tile.slots / 4};
      let quad = k % ${tile.slots / 4};
      let j = i0 + row + c0 + 4 * quad + shift;
      let origin = pairsOf(own, i0 + row) + uniforms.group${g}.x + j;
      let inside = (vec4<i32>(j) >= vec4<i32>(0, -1, -2, -3)) &
        (vec4<i32>(j) < vec4<i32>(uniforms.group${g}.y) - vec4<i32>(0, 1, 2, 3)) & vec4<bool>(i0 + row < uniforms.sizes.z);
      let values = select(vec4<f32>(), ${aligned ? 'quadFrom(origin)' : 'vec4<f32>(pairs[origin], pairs[origin + 1], pairs[origin + 2], pairs[origin + 3])'}, inside);
      tileMemory[${pairAt('row', 'quad', tile.slots / 4)}] = values;
    }
    ${added.code}
  }`

/** Where several slots may have one distance, or the same for several queries. */
const anyPairs = (tile: Tile, g: number, added: Staged) => `
  let least = f32(high - c0 - ${tile.slots - 1});
  let most = select(f32(high - c0), far, (c0 == 0) & (uniforms.positions${g}.w == 1));
  for (var i0 = 0; i0 < uniforms.sizes.z; i0 += ${tile.queries}) {
    workgroupBarrier();
    loadRows(stream, head, i0);
    for (var j0 = 0; j0 < uniforms.group${g}.y; j0 += ${tile.slots}) {
      ${added.fetch}
      ${loadPairs(tile, g)}
      if (!loadSlots${g}(stream, i0, j0, least, most)) { continue; }
      ${perQuery(tile, (at, { row, column }, x) => `storeLogits(4 * ${queryQuad(tile, row)} + ${x}, ${slotQuad(tile, column)}, ds${at});`)}
      spread(i0, c0);
      ${added.code}
    }
  }`

const spreadCode = (tile: Tile, g: number) => `
/** Gradients of the logits of queries × slots. */
var<workgroup> logitTile: array<f32, ${tile.queries * tile.slots}>;
fn storeLogits(row: i32, quad: i32, values: vec4<f32>) {
  let place = row * ${tile.slots} + 4 * quad;
  logitTile[place] = values.x; logitTile[place + 1] = values.y; logitTile[place + 2] = values.z; logitTile[place + 3] = values.w;
}
/** Adds up each query's slots of one distance. */
fn spread(i0: i32, c0: i32) {
  let row = i32(ownIndex);
  workgroupBarrier();
  if (row < ${tile.queries}) {
    var sums: array<f32, ${tile.slots}>;
    for (var j = 0; j < ${tile.slots}; j++) {
      let column = columnOf${g}(i32(slotTile[j].x) + passed${g}(i0 + row)) - c0;
      if ((column >= 0) & (column < ${tile.slots})) { sums[column] += logitTile[row * ${tile.slots} + j]; }
    }
    for (var quad = 0; quad < ${tile.slots / 4}; quad++) {
      tileMemory[${pairAt('row', 'quad', tile.slots / 4)}] =
        vec4<f32>(sums[4 * quad], sums[4 * quad + 1], sums[4 * quad + 2], sums[4 * quad + 3]);
    }
  }
}`
