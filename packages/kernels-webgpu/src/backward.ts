/**
 * The backward pass: weights are computed again from the queries, keys and each query's statistics (Dao et al. 2022,
 * appendix B.4), once, by tiles of slots. These leave the gradients of the logits for two more programs, by tiles of
 * queries and of distances, since there is no adding to floats that others add to; for as many heads at a time as a
 * buffer of bounded size has room for.
 *
 * With weight = m e / N, N = Σ (m + ε) e, e = exp(logit - largest), g = gradient · value (dropout included),
 * Δ = Σ weight · g: the gradient of a logit is e / N · (m g - (m + ε) Δ), that of m is e / N · (g - Δ).
 */
import type { AttentionRequest, NamedTensors, ResultGradients } from '@lethe/core'
import { addN, mul, reshape, slice, sum, type Tensor, zerosLike } from '@tensorflow/tfjs-core'
import {
  combination,
  declared,
  droppedQuad,
  groupByGroup,
  hasRamps,
  type Inputs,
  isPersistent,
  logitsCode,
  overSlots,
  pairOfTiles,
  queryTile,
  queryTiles,
  scan,
  shaderOf,
  slotRange,
  slotTile,
  splitsOf,
  threadCode,
  tiledShader,
  writePairs,
} from './forward'
import { ownSteps, type Plan, type PositionsPlan, placedGroups, uniformsOf } from './plan'
import { run, runPerElement, sumOf } from './program'
import type { Staged } from './stage'
import {
  accumulate,
  accumulateDistances,
  type Block,
  blocksOf,
  declareSums,
  epsilon,
  four,
  pairAt,
  productCode,
  queryOf,
  queryQuad,
  type Sum,
  slotOf,
  slotQuad,
  statisticRows,
  storeByQuery,
  storeBySlot,
  sumsOf,
  tileCode,
  times,
} from './tiles'
import {
  chooseTile,
  floatsOfPairs,
  floatsOfSlots,
  pairPitch,
  placesAtATime,
  slotRows,
  type Tile,
} from './tiling'

/** Attention received by each slot, summed over queries, mean over heads [batch, slots]. */
export function massOf(inputs: Inputs, plan: Plan, parts: Tensor, scale: number): Tensor {
  const { batch, heads, slots } = plan
  const prepared = backwardInputs(inputs, parts, plan, scale)
  const tensors = declared({ ...prepared, values: undefined, dropout: undefined })
  const tile = chooseTile(plan, 'others')
  const perHead = groupByGroup(plan, 'mass', tensors, {
    ...{ tile, scale, into: [batch, heads, slots] },
    workgroups: batch * heads,
    code: (g) => massCode(plan, tensors.names, tile, g),
  })
  return mul(sumOf(perHead, [batch, slots], { count: heads, inner: slots }), 1 / heads)
}

/** The gradient of every tensor of the request that learns, by its name in `takeApart(request).learning`. */
export function gradientsOf(
  request: AttentionRequest,
  forward: Inputs,
  plan: Plan,
  parts: Tensor,
  context: Tensor,
  gradients: ResultGradients,
): NamedTensors {
  const { scale } = request
  const prepared = backwardInputs(forward, parts, plan, scale, context, gradients.context)
  const { selected, ...others } = prepared
  const voted = selected && votesBackward(prepared, plan, scale, gradients)
  const inputs = { ...others, ...(voted && { voted }) }
  const { slots, queries, positions } = pairGradientsOf(inputs, plan, scale)
  return {
    ...queryGradients(request, queries, plan),
    ...slotGradients(request, slots, plan),
    ...positionGradients(request, positions, plan),
    ...(voted && { [termName(request, 'selection', 'carried')]: carriedGradient(voted, plan) }),
  }
}

/** What the programs over pairs leave. */
interface Packed {
  /** [batch, heads, rows, slots + persistent], see slotRows, behind `end` floats. */
  readonly slots: { readonly packed: Tensor; readonly end: number }
  /** [splits, batch, heads, rows of the queries' buffer, block], to be added over the splits. */
  readonly queries: Tensor
  /** Of each of placedGroups: [batch, heads, columns · headSize]. */
  readonly positions: readonly Tensor[]
}

