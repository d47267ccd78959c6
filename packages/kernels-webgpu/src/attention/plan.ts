/**
 * A request for attention as the shaders see it: groups of slots with what is known of them on the host (their numbers
 * become uniforms, their kinds become code), and which tensors must be bound.
 */
import type { AttentionRequest, Term } from '@lethe/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { Uniform } from '../program'

/** A group of slots in the order of the slot axis; persistent slots are one more, behind the others. */
export interface GroupPlan {
  /** Its place among the request's groups; undefined for the persistent slots. */
  readonly index?: number
  /** Its first slot on the slot axis. */
  readonly start: number
  readonly slots: number
  /** Distances grow by one with each query and fall by one with each slot, and each has a key of its own. */
  readonly even: boolean
  /** Queries after which distances grow by one. */
  readonly pace: number
  /** Distance of the first slot from the first query, of a contiguous group. */
  readonly first: number
  readonly nearest: number
  readonly positions?: PositionsPlan
}

export interface PositionsPlan {
  readonly low: number
  readonly high: number
  /** Where its columns begin among those of all groups, and how many there are with what surrounds its keys. */
  readonly section: number
  readonly width: number
  /** Where its first key is or, if that is farther than any query, would be. */
  readonly offset: number
  readonly clamp: boolean
  readonly featureMajor: boolean
  /** [1 | heads, ...] */
  readonly heads: number
}

type TermOf<Kind extends Term['kind']> = Extract<Term, { kind: Kind }>

export interface Plan {
  readonly batch: number
  readonly heads: number
  readonly size: number
  readonly block: number
  /** Slots of the request's groups. */
  readonly slots: number
  readonly persistent: number
  /** Spans count from here. */
  readonly nearest: number
  readonly groups: readonly GroupPlan[]
  readonly life: TermOf<'slot-life'> | undefined
  readonly span: TermOf<'head-span'> | undefined
  readonly selection: TermOf<'selection'> | undefined
  /** Rows of the queries' buffer at which each kind of query begins, and where the spans are. */
  readonly rows: RowsPlan
  /** Quads of steps lie within one group and at multiples of four: queries, keys and values are read as quads. */
  readonly aligned: boolean
  /** Where the keys of distances are found: steps from one head, feature and distance to the next. */
  readonly steps: readonly [head: number, feature: number, column: number]
  readonly columns: number
  /** Whether they are where the request has them. */
  readonly ownColumns: boolean
  /** Whether they are where programs over tiles read them: a single query's attention has no use for that. */
  readonly tiled: boolean
}

interface RowsPlan {
  /** Rows per head. */
  readonly count: number
  readonly content: number
  readonly position: number
  readonly persistent: number
  /** undefined where there are no spans. */
  readonly span: number | undefined
  /** Whether these are simply the request's queries. */
  readonly plain: boolean
}

/** "Never grows" as a number of queries. */
const endless = 2 ** 30

/** Farther than any distance, and nearer, in float32. */
export const far = 3e38

/** @param tiled for programs over tiles */
export function planOf(request: AttentionRequest, tiled = request.queries.shape[3] !== 1): Plan {
  const [batch, heads, size, block] = request.queries.shape as [number, number, number, number]
  const persistent = request.persistent?.keys.shape[2] ?? 0
  const groups: GroupPlan[] = []
  let start = 0
  let columns = 0
  for (const [index, { slots, distance, nearest, positions }] of request.groups.entries()) {
    if (slots === 0) continue
    const contiguous = distance.kind === 'contiguous'
    const pace = contiguous ? Math.min(distance.queriesPerStep ?? 1, endless) : 1
    const first = contiguous ? distance.first : 0
    const oldest = first + Math.floor((block - 1) / pace)
    const collides = positions?.beyond === 'clamp' && oldest > positions.high
    const even = contiguous && pace === 1 && !collides
    const placed = positions && sectionOf(positions, { even, first, slots, block, section: columns, tiled })
    groups.push({
      index,
      start,
      slots,
      even,
      pace,
      first,
      nearest,
      ...(placed && { positions: placed }),
    })
    columns += placed?.width ?? 0
    start += slots
  }
  if (persistent > 0)
    groups.push({ start, slots: persistent, even: false, pace: endless, first: 0, nearest: 0 })
  const term = <Kind extends Term['kind']>(kind: Kind) =>
    request.terms.find((candidate) => candidate.kind === kind) as TermOf<Kind> | undefined
  return {
    batch,
    heads,
    size,
    block,
    slots: start,
    persistent,
    nearest: request.groups[0]?.nearest ?? 0,
    groups,
    life: term('slot-life'),
    span: term('head-span'),
    selection: term('selection'),
    rows: rowsOf(request, size),
    aligned: [block, ...groups.flatMap((group) => [group.start, group.slots])].every(
      (steps) => steps % 4 === 0,
    ),
    columns,
    ...stepsOf(groups, size, columns, tiled),
    tiled,
  }
}

/** What a program computes with besides the queries, keys, values and slots. */
export const boundBeside = (plan: Plan, request: AttentionRequest): number =>
  [
    plan.groups.some(({ positions }) => positions),
    plan.selection,
    plan.persistent > 0,
    request.dropout,
  ].filter(Boolean).length

