/** Logits of a tile of queries, and what one row of them is made of: distances, masks, strengths, votes. */
import { packPanels } from '../pack'
import { multiplyPanels } from '../panels'
import { multiplyByColumns, multiplyByRows } from '../row'
import { floatBytes } from '../simd'
import { tileColumns, tileRows } from '../tile'
import { Bias, Group, Ramp, Request } from './request'
import { addRows, copyExactly, copyRow, fillRow, nothing, shiftRow, subtractRows } from './rows'
import { GroupSpace, groupAt, reachBytes, spaceAt, tileQueries, Workspace, wholeTiles } from './workspace'

const panelBytes: usize = <usize>tileColumns * floatBytes
const featureBytes: usize = <usize>tileRows * floatBytes

export function rampAt(request: Request, index: i32): Ramp {
  return changetype<Ramp>(request.ramps + <usize>index * offsetof<Ramp>())
}

/** The address of matrix `index` of those that follow each other. */
export function matrixAt(from: usize, index: i32, size: i32): usize {
  return from + <usize>index * <usize>size * floatBytes
}

/** Steps by which a group's distances have grown before this query. */
function movedBy(group: Group, query: i32): i32 {
  return group.scattered ? query : query / group.pace
}

/** The first slot of a contiguous group within the window of a query. */
function firstSlot(group: Group, query: i32): i32 {
  if (group.scattered) return 0
  const oldest = <f64>group.first + <f64>movedBy(group, query) - <f64>group.farthest
  return <i32>min(max(ceil(oldest), 0), <f64>group.slots)
}

/** The slot behind the last one within it. */
function endSlot(group: Group, query: i32): i32 {
  if (group.scattered) return group.slots
  const newest = <f64>group.first + <f64>movedBy(group, query) - <f64>group.nearest
  return max(firstSlot(group, query), <i32>min(max(floor(newest) + 1, 0), <f64>group.slots))
}

/** The slot of a contiguous group whose key of distances is the first one, for this query. */
function slotOfFirstKey(group: Group, query: i32): i32 {
  return <i32>group.first + movedBy(group, query) - group.high
}

/** Notes down which slots of a contiguous group, within the window of a query, have keys of their distances. */
export function shareOfKeys(group: Group, own: GroupSpace, query: i32): void {
  const key = slotOfFirstKey(group, query)
  const slot = max(firstSlot(group, query), key)
  const end = min(endSlot(group, query), key + group.distances)
  own.slot = slot
  own.first = slot < end ? slot - key : own.lowest
  own.end = slot < end ? end - key : own.lowest
}

/** What is the same for all heads of a batch entry: rows over all slots. */
export function enterBatch(request: Request, space: Workspace, batch: i32): void {
  const rowEnd = reachBytes(space)
  fillRow(space.closed, space.closed + rowEnd, 0)
  for (let index = 0; index < request.groupCount; index++) {
    const group = groupAt(request, index)
    const picks = group.rows ? spaceAt(space, index).picks : 0
    for (let slot = 0; slot < group.slots; slot++) {
      const from = <usize>(batch * group.slots + slot) * floatBytes
      const at = <usize>(group.start + slot) * floatBytes
      let distance = group.first - <f32>slot
      if (group.scattered) {
        distance = group.ageIsFloat ? load<f32>(group.age + from) : <f32>load<i32>(group.age + from)
        if (picks) store<i32>(picks + <usize>slot * 4, group.high - <i32>min(distance, group.oldest))
      }
      const exempt = group.exempt !== 0 && load<f32>(group.exempt + from) !== 0
      if (group.valid !== 0 && load<f32>(group.valid + from) === 0) store<f32>(space.closed + at, nothing)
      store<f32>(space.distances + at, distance)
      store<f32>(space.termDistances + at, exempt ? nothing : distance)
    }
  }
  for (let index = 0; index < request.rampCount; index++) {
    const ramp = rampAt(request, index)
    const to = space.reaches + <usize>index * rowEnd
    if (ramp.perSlot) copyExactly(matrixAt(ramp.values, batch, request.slots), to, request.slots)
  }
  if (request.votingHead >= 0) {
    const unvoted = matrixAt(request.unvoted, batch, request.slots)
    for (let slot = 0; slot < request.slots; slot++) {
      const at = <usize>slot * floatBytes
      store<f32>(space.votable + at, 1 - load<f32>(unvoted + at))
    }
  }
}

