/**
 * Attention, backward. Weights are made again from what the forward pass kept of each query; with them, for the gradient
 * g of the weights,
 *
 *     gradient of a logit = w (g - Σ w g), of a ramp m: w / m (g - Σ w g)
 *
 * where Σ w g, over all slots and persistent ones, is the product of the context and its gradient.
 */
import { packPanels } from '../pack'
import { multiplyPanels } from '../panels'
import { sumOf } from '../rows'
import { floatBytes } from '../simd'
import { tileColumns, tileRows } from '../tile'
import {
  addVotes,
  dropRow,
  enterVotes,
  exponentialRow,
  fillBehind,
  multiplyWeights,
  smallest,
} from './forward'
import {
  applyTerms,
  biasAt,
  computeRow,
  computeTile,
  duringAt,
  enterBatch,
  enterHead,
  matrixAt,
  multiplyQueries,
  rampAt,
  rampSlope,
  shareOfKeys,
  statisticsAt,
  strengthRow,
} from './logits'
import { Request } from './request'
import { addExactly, addRows, copyExactly, copyRow, fillRow, multiplyRows, subtractRows } from './rows'
import { GroupSpace, groupAt, layOut, reachBytes, spaceAt, tileQueries, Workspace } from './workspace'

/** The products of the context and its gradient, for each query of the tile. */
function computeDeltas(request: Request, space: Workspace, matrix: i32): void {
  const size = request.headSize
  const row = <usize>request.block * floatBytes
  let context = matrixAt(request.context, matrix, size * request.block) + <usize>space.firstQuery * floatBytes
  let slope =
    matrixAt(request.contextGradient, matrix, size * request.block) + <usize>space.firstQuery * floatBytes
  const count = space.queries
  for (let query = 0; query < count; query++) store<f32>(space.deltas + <usize>query * floatBytes, 0)
  for (let feature = 0; feature < size; feature++) {
    for (let query = 0; query < count; query++) {
      const at = <usize>query * floatBytes
      const product = load<f32>(context + at) * load<f32>(slope + at)
      store<f32>(space.deltas + at, load<f32>(space.deltas + at) + product)
    }
    context += row
    slope += row
  }
}

/**
 * exponentials e / divisor, gradients g of weights m e / divisor → gradients of logits in place of g. Where there are
 * ramps the divisor has a small part of its own, which has a gradient, too.
 */
function logitSlopes(
  exponentials: usize,
  weights: usize,
  slopes: usize,
  end: usize,
  delta: f32,
  own: f32,
): void {
  const deltas = f32x4.splat(delta)
  const owns = f32x4.splat(delta * own)
  for (; slopes < end; slopes += 16) {
    const slope = f32x4.mul(v128.load(weights), f32x4.sub(v128.load(slopes), deltas))
    v128.store(slopes, f32x4.sub(slope, f32x4.mul(owns, v128.load(exponentials))))
    weights += 16
    exponentials += 16
  }
}

/** to = exponentials · (slopes - delta): gradients of the ramps' product. */
function strengthSlopes(exponentials: usize, slopes: usize, delta: f32, to: usize, end: usize): void {
  const deltas = f32x4.splat(delta)
  for (; to < end; to += 16) {
    v128.store(to, f32x4.mul(v128.load(exponentials), f32x4.sub(v128.load(slopes), deltas)))
    exponentials += 16
    slopes += 16
  }
}