function rowsOf({ queryBias, persistent, terms }: AttentionRequest, size: number): RowsPlan {
  let count = size
  const more = (needed: boolean) => {
    const at = count
    if (needed) count += size
    return needed ? at : 0
  }
  const position = more(queryBias !== undefined)
  const persistentRow = more(persistent !== undefined && (!!queryBias || persistent.queries !== undefined))
  const spans = terms.some(({ kind }) => kind === 'head-span')
  const span = spans ? count++ : undefined
  return { count, content: 0, position, persistent: persistentRow, span, plain: count === size }
}

/** The groups that have positions. */
export const placedGroups = (groups: readonly GroupPlan[]) =>
  groups.filter((group): group is GroupPlan & { positions: PositionsPlan } => group.positions !== undefined)

type Positions = NonNullable<AttentionRequest['groups'][number]['positions']>

/** Tiles are as large as this at most, and divide it. */
const largestTile = 64

const upTo = (steps: number, multiple: number) => Math.ceil(steps / multiple) * multiple

/**
 * A group's columns, nearest last. Tiles of an even group take quads of them, at multiples of four, for all distances
 * that any tile's pairs could have; where these have no key, it is zero.
 */
function sectionOf(
  { rows, low, high, beyond, featureMajor }: Positions,
  group: Pick<GroupPlan, 'even' | 'first' | 'slots'> & {
    block: number
    section: number
    tiled: boolean
  },
): PositionsPlan {
  const { even, first, slots, block, section, tiled } = group
  const ahead = upTo(block, largestTile)
  const count = high - low + 1
  return {
    low,
    high,
    section,
    width: !tiled ? count : even ? ahead + upTo(slots, largestTile) : upTo(count, 4),
    offset: section + (tiled && even ? first + ahead - high : 0),
    clamp: beyond === 'clamp',
    featureMajor,
    heads: rows.shape[0]!,
  }
}

/** A single query reads one group's keys where they are; else they are put side by side first: features × columns. */
function stepsOf(
  groups: readonly GroupPlan[],
  size: number,
  columns: number,
  tiled: boolean,
): Pick<Plan, 'steps' | 'ownColumns'> {
  const placed = placedGroups(groups)
  const [only] = placed
  if (!only) return { steps: [0, 0, 0], ownColumns: false }
  const head = only.positions.heads === 1 ? 0 : size * columns
  return !tiled && placed.length === 1
    ? { steps: [head, ...ownSteps(only.positions, size)], ownColumns: true }
    : { steps: [head, columns, 1], ownColumns: false }
}

/** Steps from one feature and distance to the next within a group's own tensor. */
export function ownSteps({ featureMajor, low, high }: PositionsPlan, size: number): [number, number] {
  return featureMajor ? [high - low + 1, 1] : [1, size]
}

/** What the code of a shader depends on: its numbers come as uniforms. */
export function kindOf(plan: Plan): string {
  const groups = plan.groups.map(
    ({ index, even, pace, positions }) =>
      (index === undefined ? 'p' : even ? 'e' : pace === 1 ? 's' : 'c') + (positions ? '+' : ''),
  )
  const { size, life, span, selection, rows, aligned } = plan
  const terms = [life && 'life', span && 'span', selection && 'selection'].filter(Boolean)
  return [size, groups.join(), terms.join(), rows.position, rows.persistent, aligned ? 'quads' : ''].join('/')
}

/** One declaration of uniforms for every program of a plan, so that there is one place where numbers go. */
export function uniformDeclaration({ groups }: Plan): string {
  const perGroup = groups.map(
    (_, g) => `group${g}: vec4<i32>, positions${g}: vec4<i32>, nearest${g}: vec4<f32>, `,
  )
  return `sizes: vec4<i32>, terms: vec4<f32>, more: vec4<i32>, steps: vec4<i32>, places: vec4<i32>, ${perGroup.join('')}`
}

/** The heads of streams that a program computes for, and where gradients of their pairs are: see backward.ts. */
interface Places {
  readonly first: number
  readonly count: number
  /** Floats from one query's pairs to the next. */
  readonly pitch: number
  /** Floats in front of what is not of pairs. */
  readonly end: number
}

/** @param splits parts in which slots are attended to */
export function uniformsOf(plan: Plan, scale: number, splits: number, places?: Places): Uniform[] {
  const { batch, heads, block, slots, persistent, nearest, life, span, selection, groups, columns } = plan
  const int = (...data: number[]): Uniform => ({ type: 'int32', data })
  const float = (...data: number[]): Uniform => ({ type: 'float32', data })
  return [
    int(batch, heads, block, slots),
    float(scale, life ? 1 / life.ramp : 1, span ? 1 / span.ramp : 1, nearest),
    int(persistent, selection?.head ?? 0, splits, columns),
    int(...plan.steps, 0),
    int(places?.first ?? 0, places?.count ?? batch * heads, places?.pitch ?? 0, places?.end ?? 0),
    ...groups.flatMap(({ start, slots, pace, first, positions, ...group }) => [
      int(start, slots, pace, first),
      positions
        ? int(positions.low, positions.high, positions.offset, positions.clamp ? 1 : 0)
        : int(0, 0, 0, 0),
      float(group.nearest, 0, 0, 0),
    ]),
  ]
}

/** Rows of a tensor [batch | 1, ...] per stream: 0 where all streams share them. */
export const perStream = (tensor: Tensor): number =>
  tensor.shape[0] === 1 ? 0 : tensor.size / tensor.shape[0]!
