/**
 * The backward pass: weights are computed again from the queries, keys and each query's statistics. Dao et al. 2022,
 * appendix B.4, in separate programs, since there is no adding to floats that others add to: by tiles of queries, of
 * slots, of distances.
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
  type Inputs,
  isPersistent,
  logitsCode,
  pairOfTiles,
  queryTile,
  queryTiles,
  shaderOf,
  splitsOf,
  writePairs,
} from './forward'
import { ownSteps, type Plan, type PositionsPlan, placedGroups, uniformsOf } from './plan'
import { run, runPerElement, sumOf } from './program'
import {
  accumulate,
  accumulators,
  distancesLoad,
  epsilon,
  featureOf,
  four,
  pairTile,
  statisticRows,
  storeByQuery,
  storeBySlot,
  tile,
  tileCode,
  tileThreads,
} from './tiles'

/** Attention received by each slot, summed over queries, mean over heads [batch, slots]. */
export function massOf(inputs: Inputs, parts: Tensor, plan: Plan, scale: number): Tensor {
  const { batch, heads, slots } = plan
  const prepared = backwardInputs(inputs, parts, plan, scale)
  const { inputs: tensors, names } = declared({ ...prepared, values: undefined, dropout: undefined })
  let perHead: readonly number[] | Tensor = [batch, heads, slots]
  for (const [g, { index, slots: count }] of plan.groups.entries()) {
    if (index === undefined) continue
    perHead = run(
      shaderOf(plan, `mass${g}`, names, tileThreads, () => massCode(plan, names, g)),
      {
        inputs: tensors,
        into: perHead,
        uniforms: uniformsOf(plan, scale, 1),
        workgroups: batch * heads * Math.ceil(count / tile),
      },
    )
  }
  return mul(sumOf(perHead as Tensor, [batch, slots], { count: heads, inner: slots }), 1 / heads)
}