/** Weights of one query, with dropout, in place of its logits in the tile; gradients of logits in place of those of weights. */
function slopeRow(request: Request, space: Workspace, batch: i32, head: i32, query: i32): void {
  const lowest = <usize>space.lowest * floatBytes
  const highest = <usize>space.highest * floatBytes
  const inTile = <usize>(query - space.firstQuery)
  const row = space.row + lowest
  const rowEnd = space.row + highest
  const weights = space.logits + inTile * space.rowBytes + lowest
  const weightsEnd = weights + (highest - lowest)
  const slopes = space.slopes + inTile * space.rowBytes + lowest
  const slopesEnd = slopes + (highest - lowest)
  const statistics = statisticsAt(request, batch, head, query)
  const largest = load<f32>(statistics)
  const inverse = load<f32>(statistics, 4)
  const delta = load<f32>(space.deltas + inTile * floatBytes)
  const own: f32 = request.rampCount > 0 ? smallest : 0

  exponentialsOf(row, largest, inverse, rowEnd)
  if (request.dropout) {
    dropRow(request, space, batch, head, query)
    multiplyRows(slopes, space.other + lowest, slopes, slopesEnd)
  }
  if (request.rampCount > 0) {
    strengthSlopes(row, slopes, delta, space.slope + lowest, space.slope + highest)
    rampGradients(request, space, batch, head, query)
    multiplyRows(row, space.strength + lowest, weights, weightsEnd)
  } else copyRow(row, weights, weightsEnd)
  logitSlopes(row, weights, slopes, slopesEnd, delta, own)
  if (request.dropout) {
    // The ramps have used the room of the factors.
    if (request.rampCount > 0) dropRow(request, space, batch, head, query)
    multiplyRows(weights, space.other + lowest, weights, weightsEnd)
  }

  if (request.persistent > 0) {
    const persistent = space.persistentLogits + inTile * space.persistentBytes
    const end = persistent + <usize>space.persistentColumns * floatBytes
    const slopes = space.persistentSlopes + inTile * space.persistentBytes
    fillBehind(persistent, request.persistent, space.persistentColumns)
    exponentialsOf(persistent, largest, inverse, end)
    logitSlopes(persistent, persistent, slopes, slopes + (end - persistent), delta, own)
  }
  for (let index = 0; index < request.biasCount; index++)
    biasGradient(request, space, batch, head, query, index, slopes)
}

function exponentialsOf(row: usize, largest: f32, inverse: f32, end: usize): void {
  exponentialRow(row, largest, row, end)
  const factor = f32x4.splat(inverse)
  for (; row < end; row += 16) v128.store(row, f32x4.mul(v128.load(row), factor))
}

/** From space.slope, the gradients of the ramps' product, to those of reaches. */
function rampGradients(request: Request, space: Workspace, batch: i32, head: i32, query: i32): void {
  const lowest = <usize>space.lowest * floatBytes
  const highest = <usize>space.highest * floatBytes
  for (let index = 0; index < request.rampCount; index++) {
    const ramp = rampAt(request, index)
    const slope = space.other
    strengthRow(request, space, batch, head, query, index, slope)
    multiplyRows(slope + lowest, space.slope + lowest, slope + lowest, slope + highest)
    rampSlope(request, space, batch, head, query, index, slope)
    if (ramp.perSlot) {
      const to = space.reachGradients + <usize>index * reachBytes(space)
      addRows(to + lowest, slope + lowest, to + lowest, to + highest)
    } else {
      const total = sumOf(slope + lowest, highest - lowest)
      store<f32>(matrixAt(ramp.gradient, (batch * request.heads + head) * request.block + query, 1), total)
    }
  }
}

function biasGradient(
  request: Request,
  space: Workspace,
  batch: i32,
  head: i32,
  query: i32,
  index: i32,
  slopes: usize,
): void {
  const bias = biasAt(request, index)
  const lowest = <usize>space.lowest * floatBytes
  const highest = <usize>space.highest * floatBytes
  copyRow(slopes, space.row + lowest, space.row + highest)
  applyTerms(space, space.row)
  const slots = bias.slotStep ? request.slots : 1
  const queries = bias.queryStep ? request.block : 1
  const matrix = batch * request.heads + head
  const to = matrixAt(bias.gradient, matrix * queries + (bias.queryStep ? query : 0), slots)
  const count = min(space.highest, request.slots) - space.lowest
  if (bias.slotStep) addExactly(space.row + lowest, to + lowest, count)
  else store<f32>(to, load<f32>(to) + sumOf(space.row + lowest, <usize>count * floatBytes))
}

