/**
 * The decoder of the papers in float64 and plain loops, to check the packages against: slow, short, independent of
 * them. Parameters go by the decoder's names. Rows of a batch are read one by one; a method oracle says what each row
 * remembers and how strongly it is attended to.
 */
import type { ResolvedConfig } from '@lethe/core'

export type Vector = readonly number[]
export type Config = Pick<
  ResolvedConfig,
  | 'vocabulary'
  | 'layers'
  | 'width'
  | 'heads'
  | 'headSize'
  | 'feedForward'
  | 'activation'
  | 'norm'
  | 'normPosition'
  | 'positions'
  | 'beyondLearned'
  | 'farthestPosition'
  | 'attendSelf'
  | 'initialMemory'
  | 'persistentSlots'
  | 'tiedOutput'
  | 'outputBias'
  | 'feedForwardBias'
  | 'embeddingScale'
  | 'epsilon'
>

/** Row-major. */
export interface Values {
  readonly shape: readonly number[]
  readonly data: Float64Array
}
export type Parameters = ReadonlyMap<string, Values>

/** What may be attended to: a layer input as it came (not normalised), at distance `age + i` from query i. */
export interface Slot {
  readonly hidden: Vector
  readonly age: number
}

export interface Layer {
  readonly index: number
  readonly layers: number
  readonly width: number
  readonly heads: number
  /** Least distance that is seen: 0 where a step attends to itself, else 1. */
  readonly nearest: number
  /** Whether the first memory holds zeros. */
  readonly zeros: boolean
  /** layers.<index>.method.<name> */
  parameter(name: string): Values
}

/** One row of the batch in one layer. */
export interface View<Row = unknown> {
  readonly layer: Layer
  readonly row: Row
  /** Steps of this row's stream read before the block. */
  readonly step: number
  readonly training: boolean
  readonly draw: number
  readonly input: readonly Vector[]
  /** The same as attention reads it. */
  readonly attended: readonly Vector[]
  /** The remembered ones, oldest first, then one for each step of the block (but for those that a wrapper keeps). */
  readonly slots: readonly Slot[]
  readonly remembered: number
  /** Their hidden states as attention reads them. */
  readonly attendedSlots: readonly Vector[]
  /** Scaled, with positions: [head][query][slot]; -Infinity in the future. */
  readonly logits: readonly (readonly Vector[])[]
  readonly recalled: Recalled
  /** What the attention became: [head][query][slot]. */
  readonly weights: readonly (readonly Vector[])[]
  /** Queries of the block over other slots, by content alone: [head][query][feature]. */
  attendWith(hidden: readonly Vector[]): Vector[][]
  /** The same row in the network behind the stop-gradients. */
  readonly frozen: View<Row>
}

/** weight ∝ m · exp(logit − b). An m of 0: not visible. Asked only of slots that causality shows. */
export interface Recalled {
  m(head: number, query: number, slot: number): number
  b?(query: number, slot: number): number
}

export interface MethodOracle<Row = unknown> {
  /** What a row remembers before its first step. */
  start(layer: Layer): Row
  slots(row: Row): readonly Slot[]
  /** Sees everything in the view but `recalled` and `weights`. */
  recall(view: View<Row>): Recalled
  settle(views: readonly View<Row>[]): { readonly rows: readonly Row[]; readonly penalty: number }
}

export interface State {
  /** Steps read, by row. */
  readonly steps: readonly number[]
  /** [layer][row] */
  readonly layers: readonly (readonly unknown[])[]
  /** The state of the network behind the stop-gradients, where it is another. */
  readonly frozen?: State
}

export interface ReadOptions {
  readonly training?: boolean
  readonly draw?: number
  readonly targets?: readonly Vector[]
}

export interface LayerTrace {
  readonly views: readonly View[]
  /** [row][step] */
  readonly output: readonly (readonly Vector[])[]
  readonly penalty: number
}

export interface ReadResult {
  /** [row][step][token] */
  readonly logits: readonly (readonly Vector[])[]
  /** Mean negative log-likelihood in nats; NaN without targets. */
  readonly loss: number
  readonly penalty: number
  readonly state: State
  readonly trace: readonly LayerTrace[]
}

