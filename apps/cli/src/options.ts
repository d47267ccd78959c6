/**
 * Every option, once: this table drives parsing, --help, --config files and the checks of values.
 */
import { backendRequests } from '@lethe/backends'
import { presets } from '@lethe/core'
import { environments, tasks } from '@lethe/tasks'
import { optimizerNames, scheduleNames } from '@lethe/trainer'
import { parts as dataParts } from './datasets/sets'
import { methods } from './methods'
import type { Kind, ValueOf } from './option-kinds'

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
const acting = { group: 'Acting (worlds)', commands: ['train', 'compare'] } as const
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
    help: `instead of a text, a task: ${Object.keys(tasks).join(', ')}; or a world to act in: ${Object.keys(environments).join(', ')}; compare: several with commas between them`,
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
    help: 'tasks that are read: tokens of each stream of an evaluation',
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
    help: 'streams read, or worlds acted in, side by side',
  },
  block: {
    ...training,
    commands: [...builds, 'eval', 'generate'],
    kind: 'whole',
    least: 1,
    default: 64,
    help: 'tokens of each stream read at a time; steps of each world in a rollout',
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
    help: 'streams of an evaluation (8); of worlds its episodes (64)',
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

  discount: {
    ...acting,
    kind: 'number',
    least: 0,
    most: 1,
    default: 0.99,
    help: 'of rewards, per step',
  },
  'entropy-cost': {
    ...acting,
    kind: 'number',
    least: 0,
    default: 5e-4,
    help: 'weight of the policy’s entropy',
  },
  'value-cost': {
    ...acting,
    kind: 'number',
    least: 0,
    default: 0.5,
    help: 'weight of the value’s squared error',
  },
  greedy: {
    ...acting,
    commands: ['train', 'compare', 'eval', 'measure'],
    kind: 'flag',
    help: 'evaluations take the most probable action (default: actions drawn from the policy)',
  },

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

  weights: {
    ...sampling,
    commands: ['generate'],
    kind: 'choice',
    choices: ['float32', 'float16'],
    default: 'float32',
    help: 'what tokens are decoded with; float16 (webgpu): half the bytes to read for each, less exact',
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
    help: 'bits per byte, or part of a task’s answers or episodes, that still count as equal to the largest fixed span',
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
    help: 'bench decode: read the whole context, instead of beginning late in the stream',
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
  turn: {
    ...measuring,
    kind: 'whole',
    least: 1,
    default: 2,
    help: 'bench train, memory: steps of one side at a time; on a GPU some ten, it changes sides slowly',
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
export const optionTable: Readonly<Record<OptionName, Option>> = table

/** Values by option name; what was not given is missing. */
export type Given = { -readonly [name in OptionName]?: ValueOf<(typeof table)[name]> }

export const optionsOf = (command: CommandName): [OptionName, Option][] =>
  (Object.entries(optionTable) as [OptionName, Option][]).filter(([, { commands }]) =>
    commands.includes(command),
  )
