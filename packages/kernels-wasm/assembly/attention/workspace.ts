/** The working space of one thread: where what is packed, a tile of logits, and the rows of one query lie. */
import { floatBytes } from '../simd'
import { tileColumns, tileRows } from '../tile'
import { Group, Request } from './request'

/** Queries whose logits are computed at once. */
export const tileQueries: i32 = 32

/** What a thread keeps for a group. */
@unmanaged
export class GroupSpace {
  /** Keys of distances in panels of eight distances, [headSize, 8] each. */
  rowPanels: usize
  /** The same in panels of four features, [distances, 4] each: for gradients of queries. */
  rowFeatures: usize
  /** The set of keys that is packed; -1: none yet. */
  packed: i32
  /** Products of queries and keys of distances: [tileQueries, distances], rows `rowBytes` apart. */
  byDistance: usize
  rowBytes: usize
  /** Of scattered slots: the column of `byDistance` that the first query picks. */
  picks: usize
  /** The columns of `byDistance` that the tile needs. */
  lowest: i32
  highest: i32
  /** Of one query of a contiguous group: the first slot that has a key, the column of its key, the column behind the last. */
  slot: i32
  first: i32
  end: i32
}

/** Rows run over all columns, in order of the groups; all are followed by room for a whole vector. */
@unmanaged
export class Workspace {
  /** The columns of a row, filled up to whole tiles, and the same for persistent slots. */
  columns: i32
  persistentColumns: i32
  spaces: usize
  /** Room for one tile of a product. */
  tile: usize
  /** From one query of a tile to the next. */
  rowBytes: usize
  persistentBytes: usize
  /** From one feature to the next in a tile of queries. */
  featureBytes: usize

  /** Panels of eight columns, and of four features. */
  keyPanels: usize
  valuePanels: usize
  keyFeatures: usize
  valueFeatures: usize
  persistentKeyPanels: usize
  persistentValuePanels: usize
  persistentKeyFeatures: usize
  persistentValueFeatures: usize
  /** Packed operands of one product. */
  left: usize
  turned: usize

  /** [headSize, tileQueries]: scaled queries of each part of the logits, and their gradients. */
  contentQueries: usize
  positionQueries: usize
  plainQueries: usize
  contentGradient: usize
  positionGradient: usize
  plainGradient: usize

  /** [tileQueries, columns]: logits, then weights; gradients of weights, then of logits. */
  logits: usize
  slopes: usize
  persistentLogits: usize
  persistentSlopes: usize
  /** [tileQueries]: products of the context and its gradient. */
  deltas: usize

  /** Of the batch entry. 0, or -infinity where there is no slot. */
  closed: usize
  /** Distances from the first query. */
  distances: usize
  /** The same for terms: -infinity where they do not apply. */
  termDistances: usize
  /** 1 where a slot may be voted out. */
  votable: usize
  /** Of each ramp with one reach per slot, and their gradients. */
  reaches: usize
  reachGradients: usize
  /** F, and the gradient of F as the next query sees it. */
  votes: usize
  voteGradient: usize
  /** [block, columns]: F as each query sees it, and its gradient. */
  during: usize
  duringGradient: usize
  mass: usize

  /** Of one query. Logits with everything added, then exponentials. */
  row: usize
  distance: usize
  strength: usize
  /** 1 where the voting head's logit is a vote that counts. */
  voted: usize
  other: usize
  slope: usize

  /** The tile: queries, and the columns that they reach, in whole tiles. */
  firstQuery: i32
  queries: i32
  lowest: i32
  highest: i32
}

export function wholeTiles(columns: i32): i32 {
  return (columns + tileColumns - 1) & ~(tileColumns - 1)
}

/** Bytes of a row that is one of several: an odd number of cache lines, which spreads a column over the cache. */
function spread(columns: i32): usize {
  const lines = ((columns + 4) * <i32>floatBytes + 63) >> 6
  return (<usize>(lines | 1)) << 6
}

/** From one reach to the next. */
export function reachBytes(space: Workspace): usize {
  return <usize>(space.columns + 4) * floatBytes
}

export function groupAt(request: Request, index: i32): Group {
  return changetype<Group>(request.groups + <usize>index * offsetof<Group>())
}

export function spaceAt(space: Workspace, index: i32): GroupSpace {
  return changetype<GroupSpace>(space.spaces + <usize>index * offsetof<GroupSpace>())
}

