/** What the experiments' results say: figures for programs, and a summary in Markdown. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { frequentFrom, rareUpTo, tokenKinds } from './words.mjs'

/** What `run.mjs` left in a folder; a last line that a kill cut off is left out. */
export function readResults(folder) {
  const lines = (name) => {
    const path = join(folder, name)
    if (!existsSync(path)) return []
    return readFileSync(path, 'utf8')
      .split('\n')
      .flatMap((line) => {
        try {
          return line ? [JSON.parse(line)] : []
        } catch {
          return []
        }
      })
  }
  const plan = JSON.parse(readFileSync(join(folder, 'plan.json'), 'utf8'))
  return { plan, events: lines('results.jsonl'), traces: lines('traces.jsonl') }
}

export function reportOf({ plan, events, traces }) {
  const failed = new Map(
    events
      .filter(({ type, stage }) => type === 'failed' && stage === 'train')
      .map(({ run, message }) => [run, message]),
  )
  const failures = events.filter(({ type }) => type === 'failed').map(({ type: _, ...failure }) => failure)
  const runs = plan.runs.map((run) => {
    const of = (type) => events.filter((event) => event.run === run.name && event.type === type)
    const evaluations = new Map(
      of('eval').map(({ step, bitsPerByte, slots }) => [step, { step, bitsPerByte, slots }]),
    )
    const prunings = of('prune')
    const trace = traces.findLast((line) => line.run === run.name)
    return {
      ...run,
      parameters: of('start').at(-1)?.parameters,
      evaluations: [...evaluations.values()].sort((a, b) => a.step - b.step),
      ...(failed.has(run.name) && { failed: failed.get(run.name) }),
      ...(prunings.length > 0 && { prunings }),
      ...(trace && { trace: trace.trace, tracedAt: trace.step, memory: memoryOf(trace.trace, run.options) }),
    }
  })
  const results = {
    plan: { ...plan, words: undefined, runs: undefined },
    memory: equalMemory(runs),
    pruning: pruning(runs),
    patterns: patterns(runs, plan.words),
    failures,
    runs: runs.map(({ trace: _, ...run }) => run),
  }
  return { results, summary: summaryOf(results, plan) }
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length

/**
 * Slots that a layer needs, mean over layers: Expire-Span's R - 1 + mean of floor(e) (its paper's mean memory size),
 * Adaptive-Span's longest span and the ramp; and slots that a head attends to, mean over heads and layers.
 */
export function memoryOf({ layers }, { span }) {
  const perLayer = layers.flatMap((layer) => {
    if (layer.kind === 'life') {
      const needed = layer.ramp - 1 + mean(layer.life.map(Math.floor))
      return [{ needed, attended: needed }]
    }
    if (layer.kind !== 'spans') return []
    const reaches = layer.spans.map((own) => own.map((z) => Math.min(span, Math.ceil(z) + layer.ramp)))
    return [{ needed: reaches.flat().reduce((a, b) => Math.max(a, b)), attended: mean(reaches.map(mean)) }]
  })
  if (perLayer.length === 0) return undefined
  return {
    needed: mean(perLayer.map((one) => one.needed)),
    attended: mean(perLayer.map((one) => one.attended)),
  }
}

/** The last step at which all of these runs that did not fail were evaluated; undefined where there is none. */
export function commonStep(runs) {
  const lists = runs
    .filter((run) => !run.failed)
    .map(({ evaluations }) => evaluations.map(({ step }) => step))
  return lists[0]?.filter((step) => lists.every((list) => list.includes(step))).at(-1)
}

const at = (run, step) => run.evaluations.find((evaluation) => evaluation.step === step)

/** y at x on the line through points [x, y], x by its logarithm; undefined beyond them. */
export function interpolated(points, x) {
  const sorted = [...points].sort(([a], [b]) => a - b)
  for (const [index, [right, high]] of sorted.entries()) {
    if (right === x) return high
    if (index === 0 || right < x || sorted[index - 1][0] > x) continue
    const [left, low] = sorted[index - 1]
    return low + ((high - low) * Math.log(x / left)) / Math.log(right / left)
  }
  return undefined
}

/** Bits per byte against memory, and against the fixed span with as many slots. */
function equalMemory(runs) {
  const own = runs.filter(({ experiment }) => experiment === 'memory')
  const step = commonStep(own)
  if (step === undefined) return undefined
  const points = own.flatMap((run) => {
    const evaluation = at(run, step)
    if (!evaluation) return []
    const { method, span } = run.options
    const slots = method === 'fixed-span' ? span : run.memory?.needed
    return [
      {
        ...pick(run),
        method,
        bitsPerByte: evaluation.bitsPerByte,
        held: evaluation.slots,
        slots,
        attended: run.memory?.attended,
      },
    ]
  })
  const curve = (method, seed) =>
    points
      .filter((point) => point.method === method && point.seed === seed && point.slots)
      .map(({ slots, bitsPerByte }) => [slots, bitsPerByte])
  const compared = points.map((point) => {
    const against = (method) => {
      const other =
        point.method === method || !point.slots
          ? undefined
          : interpolated(curve(method, point.seed), point.slots)
      return other === undefined ? undefined : point.bitsPerByte - other
    }
    return {
      ...point,
      againstFixed: against('fixed-span'),
      ...(point.method === 'expire-span' && { againstAdaptive: against('adaptive-span') }),
    }
  })
  return { step, points: compared }
}

const pick = ({ name, seed, options }) => ({
  ...{ name, seed, start: options['initial-span'], penalty: options['span-penalty'] },
})

/** The least budget at which Selective Attention is as good as the plain transformer, and what that saves. */
function pruning(runs) {
  const trained = runs.filter(({ experiment }) => experiment === 'pruning')
  const own = trained.filter(({ prunings }) => prunings)
  if (own.length === 0) return undefined
  const plain = own
    .find(({ options }) => options.method === 'fixed-span')
    ?.prunings.find(({ kind }) => kind === 'whole')
  const step = commonStep(trained)
  return {
    step,
    trained: trained.map((run) => ({ name: run.name, bitsPerByte: step && at(run, step)?.bitsPerByte })),
    ...(plain && {
      plain: { bitsPerByte: plain.bitsPerByte, span: plain.span, block: plain.block, bytes: plain.bytes },
    }),
    curves: own.map(({ name, options, prunings }) => {
      const points = prunings
        .map(({ kind, budget, budgets, span, bitsPerByte }) => ({
          ...{ kind, bitsPerByte },
          slots: budget ?? (budgets ? mean(budgets) : span),
          ...(budgets && { budgets }),
        }))
        .sort((a, b) => b.slots - a.slots)
      const enough = plain && points.filter(({ bitsPerByte }) => bitsPerByte <= plain.bitsPerByte).at(-1)
      // A step of a pruned model sees what is kept between blocks and at most its own block; a window slides.
      const beside = options.method === 'selective' ? plain?.block : 0
      return {
        ...{ name, method: options.method, memoryLoss: options['memory-loss'] ?? 0, points },
        ...(enough && { least: enough, factor: (plain.span + beside) / (enough.slots + beside) }),
      }
    }),
  }
}

function patterns(runs, words) {
  const traced = runs.filter(({ trace }) => trace)
  const of = (method, dynamic) =>
    traced.filter(({ options }) => options.method === method && (options.dynamic ?? false) === dynamic)
  const compressive = runs.filter(({ options }) => options.method === 'compressive')
  const rivals = [
    ...compressive,
    ...runs.filter(
      ({ experiment, options, seed }) =>
        experiment === 'memory' && options.method === 'fixed-span' && seed === compressive[0]?.seed,
    ),
  ]
  const step = commonStep(rivals)
  return {
    spans: of('adaptive-span', false).map((run) => ({
      ...pick(run),
      // Shortest head first.
      layers: run.trace.layers.map(({ spans }) => spans.map(([z]) => z).sort((a, b) => a - b)),
    })),
    dynamic: of('adaptive-span', true).map((run) => ({
      ...pick(run),
      rows: table(run.trace, words, placeInWord, (layer, token) =>
        mean(layer.spans.map((own) => own[token])),
      ),
    })),
    lives: of('expire-span', false).map((run) => ({
      ...pick(run),
      rows: table(run.trace, words, kindsOfToken, (layer, token) => layer.life[token]),
    })),
    ...(step !== undefined && {
      compressive: {
        step,
        runs: rivals.flatMap((run) => {
          const { method, span, rate, compressed, compression } = run.options
          const range = method === 'compressive' ? span + rate * compressed : span
          const evaluation = at(run, step)
          return evaluation ? [{ name: run.name, compression, range, ...evaluation }] : []
        }),
      },
    }),
  }
}

/** Where a query stands in its word: what it predicts is the next letter. */
function placeInWord({ place, word }) {
  if (place === 'letter')
    return [`letter ${Math.min(word.letter, 4) + 1}${word.letter >= 4 ? ' and later' : ''}`]
  return [place]
}

function kindsOfToken({ place, word }) {
  if (place !== 'letter') return [place, ...(word ? [`after a ${word.kind} word`] : [])]
  return ['letters', ...(word.letter === 0 ? ['first letters'] : []), `letters of a ${word.kind} word`]
}

/** Mean of a figure of tokens by kind and layer: [{ kind, tokens, layers }]. */
function table(trace, words, kindsFor, figure) {
  const tokens = new Map()
  for (const [token, kind] of tokenKinds(trace.texts, words).entries())
    for (const name of kindsFor(kind)) tokens.set(name, [...(tokens.get(name) ?? []), token])
  return [...tokens]
    .map(([kind, list]) => ({
      ...{ kind, tokens: list.length },
      layers: trace.layers.map((layer) => mean(list.map((token) => figure(layer, token)))),
    }))
    .sort((a, b) => (a.kind < b.kind ? -1 : 1))
}

const number = (value, digits) => (value === undefined || Number.isNaN(value) ? '' : value.toFixed(digits))
const signed = (value) => (value === undefined ? '' : `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(3)}`)
const markdown = (heads, rows) =>
  [heads, heads.map((_, index) => (index === 0 ? '---' : '---:')), ...rows]
    .map((cells) => `| ${cells.join(' | ')} |`)
    .join('\n')

function summaryOf({ memory, pruning: pruned, patterns: found, failures }, plan) {
  const { size, text } = plan
  const [one] = plan.runs
  const sections = [
    '# Experiments on text',
    [
      `${plan.date}, backend ${plan.backend}, Node ${plan.node}, ${plan.cores} cores, ${plan.minutes} minutes, ${plan.jobs} runs side by side.`,
      `Text: ${text.bytes} bytes, the last tenth for validation${text.validation ? ` (${text.validation.name}; trained on the beginnings of ${text.training.length} other books)` : ''}.`,
      `${size.layers} layers, width ${size.width}, ${size.heads} heads, feed-forward ${size.feedForward}, batch ${size.batch}, blocks of ${size.block};`,
      `learning rate ${one.options['learning-rate']}, ${one.options.schedule} after ${one.options.warmup} steps of warm-up.`,
    ].join('\n'),
    ...failures.map(
      ({ run, stage, message }) => `**${run} failed to ${stage}:** ${message.split('\n').at(-1)}`,
    ),
    memorySection(memory),
    pruningSection(pruned),
    ...patternSections(found),
  ]
  return `${sections.filter(Boolean).join('\n\n')}\n`
}

function memorySection(memory) {
  if (!memory) return undefined
  const rows = [...memory.points]
    .sort((a, b) => (a.method === b.method ? (a.slots ?? 0) - (b.slots ?? 0) : a.method < b.method ? 1 : -1))
    .map((point) => [
      point.method,
      point.seed,
      point.start ?? '',
      point.penalty?.toExponential(0) ?? '',
      number(point.slots, 1),
      number(point.attended, 1),
      number(point.held, 1),
      number(point.bitsPerByte, 4),
      signed(point.againstFixed),
      signed(point.againstAdaptive),
    ])
  const sum = (method, field) => {
    const values = memory.points.flatMap((point) => (point.method === method ? (point[field] ?? []) : []))
    if (values.length === 0) return 'not to be compared'
    return `${signed(mean(values))} bits (${values.filter((value) => value < 0).length} of ${values.length} lower)`
  }
  return [
    `## Bits per byte at equal memory (step ${memory.step})`,
    'Slots: what a layer needs, mean over layers (Expire-Span: R − 1 + mean of ⌊e⌋; Adaptive-Span: longest span + R). Attended: mean',
    'over heads. Held: slots alive in validation, which Expire-Span deletes and Adaptive-Span trims at blocks. The last columns:',
    'difference from the fixed span, and from Adaptive-Span, at as many slots and the same seed (interpolated over log slots; none beyond).',
    '',
    markdown(
      [
        'method',
        'seed',
        'start',
        'penalty',
        'slots',
        'attended',
        'held',
        'bits per byte',
        '− fixed',
        '− Adaptive-Span',
      ],
      rows,
    ),
    '',
    `Adaptive-Span against the fixed span: ${sum('adaptive-span', 'againstFixed')}. Expire-Span against the fixed span: ${sum('expire-span', 'againstFixed')};`,
    `against Adaptive-Span: ${sum('expire-span', 'againstAdaptive')}. The paper's figure (enwik8, dev): Expire-Span 1.045 at 200 and 1.034 at 350`,
    'slots, Adaptive-Span 1.062 at 180 and 1.047 at 300, Transformer-XL 1.080 at 512.',
  ].join('\n')
}

function pruningSection(pruned) {
  if (!pruned) return undefined
  const { plain, curves } = pruned
  const slots = [...new Set(curves.flatMap(({ points }) => points.map((point) => point.slots)))].sort(
    (a, b) => b - a,
  )
  const cell = ({ points }, wanted) => number(points.find((point) => point.slots === wanted)?.bitsPerByte, 4)
  return [
    `## Selective Attention pruned at context 512 (step ${pruned.step})`,
    plain
      ? `Plain transformer, span ${plain.span}: ${plain.bitsPerByte.toFixed(4)} bits per byte on the first ${plain.bytes} bytes of validation, blocks of ${plain.block}.`
      : 'The plain transformer was not measured.',
    '',
    markdown(
      [
        'slots per layer',
        ...curves.map(({ method, memoryLoss }) =>
          method !== 'selective'
            ? 'plain, its last steps'
            : memoryLoss
              ? `votes and L_mem, ε ${memoryLoss}`
              : 'votes',
        ),
      ],
      slots.map((wanted) => [
        number(wanted, wanted % 1 ? 1 : 0),
        ...curves.map((curve) => cell(curve, wanted)),
      ]),
    ),
    '',
    ...curves
      .filter(({ method }) => method === 'selective')
      .map(({ name, least, factor }) =>
        least
          ? `${name}: as good as the plain transformer with ${number(least.slots, 0)} slots, ${number(factor, 1)} times less memory (own blocks counted on both sides).`
          : `${name}: at no budget as good as the plain transformer.`,
      ),
    'The paper: 16 times less at context 512 (C4, about 100M parameters).',
  ].join('\n')
}

function patternSections({ spans, dynamic, lives, compressive }) {
  const byLayer = (rows) =>
    markdown(
      ['token', 'tokens', ...(rows[0]?.layers.map((_, layer) => `layer ${layer + 1}`) ?? [])],
      rows.map(({ kind, tokens, layers }) => [kind, tokens, ...layers.map((value) => number(value, 1))]),
    )
  return [
    spans.length > 0 &&
      [
        '## Adaptive-Span: spans by layer (shortest head first)',
        markdown(
          ['run', ...spans[0].layers.map((_, layer) => `layer ${layer + 1}`)],
          spans.map(({ name, layers }) => [
            name,
            ...layers.map((heads) => heads.map((z) => z.toFixed(0)).join(' ')),
          ]),
        ),
      ].join('\n\n'),
    ...dynamic.map(({ name, rows }) => `## ${name}: mean span by place in the word\n\n${byLayer(rows)}`),
    ...lives.map(
      ({ name, rows }) =>
        `## ${name}: mean life by kind of token\n\nRare: at most ${rareUpTo} times in the training text; frequent: at least ${frequentFrom}; name: a capital within a sentence.\n\n${byLayer(rows)}`,
    ),
    compressive &&
      [
        `## Compressive memory (step ${compressive.step})`,
        markdown(
          ['run', 'range of a layer, steps', 'slots', 'bits per byte'],
          compressive.runs.map(({ name, range, slots, bitsPerByte }) => [
            name,
            range,
            number(slots, 0),
            number(bitsPerByte, 4),
          ]),
        ),
      ].join('\n\n'),
  ].filter(Boolean)
}
