/**
 * Every option, once: this table drives parsing, --help, --config files and the checks of values.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { backendRequests } from '@lethe/backends'
import { presets } from '@lethe/core'
import { tasks } from '@lethe/tasks'
import { optimizerNames, scheduleNames } from '@lethe/trainer'
import { parts as dataParts } from './datasets/sets'
import { UsageError } from './errors'
import { methods } from './methods'

export const commandNames = [
  'train',
  'eval',
  'generate',
  'compare',
  'measure',
  'inspect',
  'bench',
  'data',
  'doctor',
  'setup',
  'demo',
] as const
export type CommandName = (typeof commandNames)[number]

type Kind =
  | { readonly kind: 'flag' }
  | {
      readonly kind: 'text'
      readonly placeholder: string
      readonly many?: boolean
      /** The value may be left out: it is '' then. */
      readonly optional?: boolean
    }
  | { readonly kind: 'names' }
  | { readonly kind: 'json' }
  | { readonly kind: 'choice'; readonly choices: readonly string[] }
  | { readonly kind: 'choices'; readonly choices: readonly string[] }
  | { readonly kind: 'whole'; readonly least: number }
  | {
      readonly kind: 'number'
      readonly least: number
      readonly more?: boolean
      readonly below?: number
      readonly most?: number
    }
  | { readonly kind: 'wholes'; readonly least: number }

export type Option = Kind & {
  readonly help: string
  readonly group: string
  readonly commands: readonly CommandName[]
  readonly default?: string | number
  /** Not shown in --help: for Lethe's own child processes. */
  readonly hidden?: boolean
}

const single = ['train', 'demo', 'bench'] as const
const trains = ['train', 'demo', 'compare'] as const
const builds = [...single, 'compare'] as const
const model = { group: 'Model', commands: builds } as const
const memory = { group: 'Memory', commands: builds } as const
const training = { group: 'Training', commands: trains } as const
const setup = { group: 'Set-up', commands: ['setup'] } as const
const measuring = { group: 'Measuring', commands: ['bench'] } as const
const evaluating = { group: 'Evaluating', commands: ['eval'] } as const
const sampling = { group: 'Text', commands: ['generate', 'demo'] } as const

