/**
 * What is trained for the experiments on text: every run with its options of `lethe train`. Runs of one decoder share text,
 * sizes and schedule and are compared at equal steps; only what they remember differs.
 */

/** What memories may be, by the size of a run; spans, starts and budgets in steps. */
const memories = {
  /** For a GPU. */
  long: {
    spans: [32, 64, 128, 256],
    // The longest span that could be learned.
    ...{ reach: 1024, ramp: 32 },
    // Where learned spans start, and what a step of span costs: short, middle, long.
    adaptive: [
      { start: 16, penalty: 2e-5 },
      { start: 96, penalty: 5e-6 },
      { start: 256, penalty: 2e-6 },
    ],
    expire: [
      { start: 64, penalty: 1e-5 },
      { start: 192, penalty: 1e-6 },
      { start: 384, penalty: 1e-7 },
    ],
    // Slots as they were, compressed ones, and steps that become one.
    compressive: { span: 64, compressed: 64, rate: 4 },
  },
  /** Short enough that a small model needs them within some thousand steps. */
  short: {
    spans: [8, 32, 128],
    ...{ reach: 256, ramp: 8 },
    adaptive: [
      { start: 16, penalty: 1e-4 },
      { start: 64, penalty: 1e-5 },
    ],
    expire: [
      { start: 16, penalty: 1e-4 },
      { start: 64, penalty: 1e-5 },
    ],
    compressive: { span: 16, compressed: 16, rate: 4 },
  },
  /** To try the paths. */
  tiny: {
    spans: [4, 8],
    ...{ reach: 128, ramp: 4 },
    adaptive: [{ start: 12, penalty: 5e-6 }],
    expire: [{ start: 24, penalty: 1e-6 }],
    compressive: { span: 8, compressed: 8, rate: 4 },
  },
}
/** The context of the pruning experiment, and the slots that it is cut to; first what says most if time runs out. */
const pruning = { context: 512, budgets: [32, 64, 16, 128, 8, 4, 256, 2] }

/** Sizes of every run. */
export const sizes = {
  /** An H100: half an hour. */
  full: {
    ...{ layers: 4, width: 128, heads: 4, feedForward: 512, batch: 16, block: 128, validBatch: 32 },
    ...{ memory: memories.long, pruning: { ...pruning, bytes: 131_072, batch: 128, block: 16 } },
    ...{ tokens: 8192, every: 300, validationBytes: 260_000, warmup: 200 },
  },
  /** Two processors: an hour or two. */
  small: {
    ...{ layers: 4, width: 96, heads: 4, feedForward: 384, batch: 16, block: 64, validBatch: 64 },
    ...{ memory: memories.short, pruning: { ...pruning, bytes: 65_536, batch: 16, block: 16 } },
    ...{ tokens: 8192, every: 1000, validationBytes: 400_000, warmup: 200 },
  },
  /** To try the paths. */
  tiny: {
    ...{ layers: 2, width: 16, heads: 2, feedForward: 32, batch: 2, block: 16, validBatch: 4 },
    memory: memories.tiny,
    pruning: { context: 64, budgets: [4, 8, 2], bytes: 600, batch: 2, block: 8 },
    ...{ tokens: 192, every: 4, validationBytes: 3000, warmup: 2 },
  },
}

/**
 * The runs in the order in which they are trained, those of one seed and experiment side by side.
 * @param options.size of `sizes`
 * @param options.seeds of the memory experiment; the others have the first one alone
 * @returns per run: its name, experiment, decoder and seed, options of `lethe train`, and what is `after` them
 */
export function planRuns({ size, seeds }) {
  const { spans, reach, ramp, adaptive, expire, compressive } = size.memory
  const style = (preset) => ({
    preset,
    ...{ layers: size.layers, width: size.width, heads: size.heads, 'feed-forward': size.feedForward },
    ...{ schedule: 'inverse-sqrt', 'learning-rate': 2e-3, warmup: size.warmup },
    ...{ 'valid-batch': size.validBatch, 'eval-every': size.every, 'checkpoint-every': size.every, keep: 3 },
  })
  const fair = { ...style('fair'), batch: size.batch, block: size.block }
  const learned = (method, { start, penalty }) => ({
    method,
    ...{ span: reach, ramp },
    'span-penalty': penalty,
    'initial-span': start,
  })
  const memory = [
    ...spans.map((span) => [`fixed-span-${span}`, { method: 'fixed-span', span }]),
    ...adaptive.map((knobs) => [`adaptive-span-${knobs.start}`, learned('adaptive-span', knobs), 'inspect']),
    ...expire.map((knobs) => [`expire-span-${knobs.start}`, learned('expire-span', knobs), 'inspect']),
  ]
  // Its spans have a start of their own.
  const { 'initial-span': _, ...dynamic } = learned(
    'adaptive-span',
    adaptive.at(Math.floor(adaptive.length / 2)),
  )
  const compressed = {
    method: 'compressive',
    ...compressive,
  }
  const patterns = [
    ['adaptive-span-dynamic', { ...dynamic, dynamic: true }, 'inspect'],
    ['compressive-mean', { ...compressed, compression: 'mean' }],
    ['compressive-most-used', { ...compressed, compression: 'most-used' }],
    ['compressive-conv', { ...compressed, compression: 'conv', 'compression-loss': 'attention' }],
  ]
  // As the paper's: pre-norm, SwiGLU, rotary positions. Longer blocks let votes learn from farther ahead.
  const modern = {
    ...style('modern'),
    batch: size.batch / 2,
    block: 2 * size.block,
    span: size.pruning.context,
  }
  const pruning = [
    [`plain-${size.pruning.context}`, { method: 'fixed-span' }, 'prune'],
    [`selective-${size.pruning.context}`, { method: 'selective' }, 'prune'],
    [`selective-${size.pruning.context}-memory-loss`, { method: 'selective', 'memory-loss': 0.1 }, 'prune'],
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

/** The runs in as few equal parts as `jobs` side by side allow. */
export function wavesOf(runs, jobs) {
  const count = Math.ceil(runs.length / jobs)
  const each = Math.ceil(runs.length / count)
  return Array.from({ length: count }, (_, wave) => runs.slice(wave * each, (wave + 1) * each))
}