/** The gradients of logits by distance, in place of the products with keys of distances. */
function positionSlopes(request: Request, space: Workspace, query: i32, slopes: usize): void {
  const inTile = <usize>(query - space.firstQuery)
  for (let index = 0; index < request.groupCount; index++) {
    const group = groupAt(request, index)
    if (group.rows === 0) continue
    const own = spaceAt(space, index)
    const to = own.byDistance + inTile * own.rowBytes
    const end = to + <usize>own.highest * floatBytes
    if (group.scattered) {
      fillRow(to + <usize>own.lowest * floatBytes, end, 0)
      scatterSlopes(own, slopes + <usize>group.start * floatBytes, group.slots, group.distances, query, to)
      continue
    }
    shareOfKeys(group, own, query)
    const first = to + <usize>own.first * floatBytes
    const last = to + <usize>own.end * floatBytes
    fillRow(to + <usize>own.lowest * floatBytes, first, 0)
    copyRow(slopes + <usize>(group.start + own.slot) * floatBytes, first, last)
    fillRow(last, end, 0)
  }
}

function scatterSlopes(
  own: GroupSpace,
  slopes: usize,
  slots: i32,
  distances: i32,
  query: i32,
  to: usize,
): void {
  for (let slot = 0; slot < slots; slot++) {
    const column = <u32>(load<i32>(own.picks + <usize>slot * 4) - query)
    if (column >= <u32>distances) continue
    const at = to + <usize>column * floatBytes
    store<f32>(at, load<f32>(at) + load<f32>(slopes + <usize>slot * floatBytes))
  }
}

/**
 * to[headSize, columns] += features · slopes over the tile's queries. `features` [headSize, queries], `slopes` [queries,
 * columns], both where they lie.
 */
function multiplySlopes(
  space: Workspace,
  size: i32,
  features: usize,
  featureStep: usize,
  slopes: usize,
  slopeBytes: usize,
  lowest: i32,
  highest: i32,
  to: usize,
  toStep: usize,
): void {
  packPanels(tileRows, features, featureStep, floatBytes, size, space.queries, space.left)
  multiplyPanels(
    space.left,
    <usize>(space.queries * tileRows) * floatBytes,
    slopes + <usize>lowest * floatBytes,
    <usize>tileColumns * floatBytes,
    slopeBytes,
    space.queries,
    to + <usize>lowest * floatBytes,
    toStep,
    size,
    highest - lowest,
    true,
    space.tile,
  )
}

function attendTileBackward(
  request: Request,
  space: Workspace,
  batch: i32,
  head: i32,
  firstQuery: i32,
): void {
  const size = request.headSize
  const slots = request.slots
  const matrix = batch * request.heads + head
  const blockBytes = <usize>request.block * floatBytes
  const rowBytes = <usize>slots * floatBytes
  computeTile(request, space, batch, head, firstQuery, true)
  computeDeltas(request, space, matrix)
  const lowest = space.lowest
  const highest = min(space.highest, slots)
  const contextGradient =
    matrixAt(request.contextGradient, matrix, size * request.block) + <usize>firstQuery * floatBytes
  const persistent = request.persistent
  multiplyQueries(
    space,
    contextGradient,
    blockBytes,
    size,
    space.valuePanels,
    space.slopes,
    space.rowBytes,
    lowest,
    space.highest,
  )
  if (persistent > 0) {
    multiplyQueries(
      space,
      contextGradient,
      blockBytes,
      size,
      space.persistentValuePanels,
      space.persistentSlopes,
      space.persistentBytes,
      0,
      persistent,
    )
  }

  const votes = head === request.votingHead
  for (let inTile = space.queries - 1; inTile >= 0; inTile--) {
    const query = firstQuery + inTile
    if (request.votingHead >= 0) copyExactly(duringAt(request, space, batch, query), space.votes, slots)
    computeRow(request, space, batch, head, query, true)
    slopeRow(request, space, batch, head, query)
    if (request.votingHead >= 0) voteSlopes(space, query, inTile, votes)
    positionSlopes(request, space, query, space.slopes + <usize>inTile * space.rowBytes)
  }

  multiplySlopes(
    space,
    size,
    contextGradient,
    blockBytes,
    space.logits,
    space.rowBytes,
    lowest,
    highest,
    matrixAt(request.valuesGradient, matrix, size * slots),
    rowBytes,
  )
  multiplySlopes(
    space,
    size,
    space.contentQueries,
    space.featureBytes,
    space.slopes,
    space.rowBytes,
    lowest,
    highest,
    matrixAt(request.keysGradient, matrix, size * slots),
    rowBytes,
  )
  multiplyWeights(
    space,
    size,
    space.keyFeatures,
    slots,
    space.slopes,
    space.rowBytes,
    lowest,
    highest,
    space.contentGradient,
    space.featureBytes,
    false,
  )
  fillRow(space.positionGradient, space.positionGradient + <usize>size * space.featureBytes, 0)
  for (let index = 0; index < request.groupCount; index++) {
    const group = groupAt(request, index)
    if (group.rows === 0) continue
    const own = spaceAt(space, index)
    multiplyWeights(
      space,
      size,
      own.rowFeatures,
      group.distances,
      own.byDistance,
      own.rowBytes,
      own.lowest,
      own.highest,
      space.positionGradient,
      space.featureBytes,
      true,
    )
    multiplySlopes(
      space,
      size,
      space.positionQueries,
      space.featureBytes,
      own.byDistance,
      own.rowBytes,
      own.lowest,
      own.highest,
      matrixAt(group.rowsGradient, matrix, size * group.distances),
      <usize>group.distances * floatBytes,
    )
  }
  if (persistent > 0) {
    multiplyWeights(
      space,
      size,
      space.persistentKeyFeatures,
      persistent,
      space.persistentSlopes,
      space.persistentBytes,
      0,
      persistent,
      space.plainGradient,
      space.featureBytes,
      false,
    )
    const step = <usize>persistent * floatBytes
    multiplySlopes(
      space,
      size,
      space.plainQueries,
      space.featureBytes,
      space.persistentSlopes,
      space.persistentBytes,
      0,
      persistent,
      matrixAt(request.persistentKeysGradient, matrix, size * persistent),
      step,
    )
    multiplySlopes(
      space,
      size,
      contextGradient,
      blockBytes,
      space.persistentLogits,
      space.persistentBytes,
      0,
      persistent,
      matrixAt(request.persistentValuesGradient, matrix, size * persistent),
      step,
    )
  }
  queryGradients(request, space, matrix)
}

