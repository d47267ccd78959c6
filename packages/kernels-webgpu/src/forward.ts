/**
 * The forward pass: packing, votes, attention in tiles or in parts of a single query's slots, and their sum.
 * Dao et al. 2022 ("FlashAttention", arXiv 2205.14135), algorithm 1: a softmax over slots that are seen tile by tile.
 */
import type { AttentionRequest } from '@lethe/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import {
  far,
  kindOf,
  type Plan,
  perStream,
  placedGroups,
  planOf,
  uniformDeclaration,
  uniformsOf,
} from './plan'
import { run, runPerElement, type Shader, type Uniform } from './program'
import {
  accumulate,
  type Block,
  blocksOf,
  declareSums,
  epsilon,
  four,
  pairCode,
  part,
  partialRows,
  productCode,
  queryOf,
  queryQuad,
  slotOf,
  slotQuad,
  storeBySlot,
  sumsOf,
  tileCode,
  times,
} from './tiles'
import { chooseTile, type Tile } from './tiling'

/** The tensors of a request in the forms that shaders bind. */
export interface Inputs {
  /** [batch, heads, rows, block], see RowsPlan. */
  readonly queries: Tensor
  readonly keys: Tensor
  readonly values: Tensor
  /** [batch, slots, 4]: distance from the first query, farthest distance, life, 1 if exempt + 2 if it may be voted out. */
  readonly slots: Tensor
  /** Keys of distances, see Plan.steps. */
  readonly positions?: Tensor
  /** [heads, 2 headSize, slots]: keys, then values. */
  readonly persistent?: Tensor
  /** F of each query and of the one after them [batch, block + 1, slots]. */
  readonly selected?: Tensor
  /** The same beside the gradient of each vote [batch, block + 1, slots, 2], in place of `selected`. */
  readonly voted?: Tensor
  readonly dropout?: Tensor
}

/** Parts in which the slots are attended to. */
export const splitsOf = (plan: Plan): number =>
  plan.block === 1 ? Math.ceil((plan.slots + plan.persistent) / part) : chooseTile(plan, 'forward').splits

export const declared = (tensors: Readonly<Record<string, Tensor | undefined>>) => {
  const there = Object.entries(tensors).filter((entry): entry is [string, Tensor] => entry[1] !== undefined)
  return { inputs: there.map(([, tensor]) => tensor), names: there.map(([name]) => name) }
}

/** Threads of programs that are not divided into tiles. */
const threads = 64

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

/** Packs a request; nothing is copied that a shader can read where it is. */
export function pack(request: AttentionRequest, plan: Plan): Inputs {
  const slots = packSlots(request, plan)
  const positions = packPositions(request, plan)
  const persistent = request.persistent && packPersistent(request.persistent, plan)
  return {
    queries: plan.rows.plain ? request.queries : packQueries(request, plan),
    keys: request.keys,
    values: request.values,
    slots,
    ...(positions && { positions }),
    ...(persistent && { persistent }),
    ...(request.dropout && { dropout: request.dropout }),
  }
}

/** The same for programs over tiles. */
export function packForTiles(request: AttentionRequest, inputs: Inputs, plan: Plan): [Inputs, Plan] {
  if (plan.tiled) return [inputs, plan]
  const tiled = planOf(request, true)
  const positions = packPositions(request, tiled)
  return [{ ...inputs, ...(positions && { positions }) }, tiled]
}