const table = {
  preset: {
    ...model,
    kind: 'choice',
    choices: Object.keys(presets),
    default: 'modern',
    help: 'architecture, and sizes where it is a published one',
  },
  layers: { ...model, kind: 'whole', least: 1, default: 4, help: 'number of layers' },
  width: { ...model, kind: 'whole', least: 1, default: 128, help: 'size of the hidden state' },
  heads: { ...model, kind: 'whole', least: 1, default: 4, help: 'attention heads' },
  'feed-forward': {
    ...model,
    kind: 'whole',
    least: 0,
    help: 'inner width of the feed-forward part (default: 4 x width)',
  },
  dropout: { ...model, kind: 'number', least: 0, below: 1, default: 0, help: 'dropout rate' },
  'layer-drop': {
    ...model,
    kind: 'number',
    least: 0,
    below: 1,
    default: 0,
    help: 'chance that a layer is skipped in training',
  },

  method: {
    ...memory,
    commands: single,
    kind: 'choice',
    choices: Object.keys(methods),
    default: 'fixed-span',
    help: 'what is remembered',
  },
  span: {
    ...memory,
    kind: 'whole',
    least: 1,
    default: 256,
    help: 'steps that are remembered at most; compressive: uncompressed ones',
  },
  sinks: { ...memory, kind: 'whole', least: 0, default: 0, help: 'first steps of a stream that always stay' },
  budget: {
    ...memory,
    commands: [...builds, 'measure'],
    kind: 'whole',
    least: 1,
    help: 'expire-span, selective: slots that may stay, the least needed go first; measure: other than the model was trained with',
  },
  ramp: {
    ...memory,
    kind: 'whole',
    least: 1,
    help: 'expire-span, adaptive-span: steps in which attention fades out (32)',
  },
  'span-penalty': {
    ...memory,
    kind: 'number',
    least: 0,
    help: 'expire-span, adaptive-span: what a step of span costs (1e-6, 2e-6)',
  },
  'initial-span': {
    ...memory,
    kind: 'number',
    least: 0,
    help: 'expire-span, adaptive-span: steps at which spans start (a tenth of --span, 0)',
  },
  authors: {
    ...memory,
    kind: 'flag',
    help: 'expire-span, compressive: as the authors’ code where it differs from the paper',
  },
  dynamic: { ...memory, kind: 'flag', help: 'adaptive-span: spans depend on the input' },
  shorten: { ...memory, kind: 'flag', help: 'expire-span: shorten all spans at random in training' },
  rate: { ...memory, kind: 'whole', least: 1, help: 'compressive: slots that become one (4)' },
  compressed: {
    ...memory,
    kind: 'whole',
    least: 1,
    help: 'compressive: compressed slots (span / rate)',
  },
  compression: {
    ...memory,
    kind: 'choice',
    choices: ['mean', 'max', 'conv', 'dilated', 'most-used'],
    help: 'compressive: how slots become one',
  },
  'compression-loss': {
    ...memory,
    kind: 'choice',
    choices: ['none', 'auto-encoding', 'attention'],
    help: 'compressive: what the compression learns from',
  },
  'memory-loss': {
    ...memory,
    kind: 'number',
    least: 0,
    help: 'selective: weight of the loss that asks for less memory (0)',
  },

  data: {
    ...training,
    commands: [...trains, 'eval', 'inspect'],
    kind: 'text',
    placeholder: 'PATH',
    many: true,
    help: 'text file or folder, or a data set’s name (lethe data); may be given several times',
  },
  task: {
    ...training,
    commands: ['train', 'compare'],
    kind: 'names',
    help: `instead of a text, a task: ${Object.keys(tasks).join(', ')}; compare: several with commas between them`,
  },
  'task-options': {
    ...training,
    commands: ['train', 'compare', 'eval'],
    kind: 'json',
    help: 'options of the task, such as {"length":[1,20]}; of several tasks: by name',
  },
  'valid-tokens': {
    ...training,
    commands: ['train', 'compare', 'eval'],
    kind: 'whole',
    least: 1,
    default: 1024,
    help: 'task: tokens of each stream of an evaluation',
  },
  tokenizer: {
    ...training,
    kind: 'text',
    placeholder: 'NAME',
    default: 'bytes',
    help: 'what a token is: bytes, characters, words, or byte-level BPE by the path of a tokenizer.json',
  },
  vocabulary: {
    ...training,
    kind: 'whole',
    least: 3,
    help: 'words: the most frequent ones, <unk> and the line break included (32,000)',
  },
  out: {
    ...training,
    commands: [...trains, 'inspect'],
    kind: 'text',
    placeholder: 'PATH',
    help: 'new folder for checkpoints and metrics; inspect: the page (inspect.html in the run)',
  },
  resume: {
    ...training,
    commands: ['train', 'compare'],
    kind: 'text',
    placeholder: 'FOLDER',
    help: 'go on with what is in this folder; train: or from one of its checkpoints',
  },
  steps: { ...training, commands: builds, kind: 'whole', least: 1, default: 1000, help: 'updates in all' },
  batch: {
    ...training,
    commands: builds,
    kind: 'whole',
    least: 1,
    default: 16,
    help: 'streams read side by side',
  },
  block: {
    ...training,
    commands: [...builds, 'eval', 'generate'],
    kind: 'whole',
    least: 1,
    default: 64,
    help: 'tokens of each stream read at a time',
  },
  optimizer: {
    ...training,
    commands: builds,
    kind: 'choice',
    choices: optimizerNames,
    default: 'adam',
    help: 'update rule',
  },
  'learning-rate': {
    ...training,
    commands: builds,
    kind: 'number',
    least: 0,
    more: true,
    default: 7e-4,
    help: 'highest learning rate',
  },
  schedule: {
    ...training,
    kind: 'choice',
    choices: scheduleNames,
    default: 'constant',
    help: 'what follows the warm-up',
  },
  warmup: { ...training, kind: 'whole', least: 0, default: 200, help: 'steps of linear warm-up' },
  clip: {
    ...training,
    commands: builds,
    kind: 'number',
    least: 0,
    default: 0.3,
    help: 'largest global gradient norm, 0 for no clipping',
  },
  'weight-decay': { ...training, kind: 'number', least: 0, default: 0, help: 'weight decay' },
  momentum: { ...training, kind: 'number', least: 0, below: 1, default: 0, help: 'momentum of sgd' },
  unroll: {
    ...training,
    kind: 'whole',
    least: 1,
    default: 1,
    help: 'consecutive blocks that a gradient reaches back through',
  },
  accumulate: { ...training, kind: 'whole', least: 1, default: 1, help: 'consecutive blocks per update' },
  'eval-every': {
    ...training,
    kind: 'whole',
    least: 0,
    default: 500,
    help: 'steps between evaluations, 0 for one at the end',
  },
  'valid-batch': {
    ...training,
    commands: [...trains, 'eval', 'measure'],
    kind: 'whole',
    least: 1,
    default: 8,
    help: 'streams of an evaluation',
  },
  'checkpoint-every': {
    ...training,
    kind: 'whole',
    least: 0,
    default: 500,
    help: 'steps between checkpoints, 0 for one at the end',
  },
  tensorboard: {
    ...training,
    commands: ['train'],
    kind: 'text',
    placeholder: '[FOLDER]',
    optional: true,
    help: 'curves for TensorBoard, too, in this folder (default: tensorboard in the run)',
  },
  retry: {
    ...training,
    commands: ['train'],
    kind: 'flag',
    help: 'if the GPU is lost, start it again once and go on from the last checkpoint',
  },
  keep: { ...training, kind: 'whole', least: 1, default: 3, help: 'checkpoints that are kept' },

  split: {
    ...evaluating,
    kind: 'choice',
    choices: dataParts,
    help: 'which part of the text (validation)',
  },
  buckets: {
    ...evaluating,
    kind: 'flag',
    help: 'also perplexity by how often a word occurs in the training text',
  },
  'multiple-choice': {
    ...evaluating,
    kind: 'text',
    placeholder: 'FILE',
    help: 'instead, questions in HellaSwag’s format: lines of {"ctx", "endings", "label"}',
  },

  prompt: {
    ...sampling,
    kind: 'text',
    placeholder: 'TEXT',
    help: 'text to go on from (default: a line break)',
  },
  tokens: {
    ...sampling,
    commands: ['generate', 'demo', 'bench', 'inspect'],
    kind: 'whole',
    least: 1,
    default: 400,
    help: 'tokens to generate; inspect: to read (512); bench decode: to measure of each stream',
  },
  temperature: {
    ...sampling,
    kind: 'number',
    least: 0,
    default: 0.8,
    help: 'divides the logits; 0 takes the likeliest token',
  },
  'top-k': {
    ...sampling,
    kind: 'whole',
    least: 0,
    default: 0,
    help: 'only the k likeliest tokens, 0 for all',
  },
  'top-p': {
    ...sampling,
    kind: 'number',
    least: 0,
    more: true,
    most: 1,
    default: 1,
    help: 'only the likeliest tokens that together have this probability',
  },

  methods: {
    group: 'Comparing',
    commands: ['compare', 'bench'],
    kind: 'choices',
    choices: Object.keys(methods),
    help: 'several methods: names with commas between them, or all (compare, bench memory, bench attention: all)',
  },
  budgets: {
    group: 'Comparing',
    commands: ['compare'],
    kind: 'wholes',
    least: 1,
    default: '64',
    help: 'slots per layer that each method may hold',
  },
  seeds: {
    group: 'Comparing',
    commands: ['compare'],
    kind: 'wholes',
    least: 0,
    default: '0',
    help: 'one run of everything for each',
  },
  within: {
    group: 'Comparing',
    commands: ['compare'],
    kind: 'number',
    least: 0,
    default: 0.02,
    help: 'bits per byte, or part of the answers of a task, that still count as equal to the largest fixed span',
  },
  'equal-quality': {
    group: 'Comparing',
    commands: ['compare'],
    kind: 'number',
    least: 0,
    help: 'find the smallest budget of each method that is at most so much worse than the largest fixed span',
  },
  jobs: {
    group: 'Comparing',
    commands: ['compare'],
    kind: 'whole',
    least: 1,
    help: 'runs at a time (default: as many as there are cores)',
  },

  start: {
    group: 'Looking',
    commands: ['inspect'],
    kind: 'whole',
    least: 0,
    default: 0,
    help: 'the first token of the text to read',
  },
  layer: {
    group: 'Looking',
    commands: ['inspect'],
    kind: 'whole',
    least: 0,
    help: 'what the terminal shows (default: the last)',
  },

  spans: {
    ...measuring,
    kind: 'wholes',
    least: 1,
    help: 'bench train, memory, attention: several values of --span',
  },
  contexts: {
    ...measuring,
    kind: 'wholes',
    least: 2,
    default: '1024,8192',
    help: 'bench decode: tokens of context when measuring ends',
  },
  'read-all': {
    ...measuring,
    kind: 'flag',
    help: 'bench decode: read the whole context token by token, instead of beginning late in the stream',
  },
  against: {
    ...measuring,
    kind: 'text',
    placeholder: 'COMMAND',
    help: 'bench train, memory: another program that takes the same steps by turns',
  },
  stock: {
    ...measuring,
    kind: 'flag',
    help: 'bench train, memory: the same by tfjs’s own wasm backend, by turns',
  },
  parts: { ...measuring, kind: 'flag', help: 'bench train: also where the time of a step goes, by kernel' },
  markdown: { ...measuring, kind: 'flag', help: 'a table for a document' },
  unpatched: { ...measuring, kind: 'flag', hidden: true, help: 'measure tfjs’s own wasm backend' },
  'by-turns': { ...measuring, kind: 'flag', hidden: true, help: 'be one side of a measurement' },

  timeout: {
    group: 'Measuring',
    commands: ['doctor'],
    kind: 'whole',
    least: 1,
    default: 60,
    help: 'seconds after which a backend is given up',
  },
  gpu: { ...setup, kind: 'flag', help: 'with CUDA, for an NVIDIA GPU' },
  from: {
    ...setup,
    commands: ['setup', 'data'],
    kind: 'text',
    placeholder: 'FILE',
    help: 'what was downloaded elsewhere: a wheel of tensorflow or tensorflow-cpu, a data set’s archive',
  },
  folder: {
    ...setup,
    commands: ['data'],
    kind: 'text',
    placeholder: 'FOLDER',
    help: 'where data sets are kept (LETHE_DATA, or lethe/data in your folder for caches)',
  },
  only: {
    ...setup,
    commands: ['data'],
    kind: 'choices',
    choices: dataParts,
    help: 'pg19: only some of its parts',
  },
  verbose: { ...setup, kind: 'flag', help: 'show what npm, pip and the compiler print' },
  probe: {
    group: 'Measuring',
    commands: ['doctor'],
    kind: 'choice',
    choices: backendRequests,
    hidden: true,
    help: 'start and measure one backend for the process that asks',
  },

  seed: {
    group: 'General',
    commands: [...single, 'generate'],
    kind: 'whole',
    least: 0,
    default: 0,
    help: 'of first weights, dropout and sampling',
  },
  backend: {
    group: 'General',
    commands: commandNames.filter((name) => name !== 'setup' && name !== 'data'),
    kind: 'choice',
    choices: backendRequests,
    default: 'auto',
    help: 'what computes',
  },
  threads: {
    group: 'General',
    commands: ['train', 'demo', 'eval', 'generate', 'compare', 'measure', 'inspect', 'bench'],
    kind: 'whole',
    least: 1,
    help: 'wasm: threads that compute (one per processor, up to 8)',
  },
  config: {
    group: 'General',
    commands: [...builds, 'eval', 'generate'],
    kind: 'text',
    placeholder: 'FILE.json',
    help: 'options by these names; the command line wins',
  },
  json: { group: 'General', commands: commandNames, kind: 'flag', help: 'results as JSON' },
  help: { group: 'General', commands: commandNames, kind: 'flag', help: 'this text' },
} as const satisfies Record<string, Option>

