/**
 * Adaptive-Span (Sukhbaatar, Grave, Bojanowski, Joulin 2019, "Adaptive Attention Span in Transformers",
 * arXiv 1905.07799): each head learns how far back it looks. The span belongs to the query's side: it decides how
 * strongly a head attends to a distance, and the longest span of a layer how much that layer remembers.
 */
import {
  type Block,
  ConfigError,
  type ForgettingMethod,
  type LayerMemory,
  lastSlots,
  linear,
  type NamedTensors,
  type ParameterSpec,
  slotsFrom,
  type Term,
  validSlots,
} from '@lethe/core'
import {
  add,
  mean,
  minimum,
  mul,
  reshape,
  type Scalar,
  sigmoid,
  sum,
  type Tensor,
  type Tensor3D,
  tensor3d,
  tidy,
  transpose,
  zeros,
} from '@tensorflow/tfjs-core'

export interface AdaptiveSpanOptions {
  /** S: the longest span there can be, and the farthest distance with a learned position. Steps. */
  readonly maxSpan: number
  /** R: over this many steps beyond a span, attention fades to nothing. Default 32. */
  readonly ramp?: number
  /** λ: what a step of span costs, in nats; the mean over the heads of a layer is added to the loss. Default 2e-6. */
  readonly penalty?: number
  /** A span for each head, or one for all heads of a layer. Default 'head'. */
  readonly per?: 'head' | 'layer'
  /** Whether each query decides its span by its hidden state, instead of a fixed learned one. Default false. */
  readonly dynamic?: boolean
  /** Static spans only: where they start, in steps. Default 0. */
  readonly initialSpan?: number
  /** Static spans only: distances that no head reaches are left out in multiples of this many steps. Default 64. */
  readonly trimStep?: number
  /** Static spans only: slots kept beyond what is attended to, since spans may grow. Default 64. */
  readonly growth?: number
}

/** What follows from a layer's learned spans; read once per update. */
export interface SpanPlan {
  /** The farthest distance at which any head still attends, in steps. */
  readonly longest: number
  /** Distances left out at the far end. */
  readonly trim: number
  /** Slots kept between blocks. */
  readonly slots: number
}

/** The authors' start of the dynamic spans' bias: every span starts at maxSpan · sigmoid(-4), 1.8 % of it. */
const initialBias = -4

/**
 * Each head learns its attention span, under a penalty on the mean span; beyond the span attention fades over a ramp.
 * Sukhbaatar et al. 2019, section 2: m(d) = clamp((R + z - d) / R, 0, 1), z = S·z' with z' in [0, 1] learned, or for
 * dynamic spans z = S·sigmoid(vᵀx + b) of the query's hidden state x; loss + λ · mean of z over the heads of a layer.
 *
 * As in the authors' code: where a step does not attend to itself, the step before it counts as d = 0; z' is clamped
 * after each update; the weights are m · softmax, divided by their sum + 1e-8; static spans are trimmed in coarse
 * steps, for all heads by the longest (trimmed distances have m = 0, so nothing changes). Choices of ours, where the
 * paper is silent: v starts at 0 (b at its -4), the dynamic penalty is a mean over the block's queries, too, and a
 * memory that is too short for spans that grew is not filled with zeros.
 * @throws ConfigError for a wrong option
 */
