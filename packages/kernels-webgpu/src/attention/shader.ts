/** Shaders of a plan, and where their workgroups stand: on tiles of queries, of slots or of pairs, over which they loop. */
import type { Shader } from '../program'
import { kindOf, type Plan, uniformDeclaration } from './plan'
import { type Block, blocksOf, four, queryOf, slotOf } from './tiles'
import type { Tile } from './tiling'

const asQuads = ['queries', 'keys', 'values', 'pairs']

/** A shader of a plan over tiles; what is read as quads is bound as such. */
export function tiledShader(
  plan: Plan,
  name: string,
  names: readonly string[],
  tile: Tile,
  code: () => string,
  writesQuads = false,
): Shader {
  const vectors = [
    ...(names.includes('positions') ? ['positions'] : []),
    ...(plan.aligned ? names.filter((input) => asQuads.includes(input)) : []),
    ...(writesQuads ? ['result'] : []),
  ]
  return { ...shaderOf(plan, `${name}/${tile.key}`, names, tile.threads, code), vectors }
}

/** A shader of a plan over given tensors. */
export function shaderOf(
  plan: Plan,
  name: string,
  names: readonly string[],
  threads: number,
  code: () => string,
): Shader {
  return {
    key: `${name}/${kindOf(plan)}/${names.join()}`,
    inputs: names,
    uniforms: uniformDeclaration(plan),
    code,
    threads,
  }
}

/** A thread's place in its tile. */
export const threadCode = ({ across, down }: Tile) => `
  let tx = i32(localIndex) % ${across};
  let ty = i32(localIndex) / ${across};
  let tyBack = ${down - 1} - ty;`

/** A tile's place: which queries of which head and stream, and which part of their slots. */
export const queryTile = (tile: Tile) => `${threadCode(tile)}
  let tiles = (uniforms.sizes.z + ${tile.queries - 1}) / ${tile.queries};
  let workgroup = index / ${tile.threads};
  let i0 = (workgroup % tiles) * ${tile.queries};
  let own = (workgroup / tiles) % uniforms.places.y;
  let split = workgroup / (tiles * uniforms.places.y);
  let head = (uniforms.places.x + own) % uniforms.sizes.y;
  let stream = (uniforms.places.x + own) / uniforms.sizes.y;
  let within = split < uniforms.more.z;
  let place = split * uniforms.sizes.x * uniforms.sizes.y + uniforms.places.x + own;`

/** Workgroups over the tiles of queries. */
export const queryTiles = ({ block }: Plan, { queries, splits }: Tile, places: number) =>
  places * Math.ceil(block / queries) * splits

/** Loops over the tiles of slots of all groups that are in the part: \`body\` is code for group g. */
export const overSlots = ({ groups }: Plan, { slots }: Tile, body: (g: number) => string) => {
  const tiles = (g: number) => `(uniforms.group${g}.y + ${slots - 1}) / ${slots}`
  return `
  if (localIndex == 0u) {
    let tilesOfSlots = ${groups.map((_, g) => tiles(g)).join(' + ')};
    let tilesOfPart = (tilesOfSlots + uniforms.more.z - 1) / uniforms.more.z;
    partOfSlots = vec2<i32>(split, split + 1) * tilesOfPart * ${slots};
  }
  var range = workgroupUniformLoad(&partOfSlots);
  ${groups
    .map(
      (_, g) => `
  for (var j0 = max(range.x, 0); j0 < min(range.y, uniforms.group${g}.y); j0 += ${slots}) {${body(g)}
  }
  range -= ${tiles(g)} * ${slots};`,
    )
    .join('')}`
}

/** What the code of overSlots needs. */
export const slotRange = 'var<workgroup> partOfSlots: vec2<i32>;'

/** A tile's place: which slots of group g, of which head and stream. */
export const slotTile = (tile: Tile, g: number) => `${threadCode(tile)}
  let tiles = (uniforms.group${g}.y + ${tile.slots - 1}) / ${tile.slots};
  let workgroup = index / ${tile.threads};
  let j0 = (workgroup % tiles) * ${tile.slots};
  let own = workgroup / tiles;
  let head = (uniforms.places.x + own) % uniforms.sizes.y;
  let stream = (uniforms.places.x + own) / uniforms.sizes.y;
  let within = own < uniforms.places.y;`

/** A tile of pairs: which queries, which slots of group g, and which stream. */
export const pairOfTiles = (tile: Tile, g: number) => `${threadCode(tile)}
  let rowsOfTiles = (uniforms.sizes.z + ${tile.queries - 1}) / ${tile.queries};
  let columnsOfTiles = (uniforms.group${g}.y + ${tile.slots - 1}) / ${tile.slots};
  let workgroup = index / ${tile.threads};
  let j0 = (workgroup % columnsOfTiles) * ${tile.slots};
  let i0 = ((workgroup / columnsOfTiles) % rowsOfTiles) * ${tile.queries};
  let stream = workgroup / (columnsOfTiles * rowsOfTiles);
  let within = stream < uniforms.sizes.x;`

/** Writes four queries' values for four slots of group g into [batch, block, slots]. */
export const writePairs = (tile: Tile, g: number, value: (block: Block, x: number) => string) =>
  blocksOf(tile)
    .map(
      (block) => `
  for (var y = 0; y < 4; y++) {
    let i = ${queryOf(tile, block)};
    let j = ${slotOf(tile, block)} + y;
    if (within && j < uniforms.group${g}.y) {
      ${four(
        (x) => `if (i + ${x} < uniforms.sizes.z) {
        result[(stream * uniforms.sizes.z + i + ${x}) * uniforms.sizes.w + uniforms.group${g}.x + j] = ${value(block, x)}[y];
      }`,
      )}
    }
  }`,
    )
    .join('')