export interface DecoderOracle {
  start(batch: number): State
  read(tokens: readonly Vector[], state: State, options?: ReadOptions): ReadResult
}

/** Exported parameters of a decoder in float64. */
export const toParameters = (
  tensors: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Iterable<number> }>,
): Map<string, Values> =>
  new Map([...tensors].map(([name, { shape, data }]) => [name, { shape, data: Float64Array.from(data) }]))

export const range = (count: number) => Array.from({ length: count }, (_, index) => index)
export const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0)
export const mean = (values: Vector) => sum(values) / values.length
const dot = (a: Vector, b: Vector) => a.reduce((total, value, f) => total + value * b[f]!, 0)
const add = (a: Vector, b: Vector) => a.map((value, f) => value + b[f]!)
export const clamp01 = (value: number) => Math.min(1, Math.max(0, value))
export const sigmoid = (value: number) => 1 / (1 + Math.exp(-value))
export const newest = <T>(list: readonly T[], count: number) => list.slice(Math.max(0, list.length - count))

/** x [inputs] · weight [inputs, outputs] + bias [outputs] */
export function linear(x: Vector, { shape, data }: Values, bias?: Values): number[] {
  const outputs = shape[1]!
  return range(outputs).map(
    (o) => x.reduce((total, value, i) => total + value * data[i * outputs + o]!, 0) + (bias?.data[o] ?? 0),
  )
}

/** The slots of a view as the next block sees them. */
export const later = <S extends Slot>(slots: readonly S[], steps: number): S[] =>
  slots.map((slot) => ({ ...slot, age: slot.age + steps }))

export const zeroSlots = (layer: Layer, count: number | undefined): Slot[] => {
  if (!layer.zeros) return []
  if (count === undefined) throw new Error('say how many zeros the first memory has')
  return range(count).map((slot) => ({ hidden: range(layer.width).map(() => 0), age: count - slot }))
}

export const distance = (view: View, query: number, slot: number) => view.slots[slot]!.age + query
export const sees = (view: View, query: number, slot: number) =>
  distance(view, query, slot) >= view.layer.nearest

/** The last `span` steps; later queries of a block see no more than the first unless `sameLength` is false. */
export const fixedSpan = (span: number, sameLength = true): MethodOracle<readonly Slot[]> => ({
  start: (layer) => zeroSlots(layer, span),
  slots: (row) => row,
  recall: (view) => ({ m: (_, i, j) => (!sameLength || distance(view, i, j) <= span ? 1 : 0) }),
  settle: (views) => ({
    rows: views.map(({ slots, input }) => newest(later(slots, input.length), span)),
    penalty: 0,
  }),
})

/** 2/√π · exp(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (2n+1)!! */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x)
  let term = x
  let total = x
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total); n++) {
    term *= (2 * x * x) / (2 * n + 1)
    total += term
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total
}