/**
 * Runs the three programs for some heads at a time. A tensor has, for each of them, its pairs' gradients (see
 * floatsOfPairs), and behind these the gradients of all slots: tfjs gives a program one output.
 */
function pairGradientsOf(inputs: Inputs, plan: Plan, scale: number): Packed {
  const { batch, heads, size, block, rows, groups } = plan
  const atATime = placesAtATime(plan)
  const pitch = pairPitch(plan)
  const end = atATime * floatsOfPairs(plan)
  const tiles = {
    slots: chooseTile(plan, 'slots'),
    queries: chooseTile(plan, 'queries'),
    positions: chooseTile(plan, 'positions'),
  }
  const whole = declared({ ...inputs })
  const { queries: queryRows, keys, slots: known, positions: placedKeys, persistent } = inputs
  const placed = placedGroups(groups)
  let packed: readonly number[] | Tensor = [end + floatsOfSlots(plan)]
  let queries: readonly number[] | Tensor = [tiles.queries.splits * batch, heads, rows.count, block]
  let positions: readonly (readonly number[] | Tensor)[] = placed.map(({ positions: { low, high } }) => [
    batch,
    heads,
    (high - low + 1) * size,
  ])
  for (let first = 0; first < batch * heads; first += atATime) {
    const count = Math.min(atATime, batch * heads - first)
    const places = { first, count, pitch, end }
    const uniforms = uniformsOf(plan, scale, 1, places)
    for (const [g, group] of groups.entries())
      packed = run(
        tiledShader(
          plan,
          `slots-back${g}`,
          whole.names,
          tiles.slots,
          () => slotsCode(plan, whole.names, tiles.slots, g),
          plan.aligned,
        ),
        {
          inputs: whole.inputs,
          into: packed,
          uniforms,
          workgroups: count * Math.ceil(group.slots / tiles.slots.slots),
        },
      )
    const pairs = packed as Tensor
    const byQuery = declared({
      queries: queryRows,
      keys,
      slots: known,
      positions: placedKeys,
      persistent,
      pairs,
    })
    queries = run(
      tiledShader(plan, `queries-back/${tiles.slots.slots}`, byQuery.names, tiles.queries, () =>
        queriesCode(plan, byQuery.names, tiles.queries, tiles.slots),
      ),
      {
        inputs: byQuery.inputs,
        into: queries,
        uniforms: uniformsOf(plan, scale, tiles.queries.splits, places),
        workgroups: queryTiles(plan, tiles.queries, count),
      },
    )
    const byDistance = declared({ queries: queryRows, slots: known, pairs })
    positions = placed.map((group, index) => {
      const g = groups.indexOf(group)
      const { low, high, featureMajor } = group.positions
      const { names } = byDistance
      return run(
        tiledShader(
          plan,
          `positions-back${g}/${featureMajor}/${tiles.slots.slots}`,
          names,
          tiles.positions,
          () => positionsCode(plan, names, tiles.positions, tiles.slots, g, group.positions),
        ),
        {
          inputs: byDistance.inputs,
          into: positions[index]!,
          uniforms,
          workgroups: count * Math.ceil((high - low + 1) / tiles.positions.slots),
        },
      )
    })
  }
  return {
    slots: { packed: packed as Tensor, end },
    queries: queries as Tensor,
    positions: positions as Tensor[],
  }
}

const termName = ({ terms }: AttentionRequest, kind: string, part: string) =>
  `terms.${terms.findIndex((term) => term.kind === kind)}.${part}`