export type OptionName = keyof typeof table
const optionTable: Readonly<Record<OptionName, Option>> = table

type ValueOf<O> = O extends { kind: 'flag' }
  ? true
  : O extends { many: true } | { kind: 'choices' | 'names' }
    ? readonly string[]
    : O extends { kind: 'json' }
      ? Readonly<Record<string, unknown>>
      : O extends { kind: 'whole' | 'number' }
        ? number
        : O extends { kind: 'wholes' }
          ? readonly number[]
          : string

/** Values by option name; what was not given is missing. */
export type Given = { -readonly [name in OptionName]?: ValueOf<(typeof table)[name]> }

export const optionsOf = (command: CommandName): [OptionName, Option][] =>
  (Object.entries(optionTable) as [OptionName, Option][]).filter(([, { commands }]) =>
    commands.includes(command),
  )

export interface CommandLine {
  readonly given: Given
  readonly positionals: readonly string[]
}

/**
 * Reads a command's arguments and its --config file.
 * @throws UsageError naming the argument and the fix
 */
export function parseCommandLine(command: CommandName, args: readonly string[]): CommandLine {
  const known = Object.fromEntries(optionsOf(command))
  const alone = (arg: string, next: string | undefined) => {
    const option = arg.startsWith('--') ? known[arg.slice(2)] : undefined
    return option?.kind === 'text' && option.optional && (next === undefined || next.startsWith('-'))
  }
  const { tokens } = parseArgs({
    args: args.map((arg, at) => (alone(arg, args[at + 1]) ? `${arg}=` : arg)),
    strict: false,
    allowPositionals: true,
    tokens: true,
    options: {
      ...Object.fromEntries(
        Object.entries(known).map(([name, { kind }]) => [
          name,
          { type: kind === 'flag' ? 'boolean' : 'string' } as const,
        ]),
      ),
      help: { type: 'boolean', short: 'h' },
    },
  })
  const texts = new Map<string, string[]>()
  const positionals: string[] = []
  for (const token of tokens ?? []) {
    if (token.kind === 'positional') positionals.push(token.value)
    if (token.kind !== 'option') continue
    const { name, rawName, value } = token
    const option = known[name]
    if (!option || rawName !== (rawName.startsWith('--') ? `--${name}` : '-h'))
      throw new UsageError(
        `unknown option ${rawName} for lethe ${command}${suggestion(name, Object.keys(known))}`,
      )
    if (option.kind === 'flag') {
      if (value !== undefined) throw new UsageError(`--${name} takes no value, so leave out "${value}"`)
      texts.set(name, ['true'])
      continue
    }
    const optional = option.kind === 'text' && option.optional
    if (value === undefined || (value === '' && !optional) || value.startsWith('--'))
      throw new UsageError(`--${name} needs a value: --${name} ${placeholder(option)}`)
    texts.set(name, [...(texts.get(name) ?? []), value])
  }
  const given: Record<string, unknown> = {}
  const file = texts.get('config')?.at(-1)
  if (file !== undefined) Object.assign(given, readConfig(file, command))
  for (const [name, values] of texts) given[name] = parseValue(name as OptionName, values, `--${name}`)
  return { given: given as Given, positionals }
}