/** Packs keys and values of one head, and keys of distances where they are not yet. */
export function enterHead(request: Request, space: Workspace, batch: i32, head: i32, backward: bool): void {
  const single = request.block === 1 && !backward
  if (single) return
  const size = request.headSize
  const slots = request.slots
  const row = <usize>slots * floatBytes
  const matrix = batch * request.heads + head
  const keys = matrixAt(request.keys, matrix, size * slots)
  const values = matrixAt(request.values, matrix, size * slots)
  packPanels(tileColumns, keys, floatBytes, row, slots, size, space.keyPanels)
  if (backward) {
    packPanels(tileColumns, values, floatBytes, row, slots, size, space.valuePanels)
    packPanels(tileRows, keys, row, floatBytes, size, slots, space.keyFeatures)
  } else packPanels(tileRows, values, row, floatBytes, size, slots, space.valueFeatures)
  const persistent = request.persistent
  if (persistent > 0) {
    const row = <usize>persistent * floatBytes
    const keys = matrixAt(request.persistentKeys, head, size * persistent)
    const values = matrixAt(request.persistentValues, head, size * persistent)
    packPanels(tileColumns, keys, floatBytes, row, persistent, size, space.persistentKeyPanels)
    if (backward) {
      packPanels(tileColumns, values, floatBytes, row, persistent, size, space.persistentValuePanels)
      packPanels(tileRows, keys, row, floatBytes, size, persistent, space.persistentKeyFeatures)
    } else packPanels(tileRows, values, row, floatBytes, size, persistent, space.persistentValueFeatures)
  }
  for (let index = 0; index < request.groupCount; index++) {
    const group = groupAt(request, index)
    const own = spaceAt(space, index)
    const set = group.rowSets === 1 ? 0 : head
    if (group.rows === 0 || own.packed === set) continue
    own.packed = set
    const count = group.distances
    const rows = matrixAt(group.rows, set, size * count)
    const distanceStep = group.featureMajor ? floatBytes : <usize>size * floatBytes
    const featureStep = group.featureMajor ? <usize>count * floatBytes : floatBytes
    packPanels(tileColumns, rows, distanceStep, featureStep, count, size, own.rowPanels)
    if (backward) packPanels(tileRows, rows, featureStep, distanceStep, size, count, own.rowFeatures)
  }
}

/** The scaled queries of the tile with a bias: [headSize, queries]. */
function scaleQueries(request: Request, space: Workspace, from: usize, bias: usize, to: usize): void {
  const rowBytes = <usize>request.block * floatBytes
  from += <usize>space.firstQuery * floatBytes
  for (let feature = 0; feature < request.headSize; feature++) {
    let shift: f32 = 0
    if (bias) shift = load<f32>(bias + <usize>feature * floatBytes) * request.scale
    let query = 0
    for (; query + 4 <= space.queries; query += 4) {
      const at = <usize>query * floatBytes
      const values = f32x4.mul(v128.load(from + at), f32x4.splat(request.scale))
      v128.store(to + at, f32x4.add(values, f32x4.splat(shift)))
    }
    for (; query < space.queries; query++) {
      const at = <usize>query * floatBytes
      store<f32>(to + at, load<f32>(from + at) * request.scale + shift)
    }
    from += rowBytes
    to += space.featureBytes
  }
}