/** The queries' buffer with gradients and statistics behind the queries. */
function backwardInputs(
  inputs: Inputs,
  parts: Tensor,
  plan: Plan,
  scale: number,
  context?: Tensor,
  gradient?: Tensor,
): Inputs {
  const { batch, heads, size, block, rows } = plan
  const { inputs: tensors, names } = declared({ queries: inputs.queries, parts, context, gradient })
  const queries = runPerElement(
    shaderOf(
      plan,
      'statistics',
      names,
      0,
      () => `
const D = ${size};
${combination(plan)}
fn main(index: i32) {
  if (index >= i32(arrayLength(&result))) { return; }
  let block = uniforms.sizes.z;
  let i = index % block;
  let row = (index / block) % ${rows.count + size + statisticRows};
  let place = index / (block * ${rows.count + size + statisticRows});
  var value = 0.0;
  if (row < ${rows.count}) {
    value = queries[(place * ${rows.count} + row) * block + i];
  } else if (row < ${rows.count + size}) {
    ${gradient ? `value = gradient[(place * D + row - ${rows.count}) * block + i];` : ''}
  } else if (row < ${rows.count + size + 2}) {
    let total = totalOf(place, i);
    value = select(total.inverse, total.top, row == ${rows.count + size});
  } else {
    ${
      gradient
        ? `for (var feature = 0; feature < D; feature++) {
      let origin = (place * D + feature) * block + i;
      value += gradient[origin] * context[origin];
    }`
        : ''
    }
  }
  result[index] = value;
}`,
    ),
    {
      inputs: tensors,
      into: [batch, heads, rows.count + size + statisticRows, block],
      uniforms: uniformsOf(plan, scale, splitsOf(plan)),
    },
  )
  return { ...inputs, queries }
}

/** Lines for each of a tile's blocks and each of its four queries. */
const perQuery = (tile: Tile, line: (at: string, block: Block, x: number) => string) =>
  blocksOf(tile)
    .map((block) => four((x) => line(`${block.at}_${x}`, block, x)))
    .join('\n')

/** e / N of a tile's pairs, and their strengths; `row` + a query has its statistics. */
const weightsCode = (plan: Plan, tile: Tile, g: number) => `
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
const pairGradients = (
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

const backwardCode = (
  plan: Plan,
  names: readonly string[],
  tile: Tile,
) => `${tileCode(plan, { names, backward: true }, tile)}
${names.includes('dropout') ? plan.groups.map((_, g) => droppedQuad(g)).join('\n') : ''}`

/** Adds a quad of slots' values over the queries of all threads; thread (tx, 0) then holds their sums. */
const sumOverQueries = (tile: Tile, name: string) => `
  workgroupBarrier();
  sumTile[i32(localIndex)] = ${name};
  workgroupBarrier();
  if (ty == 0) {
    for (var k = 1; k < ${tile.down}; k++) { ${name} += sumTile[${tile.across} * k + tx]; }
  }`

const sumTile = ({ threads }: Tile) => `var<workgroup> sumTile: array<vec4<f32>, ${threads}>;`

const massCode = (plan: Plan, names: readonly string[], tile: Tile, g: number) => {
  const raw = productCode(plan, tile, g, 'key', 'raw')
  return `${tileCode(plan, { names, backward: true }, tile)}
${sumTile(tile)}
fn main(index: i32) {
  ${slotTile(tile, g)}
  ${times(tile.columns, (c) => `var mass${c} = vec4<f32>();`)}
  for (var i0 = 0; i0 < uniforms.sizes.z; i0 += ${tile.queries}) {
    workgroupBarrier();
    loadRows(stream, head, i0);
    ${raw.fetch}
    if (!loadSlots${g}(stream, i0, j0, none, far)) { continue; }
    ${raw.code}
    ${weightsCode(plan, tile, g)}
    ${perQuery(tile, (at, { column }) => `mass${column} += share${at} * strength${at};`)}
  }
  ${times(tile.columns, (c) => sumOverQueries(tile, `mass${c}`))}
  if (ty == 0 && within) {
    for (var y = 0; y < 4; y++) {
      ${times(
        tile.columns,
        (c) => `let j${c} = j0 + 4 * ${slotQuad(tile, c)} + y;
      if (j${c} < uniforms.group${g}.y) {
        result[(stream * uniforms.sizes.y + head) * uniforms.sizes.w + uniforms.group${g}.x + j${c}] = mass${c}[y];
      }`,
      )}
    }
  }
}`
}

/** F beside the gradient of each vote [batch, block + 1, slots, 2]; behind the last query, that of `carried`. */
function votesBackward(
  inputs: Inputs,
  plan: Plan,
  scale: number,
  { during, after }: ResultGradients,
): Tensor {
  const { batch, block, slots } = plan
  const tensors = declared({ ...inputs })
  const tile = chooseTile(plan, 'others')
  const penalties = groupByGroup(plan, 'penalties', tensors, {
    ...{ tile, scale, into: [batch, block, slots] },
    workgroups: batch * Math.ceil(block / tile.queries),
    code: (g) => penaltiesCode(plan, tensors.names, tile, g),
  })
  return scan(
    'scan-back',
    declared({ selected: inputs.selected!, penalties, during, after }),
    `
  var total = ${after ? 'after[index]' : '0.0'};
  for (var i = block - 1; i >= 0; i--) {
    let place = (stream * (block + 1) + i) * slots + j;
    let pair = (stream * block + i) * slots + j;
    result[place * 2] = selected[place];
    result[place * 2 + 1] = total;
    total -= penalties[pair];
    ${during ? 'total += during[pair];' : ''}
  }
  let last = (stream * (block + 1) + block) * slots + j;
  result[last * 2] = selected[last];
  result[last * 2 + 1] = total;`,
    plan,
    [batch, block + 1, slots, 2],
  )
}

/** What all heads' logits together would have gained by one less of F: Σ ds over heads. */
const penaltiesCode = (plan: Plan, names: readonly string[], tile: Tile, g: number) => {
  const pairs = pairGradients(plan, names, tile, g, { votes: false })
  return `${backwardCode(plan, names, tile)}
