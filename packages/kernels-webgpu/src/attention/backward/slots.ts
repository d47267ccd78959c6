/** The program by tiles of slots: their own gradients, and those of logits for the other programs. */
import type { Plan } from '../plan'
import { slotTile } from '../shader'
import { accumulate, declareSums, type Sum, sumsOf } from '../sums'
import { type Block, queryOf, queryQuad, slotOf, slotQuad, storeByQuery, times } from '../tiles'
import { slotRows, type Tile } from '../tiling'
import {
  backwardCode,
  pairGradients,
  perQuery,
  placesOfPairs,
  sumOverQueries,
  sumTile,
  tilesOfSlots,
} from './pairs'

/** By tiles of slots: sums over queries, and the gradients of logits for the other programs. */
export const slotsCode = (plan: Plan, names: readonly string[], tile: Tile, g: number) => {
  const { size, life, span, rows } = plan
  const [keys, values] = [sumsOf('keySum', size, tile, 'slots'), sumsOf('valueSum', size, tile, 'slots')]
  const row = plan.groups[g]!.index === undefined ? rows.persistent : rows.content
  const source = (begin: string | number) => (feature: string, quad: string) =>
    `rowQuad(stream, head, ${begin}, ${feature}, i0 + 4 * ${quad})`
  const byValue = accumulate(tile, 'slots', 'gradients', values, source('gradientRow'))
  const byKey = accumulate(tile, 'slots', 'queryRows', keys, source(row))
  const pairs = pairGradients(plan, names, tile, g, { beside: byValue.fetch })
  const written = (begin: string, sums: readonly Sum[]) =>
    sums
      .map(
        ({ name, feature, place }) =>
          `writeSlots(stream, head, ${begin}, ${feature}, j0 + 4 * ${place}, ${name});`,
      )
      .join('\n  ')
  const spansAt = (r: number) => `i0 + 4 * ${queryQuad(tile, r)}, j0 / ${tile.slots}`
  /** Derivatives of four slots' strengths by the life or the span. */
  const slopes = (by: 'life' | 'span', at: string, { row: r, column }: Block, x: number) => {
    const one = (y: string) => {
      const lives = `lifeRamp(d${at}.${y}, slots${column}.life.${y})`
      const spans = `spanRamp(d${at}.${y}, slots${column}.flags.${y}, row${r}_${x}.w)`
      return by === 'life'
        ? `slopeOf(${lives}, uniforms.terms.y)${span ? ` * within01(${spans})` : ''}`
        : `slopeOf(${spans}, uniforms.terms.z)${life ? ` * within01(${lives})` : ''}`
    }
    return `vec4<f32>(${['x', 'y', 'z', 'w'].map(one).join(', ')})`
  }
  return `${backwardCode(plan, names, tile)}
${life || span ? sumTile(tile) : ''}
${placesOfPairs(plan, tile)}
fn main(index: i32) {
  ${slotTile(tile, g)}
  ${declareSums([...keys, ...values])}
  ${times(tile.columns, (c) => `var lives${c} = vec4<f32>();`)}
  for (var i0 = 0; i0 < uniforms.sizes.z; i0 += ${tile.queries}) {
    workgroupBarrier();
    loadRows(stream, head, i0);
    ${pairs.fetch}
    if (!loadSlots${g}(stream, i0, j0, none, far)) {
      if (within) {
        ${perQuery(tile, (_, block, x) => `writePairs(own, ${queryOf(tile, block)} + ${x}, ${slotOf(tile, block)}, vec4<f32>());`)}
        ${span ? times(tile.rows, (r) => `writeSpans(own, ${spansAt(r)}, vec4<f32>());`) : ''}
      }
      continue;
    }
    ${pairs.code}
    ${storeByQuery(tile, ({ at }, x) => `w${at}_${x}`)}
    ${byKey.fetch}
    ${byValue.code}
    ${perQuery(tile, (at) => `ds${at} *= uniforms.terms.x;`)}
    ${storeByQuery(tile, ({ at }, x) => `ds${at}_${x}`)}
    if (within) {
      ${perQuery(tile, (at, block, x) => `writePairs(own, ${queryOf(tile, block)} + ${x}, ${slotOf(tile, block)}, ds${at});`)}
    }
    ${byKey.code}
    ${life || span ? perQuery(tile, (at, block, x) => `let d${at} = distances${g}(slots${block.column}, ${queryOf(tile, block)} + ${x});`) : ''}
    ${life ? perQuery(tile, (at, block, x) => `lives${block.column} += dm${at} * ${slopes('life', at, block, x)};`) : ''}
    ${
      span
        ? times(
            tile.rows,
            (r) => `var spans${r} = vec4<f32>();
    ${perQuery(tile, (at, block, x) => (block.row === r ? `spans${r}[${x}] += dot(dm${at}, ${slopes('span', at, block, x)});` : ''))}
    workgroupBarrier();
    sumTile[i32(localIndex)] = spans${r};
    workgroupBarrier();
    if (tx == 0 && within) {
      for (var k = 1; k < ${tile.across}; k++) { spans${r} += sumTile[${tile.across} * ty + k]; }
      writeSpans(own, ${spansAt(r)}, spans${r});
    }`,
          )
        : ''
    }
  }
  ${life ? times(tile.columns, (c) => sumOverQueries(tile, `lives${c}`)) : ''}
  if (!within) { return; }
  ${written('0', keys)}
  ${written('D', values)}
  ${life ? `if (ty == 0) { ${times(tile.columns, (c) => `writeSlots(stream, head, 2 * D, 0, j0 + 4 * ${slotQuad(tile, c)}, lives${c});`)} }` : ''}
}
fn writeQuad(origin: i32, left: i32, values: vec4<f32>) {
  ${
    plan.aligned
      ? 'if (left > 0) { result[origin >> 2u] = values; }'
      : `for (var y = 0; y < 4; y++) {
    if (y < left) { result[origin + y] = values[y]; }
  }`
  }
}
fn writePairs(own: i32, i: i32, j: i32, values: vec4<f32>) {
  if (i < uniforms.sizes.z) {
    writeQuad(pairsOf(own, i) + uniforms.group${g}.x + j, uniforms.group${g}.y - j, values);
  }
}
fn writeSlots(stream: i32, head: i32, begin: i32, feature: i32, j: i32, values: vec4<f32>) {
  if (feature >= D) { return; }
  let all = uniforms.sizes.w + uniforms.more.x;
  let row = (stream * uniforms.sizes.y + head) * ${slotRows(plan)} + begin + feature;
  writeQuad(uniforms.places.w + row * all + uniforms.group${g}.x + j, uniforms.group${g}.y - j, values);
}
${
  span
    ? `/** Sums over a tile's slots, of four queries. */
fn writeSpans(own: i32, i: i32, tileOfSlots: i32, values: vec4<f32>) {
  let origin = spansOf(own, ${tilesOfSlots(plan, tile, g)} + tileOfSlots) + i;
  if (i < uniforms.sizes.z) { writeQuad(origin, 4, values); }
}`
    : ''
}`
}