/** @param frozen what stands behind every stop-gradient */
export function decoderOracle(
  config: Config,
  methods: readonly MethodOracle[],
  parameters: Parameters,
  frozen: Parameters = parameters,
): DecoderOracle {
  const run = (
    from: Parameters,
    tokens: readonly Vector[],
    state: State,
    { training = false, draw = 1, targets }: ReadOptions,
    behind?: ReadResult,
  ): ReadResult => {
    const net = network(config, from)
    const trace: LayerTrace[] = []
    const layers: (readonly unknown[])[] = []
    let hidden: readonly (readonly Vector[])[] = tokens.map((row) => row.map(net.embed))
    for (const [index, method] of methods.entries()) {
      const attentions = hidden.map((input, b) => {
        const given = { input, training, draw, row: state.layers[index]![b], step: state.steps[b]! }
        return net.attend(index, method, given, behind?.trace[index]?.views[b])
      })
      const views = attentions.map(({ view }) => view)
      const { rows, penalty } = method.settle(views)
      hidden = attentions.map(({ view, contexts }) =>
        view.input.map((x, i) => net.finish(index, x, contexts[i]!)),
      )
      layers.push(rows)
      trace.push({ views, output: hidden, penalty })
    }
    const logits = hidden.map((row) => row.map(net.predict))
    const losses = targets?.flatMap((row, b) =>
      row.map((target, i) => Math.log(sum(logits[b]![i]!.map(Math.exp))) - logits[b]![i]![target]!),
    )
    return {
      logits,
      loss: losses ? mean(losses) : Number.NaN,
      penalty: sum(trace.map(({ penalty }) => penalty)),
      state: { steps: state.steps.map((step, b) => step + tokens[b]!.length), layers },
      trace,
    }
  }
  return {
    start: (batch) => ({
      steps: range(batch).map(() => 0),
      layers: methods.map((method, index) =>
        range(batch).map(() => method.start(layerOf(config, parameters, index))),
      ),
    }),
    read(tokens, state, options = {}) {
      if (frozen === parameters) return run(parameters, tokens, state, options)
      const behind = run(frozen, tokens, state.frozen ?? state, options)
      const result = run(parameters, tokens, state, options, behind)
      return { ...result, state: { ...result.state, frozen: behind.state } }
    },
  }
}

const layerOf = (config: Config, parameters: Parameters, index: number): Layer => ({
  index,
  layers: config.layers,
  width: config.width,
  heads: config.heads,
  nearest: config.attendSelf ? 0 : 1,
  zeros: config.initialMemory === 'zeros',
  parameter: (name) => parameters.get(`layers.${index}.method.${name}`)!,
})