fn main(index: i32) {
  ${pairOfTiles(tile, g)}
  ${blocksOf(tile)
    .map(({ at }) => `var penalties${at} = mat4x4<f32>();`)
    .join(' ')}
  for (var head = 0; head < uniforms.sizes.y; head++) {
    workgroupBarrier();
    loadRows(stream, head, i0);
    ${pairs.fetch}
    if (!loadSlots${g}(stream, i0, j0, none, far)) { continue; }
    ${pairs.code}
    ${perQuery(tile, (at, block, x) => `penalties${block.at}[${x}] += ds${at};`)}
  }
  ${writePairs(tile, g, ({ at }, x) => `penalties${at}[${x}]`)}
}`
}

function carriedGradient(voted: Tensor, { batch, block, slots }: Plan): Tensor {
  return reshape(slice(voted, [0, block, 0, 1], [batch, 1, slots, 1]), [batch, slots])
}

/** Gradients of the rows of the queries' buffer, taken apart. */
function queryGradients(request: AttentionRequest, parts: Tensor, plan: Plan): Record<string, Tensor> {
  const { batch, heads, size, block, rows, span } = plan
  const shape = [batch, heads, rows.count, block]
  const splits = parts.shape[0]! / batch
  const packed = splits === 1 ? parts : sumOf(parts, shape, { count: splits, inner: parts.size / splits })
  if (rows.plain) return { queries: packed }
  const part = (row: number, count = size) => slice(packed, [0, 0, row, 0], [batch, heads, count, block])
  const gradients: Record<string, Tensor> = {}
  const shares = [part(rows.content)]
  if (request.queryBias) {
    shares.push(part(rows.position))
    gradients['queryBias.content'] = sum(shares[0]!, [0, 3])
    gradients['queryBias.position'] = sum(shares[1]!, [0, 3])
  }
  if (rows.persistent > 0) {
    const own = part(rows.persistent)
    if (request.persistent!.queries) gradients['persistent.queries'] = own
    else shares.push(own)
  }
  if (span) {
    const perQuery = part(rows.span!, 1)
    const { span: spans } = span
    const ofQueries = () => (spans.shape[1] === 1 ? sum(perQuery, 1) : perQuery)
    const whole = spans.rank === 3 ? ofQueries() : spans.size === 1 ? sum(perQuery) : sum(perQuery, [0, 2, 3])
    gradients[termName(request, 'head-span', 'span')] = reshape(whole, spans.shape)
  }
  return { ...gradients, queries: shares.length === 1 ? shares[0]! : addN(shares) }
}

/** Where the pairs of a head's query begin, and the gradients of spans by a tile of slots. See floatsOfPairs. */
const placesOfPairs = (plan: Plan, slotsTile: Tile) => `
fn pairsOf(own: i32, i: i32) -> i32 { return own * floatsOfPairs() + i * uniforms.places.z; }
fn spansOf(own: i32, tileOfSlots: i32) -> i32 {
  return pairsOf(own, uniforms.sizes.z) + tileOfSlots * ((uniforms.sizes.z + 3) / 4 * 4);
}
fn floatsOfPairs() -> i32 {
  return uniforms.sizes.z * uniforms.places.z${plan.span ? ` + (${tilesOfSlots(plan, slotsTile)}) * ((uniforms.sizes.z + 3) / 4 * 4)` : ''};
}`

/** Tiles of slots of the first groups, of all by default. */
const tilesOfSlots = ({ groups }: Plan, { slots }: Tile, first = groups.length) =>
  ['0', ...groups.slice(0, first).map((_, g) => `(uniforms.group${g}.y + ${slots - 1}) / ${slots}`)].join(
    ' + ',
  )

/** In a query's row the gradients of four logits of group g. */
const pairsCode = ({ groups, aligned }: Plan) => `
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
const loadPairs = (tile: Tile, g: number) =>
  perQuery(
    tile,
    (at, block, x) =>
      `let ds${at} = pairQuad${g}(own, ${queryOf(tile, block)} + ${x}, ${slotOf(tile, block)});`,
  )

