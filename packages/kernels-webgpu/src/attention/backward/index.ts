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
import { addN, reshape, slice, sum, type Tensor, zerosLike } from '@tensorflow/tfjs-core'
import { run, runPerElement, sumOf } from '../../program'
import { combination, splitsOf } from '../forward'
import { declared, type Inputs } from '../pack'
import { statisticRows } from '../pairs'
import { type Plan, placedGroups, uniformsOf } from '../plan'
import { queryTiles, shaderOf, tiledShader } from '../shader'
import { chooseTile, floatsOfPairs, floatsOfSlots, pairPitch, placesAtATime, slotRows } from '../tiling'
import { positionsCode } from './positions'
import { queriesCode } from './queries'
import { slotsCode } from './slots'
import { carriedGradient, votesBackward } from './votes'

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

/** The queries' buffer with gradients and statistics behind the queries. */
export function backwardInputs(
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

const termName = ({ terms }: AttentionRequest, kind: string, part: string) =>
  `terms.${terms.findIndex((term) => term.kind === kind)}.${part}`