/** Options from a JSON file: an object with options' names, without dashes in front. */
function readConfig(path: string, command: CommandName): Given {
  let content: unknown
  try {
    content = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new UsageError(
      `cannot read --config ${path}: ${code === 'ENOENT' ? 'there is no such file' : message}`,
    )
  }
  return parseConfig(content, command, path)
}

/** Checks options that come as JSON. Those of other commands are left out, so that one file can serve several. */
export function parseConfig(content: unknown, command: CommandName, path: string): Given {
  if (typeof content !== 'object' || content === null || Array.isArray(content))
    throw new UsageError(`${path} must hold a JSON object such as {"layers": 4}`)
  const given: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(content)) {
    const option = (optionTable as Record<string, Option>)[name]
    if (!option || name === 'config')
      throw new UsageError(`unknown option "${name}" in ${path}${suggestion(name, Object.keys(optionTable))}`)
    if (!option.commands.includes(command) || value === undefined || value === null || value === false)
      continue
    given[name] = parseValue(name as OptionName, [value].flat().map(plainText), `"${name}" in ${path}`)
  }
  return given as Given
}

const plainText = (value: unknown) => (typeof value === 'object' ? JSON.stringify(value) : String(value))

function parseValue(name: OptionName, texts: readonly string[], where: string): unknown {
  const option = optionTable[name]
  const text = texts.at(-1)!
  const refuse = (range: string) => {
    throw new UsageError(`${where} must be ${range}, not "${text}"`)
  }
  switch (option.kind) {
    case 'flag':
      return true
    case 'text':
      return option.many ? texts : text
    case 'choice':
      if (!option.choices.includes(text))
        throw new UsageError(
          `${where} must be one of ${option.choices.join(', ')}, not "${text}"${suggestion(text, option.choices, '')}`,
        )
      return text
    case 'choices': {
      if (text === 'all') return option.choices
      const names = [...new Set(texts.join().split(','))]
      const unknown = names.find((name) => !option.choices.includes(name))
      if (unknown !== undefined)
        throw new UsageError(
          `${where} takes names with commas between them, of ${option.choices.join(', ')}, not "${unknown}"${suggestion(unknown, option.choices, '')}`,
        )
      return names
    }
    case 'names':
      return [...new Set(texts.join().split(','))]
    case 'json': {
      let value: unknown
      try {
        value = JSON.parse(text)
      } catch {}
      if (typeof value !== 'object' || value === null || Array.isArray(value))
        refuse('a JSON object such as {"length":8}')
      return value
    }
    case 'whole': {
      const value = Number(text)
      if (!Number.isSafeInteger(value) || value < option.least)
        refuse(`a whole number${option.least > 0 ? ` of at least ${option.least}` : ', 0 or more'}`)
      return value
    }
    case 'wholes': {
      const values = texts.join().split(',').map(Number)
      if (!values.every((value) => Number.isSafeInteger(value) && value >= option.least))
        refuse('whole numbers with commas between them, such as 1024,8192')
      return values
    }
    case 'number': {
      const value = Number(text)
      const { least, more, below = Number.POSITIVE_INFINITY, most = Number.POSITIVE_INFINITY } = option
      const inside = (more ? value > least : value >= least) && value < below && value <= most
      if (text.trim() === '' || !Number.isFinite(value) || !inside)
        refuse(
          `a number ${more ? `more than ${least}` : `from ${least}`}` +
            (Number.isFinite(below)
              ? ` to less than ${below}`
              : Number.isFinite(most)
                ? ` to ${most}`
                : ' up'),
        )
      return value
    }
  }
}

/** What stands for the value in help texts. */
export function placeholder(option: Option): string {
  switch (option.kind) {
    case 'flag':
      return ''
    case 'text':
      return option.placeholder
    case 'choice':
      return option.choices.length <= 4 ? option.choices.join('|') : 'NAME'
    case 'names':
      return 'NAME'
    case 'json':
      return 'JSON'
    case 'choices':
      return 'NAME,NAME,…'
    case 'wholes':
      return 'N,N,…'
    default:
      return 'N'
  }
}

/** ', did you mean …?' where something is near enough. */
export function suggestion(word: string, candidates: readonly string[], dashes = '--'): string {
  let best: string | undefined
  let least = Math.max(2, Math.floor(word.length / 3)) + 1
  for (const candidate of candidates) {
    const distance = candidate.startsWith(word) && word.length > 2 ? 1 : editDistance(word, candidate)
    if (distance < least) [best, least] = [candidate, distance]
  }
  return best === undefined ? '' : `; did you mean ${dashes}${best}?`
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)))
    row = next
  }
  return row[b.length]!
}