function packSlots(request: AttentionRequest, plan: Plan): Tensor {
  const { batch, slots, life, selection } = plan
  let packed: readonly number[] | Tensor = [batch, slots, 4]
  for (const { index, start, slots: count } of plan.groups) {
    if (index === undefined) continue
    const { distance, farthest, valid, exempt } = request.groups[index]!
    const age = distance.kind === 'scattered' ? distance.age : undefined
    const { inputs, names } = declared({ age, valid, exempt, life: life?.life, unvoted: selection?.exempt })
    const strides = [age, valid, exempt].map((tensor) => (tensor ? perStream(tensor) : 0))
    const scattered = age !== undefined
    packed = run(
      {
        key: `slots/${names.join()}`,
        inputs: names,
        uniforms: 'range: vec4<i32>, strides: vec4<i32>, reach: vec4<f32>, ',
        threads,
        code: () => `
fn main(index: i32) {
  let count = uniforms.range.y;
  let stream = index / count;
  let j = index % count;
  if (stream >= uniforms.range.w) { return; }
  let place = stream * uniforms.range.z + uniforms.range.x + j;
  var farthest = uniforms.reach.x;
  var life = ${life ? 'life[place]' : '0.0'};
  var flags = ${selection ? '2.0 - 2.0 * unvoted[place]' : '2.0'};
  ${
    exempt
      ? `if (exempt[stream * uniforms.strides.z + j] > 0.5) {
    ${scattered ? `farthest = ${far};` : ''}
    life = ${far};
    flags = 1.0;
  }`
      : ''
  }
  ${valid ? `if (f32(valid[stream * uniforms.strides.y + j]) < 0.5) { farthest = -${far}; }` : ''}
  result[place * 4] = ${scattered ? 'f32(age[stream * uniforms.strides.x + j])' : 'uniforms.reach.y - f32(j)'};
  result[place * 4 + 1] = farthest;
  result[place * 4 + 2] = life;
  result[place * 4 + 3] = flags;
}`,
      },
      {
        inputs,
        into: packed,
        workgroups: Math.ceil((batch * count) / threads),
        uniforms: [
          { type: 'int32', data: [start, count, slots, batch] },
          { type: 'int32', data: [...strides, 0] },
          {
            type: 'float32',
            data: [Math.min(farthest, far), distance.kind === 'contiguous' ? distance.first : 0, 0, 0],
          },
        ],
      },
    )
  }
  return packed as Tensor
}

/** Queries with their biases, those for persistent slots, and the spans, as rows of one tensor. */
function packQueries({ queries, queryBias, persistent }: AttentionRequest, plan: Plan): Tensor {
  const { batch, heads, size, block, rows, span } = plan
  const { inputs, names } = declared({
    queries,
    content: queryBias?.content,
    position: queryBias?.position,
    unturned: rows.persistent > 0 ? persistent?.queries : undefined,
    span: span?.span,
  })
  const spans = span?.span
  const perQuery = spans?.rank === 3
  const count = (perQuery ? spans.shape[1] : spans?.size) ?? 1
  const headStep = count === 1 ? 0 : perQuery ? block : 1
  const strides = perQuery ? [count * block, headStep, 1] : [0, headStep, 0]
  return runPerElement(
    {
      key: `queries/${size}/${names.join()}/${Object.values(rows).join()}`,
      inputs: names,
      uniforms: 'sizes: vec4<i32>, strides: vec4<i32>, ',
      code: () => `
fn main(index: i32) {
  if (index >= i32(arrayLength(&result))) { return; }
  let block = uniforms.sizes.z;
  let i = index % block;
  let row = (index / block) % ${rows.count};
  let place = index / (block * ${rows.count});
  let head = place % uniforms.sizes.y;
  let stream = place / uniforms.sizes.y;
  ${
    rows.span === undefined
      ? ''
      : `if (row == ${rows.span}) {
    result[index] = span[stream * uniforms.strides.x + head * uniforms.strides.y + i * uniforms.strides.z];
    return;
  }`
  }
  let kind = row / ${size};
  let feature = row % ${size};
  let origin = (place * ${size} + feature) * block + i;
  ${names.includes('unturned') ? `if (kind == ${rows.persistent / size}) { result[index] = unturned[origin]; return; }` : ''}
  var value = queries[origin];
  ${
    queryBias
      ? `if (kind == 0) { value += content[head * ${size} + feature]; }
  if (kind == ${rows.position / size}) { value += position[head * ${size} + feature]; }`
      : ''
  }
  result[index] = value;
}`,
    },
    {
      inputs,
      into: [batch, heads, rows.count, block],
      uniforms: [
        { type: 'int32', data: [batch, heads, block, 0] },
        { type: 'int32', data: [...strides, 0] },
      ],
    },
  )
}

