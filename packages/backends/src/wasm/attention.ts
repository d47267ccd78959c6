/**
 * The attention of @lethe/core by our own kernels, forward and backward: no tensor of queries × slots is made.
 */
import type { AttentionKernel, AttentionRequest, NamedTensors } from '@lethe/core'
import type * as kernels from '@lethe/kernels-wasm'
import { backend, engine, mul, reshape, sum, type Tensor, transpose, zerosLike } from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend, withScratch } from './heap'
import { kernelsOf } from './kernels'

const wasm = () => backend() as unknown as WasmBackend

/** The address of a tensor's values; 0 for one that is not there. */
const at = (tensor: Tensor | undefined) => (tensor ? offsetOf(wasm(), tensor) : 0)

const make = (...shape: number[]): Tensor =>
  engine().makeTensorFromTensorInfo(wasm().makeOutput(shape, 'float32'))

const borrow: kernels.Borrow = (bytes, use) => withScratch(wasm(), bytes, use)

export const attention: AttentionKernel = {
  covers(request) {
    return kernelsOf(wasm()) !== undefined && isCovered(request)
  },

  forward(request) {
    const { batch, heads, size, block, slots } = sizesOf(request)
    const { wants } = request
    const selects = wants.selection && selectionOf(request) !== undefined
    const context = make(batch, heads, size, block)
    const statistics = make(batch, heads, block, 2)
    const mass = wants.mass ? make(batch, heads, slots) : undefined
    const during = selects ? make(batch, block, slots) : undefined
    const after = selects ? make(batch, slots) : undefined
    kernelsOf(wasm())!.attend(
      {
        ...written(request),
        context: at(context),
        statistics: at(statistics),
        mass: at(mass),
        during: at(during),
        after: at(after),
      },
      borrow,
    )
    return {
      context,
      ...(mass && { mass: mul(sum(mass, 1), 1 / heads) as never }),
      ...(during && { selection: { during: during as never, after: after as never } }),
      kept: [statistics],
    }
  },

  backward(request, result, slopes) {
    const { batch, heads, size, block, slots } = sizesOf(request)
    const { queryBias, persistent, groups, terms } = request
    const selection = selectionOf(request)
    const count = persistent?.keys.shape[2] ?? 0
    const gradients: Record<string, Tensor> = {
      queries: make(batch, heads, size, block),
      keys: make(batch, heads, size, slots),
      values: make(batch, heads, size, slots),
    }
    /** What each head of each batch entry adds to a gradient, by its name. */
    const parts: Record<string, Tensor> = {}
    if (queryBias)
      for (const name of ['queryBias.content', 'queryBias.position']) parts[name] = make(batch, heads, size)
    if (persistent?.queries) gradients['persistent.queries'] = make(batch, heads, size, block)
    if (persistent)
      for (const name of ['persistent.keys', 'persistent.values'])
        parts[name] = make(batch, heads, size, count)
    groups.forEach(({ positions }, index) => {
      if (positions) parts[`groups.${index}.rows`] = make(batch, heads, size, distancesOf(positions))
    })
    terms.forEach((term, index) => {
      if (term.kind === 'slot-life') parts[`terms.${index}.life`] = make(batch, heads, slots)
      if (term.kind === 'head-span') parts[`terms.${index}.span`] = make(batch, heads, block)
      if (term.kind === 'selection') {
        const name = `terms.${index}.carried`
        gradients[name] = term === selection ? make(batch, slots) : zerosLike(term.carried)
      }
      if (term.kind === 'bias') {
        const [, , queryStep, slotStep] = stepsOf(term.bias)
        parts[`terms.${index}.bias`] = make(batch, heads, queryStep ? block : 1, slotStep ? slots : 1)
      }
    })
    const carried = selection && gradients[`terms.${terms.indexOf(selection)}.carried`]
    kernelsOf(wasm())!.attendBackward(
      {
        ...written(request, parts),
        context: at(result.context),
        statistics: at(result.kept![0]),
        during: at(result.selection?.during),
        contextGradient: at(slopes.context),
        duringGradient: at(slopes.during),
        afterGradient: at(slopes.after),
        queriesGradient: at(gradients.queries),
        keysGradient: at(gradients.keys),
        valuesGradient: at(gradients.values),
        persistentQueriesGradient: at(gradients['persistent.queries']),
        carriedGradient: at(carried),
        contentBiasGradient: at(parts['queryBias.content']),
        positionBiasGradient: at(parts['queryBias.position']),
        persistentKeysGradient: at(parts['persistent.keys']),
        persistentValuesGradient: at(parts['persistent.values']),
      },
      borrow,
    )
    for (const [name, part] of Object.entries(parts)) gradients[name] = joined(request, name, part)
    return gradients
  },
}