/** The formulas of the decoder with these parameters. */
function network(config: Config, parameters: Parameters) {
  const { width, heads, headSize, feedForward, persistentSlots } = config
  const pre = config.normPosition === 'pre'
  const get = (name: string) => parameters.get(name)!
  const ofLayer = (index: number, name: string) => get(`layers.${index}.${name}`)
  const vector = (values: Values, row: number, size: number) => [
    ...values.data.subarray(row * size, (row + 1) * size),
  ]

  function norm(x: Vector, name: string): number[] {
    const centre = config.norm === 'layer' ? mean(x) : 0
    const deviation = Math.sqrt(mean(x.map((value) => (value - centre) ** 2)) + config.epsilon)
    return x.map((value, f) => {
      const normal = ((value - centre) / deviation) * get(`${name}.scale`).data[f]!
      return config.norm === 'layer' ? normal + get(`${name}.bias`).data[f]! : normal
    })
  }

  /** x · weight, cut into heads: [head][feature] */
  const project = (x: Vector, weight: Values) => {
    const all = linear(x, weight)
    return range(heads).map((h) => all.slice(h * headSize, (h + 1) * headSize))
  }

  /** Rotary: features n and n + headSize/2 turn by position · 10000^(−2n/headSize). */
  const rotate = (x: Vector, position: number) => {
    const half = headSize / 2
    const angle = (n: number) => position * 10000 ** ((-2 * n) / headSize)
    return x.map((value, f) =>
      f < half
        ? value * Math.cos(angle(f)) - x[f + half]! * Math.sin(angle(f))
        : value * Math.cos(angle(f - half)) + x[f - half]! * Math.sin(angle(f - half)),
    )
  }

  /** Sinusoids [sin(d f), cos(d f)] projected to heads, by distance. */
  const sinusoidal = new Map<string, number[][]>()
  const positionKeys = (index: number, d: number) => {
    const key = `${index} ${d}`
    if (!sinusoidal.has(key)) {
      const angles = range(width / 2).map(
        (n) => Math.min(d, config.farthestPosition) * 10000 ** ((-2 * n) / width),
      )
      const sinusoids = [...angles.map(Math.sin), ...angles.map(Math.cos)]
      sinusoidal.set(key, project(sinusoids, ofLayer(index, 'attention.position')))
    }
    return sinusoidal.get(key)!
  }

  function score(index: number, h: number, q: Vector, k: Vector, d: number): number {
    if (config.positions === 'rotary') return dot(q, rotate(k, -d))
    if (config.positions === 'sinusoidal') {
      const content = vector(get('positions.contentBias'), h, headSize)
      const position = vector(get('positions.positionBias'), h, headSize)
      return dot(add(q, content), k) + dot(add(q, position), positionKeys(index, d)[h]!)
    }
    if (config.positions === 'none') return dot(q, k)
    const table = get('positions.table')
    const count = table.shape[0]!
    const row = d - (config.attendSelf ? 0 : 1)
    if (row >= count && config.beyondLearned === 'none') return dot(q, k)
    return dot(q, k) + dot(q, vector(table, Math.min(row, count - 1), headSize))
  }

  const normalise = (index: number) => (x: Vector) =>
    pre ? norm(x, `layers.${index}.attention.norm`) : [...x]

  /** Σ weight / total · value, by feature. */
  const mixture = (weights: Vector, total: number, value: (j: number, f: number) => number) =>
    range(headSize).map((f) => sum(weights.map((weight, j) => (weight / total) * value(j, f))))

  /** [heads, headSize, slots] */
  const persistent = (index: number, name: 'keys' | 'values', h: number, f: number, s: number) =>
    ofLayer(index, `attention.persistent.${name}`).data[(h * headSize + f) * persistentSlots + s]!

  return {
    embed(token: number): Vector {
      const { embeddingScale } = config
      const scale = embeddingScale === 'sqrt-width' ? Math.sqrt(width) : embeddingScale
      return vector(get('embedding.weight'), token, width).map((value) => value * scale)
    },

    predict(hidden: Vector): number[] {
      const x = pre ? norm(hidden, 'norm') : hidden
      const bias = config.outputBias ? get('output.bias') : undefined
      if (!config.tiedOutput) return linear(x, get('output.weight'), bias)
      return range(config.vocabulary).map(
        (token) => dot(x, vector(get('embedding.weight'), token, width)) + (bias?.data[token] ?? 0),
      )
    },

    attend(
      index: number,
      method: MethodOracle,
      given: Pick<View, 'input' | 'training' | 'draw' | 'row' | 'step'>,
      behind: View | undefined,
    ): { readonly view: View; readonly contexts: readonly Vector[] } {
      const attended = given.input.map(normalise(index))
      const remembered = method.slots(given.row)
      const slots = [...remembered, ...given.input.map((hidden, j) => ({ hidden, age: -j }))]
      const layer = layerOf(config, parameters, index)
      const queries = attended.map((x) => project(x, ofLayer(index, 'attention.query')))
      const attendedSlots = slots.map(({ hidden }) => normalise(index)(hidden))
      const projectAll = (read: readonly Vector[], name: string) =>
        read.map((x) => project(x, ofLayer(index, name)))
      const keys = projectAll(attendedSlots, 'attention.key')
      const values = projectAll(attendedSlots, 'attention.value')
      const overPairs = (value: (h: number, i: number, j: number) => number) =>
        range(heads).map((h) => queries.map((_, i) => slots.map((_, j) => value(h, i, j))))
      const logits = overPairs((h, i, j) => {
        const d = slots[j]!.age + i
        if (d < layer.nearest) return Number.NEGATIVE_INFINITY
        return score(index, h, queries[i]![h]!, keys[j]![h]!, d) / Math.sqrt(headSize)
      })
      const view = {
        ...{ ...given, layer, attended, slots, remembered: remembered.length, attendedSlots, logits },
        recalled: { m: () => 0 } as Recalled,
        weights: [] as number[][][],
        attendWith(hidden: readonly Vector[]) {
          const read = hidden.map(normalise(index))
          const otherKeys = projectAll(read, 'attention.key')
          const otherValues = projectAll(read, 'attention.value')
          return range(heads).map((h) =>
            queries.map((query) => {
              const exps = otherKeys.map((key) => Math.exp(dot(query[h]!, key[h]!) / Math.sqrt(headSize)))
              return mixture(exps, sum(exps), (j, f) => otherValues[j]![h]![f]!)
            }),
          )
        },
        get frozen(): View {
          return behind ?? view
        },
      }
      const recalled = method.recall(view)
      view.recalled = recalled
      const strengths = overPairs((h, i, j) => {
        const m = sees(view, i, j) ? recalled.m(h, i, j) : 0
        return m === 0 ? 0 : m * Math.exp(logits[h]![i]![j]! - (recalled.b?.(i, j) ?? 0))
      })
      // All-attention (Sukhbaatar et al. 2019): exp(q · key), values · √slots, always visible.
      const always = queries.map((query) =>
        range(heads).map((h) =>
          range(persistentSlots).map((s) =>
            Math.exp(
              dot(
                query[h]!,
                range(headSize).map((f) => persistent(index, 'keys', h, f, s)),
              ),
            ),
          ),
        ),
      )
      const totals = strengths.map((head, h) => head.map((row, i) => sum(row) + sum(always[i]![h]!) || 1))
      view.weights = overPairs((h, i, j) => strengths[h]![i]![j]! / totals[h]![i]!)
      const contexts = queries.map((_, i) =>
        range(heads).flatMap((h) =>
          add(
            mixture(strengths[h]![i]!, totals[h]![i]!, (j, f) => values[j]![h]![f]!),
            mixture(
              always[i]![h]!,
              totals[h]![i]!,
              (s, f) => persistent(index, 'values', h, f, s) * Math.sqrt(persistentSlots),
            ),
          ),
        ),
      )
      return { view, contexts }
    },

    /** The rest of the layer: output projection, residual, feed-forward. */
    finish(index: number, x: Vector, context: Vector): number[] {
      const residual = (before: Vector, part: Vector, name: string) =>
        pre ? add(before, part) : norm(add(before, part), `layers.${index}.${name}.norm`)
      const middle = residual(x, linear(context, ofLayer(index, 'attention.output')), 'attention')
      if (feedForward === 0) return middle
      const bias = (name: string) => (config.feedForwardBias ? ofLayer(index, name) : undefined)
      const read = pre ? norm(middle, `layers.${index}.feedForward.norm`) : middle
      const inner = linear(read, ofLayer(index, 'feedForward.in'), bias('feedForward.inBias'))
      const active = {
        relu: () => inner.map((value) => Math.max(0, value)),
        gelu: () => inner.map((value) => (value * (1 + erf(value / Math.SQRT2))) / 2),
        swiglu: () => {
          const gate = linear(read, ofLayer(index, 'feedForward.gate'))
          return inner.map((value, f) => value * gate[f]! * sigmoid(gate[f]!))
        },
      }[config.activation]()
      const part = linear(active, ofLayer(index, 'feedForward.out'), bias('feedForward.outBias'))
      return residual(middle, part, 'feedForward')
    },
  }
}

export interface Block extends ReadOptions {
  readonly tokens: readonly Vector[]
}

/**
 * Reads blocks one after the other with nothing frozen between them. `total` is the objective of backpropagation
 * through them: the mean of their losses and penalties.
 */
export function readMany(oracle: DecoderOracle, blocks: readonly Block[], start?: State) {
  let state = start ?? oracle.start(blocks[0]!.tokens.length)
  const results = blocks.map(({ tokens, ...options }) => {
    const result = oracle.read(tokens, state, options)
    state = result.state
    return result
  })
  const loss = mean(results.map((result) => result.loss))
  const penalty = mean(results.map((result) => result.penalty))
  return { loss, penalty, total: loss + penalty, results, state }
}

/** d total / d parameter by central differences, for all entries of one parameter. */
export function gradient(
  total: (parameters: Parameters) => number,
  parameters: Parameters,
  name: string,
  step = 1e-5,
): Float64Array {
  const { shape, data } = parameters.get(name)!
  return data.map((_, index) => {
    const at = (moved: number) => {
      const changed = data.slice()
      changed[index]! += moved
      return total(new Map(parameters).set(name, { shape, data: changed }))
    }
    return (at(step) - at(-step)) / (2 * step)
  })
}
