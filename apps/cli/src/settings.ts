/** What a run is made of: the command line over the preset over the defaults. */
import { Decoder, type DecoderConfig, type Preset, presets } from '@lethe/core'
import type { OptimizerName, ScheduleName } from '@lethe/trainer'
import { isWorld } from './data'
import { UsageError } from './errors'
import {
  decoderFieldsOf,
  type MethodOptionName,
  type MethodSettings,
  methodOf,
  methodOptionNames,
  methods,
} from './methods'
import type { Given } from './options'

/** Every option that decides how a run goes, with its value. Saved as config.json; readable by --config. */
export interface Settings extends MethodSettings {
  readonly preset: string
  readonly method: string
  readonly layers: number
  readonly width: number
  readonly heads: number
  readonly 'feed-forward': number
  readonly span: number
  readonly dropout: number
  readonly 'layer-drop': number
  /** Of text. */
  readonly tokenizer?: string | undefined
  readonly vocabulary?: number | undefined
  readonly task?: string | undefined
  readonly 'task-options'?: Readonly<Record<string, unknown>> | undefined
  readonly 'valid-tokens'?: number | undefined
  /** Of an agent in a world. */
  readonly discount?: number | undefined
  readonly 'entropy-cost'?: number | undefined
  readonly 'value-cost'?: number | undefined
  readonly greedy?: true | undefined
  readonly steps: number
  readonly batch: number
  readonly block: number
  readonly optimizer: OptimizerName
  readonly 'learning-rate': number
  readonly schedule: ScheduleName
  readonly warmup: number
  readonly clip: number
  readonly 'weight-decay': number
  readonly momentum: number
  readonly accumulate: number
  readonly unroll: number
  readonly 'eval-every': number
  readonly 'valid-batch': number
  readonly 'checkpoint-every': number
  readonly keep: number
  readonly seed: number
}

/** Fills in what was not given: from the preset, then from `defaults`. */
export function settingsOf(given: Given, defaults: Partial<Settings> = {}): Settings {
  const name = given.preset ?? defaults.preset ?? 'modern'
  const preset = (presets as Readonly<Record<string, Preset>>)[name]!
  const { decoder, training, span } = preset
  const method = given.method ?? defaults.method ?? 'fixed-span'
  const width = given.width ?? decoder.width ?? defaults.width ?? 128
  return {
    preset: name,
    method,
    layers: given.layers ?? decoder.layers ?? defaults.layers ?? 4,
    width,
    heads: given.heads ?? decoder.heads ?? defaults.heads ?? 4,
    'feed-forward': given['feed-forward'] ?? decoder.feedForward ?? defaults['feed-forward'] ?? 4 * width,
    span: given.span ?? span ?? defaults.span ?? 256,
    dropout: given.dropout ?? decoder.dropout ?? defaults.dropout ?? 0,
    'layer-drop': given['layer-drop'] ?? 0,
    sinks: given.sinks ?? 0,
    ...methodOptionsOf(method, given),
    ...dataOf(given, defaults),
    steps: given.steps ?? defaults.steps ?? training.steps ?? 1000,
    batch: given.batch ?? training.batch ?? defaults.batch ?? 16,
    block: given.block ?? training.block ?? defaults.block ?? 64,
    optimizer: (given.optimizer ?? training.optimizer ?? 'adam') as OptimizerName,
    'learning-rate': given['learning-rate'] ?? defaults['learning-rate'] ?? training.learningRate ?? 7e-4,
    schedule: (given.schedule ?? defaults.schedule ?? training.schedule ?? 'constant') as ScheduleName,
    warmup: given.warmup ?? defaults.warmup ?? training.warmup ?? 200,
    clip: given.clip ?? training.clip ?? 0.3,
    'weight-decay': given['weight-decay'] ?? 0,
    momentum: given.momentum ?? 0,
    accumulate: given.accumulate ?? 1,
    unroll: given.unroll ?? 1,
    'eval-every': given['eval-every'] ?? defaults['eval-every'] ?? 500,
    'valid-batch': given['valid-batch'] ?? (isWorld(given.task?.[0]) ? 64 : 8),
    'checkpoint-every': given['checkpoint-every'] ?? defaults['checkpoint-every'] ?? 500,
    keep: given.keep ?? 3,
    seed: given.seed ?? 0,
  }
}

/** Which data; where the texts are is no setting. */
function dataOf(given: Given, defaults: Partial<Settings>): Partial<Settings> {
  if (!given.task)
    return {
      tokenizer: given.tokenizer ?? defaults.tokenizer ?? 'bytes',
      ...(given.vocabulary !== undefined && { vocabulary: given.vocabulary }),
    }
  return {
    task: given.task[0],
    'task-options': given['task-options'],
    ...(isWorld(given.task[0])
      ? {
          discount: given.discount,
          'entropy-cost': given['entropy-cost'],
          'value-cost': given['value-cost'],
          greedy: given.greedy,
        }
      : { 'valid-tokens': given['valid-tokens'] }),
  }
}

/** The options of the method. @throws UsageError where one was given that only other methods take */
function methodOptionsOf(method: string, given: Given): Partial<Pick<MethodSettings, MethodOptionName>> {
  const { options } = methods[method]!
  const chosen = methodOptionNames.filter((name) => given[name] !== undefined)
  const stray = chosen.find((name) => !options.includes(name))
  if (stray)
    throw new UsageError(
      `--${stray} is no option of --method ${method}, which takes ${['span', 'sinks', ...options].map((name) => `--${name}`).join(', ')}`,
    )
  return Object.fromEntries(chosen.map((name) => [name, given[name]]))
}

/** The decoder that the settings describe. @throws ConfigError where they do not fit together */
export function decoderOf(settings: Settings, vocabulary: number): Decoder {
  const preset = (presets as Readonly<Record<string, Preset>>)[settings.preset]!
  const { headSize, ...style } = preset.decoder
  // A published head size holds for the published width and heads only.
  const asPublished = settings.width === style.width && settings.heads === style.heads
  const config: DecoderConfig = {
    ...style,
    ...(headSize !== undefined && asPublished && { headSize }),
    vocabulary,
    layers: settings.layers,
    width: settings.width,
    heads: settings.heads,
    feedForward: settings['feed-forward'],
    dropout: settings.dropout,
    layerDrop: settings['layer-drop'],
    ...decoderFieldsOf(settings.method, settings),
    method: methodOf(settings.method, settings),
  }
  return new Decoder(config, { seed: settings.seed })
}
