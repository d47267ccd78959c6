/**
 * What is trained for the experiments on text: every run with its options of `lethe train`. Runs of one decoder share text,
 * sizes and schedule and are compared at equal steps; only what they remember differs.
 */

/** Sizes of every run. Memory sizes below are those of `full`, which `tiny` divides to try the paths. */
export const sizes = {
  full: {
    ...{ layers: 4, width: 128, heads: 4, feedForward: 512, batch: 16, block: 128, validBatch: 32 },
    ...{
      divisor: 1,
      tokens: 8192,
      pruneBytes: 131_072,
      pruneBatch: 128,
      pruneBlock: 16,
      every: 300,
      validationBytes: 260_000,
      warmup: 200,
    },
  },
  tiny: {
    ...{ layers: 2, width: 16, heads: 2, feedForward: 32, batch: 2, block: 16, validBatch: 4 },
    ...{
      divisor: 8,
      tokens: 192,
      pruneBytes: 600,
      pruneBatch: 2,
      pruneBlock: 8,
      every: 4,
      validationBytes: 3000,
      warmup: 2,
    },
  },
}

/** Slots of a fixed span. */
const spans = [32, 64, 128, 256]
/** The longest span that could be learned, and the ramp. */
const reach = 1024
const ramp = 32
/** Where learned spans start, and what a step of span costs: short, middle, long. */
const adaptive = [
  { start: 16, penalty: 2e-5 },
  { start: 96, penalty: 5e-6 },
  { start: 256, penalty: 2e-6 },
]
const expire = [
  { start: 64, penalty: 1e-5 },
  { start: 192, penalty: 1e-6 },
  { start: 384, penalty: 1e-7 },
]
/** Compressive: slots as they were, compressed ones, and steps that become one. */
const compressive = { span: 64, compressed: 64, rate: 4 }
/** The context of the pruning experiment, and the slots that it is cut to; first what says most if time runs out. */
const context = 512
const budgets = [32, 64, 16, 128, 8, 256, 48, 24, 96]

/**
 * The runs in the order in which they are trained, those of one seed and experiment side by side.
 * @param options.size of `sizes`
 * @param options.seeds of the memory experiment; the others have the first one alone
 * @returns per run: its name, experiment, decoder and seed, options of `lethe train`, and what is `after` them
 */
export function planRuns({ size, seeds }) {
  const { divisor } = size
  const scaled = (steps) => Math.max(1, Math.round(steps / divisor))
  const style = (preset) => ({
    preset,
    ...{ layers: size.layers, width: size.width, heads: size.heads, 'feed-forward': size.feedForward },
    ...{ schedule: 'inverse-sqrt', 'learning-rate': 2e-3, warmup: size.warmup },
    ...{ 'valid-batch': size.validBatch, 'eval-every': size.every, 'checkpoint-every': size.every, keep: 3 },
  })
  const fair = { ...style('fair'), batch: size.batch, block: size.block }
  const learned = (method, { start, penalty }) => ({
    method,
    span: scaled(reach),
    ramp: scaled(ramp),
    'span-penalty': penalty,
    'initial-span': scaled(start),
  })
  const memory = [
    ...spans.map((span) => [`fixed-span-${span}`, { method: 'fixed-span', span: scaled(span) }]),
    ...adaptive.map((knobs) => [`adaptive-span-${knobs.start}`, learned('adaptive-span', knobs), 'inspect']),
    ...expire.map((knobs) => [`expire-span-${knobs.start}`, learned('expire-span', knobs), 'inspect']),
  ]
  // Its spans have a start of their own.
  const { 'initial-span': _, ...dynamic } = learned('adaptive-span', adaptive[1])
  const compressed = {
    ...{ method: 'compressive', rate: compressive.rate },
    ...{ span: scaled(compressive.span), compressed: scaled(compressive.compressed) },
  }
  const patterns = [
    ['adaptive-span-dynamic', { ...dynamic, dynamic: true }, 'inspect'],
    ['compressive-mean', { ...compressed, compression: 'mean' }],
    ['compressive-most-used', { ...compressed, compression: 'most-used' }],
    ['compressive-conv', { ...compressed, compression: 'conv', 'compression-loss': 'attention' }],
  ]
  // As the paper's: pre-norm, SwiGLU, rotary positions. Longer blocks let votes learn from farther ahead.
  const modern = { ...style('modern'), batch: size.batch / 2, block: 2 * size.block, span: scaled(context) }
  const pruning = [
    ['plain-512', { method: 'fixed-span' }, 'prune'],
    ['selective-512', { method: 'selective' }, 'prune'],
    ['selective-512-memory-loss', { method: 'selective', 'memory-loss': 0.1 }, 'prune'],
  ]
  const runs = (experiment, seed, common, list) =>
    list.map(([name, options, after]) => ({
      name: `${name}-seed${seed}`,
      ...{ experiment, decoder: common.preset, seed, ...(after && { after }) },
      options: { ...common, ...options, seed },
    }))
  const [first, ...others] = seeds
  return [
    ...runs('memory', first, fair, memory),
    ...runs('pruning', first, modern, pruning),
    ...others.flatMap((seed) => runs('memory', seed, fair, memory)),
    ...runs('patterns', first, fair, patterns),
  ]
}

/** Budgets of a size. */
export const budgetsOf = ({ divisor }) => [
  ...new Set(budgets.map((slots) => Math.max(1, Math.round(slots / divisor)))),
]

/** The runs in as few equal parts as `jobs` side by side allow. */
export function wavesOf(runs, jobs) {
  const count = Math.ceil(runs.length / jobs)
  const each = Math.ceil(runs.length / count)
  return Array.from({ length: count }, (_, wave) => runs.slice(wave * each, (wave + 1) * each))
}