/** By tiles of queries: pairs × keys, and × keys of distances. */
const queriesCode = (plan: Plan, names: readonly string[], tile: Tile, slotsTile: Tile) => {
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

/** Gradients of keys, values and lives, taken apart. */
function slotGradients(
  request: AttentionRequest,
  { packed, end }: Packed['slots'],
  plan: Plan,
): Record<string, Tensor> {
  const { batch, heads, size, slots, persistent, life } = plan
  const all = slots + persistent
  const pitch = slotRows(plan) * all
  const part = (row: number) =>
    sumOf(packed, [batch, heads, size, all], {
      count: 1,
      inner: size * all,
      outerPitch: pitch,
      offset: end + row * all,
    })
  const [keys, values] = [part(0), part(size)]
  const gradients: Record<string, Tensor> = {}
  if (persistent === 0) Object.assign(gradients, { keys, values })
  else {
    const columns = (x: Tensor, origin: number, count: number) =>
      slice(x, [0, 0, 0, origin], [batch, heads, size, count])
    const overStreams = (x: Tensor) =>
      sumOf(columns(x, slots, persistent), [heads, size, persistent], {
        count: batch,
        inner: heads * size * persistent,
      })
    gradients.keys = columns(keys, 0, slots)
    gradients.values = columns(values, 0, slots)
    gradients['persistent.keys'] = overStreams(keys)
    gradients['persistent.values'] = overStreams(values)
  }
  if (life)
    gradients[termName(request, 'slot-life', 'life')] = sumOf(packed, [batch, slots], {
      count: heads,
      inner: slots,
      outerPitch: heads * pitch,
      pitch,
      offset: end + 2 * size * all,
    })
  return gradients
}

/** By tiles of slots: sums over queries, and the gradients of logits for the other programs. */
const slotsCode = (plan: Plan, names: readonly string[], tile: Tile, g: number) => {
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

/** Gradients of the keys of distances, summed over streams and, where these share them, heads. */
function positionGradients(
  request: AttentionRequest,
  perHead: readonly Tensor[],
  plan: Plan,
): Record<string, Tensor> {
  const { batch, heads } = plan
  const gradients: Record<string, Tensor> = {}
  // A group without slots may have keys of distances all the same.
  for (const [index, { slots, positions }] of request.groups.entries())
    if (slots === 0 && positions) gradients[`groups.${index}.rows`] = zerosLike(positions.rows)
  for (const [place, group] of placedGroups(plan.groups).entries()) {
    const { rows } = request.groups[group.index!]!.positions!
    const count = group.positions.heads === 1 ? batch * heads : batch
    gradients[`groups.${group.index}.rows`] = sumOf(perHead[place]!, rows.shape, { count, inner: rows.size })
  }
  return gradients
}

/** By tiles of distances: pairs × queries. */
const positionsCode = (
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