/**
 * Lays out a working space from an address on, and writes down what lies where.
 * @returns the end of it
 */
export function layOut(request: Request, at: usize, backward: bool): usize {
  const space = changetype<Workspace>(at)
  const size = request.headSize
  const voting = request.votingHead >= 0
  const single = request.block === 1 && !backward
  const columns = wholeTiles(request.slots)
  const persistent = wholeTiles(request.persistent)
  space.columns = columns
  space.persistentColumns = persistent
  space.rowBytes = spread(columns)
  space.persistentBytes = spread(persistent)
  space.featureBytes = single ? floatBytes : <usize>tileQueries * floatBytes
  space.spaces = at + offsetof<Workspace>()
  let end = space.spaces + <usize>request.groupCount * offsetof<GroupSpace>()
  end = (end + 63) & ~63

  space.tile = end
  end += <usize>(tileRows * tileColumns) * floatBytes
  const features = (size + tileRows - 1) & ~(tileRows - 1)
  const byColumn = <usize>(single ? 0 : size) * floatBytes
  const byFeature = <usize>(single ? 0 : features) * floatBytes
  space.keyPanels = end
  end += <usize>columns * byColumn
  space.persistentKeyPanels = end
  end += <usize>persistent * byColumn
  space.valueFeatures = end
  space.keyFeatures = end
  end += <usize>request.slots * byFeature
  space.persistentValueFeatures = end
  space.persistentKeyFeatures = end
  end += <usize>request.persistent * byFeature
  if (backward) {
    space.valuePanels = end
    end += <usize>columns * byColumn
    space.persistentValuePanels = end
    end += <usize>persistent * byColumn
  }

  const queries = single ? 1 : tileQueries
  let longest = max(columns, persistent)
  for (let index = 0; index < request.groupCount; index++) {
    const group = groupAt(request, index)
    if (group.rows === 0) continue
    const own = spaceAt(space, index)
    const distances = wholeTiles(group.distances)
    longest = max(longest, distances)
    own.packed = -1
    own.rowPanels = end
    end += <usize>distances * byColumn
    own.rowFeatures = end
    if (backward) end += <usize>group.distances * byFeature
    own.rowBytes = spread(distances)
    own.byDistance = end
    end += <usize>queries * own.rowBytes
    own.picks = end
    if (group.scattered) end += <usize>(group.slots + 4) * 4
  }
  space.left = end
  if (!single) end += <usize>(features * tileQueries) * floatBytes
  space.turned = end
  if (!single) end += <usize>(longest * tileQueries) * floatBytes

  const tileBytes = <usize>size * space.featureBytes
  space.contentQueries = end
  end += tileBytes
  space.positionQueries = end
  end += tileBytes
  space.plainQueries = end
  end += tileBytes
  space.logits = end
  end += <usize>queries * space.rowBytes
  space.persistentLogits = end
  end += <usize>queries * space.persistentBytes
  if (backward) {
    space.contentGradient = end
    end += tileBytes
    space.positionGradient = end
    end += tileBytes
    space.plainGradient = end
    end += tileBytes
    space.slopes = end
    end += <usize>queries * space.rowBytes
    space.persistentSlopes = end
    end += <usize>queries * space.persistentBytes
    space.deltas = end
    end += <usize>tileQueries * floatBytes
  }

  const row = reachBytes(space)
  space.closed = end
  space.distances = end + row
  space.termDistances = end + 2 * row
  space.mass = end + 3 * row
  space.row = end + 4 * row
  space.distance = end + 5 * row
  space.strength = end + 6 * row
  space.other = end + 7 * row
  end += 8 * row
  if (voting) {
    space.votable = end
    space.votes = end + row
    space.voted = end + 2 * row
    space.voteGradient = end + 3 * row
    end += 4 * row
    space.during = end
    if (request.during === 0) end += <usize>request.block * row
    space.duringGradient = end
    if (backward) end += <usize>request.block * row
  }
  space.reaches = end
  end += <usize>request.rampCount * row
  space.reachGradients = end
  if (backward) {
    end += <usize>request.rampCount * row
    space.slope = end
    end += row
  }
  return (end + 63) & ~63
}

/** Bytes of working space that a thread needs for this request, wherever it starts. `at` has room to note them down. */
export function attentionBytes(request: Request, backward: bool, at: usize): usize {
  return layOut(request, at, backward) - at + 64
}
