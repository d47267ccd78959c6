/** The attention that slots receive. */
import { mul, type Tensor } from '@tensorflow/tfjs-core'
import { sumOf } from '../../program'
import { declared, type Inputs } from '../pack'
import type { Plan } from '../plan'
import { productCode } from '../products'
import { slotTile } from '../shader'
import { slotQuad, tileCode, times } from '../tiles'
import { chooseTile, type Tile } from '../tiling'
import { groupByGroup } from '../votes'
import { backwardInputs } from '.'
import { perQuery, sumOverQueries, sumTile, weightsCode } from './pairs'

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
