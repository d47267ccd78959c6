/** Gradients of a tile's pairs, and where those of logits are left for the programs by queries and by distances. */
import { droppedQuad, hasRamps, isPersistent, logitsCode } from '../logits'
import { epsilon } from '../pairs'
import type { Plan } from '../plan'
import { productCode } from '../products'
import type { Staged } from '../stage'
import { type Block, blocksOf, four, queryOf, queryQuad, slotOf, tileCode, times } from '../tiles'
import type { Tile } from '../tiling'

/** Lines for each of a tile's blocks and each of its four queries. */
export const perQuery = (tile: Tile, line: (at: string, block: Block, x: number) => string) =>
  blocksOf(tile)
    .map((block) => four((x) => line(`${block.at}_${x}`, block, x)))
    .join('\n')

/** e / N of a tile's pairs, and their strengths; `row` + a query has its statistics. */
export const weightsCode = (plan: Plan, tile: Tile, g: number) => `
    ${logitsCode(plan, tile, g)}
    ${times(tile.rows, (r) => four((x) => `let row${r}_${x} = rowTile[4 * ${queryQuad(tile, r)} + ${x}];`))}
    ${perQuery(
      tile,
      (
        at,
        block,
        x,
      ) => `let strength${at} = strengths${g}(slots${block.column}, ${queryOf(tile, block)} + ${x}, row${block.row}_${x}.w);
    let share${at} = select(vec4<f32>(), exp(select(vec4<f32>(none), logits${block.at}[${x}] - row${block.row}_${x}.x, strength${at} > vec4<f32>())), strength${at} > vec4<f32>()) * row${block.row}_${x}.y;`,
    )}`

/**
 * Gradients of a tile's logits `ds` and strengths `dm`; `w` are the weights that values get. `beside` follows the products,
 * before what is known of the pairs takes registers.
 */
export const pairGradients = (
  plan: Plan,
  names: readonly string[],
  tile: Tile,
  g: number,
  { votes = true, beside = '' } = {},
): Staged => {
  const dropped = names.includes('dropout') && !isPersistent(plan, g)
  const ramps = hasRamps(plan)
  const [raw, product] = [
    productCode(plan, tile, g, 'key', 'raw'),
    productCode(plan, tile, g, 'value', 'product'),
  ]
  const code = `
    ${product.fetch}
    ${raw.code}
    ${product.code}
    ${beside}
    ${weightsCode(plan, tile, g)}
    ${perQuery(tile, (at, block, x) => {
      const statistics = `row${block.row}_${x}`
      const factor = dropped
        ? `select(vec4<f32>(), dropped${g}(stream, head, ${queryOf(tile, block)} + ${x}, ${slotOf(tile, block)}), share${at} > vec4<f32>())`
        : 'vec4<f32>(1.0)'
      return `let factor${at} = ${factor};
    let g${at} = product${block.at}[${x}] * factor${at};
    let w${at} = share${at}${ramps ? ` * strength${at}` : ''} * factor${at};
    let dm${at} = share${at} * (g${at} - ${statistics}.z);
    var ds${at} = ${ramps ? `share${at} * (strength${at} * g${at} - (strength${at} + ${epsilon}) * ${statistics}.z)` : `dm${at}`};`
    })}
    ${
      votes && plan.selection && !isPersistent(plan, g)
        ? `if (head == uniforms.more.y) {
      ${perQuery(
        tile,
        (at, block, x) =>
          `ds${at} += select(vec4<f32>(), voteGradientQuad${g}(stream, ${queryOf(tile, block)} + ${x}, ${slotOf(tile, block)}), counted${g}(slots${block.column}, ${queryOf(tile, block)} + ${x}) & (raw${block.at}[${x}] > vec4<f32>()));`,
      )}
    }`
        : ''
    }`
  return { fetch: raw.fetch, code }
}

export const backwardCode = (
  plan: Plan,
  names: readonly string[],
  tile: Tile,
) => `${tileCode(plan, { names, backward: true }, tile)}
${names.includes('dropout') ? plan.groups.map((_, g) => droppedQuad(g)).join('\n') : ''}`

/** Adds a quad of slots' values over the queries of all threads; thread (tx, 0) then holds their sums. */
export const sumOverQueries = (tile: Tile, name: string) => `
  workgroupBarrier();
  sumTile[i32(localIndex)] = ${name};
  workgroupBarrier();
  if (ty == 0) {
    for (var k = 1; k < ${tile.down}; k++) { ${name} += sumTile[${tile.across} * k + tx]; }
  }`

export const sumTile = ({ threads }: Tile) => `var<workgroup> sumTile: array<vec4<f32>, ${threads}>;`

/** Where the pairs of a head's query begin, and the gradients of spans by a tile of slots. See floatsOfPairs. */
export const placesOfPairs = (plan: Plan, slotsTile: Tile) => `
fn pairsOf(own: i32, i: i32) -> i32 { return own * floatsOfPairs() + i * uniforms.places.z; }
fn spansOf(own: i32, tileOfSlots: i32) -> i32 {
  return pairsOf(own, uniforms.sizes.z) + tileOfSlots * ((uniforms.sizes.z + 3) / 4 * 4);
}
fn floatsOfPairs() -> i32 {
  return uniforms.sizes.z * uniforms.places.z${plan.span ? ` + (${tilesOfSlots(plan, slotsTile)}) * ((uniforms.sizes.z + 3) / 4 * 4)` : ''};
}`

/** Tiles of slots of the first groups, of all by default. */
export const tilesOfSlots = ({ groups }: Plan, { slots }: Tile, first = groups.length) =>
  ['0', ...groups.slice(0, first).map((_, g) => `(uniforms.group${g}.y + ${slots - 1}) / ${slots}`)].join(
    ' + ',
  )

/** In a query's row the gradients of four logits of group g. */
export const pairsCode = ({ groups, aligned }: Plan) => `
${groups
  .map(
    (_, g) => `fn pairQuad${g}(own: i32, i: i32, j: i32) -> vec4<f32> {
  let origin = pairsOf(own, i) + uniforms.group${g}.x + j;
  let left = select(0, uniforms.group${g}.y - j, i < uniforms.sizes.z);
  ${
    aligned
      ? 'if (left <= 0) { return vec4<f32>(); }\n  return pairs[origin >> 2u];'
      : `return vec4<f32>(${[0, 1, 2, 3].map((y) => `select(0.0, pairs[origin + ${y}], left > ${y})`).join(', ')});`
  }
}`,
  )
  .join('\n')}`

/** Loads the gradients of the logits of a tile's pairs: `ds`. */
export const loadPairs = (tile: Tile, g: number) =>
  perQuery(
    tile,
    (at, block, x) =>
      `let ds${at} = pairQuad${g}(own, ${queryOf(tile, block)} + ${x}, ${slotOf(tile, block)});`,
  )
