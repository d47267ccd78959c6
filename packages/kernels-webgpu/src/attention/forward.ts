/**
 * The forward pass: attention by tiles, or by parts of a single query's slots, and their sum.
 * Dao et al. 2022 ("FlashAttention", arXiv 2205.14135), algorithm 1: a softmax over slots that are seen tile by tile.
 */
import type { Tensor } from '@tensorflow/tfjs-core'
import { run, runPerElement } from '../program'
import { droppedQuad, hasRamps, isPersistent, logitsCode } from './logits'
import { declared, type Inputs, threads } from './pack'
import { epsilon, partialRows } from './pairs'
import { far, type Plan, uniformsOf } from './plan'
import { productCode } from './products'
import { overSlots, queryTile, queryTiles, shaderOf, slotRange, tiledShader } from './shader'
import { part, singleCode } from './single'
import { accumulate, declareSums, sumsOf } from './sums'
import { blocksOf, four, queryOf, queryQuad, slotOf, storeBySlot, tileCode, times } from './tiles'
import { chooseTile, type Tile } from './tiling'

/** Parts in which the slots are attended to. */
export const splitsOf = (plan: Plan): number =>
  plan.block === 1 ? Math.ceil((plan.slots + plan.persistent) / part) : chooseTile(plan, 'forward').splits

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