/** The keys of all groups' distances, features × columns, as Plan has them. */
function packPositions(request: AttentionRequest, plan: Plan): Tensor | undefined {
  const placed = placedGroups(plan.groups)
  const rowsOf = (group: (typeof placed)[number]) => request.groups[group.index!]!.positions!.rows
  if (placed.length === 0) return undefined
  if (plan.ownColumns) return rowsOf(placed[0]!)
  const { size, columns } = plan
  const { heads } = placed[0]!.positions
  const names = placed.map((_, k) => `rows${k}`)
  const layouts = placed.map(({ positions }) => (positions.featureMajor ? 'f' : 'c'))
  return runPerElement(
    {
      key: `positions/${size}/${layouts.join()}`,
      inputs: names,
      uniforms: `columns: i32, ${names.map((_, k) => `group${k}: vec4<i32>, `).join('')}`,
      code: () => `
fn main(index: i32) {
  if (index >= i32(arrayLength(&result))) { return; }
  let column = index % uniforms.columns;
  let row = index / uniforms.columns;
  let head = row / ${size};
  let feature = row % ${size};
  var value = 0.0;
  ${names
    .map(
      (name, k) => `{
    let group = uniforms.group${k};
    let own = column - group.z;
    if ((column >= group.x) & (column < group.x + group.y) & (own >= 0) & (own < group.w)) {
      value = ${name}[${layouts[k] === 'f' ? 'row * group.w + own' : `(head * group.w + own) * ${size} + feature`}];
    }
  }`,
    )
    .join('\n')}
  result[index] = value;
}`,
    },
    {
      inputs: placed.map(rowsOf),
      into: [heads, size, columns],
      uniforms: [
        { type: 'int32', data: [columns] },
        ...placed.map(
          ({ positions: { section, width, offset, low, high } }): Uniform => ({
            type: 'int32',
            data: [section, width, offset, high - low + 1],
          }),
        ),
      ],
    },
  )
}