export function adaptiveSpan(options: AdaptiveSpanOptions): ForgettingMethod {
  const settings = resolve(options)
  const { maxSpan, ramp, penalty, per, dynamic } = settings

  /** z in steps: [heads | 1], or of each query [batch, heads | 1, block]. `queries` [batch, block, width]. */
  const spansOf = ({ span, weight, bias }: NamedTensors, queries: Tensor3D): Tensor =>
    mul(dynamic ? sigmoid(transpose(linear(queries, weight!, bias!), [0, 2, 1])) : span!, maxSpan)
  /** For a reader [heads | 1]: what becomes of the spans, for dynamic ones the mean over the steps remembered. */
  const figureOf = (
    parameters: NamedTensors,
    memory: LayerMemory,
    normalise: Block['normalise'],
    of: (span: Tensor) => Tensor = (span) => span,
  ): Tensor => {
    const hidden = memory.tensors.hidden as Tensor3D
    if (!dynamic) return of(spansOf(parameters, hidden))
    const [batch, slots, width] = hidden.shape
    // Another method's memory, where this one is an overlay, may count more slots than those in `hidden`.
    const recent = newest(memory, slots)
    const steps = recent.alive.reduce((total, alive) => total + alive, 0)
    if (steps === 0) return mean(of(spansOf(parameters, zeros([1, 1, width]))), [0, 2])
    const figures = of(spansOf(parameters, normalise(hidden)))
    const valid = validSlots(recent, 0)
    const counted = valid ? mul(figures, reshape(valid, [batch, 1, slots])) : figures
    return mul(sum(counted, [0, 2]), 1 / steps)
  }
  const termOf = (span: Tensor): Term => ({ kind: 'head-span', span, ramp })
  const penaltyOf = (span: Tensor) => mul(mean(span), penalty) as Scalar
  const untrimmed: SpanPlan = { longest: maxSpan, trim: 0, slots: maxSpan }
  const planOf = (plan: unknown) => (plan as SpanPlan | undefined) ?? untrimmed

  return {
    specVersion: 1,
    name: 'adaptive-span',
    options: dynamic ? { maxSpan, ramp, penalty, per, dynamic } : { ...settings },
    decides: 'step',
    reach: () => maxSpan,
    capacity: () => maxSpan,
    parameters: ({ width, heads }): Record<string, ParameterSpec> => {
      const spans = per === 'head' ? heads : 1
      const constant = (value: number) => ({ kind: 'constant', value }) as const
      if (dynamic)
        return {
          weight: { shape: [width, spans], initializer: constant(0) },
          bias: { shape: [spans], initializer: constant(initialBias) },
        }
      return {
        span: { shape: [spans], initializer: constant(settings.initialSpan / maxSpan), clamp: [0, 1] },
      }
    },
    stateDict: (family, { index, heads, persistentSlots }) => {
      if (dynamic) return {}
      const inner = `layers.${index}.attn.attn.`
      if (family === 'transformer-sequential') {
        const shape = per === 'head' ? [heads, 1, 1] : [1]
        return { span: { names: [`${inner}adaptive_span.mask.size_ratio`], shape } }
      }
      const name = 'adaptive_span._mask.current_val'
      const names = [inner + name, ...(persistentSlots > 0 ? [`${inner}persistent_memory.${name}`] : [])]
      return { span: { names, shape: [per === 'head' ? heads : 1, 1, 1] } }
    },
    ...(!dynamic && { prepare: async (_, { span }) => planFor(settings, await span!.data()) }),
    initialMemory: ({ width, initialMemory }, batch, plan) => {
      const slots = initialMemory === 'zeros' ? planOf(plan).slots : 0
      return { tensors: { hidden: zeros([batch, slots, width]) }, alive: new Array(batch).fill(slots) }
    },
    recall: (block) => {
      const { attended, layer, length, parameters, plan } = block
      const farthest = maxSpan - planOf(plan).trim
      const memory = newest(block.memory, farthest)
      const hidden = memory.tensors.hidden as Tensor3D
      const slots = hidden.shape[1]
      const remembered = slots > 0 ? [block.remembered(hidden)] : []
      const valid = validSlots(memory, length)
      const span = spansOf(parameters, attended)
      return {
        groups: [
          {
            pieces: [...remembered, { hidden: attended, constant: false }],
            distance: { kind: 'contiguous', first: slots },
            window: { nearest: layer.attendSelf ? 0 : 1, farthest },
            ...(valid && { valid }),
          },
        ],
        terms: [termOf(span)],
        carry: { span },
      }
    },
    settle: (block, { carry }) => {
      const { span } = carry as { span: Tensor }
      return {
        memory: lastSlots(block, planOf(block.plan).slots),
        penalty: penaltyOf(span),
        ...(block.traced && { trace: { span } }),
      }
    },
    overlay: ({ parameters, queries }) => {
      const span = spansOf(parameters, queries)
      return { terms: [termOf(span)], penalty: penaltyOf(span) }
    },
    // In place, as long as the memory is: what `initialMemory` has without a plan may be much longer.
    reset: ({ initialMemory }, { tensors, alive }, rows) => {
      const hidden = tensors.hidden as Tensor3D
      const batch = alive.length
      const stays = (_: unknown, row: number) => (rows.includes(row) ? 0 : 1)
      const start = initialMemory === 'zeros' ? hidden.shape[1] : 0
      return {
        tensors: { hidden: mul(hidden, tensor3d(Float32Array.from(alive, stays), [batch, 1, 1])) },
        alive: alive.map((count, row) => (rows.includes(row) ? start : count)),
      }
    },
    report: (_, parameters, memory, normalise) => ({ span: figureOf(parameters, memory, normalise) }),
    attended: async ({ heads }, parameters, memory, normalise) => {
      const slotsOf = (span: Tensor) => minimum(add(span, ramp), maxSpan)
      const slots = tidy(() => figureOf(parameters, memory, normalise, slotsOf))
      const values = await slots.data()
      slots.dispose()
      return Array.from({ length: heads }, (_, head) => values[per === 'head' ? head : 0]!)
    },
    decode: {
      capacity: (_, plan) => maxSpan - planOf(plan).trim + 1,
      recall: ({ parameters }, query) => ({ terms: [termOf(spansOf(parameters, query))] }),
    },
  }
}

