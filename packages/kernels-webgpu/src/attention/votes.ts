/** Selective attention: what earlier queries voted away. */
import type { Tensor } from '@tensorflow/tfjs-core'
import { run } from '../program'
import { slotQuadsCode } from './logits'
import { declared, type Inputs, threads } from './pack'
import { type Plan, uniformsOf } from './plan'
import { productCode } from './products'
import { pairOfTiles, tiledShader, writePairs } from './shader'
import { blocksOf, four, queryOf, tileCode } from './tiles'
import { chooseTile, type Tile } from './tiling'

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
    ${slotQuadsCode(tile)}
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