/** Sets the tile, and says which columns and distances its queries reach. */
function placeTile(request: Request, space: Workspace, firstQuery: i32): void {
  space.firstQuery = firstQuery
  space.queries = min(tileQueries, request.block - firstQuery)
  let lowest = request.slots
  let highest = 0
  for (let index = 0; index < request.groupCount; index++) {
    const group = groupAt(request, index)
    const own = spaceAt(space, index)
    let lowestKey = group.scattered ? 0 : group.distances
    let highestKey = group.scattered ? group.distances : 0
    for (let query = firstQuery; query < firstQuery + space.queries; query++) {
      const first = firstSlot(group, query)
      const end = endSlot(group, query)
      if (end === first) continue
      lowest = min(lowest, group.start + first)
      highest = max(highest, group.start + end)
      if (group.scattered) break
      const key = slotOfFirstKey(group, query)
      lowestKey = min(lowestKey, first - key)
      highestKey = max(highestKey, end - key)
    }
    if (group.rows === 0) continue
    own.lowest = max(0, lowestKey) & ~(tileColumns - 1)
    own.highest = max(own.lowest, min(group.distances, highestKey))
  }
  space.lowest = min(lowest, highest) & ~(tileColumns - 1)
  space.highest = wholeTiles(highest)
}

/** to[queries, columns] = queriesᵀ · columns, for the columns from `lowest` on. `queries`: [headSize, queries]. */
export function multiplyQueries(
  space: Workspace,
  queries: usize,
  lineStep: usize,
  size: i32,
  panels: usize,
  to: usize,
  toStep: usize,
  lowest: i32,
  highest: i32,
): void {
  packPanels(tileRows, queries, floatBytes, lineStep, space.queries, size, space.left)
  const panel = <usize>size * panelBytes
  multiplyPanels(
    space.left,
    <usize>size * featureBytes,
    panels + <usize>(lowest / tileColumns) * panel,
    panel,
    panelBytes,
    size,
    to + <usize>lowest * floatBytes,
    toStep,
    space.queries,
    highest - lowest,
    false,
    space.tile,
  )
}

/** Computes the products of the tile's queries with keys and keys of distances. */
export function computeTile(
  request: Request,
  space: Workspace,
  batch: i32,
  head: i32,
  firstQuery: i32,
  backward: bool,
): void {
  placeTile(request, space, firstQuery)
  const size = request.headSize
  const single = request.block === 1 && !backward
  const matrix = batch * request.heads + head
  const queries = matrixAt(request.queries, matrix, size * request.block)
  const contentBias = request.contentBias ? matrixAt(request.contentBias, head, size) : 0
  const positionBias = request.positionBias ? matrixAt(request.positionBias, head, size) : 0
  scaleQueries(request, space, queries, contentBias, space.contentQueries)
  scaleQueries(request, space, queries, positionBias, space.positionQueries)

  if (single) {
    const keys = matrixAt(request.keys, matrix, size * request.slots) + <usize>space.lowest * floatBytes
    const to = space.logits + <usize>space.lowest * floatBytes
    const columns = min(space.highest, request.slots) - space.lowest
    multiplyByColumns(space.contentQueries, keys, <usize>request.slots * floatBytes, to, columns, size)
  } else
    multiplyQueries(
      space,
      space.contentQueries,
      space.featureBytes,
      size,
      space.keyPanels,
      space.logits,
      space.rowBytes,
      space.lowest,
      space.highest,
    )

  const persistent = request.persistent
  if (persistent > 0) {
    const unturned = request.persistentQueries
      ? matrixAt(request.persistentQueries, matrix, size * request.block)
      : queries
    scaleQueries(request, space, unturned, 0, space.plainQueries)
    if (single) {
      const keys = matrixAt(request.persistentKeys, head, size * persistent)
      const step = <usize>persistent * floatBytes
      multiplyByColumns(space.plainQueries, keys, step, space.persistentLogits, persistent, size)
    } else
      multiplyQueries(
        space,
        space.plainQueries,
        space.featureBytes,
        size,
        space.persistentKeyPanels,
        space.persistentLogits,
        space.persistentBytes,
        0,
        persistent,
      )
  }

  for (let index = 0; index < request.groupCount; index++) {
    const group = groupAt(request, index)
    if (group.rows === 0) continue
    const own = spaceAt(space, index)
    if (single) {
      const set = matrixAt(group.rows, group.rowSets === 1 ? 0 : head, size * group.distances)
      const to = own.byDistance + <usize>own.lowest * floatBytes
      const count = own.highest - own.lowest
      if (group.featureMajor) {
        const keys = set + <usize>own.lowest * floatBytes
        multiplyByColumns(space.positionQueries, keys, <usize>group.distances * floatBytes, to, count, size)
      } else {
        const step = <usize>size * floatBytes
        multiplyByRows(space.positionQueries, set + <usize>own.lowest * step, step, to, count, size)
      }
    } else
      multiplyQueries(
        space,
        space.positionQueries,
        space.featureBytes,
        size,
        own.rowPanels,
        own.byDistance,
        own.rowBytes,
        own.lowest,
        own.highest,
      )
  }
}