function packPersistent({ keys, values }: { keys: Tensor; values: Tensor }, { size }: Plan): Tensor {
  const [heads, , slots] = keys.shape as [number, number, number]
  return runPerElement(
    {
      key: 'persistent',
      inputs: ['keys', 'values'],
      uniforms: 'inner: i32, ',
      code: () => `
fn main(index: i32) {
  if (index >= i32(arrayLength(&result))) { return; }
  let head = index / (2 * uniforms.inner);
  let place = index % (2 * uniforms.inner);
  let origin = head * uniforms.inner + place % uniforms.inner;
  if (place < uniforms.inner) { result[index] = keys[origin]; } else { result[index] = values[origin]; }
}`,
    },
    {
      inputs: [keys, values],
      into: [heads, 2 * size, slots],
      uniforms: [{ type: 'int32', data: [size * slots] }],
    },
  )
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

/** What earlier queries voted away: F [batch, block + 1, slots], `during` and `after` in one. */
export function countVotes(inputs: Inputs, plan: Plan, scale: number): Tensor {
  const { batch, block, slots, selection } = plan
  const { queries, keys, slots: known, positions } = inputs
  const tensors = declared({ queries, keys, slots: known, positions })
  const tile = chooseTile(plan, 'others')
  // Persistent slots are not bound, since nobody votes on them.
  const own = { ...plan, groups: plan.groups.filter((group) => group.index !== undefined) }
  const votes = groupByGroup(own, 'votes', tensors, {
    ...{ tile, scale, into: [batch, block, slots] },
    workgroups: batch * Math.ceil(block / tile.queries),
    code: (g) => votesCode(own, tensors.names, tile, g),
  })
  return scanVotes(votes, selection!.carried, plan)
}

interface GroupJob {
  readonly tile: Tile
  readonly scale: number
  readonly into: readonly number[]
  /** For each tile of slots. */
  readonly workgroups: number
  readonly code: (g: number) => string
}

/** A tensor to which the slots of each group, but for persistent ones, are written by a shader of the group's own. */
export function groupByGroup(
  plan: Plan,
  name: string,
  { inputs, names }: ReturnType<typeof declared>,
  { tile, scale, into, workgroups, code }: GroupJob,
): Tensor {
  let result: readonly number[] | Tensor = into
  for (const [g, { index, slots }] of plan.groups.entries()) {
    if (index === undefined) continue
    result = run(
      tiledShader(plan, `${name}${g}`, names, tile, () => code(g)),
      {
        inputs,
        into: result,
        uniforms: uniformsOf(plan, scale, 1),
        workgroups: workgroups * Math.ceil(slots / tile.slots),
      },
    )
  }
  return result as Tensor
}

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

/** What is known of the slots of each of a thread's quads. */
const slotsCode = (tile: Tile) => times(tile.columns, (c) => `let slots${c} = slotsOf(${slotQuad(tile, c)});`)

const votesCode = (plan: Plan, names: readonly string[], tile: Tile, g: number) => {
  const raw = productCode(plan, tile, g, 'key', 'raw')
  return `${tileCode(plan, { names, backward: false }, tile)}
fn main(index: i32) {
  ${pairOfTiles(tile, g)}
  ${blocksOf(tile)
    .map(({ at }) => `var votes${at} = mat4x4<f32>();`)
    .join(' ')}
  let head = uniforms.more.y;
  loadRows(stream, head, i0);
  ${raw.fetch}
  if (loadSlots${g}(stream, i0, j0, none, far)) {
    ${raw.code}
    ${slotsCode(tile)}
    ${blocksOf(tile)
      .map((block) =>
        four(
          (x) =>
            `votes${block.at}[${x}] = select(vec4<f32>(), max(raw${block.at}[${x}] * uniforms.terms.x, vec4<f32>()), counted${g}(slots${block.column}, ${queryOf(tile, block)} + ${x}));`,
        ),
      )
      .join('\n')}
  }
  ${writePairs(tile, g, ({ at }, x) => `votes${at}[${x}]`)}
}`
}

const scanVotes = (votes: Tensor, carried: Tensor, plan: Plan): Tensor =>
  scan(
    'scan',
    declared({ votes, carried }),
    `
  var total = carried[index];
  for (var i = 0; i < block; i++) {
    result[(stream * (block + 1) + i) * slots + j] = total;
    total += votes[(stream * block + i) * slots + j];
  }
  result[(stream * (block + 1) + block) * slots + j] = total;`,
    plan,
    [plan.batch, plan.block + 1, plan.slots],
  )

/** Runs a thread for each slot j of each stream, `index` in all, to go along the queries. */
export function scan(
  name: string,
  { inputs, names }: ReturnType<typeof declared>,
  code: string,
  { batch, block, slots }: Plan,
  into: readonly number[],
): Tensor {
  return run(
    {
      key: `${name}/${names.join()}`,
      inputs: names,
      uniforms: 'sizes: vec4<i32>, ',
      threads,
      code: () => `
fn main(index: i32) {
  let block = uniforms.sizes.x;
  let slots = uniforms.sizes.y;
  if (index >= uniforms.sizes.z) { return; }
  let stream = index / slots;
  let j = index % slots;${code}
}`,
    },
    {
      inputs,
      into,
      workgroups: Math.ceil((batch * slots) / threads),
      uniforms: [{ type: 'int32', data: [block, slots, batch * slots, 0] }],
    },
  )
}

/**
 * Attention as parts that are yet to be added and divided by their total [splits · batch, heads, headSize + 3, block].
 */
export function attendInParts(inputs: Inputs, plan: Plan, scale: number): Tensor {
  const { batch, heads, size, block } = plan
  const splits = splitsOf(plan)
  const { inputs: tensors, names } = declared({ ...inputs })
  const single = block === 1
  const tile = chooseTile(plan, 'forward')
  return run(
    single
      ? shaderOf(plan, 'single', names, threads, () => singleCode(plan, names))
      : tiledShader(plan, 'forward', names, tile, () => forwardCode(plan, names, tile)),
    {
      inputs: tensors,
      into: [splits * batch, heads, size + partialRows, block],
      uniforms: uniformsOf(plan, scale, splits),
      workgroups: single ? batch * heads * splits : queryTiles(plan, tile, batch * heads),
    },
  )
}

/** Factors of four weights, by dropout. */
export const droppedQuad = (g: number) => `
fn dropped${g}(stream: i32, head: i32, i: i32, j: i32) -> vec4<f32> {
  let origin = ((stream * uniforms.sizes.y + head) * uniforms.sizes.z + i) * uniforms.sizes.w + uniforms.group${g}.x + j;
  return vec4<f32>(dropout[origin], dropout[origin + 1], dropout[origin + 2], dropout[origin + 3]);
}`

/** Whether strengths may be other than 0 and 1. */
export const hasRamps = ({ life, span }: Plan): boolean => life !== undefined || span !== undefined

/** Which groups dropout and selection count for: all but the persistent slots. */
export const isPersistent = (plan: Plan, g: number) => plan.groups[g]!.index === undefined

/**
 * The logits of a tile's pairs, and these less what was voted away: `raw`, by productCode, and `logits` + a block's `at`.
 * What is known of the slots comes behind the products, which need the registers.
 */
export const logitsCode = (plan: Plan, tile: Tile, g: number) => `
    ${slotsCode(tile)}
    ${blocksOf(tile)
      .map((block) => {
        const { at } = block
        const votes =
          plan.selection && !isPersistent(plan, g)
            ? four(
                (x) =>
                  `logits${at}[${x}] -= votedQuad${g}(stream, ${queryOf(tile, block)} + ${x}, ${slotOf(tile, block)});`,
              )
            : ''
        return `raw${at} *= uniforms.terms.x;\nvar logits${at} = raw${at};\n${votes}`
      })
      .join('\n')}`

const forwardCode = (plan: Plan, names: readonly string[], tile: Tile) => {
  const sums = sumsOf('out', plan.size, tile, 'queries')
  const dropout = names.includes('dropout')
  const { rows, columns, across } = tile
  const inRow = (r: number) => blocksOf(tile).filter(({ row }) => row === r)
  const sumsAt = (r: number, k: string) => `sumTile[(${queryQuad(tile, r)}) * ${across} + ${k}]`
  const overRow = (r: number, fn: string, value: string) =>
    `vec4<f32>(${[0, 1, 2, 3]
      .map((x) => inRow(r).map(({ at }) => `${fn}(${value}${at}_${x})`))
      .map((parts) => (fn === 'largest' && columns > 1 ? `max(${parts.join(', ')})` : parts.join(' + ')))
      .join(', ')})`
  /** Adds what the threads of a row have, for the first of them. */
  const overAll = (name: string) => `
  workgroupBarrier();
  ${times(rows, (r) => `${sumsAt(r, 'tx')} = ${name}${r};`)}
  workgroupBarrier();
  if (tx == 0) {
    ${times(rows, (r) => `for (var k = 1; k < ${across}; k++) { ${name}${r} += ${sumsAt(r, 'k')}; }`)}
  }`
  return `${tileCode(plan, { names, backward: false }, tile)}
var<workgroup> sumTile: array<vec4<f32>, ${tile.threads * rows}>;
${slotRange}
${dropout ? plan.groups.map((_, g) => droppedQuad(g)).join('\n') : ''}
fn main(index: i32) {
  ${queryTile(tile)}
  loadRows(stream, head, i0);
  ${times(
    rows,
    (r) => `var top${r} = vec4<f32>(none);
  var total${r} = vec4<f32>();
  var plainTotal${r} = vec4<f32>();`,
  )}
  ${declareSums(sums)}
  ${overSlots(plan, tile, (g) => {
    const values = accumulate(
      tile,
      'queries',
      'values',
      sums,
      (feature, quad) => `valueQuad${g}(stream, head, ${feature}, j0 + 4 * ${quad})`,
    )
    const raw = productCode(plan, tile, g, 'key', 'raw')
    return `
    ${raw.fetch}
    if (!loadSlots${g}(stream, i0, j0, none, far)) { continue; }
    ${raw.code}
    ${values.fetch}
    ${logitsCode(plan, tile, g)}
    ${blocksOf(tile)
      .map((block) => {
        const { at, row, column } = block
        return four(
          (
            x,
          ) => `let strength${at}_${x} = strengths${g}(slots${column}, ${queryOf(tile, block)} + ${x}, rowTile[4 * ${queryQuad(tile, row)} + ${x}].w);
    let shown${at}_${x} = select(vec4<f32>(none), logits${at}[${x}], strength${at}_${x} > vec4<f32>());`,
        )
      })
      .join('\n')}
    ${times(rows, (r) => `${sumsAt(r, 'tx')} = ${overRow(r, 'largest', 'shown')};`)}
    workgroupBarrier();
    ${times(
      rows,
      (r) => `var newTop${r} = top${r};
    for (var k = 0; k < ${across}; k++) { newTop${r} = max(newTop${r}, ${sumsAt(r, 'k')}); }
    let shrink${r} = exp(top${r} - newTop${r});
    top${r} = newTop${r};`,
    )}
    ${blocksOf(tile)
      .map(({ at, row }) =>
        four(
          (
            x,
            letter,
          ) => `let e${at}_${x} = select(vec4<f32>(), exp(shown${at}_${x} - top${row}.${letter}), strength${at}_${x} > vec4<f32>());
    let w${at}_${x} = e${at}_${x}${hasRamps(plan) ? ` * strength${at}_${x}` : ''};`,
        ),
      )
      .join('\n')}
    ${times(
      rows,
      (r) => `plainTotal${r} = plainTotal${r} * shrink${r} + ${overRow(r, 'added', 'e')};
    ${hasRamps(plan) ? `total${r} = total${r} * shrink${r} + ${overRow(r, 'added', 'w')};` : ''}`,
    )}
    ${sums.map(({ name, quad }) => `${name} *= shrink${quad};`).join(' ')}
    ${blocksOf(tile)
      .map((block) =>
        four((x) => {
          const at = `${block.at}_${x}`
          return dropout && !isPersistent(plan, g)
            ? `let kept${at} = w${at} * select(vec4<f32>(), dropped${g}(stream, head, ${queryOf(tile, block)} + ${x}, ${slotOf(tile, block)}), w${at} > vec4<f32>());`
            : `let kept${at} = w${at};`
        }),
      )
      .join('\n')}
    ${storeBySlot(tile, ({ at }, x) => `kept${at}_${x}`)}
    ${values.code}`
  })}
  ${overAll('plainTotal')}
  ${hasRamps(plan) ? overAll('total') : times(rows, (r) => `total${r} = plainTotal${r};`)}
  if (!within) { return; }
  ${sums.map(({ name, feature, place }) => `writePart(place, ${feature}, i0 + 4 * ${place}, ${name});`).join('\n  ')}
  if (tx == 0) {
    ${times(
      rows,
      (r) => `writeRow(place, D, i0 + 4 * ${queryQuad(tile, r)}, top${r});
    writeRow(place, D + 1, i0 + 4 * ${queryQuad(tile, r)}, total${r});
    writeRow(place, D + 2, i0 + 4 * ${queryQuad(tile, r)}, plainTotal${r});`,
    )}
  }
}
fn largest(x: vec4<f32>) -> f32 { return max(max(x.x, x.y), max(x.z, x.w)); }
fn added(x: vec4<f32>) -> f32 { return x.x + x.y + x.z + x.w; }
fn writePart(place: i32, feature: i32, i: i32, values: vec4<f32>) {
  if (feature < D) { writeRow(place, feature, i, values); }
}
fn writeRow(place: i32, row: i32, i: i32, values: vec4<f32>) {
  let origin = (place * (D + ${partialRows}) + row) * uniforms.sizes.z + i;
  for (var x = 0; x < 4; x++) {
    if (i + x < uniforms.sizes.z) { result[origin + x] = values[x]; }
  }
}`
}

/** One query: each workgroup attends to its part of the slots, which the combination then adds. */
const singleCode = (plan: Plan, names: readonly string[]) => {
  const lanes = 16
  return `${pairCode(plan, { names, backward: false })}
var<workgroup> query: array<f32, ${plan.rows.count}>;
var<workgroup> weights: array<f32, ${part}>;
var<workgroup> sums: array<f32, ${threads}>;
var<workgroup> otherSums: array<f32, ${threads}>;
/** A slot's logit, and its strength: 0 where it may not be attended to. */
fn attended(stream: i32, head: i32, slot: i32) -> vec2<f32> {
  var logit = 0.0;
  var strength = 0.0;
  ${plan.groups
    .map(
      ({ index, positions }, g) => `
  if (slot >= uniforms.group${g}.x && slot < uniforms.group${g}.x + uniforms.group${g}.y) {
    let j = slot - uniforms.group${g}.x;
    let known = slotOf${g}(stream, j);
    if (!mayAttend${g}(known.base, known.farthest)) { return vec2<f32>(); }
    strength = strengthAt(known.base, known.life, known.flags, ${plan.rows.span === undefined ? '0.0' : `query[${plan.rows.span}]`});
    ${positions ? `let column = columnOf${g}(i32(known.base));` : ''}
    for (var feature = 0; feature < D; feature++) {
      logit += query[${index === undefined ? plan.rows.persistent : plan.rows.content} + feature] * keyAt${g}(stream, head, feature, j);
      ${positions ? `logit += query[${plan.rows.position} + feature] * positionAt${g}(head, feature, column);` : ''}
    }
    logit *= uniforms.terms.x;
    ${plan.selection && index !== undefined ? 'logit -= votedAt(stream, 0, slot);' : ''}
  }`,
    )
    .join('')}
  return vec2<f32>(logit, strength);
}
fn valueAt(stream: i32, head: i32, feature: i32, slot: i32) -> f32 {
  ${plan.groups
    .map(
      (_, g) => `if (slot >= uniforms.group${g}.x && slot < uniforms.group${g}.x + uniforms.group${g}.y) {
    return valueAt${g}(stream, head, feature, slot - uniforms.group${g}.x);
  }`,
    )
    .join('\n  ')}
  return 0.0;
}
fn main(index: i32) {
  let local = i32(localIndex);
  let splits = uniforms.more.z;
  let workgroup = index / ${threads};
  let split = workgroup % splits;
  let head = (workgroup / splits) % uniforms.sizes.y;
  let stream = workgroup / (splits * uniforms.sizes.y);
  let within = stream < uniforms.sizes.x;
  for (var row = local; row < ${plan.rows.count}; row += ${threads}) { query[row] = rowAt(stream, head, row, 0); }
  workgroupBarrier();
  var mine: array<vec2<f32>, ${part / threads}>;
  var top = none;
  for (var k = 0; k < ${part / threads}; k++) {
    mine[k] = attended(stream, head, split * ${part} + k * ${threads} + local);
    if (mine[k].y > 0.0) { top = max(top, mine[k].x); }
  }
  sums[local] = top;
  workgroupBarrier();
  for (var k = 0; k < ${threads}; k++) { top = max(top, sums[k]); }
  workgroupBarrier();
  var total = 0.0;
  var plainTotal = 0.0;
  for (var k = 0; k < ${part / threads}; k++) {
    let e = select(0.0, exp(mine[k].x - top), mine[k].y > 0.0);
    let slot = split * ${part} + k * ${threads} + local;
    plainTotal += e;
    total += e * mine[k].y;
    weights[k * ${threads} + local] = e * mine[k].y${
      names.includes('dropout')
        ? ` * select(1.0, dropout[(stream * uniforms.sizes.y + head) * uniforms.sizes.w + slot], slot < uniforms.sizes.w)`
        : ''
    };
  }
  sums[local] = total;
  otherSums[local] = plainTotal;
  workgroupBarrier();
  let row0 = ((split * uniforms.sizes.x + stream) * uniforms.sizes.y + head) * (D + ${partialRows});
  if (local == 0 && within) {
    total = 0.0;
    plainTotal = 0.0;
    for (var k = 0; k < ${threads}; k++) { total += sums[k]; plainTotal += otherSums[k]; }
    result[row0 + D] = top;
    result[row0 + D + 1] = total;
    result[row0 + D + 2] = plainTotal;
  }
  // ${lanes} threads side by side add one feature's values along the slots.
  let lane = local % ${lanes};
  for (var begin = 0; begin < D; begin += ${threads / lanes}) {
    let feature = begin + local / ${lanes};
    var sum = 0.0;
    if (feature < D) {
      for (var k = lane; k < ${part}; k += ${lanes}) {
        if (weights[k] != 0.0) { sum += weights[k] * valueAt(stream, head, feature, split * ${part} + k); }
      }
    }
    workgroupBarrier();
    sums[local] = sum;
    workgroupBarrier();
    if (lane == 0 && feature < D && within) {
      for (var k = 1; k < ${lanes}; k++) { sum += sums[local + k]; }
      result[row0 + feature] = sum;
    }
  }
}`
}

/** How the parts of a query's attention are added: all relative to the largest logit of all. */
export const combination = ({ life, span }: Plan) => `
struct Total { top: f32, inverse: f32 };
fn partOf(place: i32, row: i32, i: i32, split: i32) -> f32 {
  return parts[((split * uniforms.sizes.x * uniforms.sizes.y + place) * (D + ${partialRows}) + row) * uniforms.sizes.z + i];
}
fn totalOf(place: i32, i: i32) -> Total {
  var top = -${far};
  for (var k = 0; k < uniforms.more.z; k++) { top = max(top, partOf(place, D, i, k)); }
  var total = 0.0;
  for (var k = 0; k < uniforms.more.z; k++) {
    let factor = exp(partOf(place, D, i, k) - top);
    total += factor * partOf(place, D + 1, i, k);
    ${life || span ? `total += ${epsilon} * factor * partOf(place, D + 2, i, k);` : ''}
  }
  return Total(top, select(0.0, 1.0 / total, total > 0.0));
}`

/** The parts added and divided by their total: [batch, heads, headSize, block]. */
export function combine(parts: Tensor, plan: Plan, scale: number): Tensor {
  const { batch, heads, size, block } = plan
  return runPerElement(
    {
      ...shaderOf(
        plan,
        'combine',
        ['parts'],
        0,
        () => `
const D = ${size};
${combination(plan)}
fn main(index: i32) {
  if (index >= i32(arrayLength(&result))) { return; }
  let i = index % uniforms.sizes.z;
  let feature = (index / uniforms.sizes.z) % D;
  let place = index / (uniforms.sizes.z * D);
  let total = totalOf(place, i);
  var sum = 0.0;
  for (var k = 0; k < uniforms.more.z; k++) {
    sum += exp(partOf(place, D, i, k) - total.top) * partOf(place, feature, i, k);
  }
  result[index] = sum * total.inverse;
}`,
      ),
    },
    { inputs: [parts], into: [batch, heads, size, block], uniforms: uniformsOf(plan, scale, splitsOf(plan)) },
  )
}