/** The gradient of every tensor of the request that learns, by its name in `takeApart(request).learning`. */
export function gradientsOf(
  request: AttentionRequest,
  forward: Inputs,
  parts: Tensor,
  context: Tensor,
  gradients: ResultGradients,
  plan: Plan,
): NamedTensors {
  const { scale } = request
  const prepared = backwardInputs(forward, parts, plan, scale, context, gradients.context)
  const { selected, ...others } = prepared
  const voted = selected && votesBackward(prepared, plan, scale, gradients)
  const inputs = { ...others, ...(voted && { voted }) }
  return {
    ...queryGradients(request, inputs, plan),
    ...slotGradients(request, inputs, plan),
    ...positionGradients(request, inputs, plan),
    ...(voted && { [termName(request, 'selection', 'carried')]: carriedGradient(voted, plan) }),
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

/** e / N of a tile's pairs, and their strengths. */
const weightsCode = (plan: Plan, g: number) => `
    let s = slotsOfThread();
    ${logitsCode(plan, g)}
    ${four(
      (x) => `let row${x} = rowTile[4 * ty + ${x}];
    let strength${x} = strengths${g}(s, i0 + 4 * ty + ${x}, row${x}.w);
    let share${x} = select(vec4<f32>(), exp(select(vec4<f32>(none), logits[${x}] - row${x}.x, strength${x} > vec4<f32>())), strength${x} > vec4<f32>()) * row${x}.y;`,
    )}`

/** Gradients of a tile's logits `ds0..3` and strengths `dm0..3`; `w0..3` are the weights that values get. */
const pairGradients = (plan: Plan, names: readonly string[], g: number, votes = true) => {
  const dropped = names.includes('dropout') && !isPersistent(plan, g)
  const strong = plan.life || plan.span
  return `
    ${weightsCode(plan, g)}
    let product = valueProduct${g}(stream, head, i0, j0);
    ${four((x) =>
      dropped
        ? `let factor${x} = select(vec4<f32>(), dropped${g}(stream, head, i0 + 4 * ty + ${x}, j0 + 4 * tx), share${x} > vec4<f32>());`
        : `let factor${x} = vec4<f32>(1.0);`,
    )}
    ${four(
      (x) => `let g${x} = product[${x}] * factor${x};
    let w${x} = share${x} * strength${x} * factor${x};
    let dm${x} = share${x} * (g${x} - row${x}.z);
    var ds${x} = share${x} * (strength${x} * g${x} - (strength${x}${strong ? ` + ${epsilon}` : ''}) * row${x}.z);`,
    )}
    ${
      votes && plan.selection && !isPersistent(plan, g)
        ? `if (head == uniforms.more.y) {
      ${four(
        (x) =>
          `ds${x} += select(vec4<f32>(), voteGradientQuad${g}(stream, i0 + 4 * ty + ${x}, j0 + 4 * tx), counted${g}(s, i0 + 4 * ty + ${x}) & (raw[${x}] > vec4<f32>()));`,
      )}
    }`
        : ''
    }`
}

const backwardCode = (plan: Plan, names: readonly string[]) => `${tileCode(plan, { names, backward: true })}
${names.includes('dropout') ? plan.groups.map((_, g) => droppedQuad(g)).join('\n') : ''}`

/** A tile of slots of group g. */
const slotTile = (g: number) => `
  tx = i32(localIndex) & 7;
  ty = i32(localIndex) >> 3u;
  let tiles = (uniforms.group${g}.y + ${tile - 1}) / ${tile};
  let workgroup = index / ${tileThreads};
  let j0 = (workgroup % tiles) * ${tile};
  let head = (workgroup / tiles) % uniforms.sizes.y;
  let stream = workgroup / (tiles * uniforms.sizes.y);
  let within = stream < uniforms.sizes.x;`

/** Adds four values per slot over the queries of all threads; thread (tx, 0) then holds the sums of its slots. */
const sumOverQueries = (name: string) => `
  workgroupBarrier();
  sumTile[i32(localIndex)] = ${name};
  workgroupBarrier();
  if (ty == 0) {
    for (var k = 1; k < 8; k++) { ${name} += sumTile[8 * k + tx]; }
  }`

const sumTile = `var<workgroup> sumTile: array<vec4<f32>, ${tileThreads}>;`

const massCode = (
  plan: Plan,
  names: readonly string[],
  g: number,
) => `${tileCode(plan, { names, backward: true })}
${sumTile}
fn main(index: i32) {
  ${slotTile(g)}
  var mass = vec4<f32>();
  for (var i0 = 0; i0 < uniforms.sizes.z; i0 += ${tile}) {
    workgroupBarrier();
    loadRows(stream, head, i0);
    if (!loadSlots${g}(stream, i0, j0, none, far)) { continue; }
    ${weightsCode(plan, g)}
    mass += ${[0, 1, 2, 3].map((x) => `share${x} * strength${x}`).join(' + ')};
  }
  ${sumOverQueries('mass')}
  if (ty == 0 && within) {
    for (var y = 0; y < 4; y++) {
      let j = j0 + 4 * tx + y;
      if (j < uniforms.group${g}.y) {
        result[(stream * uniforms.sizes.y + head) * uniforms.sizes.w + uniforms.group${g}.x + j] = mass[y];
      }
    }
  }
}`

/** F beside the gradient of each vote [batch, block + 1, slots, 2]; behind the last query, that of `carried`. */
function votesBackward(
  inputs: Inputs,
  plan: Plan,
  scale: number,
  { during, after }: ResultGradients,
): Tensor {
  const { batch, block, slots } = plan
  const { inputs: tensors, names } = declared({ ...inputs })
  let perPair: readonly number[] | Tensor = [batch, block, slots]
  for (const [g, { index, slots: count }] of plan.groups.entries()) {
    if (index === undefined) continue
    perPair = run(
      shaderOf(plan, `penalties${g}`, names, tileThreads, () => penaltiesCode(plan, names, g)),
      {
        inputs: tensors,
        into: perPair,
        uniforms: uniformsOf(plan, scale, 1),
        workgroups: batch * Math.ceil(block / tile) * Math.ceil(count / tile),
      },
    )
  }
  const scan = declared({ selected: inputs.selected!, penalties: perPair as Tensor, during, after })
  return run(
    {
      key: 'scan-back',
      inputs: scan.names,
      uniforms: 'sizes: vec4<i32>, ',
      threads: tileThreads,
      code: () => `
fn main(index: i32) {
  let block = uniforms.sizes.x;
  let slots = uniforms.sizes.y;
  if (index >= uniforms.sizes.z) { return; }
  let stream = index / slots;
  let j = index % slots;
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
  result[last * 2 + 1] = total;
}`,
    },
    {
      inputs: scan.inputs,
      into: [batch, block + 1, slots, 2],
      workgroups: Math.ceil((batch * slots) / tileThreads),
      uniforms: [{ type: 'int32', data: [block, slots, batch * slots, 0] }],
    },
  )
}

/** What all heads' logits together would have gained by one less of F: Σ ds over heads. */
const penaltiesCode = (plan: Plan, names: readonly string[], g: number) => `${backwardCode(plan, names)}
fn main(index: i32) {
  ${pairOfTiles(g)}
  var penalties = mat4x4<f32>();
  for (var head = 0; head < uniforms.sizes.y; head++) {
    workgroupBarrier();
    loadRows(stream, head, i0);
    if (!loadSlots${g}(stream, i0, j0, none, far)) { continue; }
    ${pairGradients(plan, names, g, false)}
    penalties += mat4x4<f32>(ds0, ds1, ds2, ds3);
  }
  ${writePairs(g, (x) => `penalties[${x}]`)}
}`

function carriedGradient(voted: Tensor, { batch, block, slots }: Plan): Tensor {
  return reshape(slice(voted, [0, block, 0, 1], [batch, 1, slots, 1]), [batch, slots])
}

/** By tiles of queries: gradients of the rows of the queries' buffer [batch, heads, rows, block], taken apart. */
function queryGradients(request: AttentionRequest, inputs: Inputs, plan: Plan): Record<string, Tensor> {
  const { batch, heads, size, block, rows, span } = plan
  const { inputs: tensors, names } = declared({ ...inputs })
  const packed = run(
    shaderOf(plan, 'queries-back', names, tileThreads, () => queriesCode(plan, names)),
    {
      inputs: tensors,
      into: [batch, heads, rows.count, block],
      uniforms: uniformsOf(plan, request.scale, 1),
      workgroups: queryTiles(plan),
    },
  )
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

const queriesCode = (plan: Plan, names: readonly string[]) => {
  const { rows, size, span } = plan
  const starts = [...new Set([rows.content, rows.position, rows.persistent])]
  const sums = Object.fromEntries(starts.map((row) => [row, accumulators(`row${row}sum`, size)]))
  return `${backwardCode(plan, names)}
${pairTile}
${span ? sumTile : ''}
fn main(index: i32) {
  ${queryTile}
  loadRows(stream, head, i0);
  ${Object.values(sums)
    .flat()
    .map((name) => `var ${name} = vec4<f32>();`)
    .join(' ')}
  var spans = vec4<f32>();
  ${plan.groups
    .map((group, g) => {
      const row = group.index === undefined ? rows.persistent : rows.content
      return `
  for (var j0 = 0; j0 < uniforms.group${g}.y; j0 += ${tile}) {
    if (!loadSlots${g}(stream, i0, j0, none, far)) { continue; }
    ${pairGradients(plan, names, g)}
    ${storeBySlot((x) => `(ds${x} * uniforms.terms.x)`)}
    ${accumulate(sums[row]!, (feature, quad) => `keyQuad${g}(stream, head, ${feature}, j0 + 4 * ${quad})`)}
    ${group.positions ? (group.even ? evenPositions(sums[rows.position]!, g) : anyPositions(sums[rows.position]!, g)) : ''}
    ${
      span
        ? four((x) => {
            const slope = (y: string) =>
              `slopeOf(spanRamp(d${x}.${y}, s.flags.${y}, row${x}.w), uniforms.terms.z)${plan.life ? ` * within01(lifeRamp(d${x}.${y}, s.life.${y}))` : ''}`
            return `let d${x} = distances${g}(s, i0 + 4 * ty + ${x});
    spans[${x}] += dot(dm${x}, vec4<f32>(${['x', 'y', 'z', 'w'].map(slope).join(', ')}));`
          })
        : ''
    }
  }`
    })
    .join('')}
  ${
    span
      ? `workgroupBarrier();
  sumTile[i32(localIndex)] = spans;
  workgroupBarrier();
  for (var k = 1; k < 8; k++) { spans += sumTile[8 * ty + ((tx + k) & 7)]; }`
      : ''
  }
  if (!within) { return; }
  ${Object.entries(sums)
    .flatMap(([row, accumulated]) =>
      accumulated.map((name, k) => `writeRow(stream, head, ${row}, ${featureOf(k)}, i0 + 4 * ty, ${name});`),
    )
    .join('\n  ')}
  ${span ? `if (tx == 0) { writeRow(stream, head, ${rows.span}, 0, i0 + 4 * ty, spans); }` : ''}
}
fn writeRow(stream: i32, head: i32, begin: i32, feature: i32, i: i32, values: vec4<f32>) {
  if (feature >= D) { return; }
  let origin = ((stream * uniforms.sizes.y + head) * ${rows.count} + begin + feature) * uniforms.sizes.z + i;
  for (var x = 0; x < 4; x++) {
    if (i + x < uniforms.sizes.z) { result[origin + x] = values[x]; }
  }
}`
}

/** Adds pairs × keys of distances, where these come in stretches. */
const evenPositions = (names: readonly string[], g: number) => `
    {
    let distance0 = uniforms.group${g}.w - j0 + i0 + ${tile};
    ${names
      .filter((_, k) => k % 2 === 0)
      .map((_, c) => {
        const values = ['high.x, low.w, low.z, low.y', 'high.yx, low.wz', 'high.zyx, low.w', 'high.wzyx']
        return `
    workgroupBarrier();
    ${distancesLoad(g, `${c} * chunkSize`, 'distance0')}
    workgroupBarrier();
    for (var q = 0; q < ${tile / 4}; q++) {
      ${four((y) => `let w${y} = pairTile[pairAt(4 * q + ${y}, ty)];`)}
      ${[0, 1]
        .map(
          (half) => `{
        let low = positionTile[distanceAt(tx + ${8 * half}, q - ty + 7)];
        let high = positionTile[distanceAt(tx + ${8 * half}, q - ty + 8)];
        ${four((y) => `${names[2 * c + half]} += w${y} * vec4<f32>(${values[y]});`)}
      }`,
        )
        .join('\n')}
    }`
      })
      .join('')}
    }`

/** The same where every pair looks its key up. */
const anyPositions = (names: readonly string[], g: number) => `
    for (var j = 0; j < ${tile}; j++) {
      let w = pairTile[pairAt(j, ty)];
      let base = i32(slotTile[j].x);
      let columns = vec4<i32>(${[0, 1, 2, 3].map((x) => `columnOf${g}(base + passed${g}(i0 + 4 * ty + ${x}))`).join(', ')});
      ${names
        .map(
          (name, k) =>
            `if (${featureOf(k)} < D) { ${name} += w * positionQuad${g}(head, ${featureOf(k)}, columns); }`,
        )
        .join('\n      ')}
    }`

/** By tiles of slots: gradients of keys, values and lives. */
function slotGradients(request: AttentionRequest, inputs: Inputs, plan: Plan): Record<string, Tensor> {
  const { batch, heads, size, slots, persistent, life } = plan
  const { inputs: tensors, names } = declared({ ...inputs })
  const rows = 2 * size + (life ? 1 : 0)
  const all = slots + persistent
  let packed: readonly number[] | Tensor = [batch, heads, rows, all]
  for (const [g, { slots: count }] of plan.groups.entries())
    packed = run(
      shaderOf(plan, `slots-back${g}`, names, tileThreads, () => slotsCode(plan, names, g)),
      {
        inputs: tensors,
        into: packed,
        uniforms: uniformsOf(plan, request.scale, 1),
        workgroups: batch * heads * Math.ceil(count / tile),
      },
    )
  const whole = packed as Tensor
  const part = (row: number, origin: number, count: number) =>
    slice(whole, [0, 0, row, origin], [batch, heads, size, count])
  const gradients: Record<string, Tensor> = { keys: part(0, 0, slots), values: part(size, 0, slots) }
  if (persistent > 0) {
    const overStreams = (x: Tensor) =>
      sumOf(x, [heads, size, persistent], { count: batch, inner: x.size / batch })
    gradients['persistent.keys'] = overStreams(part(0, slots, persistent))
    gradients['persistent.values'] = overStreams(part(size, slots, persistent))
  }
  if (life) {
    const pitch = rows * all
    const origin = { outerPitch: heads * pitch, pitch, offset: 2 * size * all }
    gradients[termName(request, 'slot-life', 'life')] = sumOf(whole, [batch, slots], {
      count: heads,
      inner: slots,
      ...origin,
    })
  }
  return gradients
}

const slotsCode = (plan: Plan, names: readonly string[], g: number) => {
  const { size, life, span, rows } = plan
  const [keys, values] = [accumulators('keySum', size), accumulators('valueSum', size)]
  const row = plan.groups[g]!.index === undefined ? rows.persistent : rows.content
  const source = (begin: string | number) => (feature: string, quad: string) =>
    `rowQuad(stream, head, ${begin}, ${feature}, i0 + 4 * ${quad})`
  return `${backwardCode(plan, names)}
${pairTile}
${life ? sumTile : ''}
fn main(index: i32) {
  ${slotTile(g)}
  ${[...keys, ...values].map((name) => `var ${name} = vec4<f32>();`).join(' ')}
  var lives = vec4<f32>();
  for (var i0 = 0; i0 < uniforms.sizes.z; i0 += ${tile}) {
    workgroupBarrier();
    loadRows(stream, head, i0);
    if (!loadSlots${g}(stream, i0, j0, none, far)) { continue; }
    ${pairGradients(plan, names, g)}
    ${storeByQuery((x) => `w${x}`)}
    ${accumulate(values, source('gradientRow'))}
    workgroupBarrier();
    ${storeByQuery((x) => `ds${x} * uniforms.terms.x`)}
    ${accumulate(keys, source(row))}
    ${
      life
        ? four((x) => {
            const slope = (y: string) =>
              `slopeOf(lifeRamp(d${x}.${y}, s.life.${y}), uniforms.terms.y)${span ? ` * within01(spanRamp(d${x}.${y}, s.flags.${y}, row${x}.w))` : ''}`
            return `let d${x} = distances${g}(s, i0 + 4 * ty + ${x});
    lives += dm${x} * vec4<f32>(${['x', 'y', 'z', 'w'].map(slope).join(', ')});`
          })
        : ''
    }
  }
  ${life ? sumOverQueries('lives') : ''}
  if (!within) { return; }
  ${keys.map((name, k) => `writeSlots(stream, head, 0, ${featureOf(k)}, j0 + 4 * ty, ${name});`).join('\n  ')}
  ${values.map((name, k) => `writeSlots(stream, head, D, ${featureOf(k)}, j0 + 4 * ty, ${name});`).join('\n  ')}
  ${life ? 'if (ty == 0) { writeSlots(stream, head, 2 * D, 0, j0 + 4 * tx, lives); }' : ''}
}
fn writeSlots(stream: i32, head: i32, begin: i32, feature: i32, j: i32, values: vec4<f32>) {
  if (feature >= D) { return; }
  let all = uniforms.sizes.w + uniforms.more.x;
  let origin = ((stream * uniforms.sizes.y + head) * ${2 * size + (life ? 1 : 0)} + begin + feature) * all + uniforms.group${g}.x + j;
  for (var y = 0; y < 4; y++) {
    if (j + y < uniforms.group${g}.y) { result[origin + y] = values[y]; }
  }
}`
}

/** By tiles of distances: gradients of their keys, for each stream and head, then summed. */
function positionGradients(request: AttentionRequest, inputs: Inputs, plan: Plan): Record<string, Tensor> {
  const { batch, heads, size } = plan
  const { inputs: tensors, names } = declared({ ...inputs })
  const gradients: Record<string, Tensor> = {}
  // A group without slots may have keys of distances all the same.
  for (const [index, { slots, positions }] of request.groups.entries())
    if (slots === 0 && positions) gradients[`groups.${index}.rows`] = zerosLike(positions.rows)
  for (const group of placedGroups(plan.groups)) {
    const g = plan.groups.indexOf(group)
    const { low, high, heads: own } = group.positions
    const columns = high - low + 1
    const perHead = run(
      shaderOf(plan, `positions-back${g}/${group.positions.featureMajor}`, names, tileThreads, () =>
        positionsCode(plan, names, g, group.positions),
      ),
      {
        inputs: tensors,
        into: [batch, heads, columns * size],
        uniforms: uniformsOf(plan, request.scale, 1),
        workgroups: batch * heads * Math.ceil(columns / tile),
      },
    )
    const { rows } = request.groups[group.index!]!.positions!
    const count = own === 1 ? batch * heads : batch
    gradients[`groups.${group.index}.rows`] = sumOf(perHead, rows.shape, {
      count,
      inner: own * columns * size,
    })
  }
  return gradients
}

const positionsCode = (plan: Plan, names: readonly string[], g: number, positions: PositionsPlan) => {
  const sums = accumulators('sum', plan.size)
  const [feature, column] = ownSteps(positions, plan.size)
  // The number of columns is no part of the code.
  const place = positions.featureMajor
    ? 'feature * columns + column'
    : `feature * ${feature} + column * ${column}`
  const { even } = plan.groups[g]!
  return `${backwardCode(plan, names)}
/** Gradients of the logits of queries × slots. */
var<workgroup> logitTile: array<f32, ${tile * tile}>;
fn storeLogits(row: i32, values: vec4<f32>) {
  let place = row * ${tile} + 4 * tx;
  logitTile[place] = values.x; logitTile[place + 1] = values.y; logitTile[place + 2] = values.z; logitTile[place + 3] = values.w;
}
${
  even
    ? `/** Those of one query for four distances: each is one slot's. */
fn byDistance(row: i32, nearest: i32) -> vec4<f32> {
  var quad = vec4<f32>();
  for (var k = 0; k < 4; k++) {
    let column = nearest + row + 4 * ty + k;
    if ((column >= 0) & (column < ${tile})) { quad[k] = logitTile[row * ${tile} + column]; }
  }
  return quad * uniforms.terms.x;
}`
    : `/** Adds up each query's slots of one distance, in place. */
fn spread${g}(i0: i32, c0: i32) {
  let row = i32(localIndex);
  workgroupBarrier();
  if (row < ${tile}) {
    var sums: array<f32, ${tile}>;
    for (var j = 0; j < ${tile}; j++) {
      let column = columnOf${g}(i32(slotTile[j].x) + passed${g}(i0 + row)) - c0;
      if ((column >= 0) & (column < ${tile})) { sums[column] += logitTile[row * ${tile} + j]; }
    }
    for (var column = 0; column < ${tile}; column++) { logitTile[row * ${tile} + column] = sums[column]; }
  }
}
fn byDistance(row: i32, nearest: i32) -> vec4<f32> {
  let place = row * ${tile} + 4 * ty;
  return vec4<f32>(logitTile[place], logitTile[place + 1], logitTile[place + 2], logitTile[place + 3]) * uniforms.terms.x;
}`
}
fn main(index: i32) {
  tx = i32(localIndex) & 7;
  ty = i32(localIndex) >> 3u;
  let high = uniforms.positions${g}.y;
  let columns = high - uniforms.positions${g}.x + 1;
  let tiles = (columns + ${tile - 1}) / ${tile};
  let workgroup = index / ${tileThreads};
  let c0 = (workgroup % tiles) * ${tile};
  let head = (workgroup / tiles) % uniforms.sizes.y;
  let stream = workgroup / (tiles * uniforms.sizes.y);
  let least = f32(high - c0 - ${tile - 1});
  let most = select(f32(high - c0), far, (c0 == 0) & (uniforms.positions${g}.w == 1));
  ${sums.map((name) => `var ${name} = vec4<f32>();`).join(' ')}
  for (var i0 = 0; i0 < uniforms.sizes.z; i0 += ${tile}) {
    workgroupBarrier();
    loadRows(stream, head, i0);
    for (var j0 = 0; j0 < uniforms.group${g}.y; j0 += ${tile}) {
      if (!loadSlots${g}(stream, i0, j0, least, most)) { continue; }
      ${pairGradients(plan, names, g)}
      ${four((x) => `storeLogits(4 * ty + ${x}, ds${x});`)}
      ${
        even
          ? `let nearest = uniforms.group${g}.w + i0 - j0 - high + c0;`
          : `spread${g}(i0, c0);
      let nearest = 0;`
      }
      ${accumulate(
        sums,
        (f, quad) => `rowQuad(stream, head, ${plan.rows.position}, ${f}, i0 + 4 * ${quad})`,
        (row) => `byDistance(${row}, nearest)`,
      )}
    }
  }
  if (stream >= uniforms.sizes.x) { return; }
  ${sums.map((name, k) => `writeColumns(stream, head, columns, ${featureOf(k)}, c0 + 4 * ty, ${name});`).join('\n  ')}
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