/** Whether distances of single queries matter. */
function needsDistances(request: Request): bool {
  return request.rampCount > 0 || request.votingHead >= 0
}

/** row = products of keys and of distances within the windows, -infinity elsewhere. */
function placeRow(request: Request, space: Workspace, query: i32): void {
  const inTile = <usize>(query - space.firstQuery)
  const logits = space.logits + inTile * space.rowBytes
  const row = space.row
  let cursor = <usize>space.lowest * floatBytes
  // What is written beyond a range is written over by what follows it.
  for (let index = 0; index < request.groupCount; index++) {
    const group = groupAt(request, index)
    const own = spaceAt(space, index)
    const firstOfAll = firstSlot(group, query)
    const endOfAll = endSlot(group, query)
    if (endOfAll === firstOfAll) continue
    const start = <usize>group.start * floatBytes
    const first = start + <usize>firstOfAll * floatBytes
    const end = start + <usize>endOfAll * floatBytes
    fillRow(row + cursor, row + first, nothing)
    cursor = end
    if (needsDistances(request))
      shiftRow(
        space.termDistances + first,
        <f32>movedBy(group, query),
        space.distance + first,
        space.distance + end,
      )
    if (group.scattered) {
      pickPositions(group, query, logits + start, own, inTile, row + start)
      maskRow(group, query, space, first, end)
    } else if (group.rows === 0) copyRow(logits + first, row + first, row + end)
    else {
      shareOfKeys(group, own, query)
      const count = own.end - own.first
      const firstKey = count > 0 ? start + <usize>own.slot * floatBytes : first
      const endKey = firstKey + <usize>count * floatBytes
      const keys = own.byDistance + inTile * own.rowBytes + <usize>own.first * floatBytes
      copyRow(logits + first, row + first, row + firstKey)
      addRows(logits + firstKey, keys, row + firstKey, row + endKey)
      copyRow(logits + endKey, row + endKey, row + end)
    }
  }
  fillRow(row + cursor, row + <usize>space.highest * floatBytes, nothing)
}

/** to = logits, and what each scattered slot's own distance adds. */
function pickPositions(
  group: Group,
  query: i32,
  logits: usize,
  own: GroupSpace,
  inTile: usize,
  to: usize,
): void {
  const end = logits + <usize>group.slots * floatBytes
  if (group.rows === 0) {
    copyRow(logits, to, to + <usize>group.slots * floatBytes)
    return
  }
  const byDistance = own.byDistance + inTile * own.rowBytes
  const count = <u32>group.distances
  let pick = own.picks
  for (; logits < end; logits += floatBytes) {
    let value = load<f32>(logits)
    const column = <u32>(load<i32>(pick) - query)
    if (column < count) value += load<f32>(byDistance + <usize>column * floatBytes)
    store<f32>(to, value)
    to += floatBytes
    pick += 4
  }
}