/** Takes the gradient of F off that of logits, and gives the voting head's logits that of their votes. */
function voteSlopes(space: Workspace, query: i32, inTile: i32, votes: bool): void {
  const lowest = <usize>space.lowest * floatBytes
  const highest = <usize>space.highest * floatBytes
  const slopes = space.slopes + <usize>inTile * space.rowBytes
  const during = space.duringGradient + <usize>query * reachBytes(space)
  subtractRows(during + lowest, slopes + lowest, during + lowest, during + highest)
  if (!votes) return
  // What a vote takes off is seen by later queries alone.
  multiplyRows(space.voteGradient + lowest, space.voted + lowest, space.row + lowest, space.row + highest)
  addRows(slopes + lowest, space.row + lowest, slopes + lowest, slopes + highest)
  const end = <usize>space.columns * floatBytes
  addRows(space.voteGradient, during, space.voteGradient, space.voteGradient + end)
}

/** Gradients of the tile's queries and of their biases. */
function queryGradients(request: Request, space: Workspace, matrix: i32): void {
  const size = request.headSize
  const count = space.queries
  const scale = request.scale
  const first = <usize>space.firstQuery * floatBytes
  const row = <usize>request.block * floatBytes
  let to = matrixAt(request.queriesGradient, matrix, size * request.block) + first
  let unturned = matrixAt(request.persistentQueriesGradient, matrix, size * request.block) + first
  let at: usize = 0
  for (let feature = 0; feature < size; feature++) {
    const content = space.contentGradient + at
    const position = space.positionGradient + at
    const plain = space.plainGradient + at
    for (let query = 0; query < count; query++) {
      const inRow = <usize>query * floatBytes
      let slope = load<f32>(content + inRow) + load<f32>(position + inRow)
      if (request.persistent > 0) {
        const own = load<f32>(plain + inRow)
        if (request.persistentQueries) store<f32>(unturned + inRow, own * scale)
        else slope += own
      }
      store<f32>(to + inRow, slope * scale)
    }
    if (request.contentBias) {
      const bias = matrixAt(request.contentBiasGradient, matrix * size + feature, 1)
      store<f32>(bias, load<f32>(bias) + sumOf(content, <usize>count * floatBytes) * scale)
    }
    if (request.positionBias) {
      const bias = matrixAt(request.positionBiasGradient, matrix * size + feature, 1)
      store<f32>(bias, load<f32>(bias) + sumOf(position, <usize>count * floatBytes) * scale)
    }
    at += space.featureBytes
    to += row
    unturned += row
  }
}

