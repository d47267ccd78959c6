/**
 * Settings that belong together: three styles of decoder, and the authors' published configurations by name. A preset
 * gives decoder fields and recommended training options; the forgetting method and the data stay the caller's choice,
 * and any field may be overridden. Figures: the authors' scripts (see the source named with each).
 */
import type { DecoderConfig } from './config'

/** Recommended training options; names as in @lethe/trainer. */
export interface TrainingPreset {
  readonly batch?: number
  readonly block?: number
  readonly steps?: number
  readonly optimizer?: 'adam' | 'adamw' | 'adagrad' | 'sgd'
  readonly learningRate?: number
  readonly warmup?: number
  readonly schedule?: 'constant' | 'cosine' | 'inverse-sqrt'
  readonly clip?: number
}

export interface Preset {
  readonly description: string
  readonly decoder: Partial<Omit<DecoderConfig, 'method' | 'vocabulary'>>
  readonly training: TrainingPreset
  /** The span that the published configuration trains with. */
  readonly span?: number
}

/** The decoder of facebookresearch/adaptive-span and transformer-sequential. */
const fair = {
  activation: 'relu',
  norm: 'layer',
  normPosition: 'post',
  positions: 'learned',
  attendSelf: false,
  initialMemory: 'zeros',
  initialization: 'fair',
  tiedOutput: false,
  outputBias: true,
  feedForwardBias: true,
  dropoutPlaces: ['attention', 'feed-forward'],
} as const

/** The decoder of kimiyoung/transformer-xl. */
const transformerXl = {
  activation: 'relu',
  norm: 'layer',
  normPosition: 'post',
  positions: 'sinusoidal',
  attendSelf: true,
  initialMemory: 'empty',
  initialization: 'transformer-xl',
  embeddingScale: 'sqrt-width',
  tiedOutput: true,
  outputBias: true,
  feedForwardBias: true,
  dropoutPlaces: ['embedding', 'feed-forward', 'residual'],
} as const

const table = {
  modern: {
    description: 'pre-norm RMSNorm, rotary positions, SwiGLU; starts with an empty memory',
    decoder: {
      activation: 'swiglu',
      norm: 'rms',
      normPosition: 'pre',
      positions: 'rotary',
      attendSelf: true,
      initialMemory: 'empty',
      initialization: 'scaled',
      tiedOutput: true,
    },
    training: { optimizer: 'adamw', learningRate: 1e-3, warmup: 100, schedule: 'constant', clip: 1 },
  },
  fair: {
    description:
      "the FAIR papers' decoder: post-norm, ReLU, learned relative positions shared by layers, no attention to oneself, zero initial memory",
    decoder: fair,
    training: { optimizer: 'adam', learningRate: 7e-4, warmup: 200, schedule: 'constant', clip: 0.3 },
  },
  'transformer-xl': {
    description:
      'sinusoidal relative positions with u and v, post-norm, ReLU, tied output, empty initial memory',
    decoder: transformerXl,
    training: { optimizer: 'adam', learningRate: 2.5e-4, warmup: 0, schedule: 'cosine' },
  },
  'expire-span-enwik8': {
    description:
      'Expire-Span, enwik8, 12 layers, 38M (transformer-sequential experiments/expire_span/enwik8.sh)',
    decoder: { ...fair, layers: 12, width: 512, heads: 8, feedForward: 2048, dropout: 0.3 },
    training: {
      ...{ batch: 512, block: 512, steps: 100_000, optimizer: 'adam', learningRate: 7e-4 },
      ...{ warmup: 8000, schedule: 'constant', clip: 0.3 },
    },
    span: 16384,
  },
  'expire-span-enwik8-small': {
    description:
      'Expire-Span, enwik8, 8 layers (transformer-sequential experiments/expire_span/enwik8_small.sh)',
    decoder: { ...fair, layers: 8, width: 256, heads: 4, feedForward: 1024, dropout: 0 },
    training: {
      ...{ batch: 64, block: 256, steps: 100_000, optimizer: 'adam', learningRate: 3e-4 },
      ...{ warmup: 8000, schedule: 'constant', clip: 0.3 },
    },
    span: 4096,
  },
  'expire-span-collision-16k': {
    description: 'Expire-Span, object collision (experiments/expire_span/object_collision_16k.sh)',
    decoder: {
      ...{ ...fair, layers: 6, width: 512, heads: 4, feedForward: 1024, dropout: 0.1 },
      normPosition: 'pre',
    },
    training: {
      ...{ batch: 512, block: 256, steps: 100_000, optimizer: 'adam', learningRate: 1e-4 },
      ...{ warmup: 1000, schedule: 'constant', clip: 0.1 },
    },
    span: 16384,
  },
  'adaptive-span-enwik8': {
    description: 'Adaptive-Span, enwik8, 12 layers, 39M (adaptive-span experiments/enwik8.sh)',
    decoder: { ...fair, layers: 12, width: 512, heads: 8, feedForward: 2048, dropout: 0.3 },
    training: {
      ...{ batch: 64, block: 512, steps: 600_000, optimizer: 'adagrad', learningRate: 0.07 },
      ...{ warmup: 32_000, schedule: 'constant', clip: 0.03 },
    },
    span: 8192,
  },
  'adaptive-span-enwik8-small': {
    description: 'Adaptive-Span, enwik8, 8 layers (adaptive-span experiments/enwik8_small.sh)',
    decoder: { ...fair, layers: 8, width: 256, heads: 4, feedForward: 1024, dropout: 0 },
    training: {
      ...{ batch: 64, block: 256, steps: 150_000, optimizer: 'adagrad', learningRate: 0.07 },
      ...{ warmup: 8000, schedule: 'constant', clip: 0.03 },
    },
    span: 1024,
  },
  'transformer-xl-enwik8': {
    description: 'Transformer-XL, enwik8, 12 layers, 41M (transformer-xl run_enwik8_base.sh)',
    decoder: {
      ...transformerXl,
      layers: 12,
      width: 512,
      heads: 8,
      headSize: 64,
      feedForward: 2048,
      dropout: 0.1,
    },
    training: {
      ...{ batch: 22, block: 512, steps: 400_000, optimizer: 'adam', learningRate: 2.5e-4 },
      ...{ warmup: 0, schedule: 'cosine' },
    },
    span: 512,
  },
} satisfies Record<string, Preset>

export type PresetName = keyof typeof table

/** All presets by name. */
export const presets: Readonly<Record<PresetName, Preset>> = table