/** The gradient of one tensor of a request from what each head of each batch entry [batch, heads, ...] adds to it. */
function joined(request: AttentionRequest, name: string, part: Tensor): Tensor {
  const [kind, index, field] = name.split('.') as [string, string, string]
  if (kind === 'groups') {
    const { rows, featureMajor } = request.groups[Number(index)]!.positions!
    const perSet = sum(part, rows.shape[0] === 1 ? [0, 1] : 0)
    const featuresFirst = reshape(perSet, [rows.shape[0]!, part.shape[2]!, part.shape[3]!])
    return featureMajor ? featuresFirst : transpose(featuresFirst, [0, 2, 1])
  }
  const term = kind === 'terms' ? request.terms[Number(index)]! : undefined
  if (term?.kind === 'slot-life') return sum(part, 1)
  if (term?.kind === 'head-span') {
    if (term.span.rank === 3) return term.span.shape[1] === 1 ? sum(part, 1, true) : part
    return reshape(term.span.size === 1 ? sum(part) : sum(part, [0, 2]), term.span.shape)
  }
  if (term?.kind === 'bias') {
    const { shape } = term.bias
    const lost = part.shape.flatMap((_, axis) => ((shape[axis - 4 + shape.length] ?? 1) === 1 ? [axis] : []))
    return reshape(sum(part, lost), shape)
  }
  return field === undefined && kind !== 'queryBias' && kind !== 'persistent' ? part : sum(part, 0)
}

function sizesOf({ queries, keys }: AttentionRequest) {
  const [batch, heads, size, block] = queries.shape as [number, number, number, number]
  return { batch, heads, size, block, slots: keys.shape[3]! }
}

type Positions = NonNullable<AttentionRequest['groups'][number]['positions']>
const distancesOf = ({ low, high }: Positions) => high - low + 1

const selectionOf = ({ terms }: AttentionRequest) => terms.find((term) => term.kind === 'selection')

/** Steps in values along [batch, heads, block, slots] of a tensor that is broadcast to them. */
function stepsOf({ shape }: Tensor): [number, number, number, number] {
  const whole = [...new Array<number>(4 - shape.length).fill(1), ...shape]
  let step = 1
  const steps = whole.map(() => 0)
  for (let axis = 3; axis >= 0; axis--) {
    if (whole[axis] !== 1) steps[axis] = step
    step *= whole[axis]!
  }
  return steps as [number, number, number, number]
}

/** Older than anything; as far as float32 counts one by one. */
const never = 2 ** 24

