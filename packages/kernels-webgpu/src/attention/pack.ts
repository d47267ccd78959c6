/** The tensors of a request in the forms that shaders bind. */
import type { AttentionRequest } from '@lethe/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import { run, runPerElement, type Uniform } from '../program'
import { far, type Plan, perStream, placedGroups, planOf } from './plan'

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

export const declared = (tensors: Readonly<Record<string, Tensor | undefined>>) => {
  const there = Object.entries(tensors).filter((entry): entry is [string, Tensor] => entry[1] !== undefined)
  return { inputs: there.map(([, tensor]) => tensor), names: there.map(([name]) => name) }
}

/** Threads of programs that are not divided into tiles. */
export const threads = 64

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