/** -infinity for scattered slots outside the window. */
function maskRow(group: Group, query: i32, space: Workspace, first: usize, end: usize): void {
  const nearest = f32x4.splat(group.nearest - <f32>query)
  const farthest = f32x4.splat(group.farthest - <f32>query)
  for (let at = first; at < end; at += 16) {
    const near = f32x4.ge(v128.load(space.distances + at), nearest)
    const far = f32x4.le(v128.load(space.termDistances + at), farthest)
    const value = v128.load(space.row + at)
    v128.store(space.row + at, v128.bitselect(value, f32x4.splat(nothing), v128.and(near, far)))
  }
}

/** How far query `query` reaches by a ramp that is not per slot. */
function reachOf(ramp: Ramp, batch: i32, head: i32, query: i32): f32 {
  const at = batch * ramp.batchStep + head * ramp.headStep + query * ramp.queryStep
  return load<f32>(ramp.values + <usize>at * floatBytes) + ramp.nearest
}

/** The values of a ramp before they are clamped; rounded as the plain operations do, so that the bounds are the same. */
function rampBefore(space: Workspace, ramp: Ramp, reach: v128, reaches: usize, at: usize): v128 {
  if (ramp.perSlot) reach = v128.load(reaches + at)
  const beyond = f32x4.sub(reach, v128.load(space.distance + at))
  return f32x4.add(f32x4.mul(beyond, f32x4.splat(ramp.inverse)), f32x4.splat(1))
}

/** to = the product of all ramps but one (-1: of all). */
export function strengthRow(
  request: Request,
  space: Workspace,
  batch: i32,
  head: i32,
  query: i32,
  without: i32,
  to: usize,
): void {
  const lowest = <usize>space.lowest * floatBytes
  const highest = <usize>space.highest * floatBytes
  fillRow(to + lowest, to + highest, 1)
  for (let index = 0; index < request.rampCount; index++) {
    if (index === without) continue
    const ramp = rampAt(request, index)
    const reach = f32x4.splat(ramp.perSlot ? 0 : reachOf(ramp, batch, head, query))
    const reaches = space.reaches + <usize>index * reachBytes(space)
    for (let at = lowest; at < highest; at += 16) {
      const before = rampBefore(space, ramp, reach, reaches, at)
      // In this order a NaN, of columns that nobody reaches, becomes 0.
      const value = f32x4.pmin(f32x4.pmax(f32x4.splat(0), before), f32x4.splat(1))
      v128.store(to + at, f32x4.mul(v128.load(to + at), value))
    }
  }
}

/** slope = slope · inverse where the ramp rises, 0 where it is clamped. */
export function rampSlope(
  request: Request,
  space: Workspace,
  batch: i32,
  head: i32,
  query: i32,
  index: i32,
  slope: usize,
): void {
  const ramp = rampAt(request, index)
  const reach = f32x4.splat(ramp.perSlot ? 0 : reachOf(ramp, batch, head, query))
  const reaches = space.reaches + <usize>index * reachBytes(space)
  const highest = <usize>space.highest * floatBytes
  for (let at = <usize>space.lowest * floatBytes; at < highest; at += 16) {
    const before = rampBefore(space, ramp, reach, reaches, at)
    const rises = v128.and(f32x4.ge(before, f32x4.splat(0)), f32x4.le(before, f32x4.splat(1)))
    const value = f32x4.mul(v128.load(slope + at), f32x4.splat(ramp.inverse))
    v128.store(slope + at, v128.and(value, rises))
  }
}