/** The request with addresses in place of tensors; `parts` has the tensors for gradients of groups and terms. */
function written(
  request: AttentionRequest,
  parts: NamedTensors = {},
): Omit<kernels.AttentionRequest, 'context' | 'statistics'> {
  const { batch, heads, size, block, slots } = sizesOf(request)
  const { queryBias, persistent, terms } = request
  const nearest = request.groups[0]?.nearest ?? 0
  const selection = selectionOf(request)
  return {
    batch,
    heads,
    headSize: size,
    block,
    slots,
    scale: request.scale,
    queries: at(request.queries),
    keys: at(request.keys),
    values: at(request.values),
    contentBias: at(queryBias?.content),
    positionBias: at(queryBias?.position),
    persistent: persistent?.keys.shape[2] ?? 0,
    persistentQueries: at(persistent?.queries),
    persistentKeys: at(persistent?.keys),
    persistentValues: at(persistent?.values),
    dropout: at(request.dropout),
    groups: request.groups.map((group, index) => {
      const { distance, positions } = group
      const scattered = distance.kind === 'scattered'
      const clamps = scattered && positions?.beyond === 'clamp'
      return {
        slots: group.slots,
        scattered,
        first: scattered ? 0 : Math.min(distance.first, never),
        pace: scattered ? 1 : Math.min(distance.queriesPerStep ?? 1, never),
        nearest: group.nearest,
        farthest: group.farthest,
        age: scattered ? at(distance.age) : 0,
        ageIsFloat: scattered && distance.age.dtype === 'float32',
        valid: at(group.valid),
        exempt: at(group.exempt),
        rows: at(positions?.rows),
        rowSets: positions?.rows.shape[0] ?? 1,
        featureMajor: positions?.featureMajor ?? false,
        distances: positions ? distancesOf(positions) : 0,
        high: positions?.high ?? 0,
        oldest: clamps ? positions.high - block + 1 : never,
        rowsGradient: at(parts[`groups.${index}.rows`]),
      }
    }),
    ramps: terms.flatMap((term, index) => {
      if (term.kind === 'slot-life')
        return {
          perSlot: true,
          values: at(term.life),
          batchStep: 0,
          headStep: 0,
          queryStep: 0,
          nearest: 0,
          inverse: 1 / term.ramp,
          gradient: at(parts[`terms.${index}.life`]),
        }
      if (term.kind !== 'head-span') return []
      const perQuery = term.span.rank === 3
      const spans = perQuery ? term.span.shape[1]! : term.span.size
      return {
        perSlot: false,
        values: at(term.span),
        batchStep: perQuery ? spans * block : 0,
        headStep: spans === 1 ? 0 : perQuery ? block : 1,
        queryStep: perQuery ? 1 : 0,
        nearest,
        inverse: 1 / term.ramp,
        gradient: at(parts[`terms.${index}.span`]),
      }
    }),
    biases: terms.flatMap((term, index) => {
      if (term.kind !== 'bias') return []
      const [batchStep, headStep, queryStep, slotStep] = stepsOf(term.bias)
      const gradient = at(parts[`terms.${index}.bias`])
      return { values: at(term.bias), batchStep, headStep, queryStep, slotStep, gradient }
    }),
    votingHead: selection?.head ?? -1,
    carried: at(selection?.carried),
    unvoted: at(selection?.exempt),
  }
}

/** What the kernels read as it lies: numbers of the expected type, and no rows that the whole batch shares. */
function isCovered(request: AttentionRequest): boolean {
  const { batch, heads, block, slots } = sizesOf(request)
  const { queries, keys, values, dropout, queryBias, persistent, groups, terms } = request
  const masks = groups.flatMap(({ valid, exempt }) => [valid, exempt])
  const rows = groups.map(({ positions }) => positions?.rows)
  const ages = groups.map(({ distance }) => (distance.kind === 'scattered' ? distance.age : undefined))
  const ofTerms = terms.flatMap((term) => {
    if (term.kind === 'slot-life') return [term.life]
    if (term.kind === 'head-span') return [term.span]
    return term.kind === 'bias' ? [term.bias] : [term.carried, term.exempt]
  })
  const ofPersistent = persistent ? [persistent.queries, persistent.keys, persistent.values] : []
  const ofBias = [queryBias?.content, queryBias?.position]
  const perRow = [
    ...masks,
    ...ages,
    ...terms.flatMap((term) => {
      if (term.kind === 'slot-life') return [term.life]
      return term.kind === 'selection' ? [term.carried, term.exempt] : []
    }),
  ]
  const wholeDropout = dropout === undefined || dropout.size === batch * heads * block * slots
  return (
    [queries, keys, values, dropout, ...masks, ...rows, ...ofTerms, ...ofPersistent, ...ofBias].every(
      (tensor) => tensor === undefined || tensor.dtype === 'float32',
    ) &&
    ages.every((age) => age === undefined || age.dtype === 'float32' || age.dtype === 'int32') &&
    perRow.every((tensor) => tensor === undefined || tensor.shape[0] === batch) &&
    groups.every(({ distance }) => distance.kind === 'scattered' || isPace(distance.queriesPerStep ?? 1)) &&
    wholeDropout &&
    queries.size > 0 &&
    keys.size > 0
  )
}

const isPace = (pace: number) => pace >= 1 && (Number.isInteger(pace) || pace === Number.POSITIVE_INFINITY)
