/** Attention of a single query, as in decoding. */
import { threads } from './pack'
import { pairCode, partialRows } from './pairs'
import type { Plan } from './plan'

/** Slots of one part of a single query's attention. */
export const part = 128

/** One query: each workgroup attends to its part of the slots, which the combination then adds. */
export const singleCode = (plan: Plan, names: readonly string[]) => {
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
