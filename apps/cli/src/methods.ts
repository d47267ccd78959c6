/**
 * The forgetting methods that the command line knows. To add one: an entry in this table.
 */
import { adaptiveSpan } from '@lethe/adaptive-span'
import { compressive } from '@lethe/compressive'
import {
  type DecoderConfig,
  type ForgettingMethod,
  fixedSpan,
  type MethodFactories,
  sinks,
  wrappers,
} from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import { UsageError } from './errors'

/** Options that only some methods take; `--span` is every method's. */
export const methodOptionNames = [
  'ramp',
  'span-penalty',
  'initial-span',
  'authors',
  'dynamic',
  'shorten',
  'budget',
  'rate',
  'compressed',
  'compression',
  'compression-loss',
  'memory-loss',
] as const
export type MethodOptionName = (typeof methodOptionNames)[number]

/** What the command line says about a method; each takes what it needs, and has defaults of its own. */
export interface MethodSettings {
  readonly span: number
  readonly block: number
  readonly ramp?: number | undefined
  readonly 'span-penalty'?: number | undefined
  readonly 'initial-span'?: number | undefined
  readonly authors?: true | undefined
  readonly dynamic?: true | undefined
  readonly shorten?: true | undefined
  readonly budget?: number | undefined
  readonly rate?: number | undefined
  readonly compressed?: number | undefined
  readonly compression?: string | undefined
  readonly 'compression-loss'?: string | undefined
  readonly 'memory-loss'?: number | undefined
  readonly sinks?: number | undefined
}

interface MethodEntry {
  /** From the command line. */
  readonly create: (settings: MethodSettings) => ForgettingMethod
  /** From the options a checkpoint holds. */
  readonly factory: MethodFactories[string]
  /** Which of `methodOptionNames` it takes. */
  readonly options: readonly MethodOptionName[]
  /** The options with which it holds about so many slots, and may reach back `reach` steps where its slots let it. */
  readonly withBudget: (slots: number, reach: number) => Partial<MethodSettings>
  /** Distances in a learned table of positions, where the method's reach is not what the authors give positions to. */
  readonly learnedDistances?: (settings: MethodSettings) => number | undefined
}

/** The fields that were given. */
const given = <T extends object>(fields: T) =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [name in keyof T]: Exclude<T[name], undefined>
  }

export const methods: Readonly<Record<string, MethodEntry>> = {
  'fixed-span': {
    factory: fixedSpan,
    options: [],
    create: ({ span }) => fixedSpan({ span }),
    withBudget: (slots) => ({ span: slots }),
  },
  'expire-span': {
    factory: expireSpan,
    options: ['ramp', 'span-penalty', 'initial-span', 'authors', 'shorten', 'budget'],
    create: ({
      span,
      ramp,
      budget,
      shorten,
      authors,
      block,
      'span-penalty': penalty,
      'initial-span': start,
    }) => {
      if (start !== undefined && !(start > 0 && start < span))
        throw new UsageError(`--initial-span must be more than 0 and less than --span ${span}, not ${start}`)
      return expireSpan({
        maxSpan: span,
        ...given({ ramp, penalty, budget, shorten }),
        ...(start !== undefined && { initialPercentage: start / span }),
        ...(authors && { loss: 'ramp', deletion: 'blocks', initialSlots: Math.min(block, span) }),
      })
    },
    withBudget: (slots, reach) => ({ span: reach, budget: slots }),
    // As the authors': memories older than a block have no position.
    learnedDistances: ({ block, span }) => Math.min(block, span),
  },
  'adaptive-span': {
    factory: adaptiveSpan,
    options: ['ramp', 'span-penalty', 'initial-span', 'dynamic'],
    create: ({ span, ramp, dynamic, 'span-penalty': penalty, 'initial-span': initialSpan }) =>
      adaptiveSpan({ maxSpan: span, ...given({ ramp, penalty, dynamic, initialSpan }) }),
    // Its slots are its longest span; what the others need is for the spans to learn.
    withBudget: (slots) => ({ span: slots }),
  },
  compressive: {
    factory: compressive,
    options: ['rate', 'compressed', 'compression', 'compression-loss', 'authors'],
    create: ({
      span,
      rate = 4,
      compressed = Math.ceil(span / rate),
      authors,
      compression = authors && 'mean',
      'compression-loss': loss,
    }) =>
      compressive({
        memory: span,
        rate,
        compressed,
        ...(given({ compression, loss, overlap: authors }) as Partial<Parameters<typeof compressive>[0]>),
      }),
    // Half of the slots as they were, half compressed.
    withBudget: (slots) => ({ span: Math.ceil(slots / 2), compressed: Math.max(1, Math.floor(slots / 2)) }),
    // Distances count slots there: compressed ones, the memory with its remainder, the block.
    learnedDistances: ({ span, rate = 4, compressed = Math.ceil(span / rate), block, authors }) =>
      authors ? undefined : compressed + span + rate - 1 + block,
  },
  selective: {
    factory: selective,
    options: ['budget', 'memory-loss'],
    create: ({ span, budget, 'memory-loss': memoryLoss }) =>
      selective({ span, ...given({ budget, memoryLoss }) }),
    withBudget: (slots, reach) => ({ span: reach, budget: slots }),
    learnedDistances: ({ span }) => span + 1,
  },
}

/** The method that the settings describe, with sinks around it where they want some. */
export function methodOf(name: string, settings: MethodSettings): ForgettingMethod {
  const method = methods[name]!.create(settings)
  return settings.sinks ? sinks({ count: settings.sinks, method }) : method
}

/** Decoder fields that go with a method. */
export function decoderFieldsOf(name: string, settings: MethodSettings): Partial<DecoderConfig> {
  const { learnedDistances } = methods[name]!
  const distances = learnedDistances?.(settings) ?? (settings.sinks ? settings.span + 1 : undefined)
  // Slots of any age: sinusoids have to end somewhere, too.
  const anyAge = settings.sinks || settings.budget !== undefined
  return {
    ...(distances !== undefined && { learnedDistances: distances }),
    ...(anyAge && { farthestPosition: Math.max(settings.span, settings.budget ?? 0) }),
  }
}

/** Name → factory, as checkpoints are read with. */
export const methodFactories: MethodFactories = {
  ...wrappers,
  ...Object.fromEntries(Object.entries(methods).map(([name, { factory }]) => [name, factory])),
}
