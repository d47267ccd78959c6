/**
 * Attention, forward. No more than a tile of logits is ever there; of each query two numbers are kept, from which the
 * backward pass makes the weights again.
 */
import { decay } from '../exponential'
import { packPanels } from '../pack'
import { multiplyPanels } from '../panels'
import { multiplyByRows } from '../row'
import { sumOf } from '../rows'
import { floatBytes } from '../simd'
import { tileColumns, tileRows } from '../tile'
import {
  computeRow,
  computeTile,
  copySlots,
  duringAt,
  enterBatch,
  enterHead,
  matrixAt,
  statisticsAt,
} from './logits'
import { Request } from './request'
import { addExactly, addRows, copyExactly, fillRow, largestOf, multiplyRows, nothing, scaleRow } from './rows'
import { layOut, tileQueries, Workspace, wholeTiles } from './workspace'

/** Added to the sum of weights after ramps, in units of the sum before them. */
export const smallest: f32 = 1e-8

/** Depth of the products with weights: panels of so many columns stay in the first cache. */
const depthAtOnce: i32 = 256

/** to = e^(from - largest), for values that are not larger. */
export function exponentialRow(from: usize, largest: f32, to: usize, end: usize): void {
  const values = f32x4.splat(largest)
  for (; to < end; to += 16) {
    v128.store(to, decay(f32x4.sub(v128.load(from), values)))
    from += 16
  }
}

/**
 * to[headSize, queries] (+)= features · weightsᵀ over the columns lowest..highest. `features`: panels of four features,
 * [count, 4] each; `weights`: [queries, columns].
 */
export function multiplyWeights(
  space: Workspace,
  size: i32,
  features: usize,
  count: i32,
  weights: usize,
  weightBytes: usize,
  lowest: i32,
  highest: i32,
  to: usize,
  toStep: usize,
  accumulate: bool,
): void {
  const depth = highest - lowest
  const featureBytes = <usize>tileRows * floatBytes
  const queryBytes = <usize>tileColumns * floatBytes
  packPanels(
    tileColumns,
    weights + <usize>lowest * floatBytes,
    weightBytes,
    floatBytes,
    space.queries,
    depth,
    space.turned,
  )
  let first = 0
  do {
    multiplyPanels(
      features + <usize>(lowest + first) * featureBytes,
      <usize>count * featureBytes,
      space.turned + <usize>first * queryBytes,
      <usize>depth * queryBytes,
      queryBytes,
      min(depthAtOnce, depth - first),
      to,
      toStep,
      size,
      space.queries,
      accumulate || first > 0,
      space.tile,
    )
    first += depthAtOnce
  } while (first < depth)
}

/** Turns the logits of one query into weights, in the tile. */
function weighRow(request: Request, space: Workspace, batch: i32, head: i32, query: i32): void {
  const lowest = <usize>space.lowest * floatBytes
  const highest = <usize>space.highest * floatBytes
  const inTile = <usize>(query - space.firstQuery)
  const row = space.row + lowest
  const rowEnd = space.row + highest
  const persistent = space.persistentLogits + inTile * space.persistentBytes
  const persistentEnd = persistent + <usize>space.persistentColumns * floatBytes
  if (request.persistent > 0) fillBehind(persistent, request.persistent, space.persistentColumns)

  let largest = largestOf(row, rowEnd)
  if (request.persistent > 0) largest = max(largest, largestOf(persistent, persistentEnd))
  if (largest === nothing) largest = 0
  exponentialRow(row, largest, row, rowEnd)
  let divisor = sumOf(row, rowEnd - row)
  if (request.persistent > 0) {
    exponentialRow(persistent, largest, persistent, persistentEnd)
    divisor += sumOf(persistent, persistentEnd - persistent)
  }
  if (request.rampCount > 0) {
    const before = divisor
    multiplyRows(row, space.strength + lowest, row, rowEnd)
    divisor = sumOf(row, rowEnd - row) + before * smallest
    if (request.persistent > 0) divisor += sumOf(persistent, persistentEnd - persistent)
  }
  const inverse: f32 = divisor > 0 ? 1 / divisor : 0
  const to = space.logits + inTile * space.rowBytes
  scaleRow(row, inverse, to + lowest, to + highest)
  if (request.persistent > 0) scaleRow(persistent, inverse, persistent, persistentEnd)
  if (request.mass) addRows(space.mass + lowest, to + lowest, space.mass + lowest, space.mass + highest)
  if (request.dropout) {
    dropRow(request, space, batch, head, query)
    multiplyRows(to + lowest, space.other + lowest, to + lowest, to + highest)
  }
  const statistics = statisticsAt(request, batch, head, query)
  store<f32>(statistics, largest)
  store<f32>(statistics, inverse, 4)
}

/** -infinity behind the values of a row. */
export function fillBehind(row: usize, count: i32, end: i32): void {
  for (let at = count; at < end; at++) store<f32>(row + <usize>at * floatBytes, nothing)
}