/** The row of a bias, 0 where terms do not apply, into space.other. */
function biasRow(request: Request, space: Workspace, bias: Bias, batch: i32, head: i32, query: i32): void {
  const lowest = <usize>space.lowest * floatBytes
  const highest = <usize>space.highest * floatBytes
  const at = batch * bias.batchStep + head * bias.headStep + query * bias.queryStep
  const from = bias.values + <usize>at * floatBytes
  if (bias.slotStep) copySlots(request, space, from, space.other)
  else fillRow(space.other + lowest, space.other + highest, load<f32>(from))
  applyTerms(space, space.other)
}

/** to = the values of the tile's slots, from those of all slots; 0 in the columns behind the last slot. */
export function copySlots(request: Request, space: Workspace, from: usize, to: usize): void {
  const lowest = <usize>space.lowest * floatBytes
  const highest = <usize>space.highest * floatBytes
  fillRow(to + <usize>max(space.lowest, space.highest - tileColumns) * floatBytes, to + highest, 0)
  copyExactly(from + lowest, to + lowest, min(request.slots, space.highest) - space.lowest)
}

/** 0 where no term applies. */
export function applyTerms(space: Workspace, row: usize): void {
  const highest = <usize>space.highest * floatBytes
  for (let at = <usize>space.lowest * floatBytes; at < highest; at += 16) {
    const applies = f32x4.gt(v128.load(space.termDistances + at), f32x4.splat(nothing))
    v128.store(row + at, v128.and(v128.load(row + at), applies))
  }
}

/**
 * The logits of one query with everything that is added, into space.row: -infinity where it may not attend. The votes of
 * the voting head go into space.voted: in the forward pass what they add to F, in the backward pass 1 for each.
 */
export function computeRow(
  request: Request,
  space: Workspace,
  batch: i32,
  head: i32,
  query: i32,
  backward: bool,
): void {
  const lowest = <usize>space.lowest * floatBytes
  const highest = <usize>space.highest * floatBytes
  const row = space.row
  placeRow(request, space, query)
  addRows(row + lowest, space.closed + lowest, row + lowest, row + highest)
  if (request.votingHead >= 0) {
    if (head === request.votingHead) countVotes(space, backward)
    subtractRows(row + lowest, space.votes + lowest, row + lowest, row + highest)
  }
  for (let index = 0; index < request.biasCount; index++) {
    biasRow(request, space, biasAt(request, index), batch, head, query)
    addRows(row + lowest, space.other + lowest, row + lowest, row + highest)
  }
  if (request.rampCount > 0) {
    strengthRow(request, space, batch, head, query, -1, space.strength)
    for (let at = lowest; at < highest; at += 16) {
      const alive = f32x4.gt(v128.load(space.strength + at), f32x4.splat(0))
      v128.store(row + at, v128.bitselect(v128.load(row + at), f32x4.splat(nothing), alive))
    }
  }
}

function countVotes(space: Workspace, backward: bool): void {
  const highest = <usize>space.highest * floatBytes
  const zero = f32x4.splat(0)
  for (let at = <usize>space.lowest * floatBytes; at < highest; at += 16) {
    const logit = v128.load(space.row + at)
    const earlier = f32x4.gt(v128.load(space.distance + at), zero)
    const counts = v128.and(v128.load(space.votable + at), v128.and(earlier, f32x4.gt(logit, zero)))
    v128.store(space.voted + at, backward ? counts : f32x4.mul(counts, f32x4.pmax(zero, logit)))
  }
}

export function biasAt(request: Request, index: i32): Bias {
  return changetype<Bias>(request.biases + <usize>index * offsetof<Bias>())
}

/** The statistics of one query: largest logit, one divided by the divisor. */
export function statisticsAt(request: Request, batch: i32, head: i32, query: i32): usize {
  return matrixAt(request.statistics, (batch * request.heads + head) * request.block + query, 2)
}

/** F as a query of a batch entry sees it: in the result where it is wanted, else in the working space. */
export function duringAt(request: Request, space: Workspace, batch: i32, query: i32): usize {
  if (request.during) return matrixAt(request.during, batch * request.block + query, request.slots)
  return space.during + <usize>query * reachBytes(space)
}