/** Zeros for one head's part of an output. */
function clear(output: usize, matrix: i32, size: i32): void {
  if (output) memory.fill(matrixAt(output, matrix, size), 0, <usize>size * floatBytes)
}

function attendHeadBackward(request: Request, space: Workspace, batch: i32, head: i32): void {
  const size = request.headSize
  const matrix = batch * request.heads + head
  clear(request.keysGradient, matrix, size * request.slots)
  clear(request.valuesGradient, matrix, size * request.slots)
  clear(request.contentBiasGradient, matrix, size)
  clear(request.positionBiasGradient, matrix, size)
  clear(request.persistentKeysGradient, matrix, size * request.persistent)
  clear(request.persistentValuesGradient, matrix, size * request.persistent)
  for (let index = 0; index < request.groupCount; index++) {
    const group = groupAt(request, index)
    clear(group.rowsGradient, matrix, size * group.distances)
  }
  for (let index = 0; index < request.biasCount; index++) {
    const bias = biasAt(request, index)
    clear(bias.gradient, matrix, (bias.queryStep ? request.block : 1) * (bias.slotStep ? request.slots : 1))
  }
  const reach = reachBytes(space)
  fillRow(space.reachGradients, space.reachGradients + <usize>request.rampCount * reach, 0)

  enterHead(request, space, batch, head, true)
  for (let query = (request.block - 1) & ~(tileQueries - 1); query >= 0; query -= tileQueries)
    attendTileBackward(request, space, batch, head, query)

  for (let index = 0; index < request.rampCount; index++) {
    const ramp = rampAt(request, index)
    const from = space.reachGradients + <usize>index * reach
    if (ramp.perSlot) copyExactly(from, matrixAt(ramp.gradient, matrix, request.slots), request.slots)
  }
}

/** F as each query of a batch entry saw it, where the forward pass has not left it, and its gradient to begin with. */
function enterVoteGradients(request: Request, space: Workspace, batch: i32): void {
  const slots = request.slots
  const row = reachBytes(space)
  const all = <usize>request.block * row
  fillRow(space.votes, space.votes + row, 0)
  fillRow(space.duringGradient, space.duringGradient + all, 0)
  fillRow(space.voteGradient, space.voteGradient + row, 0)
  if (request.duringGradient)
    for (let query = 0; query < request.block; query++) {
      const from = matrixAt(request.duringGradient, batch * request.block + query, slots)
      copyExactly(from, space.duringGradient + <usize>query * row, slots)
    }
  if (request.afterGradient)
    copyExactly(matrixAt(request.afterGradient, batch, slots), space.voteGradient, slots)
  if (request.during) return
  const head = request.votingHead
  enterVotes(request, space, batch)
  enterHead(request, space, batch, head, true)
  for (let first = 0; first < request.block; first += tileQueries) {
    computeTile(request, space, batch, head, first, true)
    for (let inTile = 0; inTile < space.queries; inTile++) {
      computeRow(request, space, batch, head, first + inTile, false)
      addVotes(request, space, batch, first + inTile)
    }
  }
}

/**
 * The gradients of `attend`, in units from..end-1.
 * @param scratch where the address of this thread's working space is
 */
export function attendBackward(at: usize, from: i32, end: i32, scratch: usize): void {
  const request = changetype<Request>(at)
  const workspace = load<usize>(scratch)
  layOut(request, workspace, true)
  const space = changetype<Workspace>(workspace)
  for (let unit = from; unit < end; unit++) {
    if (request.votingHead < 0) {
      const batch = unit % request.batch
      enterBatch(request, space, batch)
      attendHeadBackward(request, space, batch, unit / request.batch)
      continue
    }
    enterBatch(request, space, unit)
    enterVoteGradients(request, space, unit)
    // The head that votes comes last: its votes are judged by all.
    for (let index = 1; index <= request.heads; index++)
      attendHeadBackward(request, space, unit, (request.votingHead + index) % request.heads)
    copyExactly(space.voteGradient, matrixAt(request.carriedGradient, unit, request.slots), request.slots)
  }
}
