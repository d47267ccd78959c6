/** Reading the queries' buffer, and what is known of a pair of a query and a slot: for all shaders. */
import { far, type GroupPlan, type Plan } from './plan'

/** What a shader binds. */
export interface Bound {
  /** Names of the inputs, see Inputs. */
  readonly names: readonly string[]
  /** The backward pass: gradients and statistics stand behind the queries. */
  readonly backward: boolean
}

const constants = (plan: Plan, { backward }: Bound) => {
  const { rows, size } = plan
  const gradient = rows.count
  const count = rows.count + (backward ? size + statisticRows : 0)
  return `
const D = ${size};
const rowCount = ${count};
const gradientRow = ${gradient};
const statisticRow = ${gradient + size};
const far = ${far};
const none = -${far};
`
}

/** Reading the queries' buffer, and what is known of a pair. For all shaders. */
export function pairCode(plan: Plan, bound: Bound, tiled = false): string {
  const { life, span } = plan
  const place = '((stream * (uniforms.sizes.z + 1) + i) * uniforms.sizes.w + j)'
  const read = (name: string, origin: string) =>
    `fn ${name}At(stream: i32, i: i32, j: i32) -> f32 { return ${origin}; }`
  return `${constants(plan, bound)}
fn rowAt(stream: i32, head: i32, row: i32, i: i32) -> f32 {
  let origin = ((stream * uniforms.sizes.y + head) * rowCount + row) * uniforms.sizes.z + i;
  return ${plan.aligned ? 'queries[origin >> 2u][origin & 3]' : 'queries[origin]'};
}
struct Slot { base: f32, farthest: f32, life: f32, flags: f32 };
fn slotAt(stream: i32, j: i32) -> Slot {
  let origin = (stream * uniforms.sizes.w + j) * 4;
  return Slot(slots[origin], slots[origin + 1], slots[origin + 2], slots[origin + 3]);
}
fn isExempt(flags: f32) -> bool { return flags == 1.0; }
/** The ramps before they are cut off at 0 and 1. */
fn lifeRamp(distance: f32, life: f32) -> f32 { return (life - distance) * uniforms.terms.y + 1.0; }
fn spanRamp(distance: f32, flags: f32, span: f32) -> f32 {
  return select((span + uniforms.terms.w - distance) * uniforms.terms.z + 1.0, 2.0, isExempt(flags));
}
fn within01(x: f32) -> f32 { return clamp(x, 0.0, 1.0); }
/** Slope of a ramp where it is not cut off. */
fn slopeOf(ramp: f32, slope: f32) -> f32 { return select(0.0, slope, (ramp >= 0.0) & (ramp <= 1.0)); }
/** 0 .. 1: how strongly a slot may be attended to from a distance within the window. */
fn strengthAt(distance: f32, life: f32, flags: f32, span: f32) -> f32 {
  return ${[life && 'within01(lifeRamp(distance, life))', span && 'within01(spanRamp(distance, flags, span))'].filter(Boolean).join(' * ') || '1.0'};
}
${bound.names.includes('selected') ? read('voted', `selected[${place}]`) : ''}
${bound.names.includes('voted') ? `${read('voted', `voted[${place} * 2]`)}\n${read('voteGradient', `voted[${place} * 2 + 1]`)}` : ''}
${plan.groups.map(groupCode(plan, bound, tiled)).join('\n')}`
}

/** One group's keys and values, distances, and the columns of its distances. */
const groupCode =
  ({ aligned }: Plan, { names }: Bound, tiled: boolean) =>
  (group: GroupPlan, g: number) => {
    const isPersistent = group.index === undefined
    const passed = group.pace === 1 ? 'i' : `i / uniforms.group${g}.z`
    const read = (source: 'keys' | 'values') =>
      isPersistent
        ? `persistent[(head * 2 * D + ${source === 'values' ? 'D + ' : ''}feature) * uniforms.more.x + j]`
        : `${source}[((stream * uniforms.sizes.y + head) * D + feature) * uniforms.sizes.w + uniforms.group${g}.x + j]`
    const p = `uniforms.positions${g}`
    // Where quads of them are bound, they are read as such.
    const one = (kind: 'key' | 'value') =>
      names.includes(isPersistent ? 'persistent' : `${kind}s`) && (isPersistent || !aligned)
        ? `fn ${kind}At${g}(stream: i32, head: i32, feature: i32, j: i32) -> f32 { return ${read(`${kind}s`)}; }`
        : ''
    return `
${one('key')}
${one('value')}
fn slotOf${g}(stream: i32, j: i32) -> Slot {
  if (j >= uniforms.group${g}.y) { return Slot(0.0, none, 0.0, 0.0); }
  ${isPersistent ? 'return Slot(0.0, far, far, 1.0);' : `return slotAt(stream, uniforms.group${g}.x + j);`}
}
fn passed${g}(i: i32) -> i32 { return ${passed}; }
fn mayAttend${g}(distance: f32, farthest: f32) -> bool {
  return (distance >= uniforms.nearest${g}.x) & (distance <= farthest);
}
${
  group.positions
    ? `/** Which key a distance has, -1 for none. */
fn columnOf${g}(distance: i32) -> i32 {
  let column = ${p}.y - distance;
  let clamped = select(column, 0, (column < 0) & (${p}.w == 1));
  return select(-1, clamped, (clamped >= 0) & (distance >= ${p}.x));
}`
    : ''
}
${
  group.positions && names.includes('positions')
    ? `fn positionAt${g}(head: i32, feature: i32, column: i32) -> f32 {
  let origin = head * uniforms.steps.x + feature * uniforms.steps.y + (${p}.z + column) * uniforms.steps.z;
  return select(0.0, ${tiled ? 'positions[max(origin, 0) >> 2u][origin & 3]' : 'positions[max(origin, 0)]'}, column >= 0);
}`
    : ''
}
`
  }

/** Rows of a partial result behind its features: the largest logit, Σ m·e, Σ e. */
export const partialRows = 3
/** Rows of the queries' buffer in the backward pass behind the gradient: largest logit, 1 / total, Σ weight · gradient. */
export const statisticRows = 3

/** Plain operations divide by total + this, as a share of the total without strengths. */
export const epsilon = 1e-8