/** The dropout factors of one query, into space.other. */
export function dropRow(request: Request, space: Workspace, batch: i32, head: i32, query: i32): void {
  const row = (batch * request.heads + head) * request.block + query
  copySlots(request, space, matrixAt(request.dropout, row, request.slots), space.other)
}

/** F before the first query of a batch entry. */
export function enterVotes(request: Request, space: Workspace, batch: i32): void {
  fillRow(space.votes, space.votes + <usize>space.columns * floatBytes, 0)
  copyExactly(matrixAt(request.carried, batch, request.slots), space.votes, request.slots)
}

/** Counts what the query voted away; F as it saw it is noted down. */
export function addVotes(request: Request, space: Workspace, batch: i32, query: i32): void {
  // computeRow has taken F off already; what it adds comes after the query.
  copyExactly(space.votes, duringAt(request, space, batch, query), request.slots)
  const lowest = <usize>space.lowest * floatBytes
  const highest = <usize>space.highest * floatBytes
  addRows(space.votes + lowest, space.voted + lowest, space.votes + lowest, space.votes + highest)
}

function attendTile(request: Request, space: Workspace, batch: i32, head: i32, firstQuery: i32): void {
  computeTile(request, space, batch, head, firstQuery, false)
  for (let inTile = 0; inTile < space.queries; inTile++) {
    const query = firstQuery + inTile
    const votes = head === request.votingHead
    if (request.votingHead >= 0 && !votes)
      copyExactly(duringAt(request, space, batch, query), space.votes, request.slots)
    computeRow(request, space, batch, head, query, false)
    if (votes) addVotes(request, space, batch, query)
    weighRow(request, space, batch, head, query)
  }
  const size = request.headSize
  const matrix = batch * request.heads + head
  const context = matrixAt(request.context, matrix, size * request.block) + <usize>firstQuery * floatBytes
  const persistent = request.persistent
  if (request.block === 1) {
    const lowest = <usize>space.lowest * floatBytes
    const values = matrixAt(request.values, matrix, size * request.slots) + lowest
    const columns = min(space.highest, request.slots) - space.lowest
    multiplyByRows(space.logits + lowest, values, <usize>request.slots * floatBytes, context, size, columns)
    if (persistent > 0) {
      const values = matrixAt(request.persistentValues, head, size * persistent)
      const step = <usize>persistent * floatBytes
      multiplyByRows(space.persistentLogits, values, step, space.plainQueries, size, persistent)
      addExactly(space.plainQueries, context, size)
    }
    return
  }
  const toStep = <usize>request.block * floatBytes
  const lowest = space.lowest
  const highest = min(space.highest, request.slots)
  multiplyWeights(
    space,
    size,
    space.valueFeatures,
    request.slots,
    space.logits,
    space.rowBytes,
    lowest,
    highest,
    context,
    toStep,
    false,
  )
  if (persistent > 0)
    multiplyWeights(
      space,
      size,
      space.persistentValueFeatures,
      persistent,
      space.persistentLogits,
      space.persistentBytes,
      0,
      persistent,
      context,
      toStep,
      true,
    )
}

/** Units of work: batch entries where one head votes for all, else heads of batch entries. */
export function unitsOf(request: Request): i32 {
  return request.votingHead >= 0 ? request.batch : request.batch * request.heads
}

/**
 * Attends in units from..end-1. Heads follow each other slowest, so that keys of distances are packed once.
 * @param scratch where the address of this thread's working space is
 */
export function attend(at: usize, from: i32, end: i32, scratch: usize): void {
  const request = changetype<Request>(at)
  const workspace = load<usize>(scratch)
  layOut(request, workspace, false)
  const space = changetype<Workspace>(workspace)
  let entered = -1
  for (let unit = from; unit < end; unit++) {
    if (request.votingHead < 0) {
      const batch = unit % request.batch
      if (batch !== entered) enterBatch(request, space, batch)
      entered = batch
      attendHead(request, space, batch, unit / request.batch)
      continue
    }
    enterBatch(request, space, unit)
    enterVotes(request, space, unit)
    // The head that votes comes first.
    for (let index = 0; index < request.heads; index++)
      attendHead(request, space, unit, (request.votingHead + index) % request.heads)
  }
}

function attendHead(request: Request, space: Workspace, batch: i32, head: i32): void {
  enterHead(request, space, batch, head, false)
  if (request.mass) fillRow(space.mass, space.mass + <usize>wholeTiles(request.slots) * floatBytes, 0)
  for (let query = 0; query < request.block; query += tileQueries)
    attendTile(request, space, batch, head, query)
  if (request.mass) {
    const to = matrixAt(request.mass, batch * request.heads + head, request.slots)
    copyExactly(space.mass, to, request.slots)
  }
  if (head === request.votingHead && request.after !== 0)
    copyExactly(space.votes, matrixAt(request.after, batch, request.slots), request.slots)
}
