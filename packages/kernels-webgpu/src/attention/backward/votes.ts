/** Gradients of votes. */
import type { ResultGradients } from '@lethe/core'
import { reshape, slice, type Tensor } from '@tensorflow/tfjs-core'
import { declared, type Inputs } from '../pack'
import type { Plan } from '../plan'
import { pairOfTiles, writePairs } from '../shader'
import { blocksOf } from '../tiles'
import { chooseTile, type Tile } from '../tiling'
import { groupByGroup, scan } from '../votes'
import { backwardCode, pairGradients, perQuery } from './pairs'

/** F beside the gradient of each vote [batch, block + 1, slots, 2]; behind the last query, that of `carried`. */
export function votesBackward(
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

export function carriedGradient(voted: Tensor, { batch, block, slots }: Plan): Tensor {
  return reshape(slice(voted, [0, block, 0, 1], [batch, 1, slots, 1]), [batch, slots])
}
