/** The program by tiles of queries: pairs × keys, and × keys of distances. */
import type { Plan } from '../plan'
import { overSlots, queryTile, slotRange } from '../shader'
import { accumulate, accumulateDistances, declareSums, type Sum, sumsOf } from '../sums'
import { pairAt, queryQuad, storeBySlot, tileCode, times } from '../tiles'
import type { Tile } from '../tiling'
import { loadPairs, pairsCode, placesOfPairs, tilesOfSlots } from './pairs'

/** By tiles of queries: pairs × keys, and × keys of distances. */
export const queriesCode = (plan: Plan, names: readonly string[], tile: Tile, slotsTile: Tile) => {
  const { rows, size, span, groups } = plan
  const starts = [...new Set([rows.content, rows.position, rows.persistent])]
  const sums = Object.fromEntries(starts.map((row) => [row, sumsOf(`row${row}sum`, size, tile, 'queries')]))
  const spans = (r: number) => `
    var spans${r} = vec4<f32>();
    let i${r} = i0 + 4 * ${queryQuad(tile, r)};
    if (split == 0 && i${r} < uniforms.sizes.z) {
      for (var k = 0; k < ${tilesOfSlots(plan, slotsTile)}; k++) {
        let origin = spansOf(own, k) + i${r};
        spans${r} += ${plan.aligned ? 'pairs[origin >> 2u]' : `vec4<f32>(${[0, 1, 2, 3].map((x) => `pairs[origin + ${x}]`).join(', ')})`};
      }
    }
    writeRow(place, ${rows.span}, 0, i${r}, spans${r});`
  return `${tileCode(plan, { names, backward: true }, tile)}
${placesOfPairs(plan, slotsTile)}
${pairsCode(plan)}
${slotRange}
fn main(index: i32) {
  ${queryTile(tile)}
  loadRows(stream, head, i0);
  ${declareSums(Object.values(sums).flat())}
  ${overSlots(plan, tile, (g) => {
    const group = groups[g]!
    const row = group.index === undefined ? rows.persistent : rows.content
    const keys = accumulate(
      tile,
      'queries',
      'keys',
      sums[row]!,
      (feature, quad) => `keyQuad${g}(stream, head, ${feature}, j0 + 4 * ${quad})`,
    )
    const distances = group.even && group.positions && accumulateDistances(tile, sums[rows.position]!, g)
    const scattered = !group.even && group.positions && accumulatePositions(tile, sums[rows.position]!, g)
    return `
    ${keys.fetch}
    ${loadPairs(tile, g)}
    if (!loadSlots${g}(stream, i0, j0, none, far)) { continue; }
    ${storeBySlot(tile, ({ at }, x) => `ds${at}_${x}`)}
    ${distances ? distances.fetch : ''}
    ${keys.code}
    ${distances ? distances.code : ''}
    ${scattered || ''}`
  })}
  if (!within) { return; }
  ${Object.entries(sums)
    .flatMap(([row, own]) =>
      own.map(
        ({ name, feature, place }) => `writeRow(place, ${row}, ${feature}, i0 + 4 * ${place}, ${name});`,
      ),
    )
    .join('\n  ')}
  ${span ? `if (tx == 0) { ${times(tile.rows, spans)} }` : ''}
}
fn writeRow(place: i32, begin: i32, feature: i32, i: i32, values: vec4<f32>) {
  if (feature >= D) { return; }
  let origin = (place * ${rows.count} + begin + feature) * uniforms.sizes.z + i;
  for (var x = 0; x < 4; x++) {
    if (i + x < uniforms.sizes.z) { result[origin + x] = values[x]; }
  }
}`
}

/** Adds pairs × keys of distances where every pair looks its key up. */
const accumulatePositions = (tile: Tile, sums: readonly Sum[], g: number) => `
    for (var j = 0; j < ${tile.slots}; j++) {
      let base = i32(slotTile[j].x);
      ${times(
        tile.rows,
        (r) => `let w${r} = tileMemory[${pairAt('j', queryQuad(tile, r), tile.queries / 4)}];
      let columns${r} = vec4<i32>(${[0, 1, 2, 3].map((x) => `columnOf${g}(base + passed${g}(i0 + 4 * ${queryQuad(tile, r)} + ${x}))`).join(', ')});`,
      )}
      ${sums
        .map(
          ({ name, feature, quad }) =>
            `if (${feature} < D) { ${name} += w${quad} * positionQuad${g}(head, ${feature}, columns${quad}); }`,
        )
        .join('\n      ')}
    }`