/** What the spans [heads | 1], shares of maxSpan, allow to leave out. Rounded as the masks are: in float32. */
function planFor({ maxSpan, ramp, trimStep, growth }: Settings, shares: Iterable<number>): SpanPlan {
  const spans = Array.from(shares, (share) => Math.ceil(Math.fround(maxSpan * share)))
  const longest = Math.min(maxSpan, Math.max(...spans) + ramp)
  const trim = Math.floor((maxSpan - longest) / trimStep) * trimStep
  return { longest, trim, slots: Math.min(maxSpan, maxSpan - trim + growth) }
}

/** The newest `count` slots of a memory. */
function newest({ tensors, alive }: LayerMemory, count: number): LayerMemory {
  const hidden = tensors.hidden as Tensor3D
  const kept = Math.min(count, hidden.shape[1])
  return {
    tensors: { hidden: slotsFrom(hidden, hidden.shape[1] - kept, kept) },
    alive: alive.map((slots) => Math.min(slots, kept)),
  }
}

type Settings = Required<AdaptiveSpanOptions>

/** Fills in the defaults and refuses what makes no sense. */
function resolve(options: AdaptiveSpanOptions): Settings {
  const { maxSpan, ramp = 32, penalty = 2e-6, per = 'head', dynamic = false } = options
  const { initialSpan = 0, trimStep = 64, growth = 64 } = options
  const settings = { maxSpan, ramp, penalty, per, dynamic, initialSpan, trimStep, growth }
  const check = (right: boolean, name: keyof Settings, wanted: string) => {
    if (!right)
      throw new ConfigError(`${name} must be ${wanted}, not ${settings[name]}`, { [name]: settings[name] })
  }
  const whole = (value: number, name: keyof Settings, least: number) =>
    check(Number.isInteger(value) && value >= least, name, `a whole number from ${least} up`)
  for (const name of Object.keys(options))
    if (!Object.hasOwn(settings, name))
      throw new ConfigError(
        `unknown option "${name}" of adaptive-span; known are ${Object.keys(settings).join(', ')}`,
        { name },
      )
  whole(maxSpan, 'maxSpan', 1)
  whole(ramp, 'ramp', 1)
  check(penalty >= 0 && Number.isFinite(penalty), 'penalty', 'a finite number from 0 up')
  check(per === 'head' || per === 'layer', 'per', "'head' or 'layer'")
  check(typeof dynamic === 'boolean', 'dynamic', 'true or false')
  check(initialSpan >= 0 && initialSpan <= maxSpan, 'initialSpan', `between 0 and maxSpan ${maxSpan}`)
  whole(trimStep, 'trimStep', 1)
  whole(growth, 'growth', 0)
  for (const name of ['initialSpan', 'trimStep', 'growth'] as const)
    if (dynamic && options[name] !== undefined)
      throw new ConfigError(`${name} belongs to static spans: leave it out, or set dynamic: false`, {
        [name]: options[name],
      })
  return settings
}
