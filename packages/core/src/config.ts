/**
 * What a decoder is made of. Every field has a default that belongs to the `modern` preset; `resolveConfig` fills
 * them in and refuses what cannot be built before any tensor is made.
 */
import { ConfigError } from './errors'
import type { ForgettingMethod, LayerInfo } from './method'

export interface DecoderConfig {
  /** Number of different tokens. */
  readonly vocabulary: number
  readonly layers: number
  /** Size of the hidden state. */
  readonly width: number
  readonly heads: number
  /** Features per head. Default width / heads. */
  readonly headSize?: number
  /** Inner width of the feed-forward part; 0 for none (all-attention layers). Default 4 · width. */
  readonly feedForward?: number
  readonly activation?: 'relu' | 'gelu' | 'swiglu'
  readonly norm?: 'layer' | 'rms'
  /** Norms before each part (and one before the output), or after each residual sum. */
  readonly normPosition?: 'pre' | 'post'
  /** learned: Shaw et al., one table for all heads and layers. sinusoidal: Transformer-XL with u, v. */
  readonly positions?: 'learned' | 'sinusoidal' | 'rotary' | 'none'
  /** Distances in the table of learned positions. Default: as far as the methods reach. */
  readonly learnedDistances?: number
  /** What a distance beyond the learned table gets: nothing, or the farthest entry. */
  readonly beyondLearned?: 'none' | 'clamp'
  /** Sinusoidal positions beyond this distance count as it (clamp_len of Transformer-XL). */
  readonly farthestPosition?: number
  /** Whether a step attends to itself. The FAIR family does not. */
  readonly attendSelf?: boolean
  /** The first memory: nothing, or zero hidden states that are attended to (FAIR). */
  readonly initialMemory?: 'empty' | 'zeros'
  /** Persistent key-value slots per head (all-attention). */
  readonly persistentSlots?: number
  /** Dropout rate in training, at the places below. */
  readonly dropout?: number
  readonly dropoutPlaces?: readonly DropoutPlace[]
  /** Chance that a layer is skipped in a training pass; its method still computes spans and remembers. Default 0. */
  readonly layerDrop?: number
  /** Whether the output layer is the embedding transposed. */
  readonly tiedOutput?: boolean
  readonly outputBias?: boolean
  /** Biases of the feed-forward part. */
  readonly feedForwardBias?: boolean
  /** Factor on embeddings: a number, or 'sqrt-width' (Transformer-XL). */
  readonly embeddingScale?: number | 'sqrt-width'
  /** fair: embeddings and positions N(0,1), linears U(±1/√in). transformer-xl: N(0, 0.02). scaled: N(0, √(2/(5·width))),
   *  residual outputs divided by √(2·layers). */
  readonly initialization?: 'fair' | 'transformer-xl' | 'scaled'
  readonly epsilon?: number
  /** One method for all layers, or one per layer (hybrid stacks). */
  readonly method: ForgettingMethod | readonly ForgettingMethod[]
}

export type DropoutPlace = 'embedding' | 'attention' | 'feed-forward' | 'residual'
const dropoutPlaces: readonly DropoutPlace[] = ['embedding', 'attention', 'feed-forward', 'residual']

/** A configuration with every field present and one method per layer. */
export interface ResolvedConfig extends Required<DecoderConfig> {
  readonly method: readonly ForgettingMethod[]
}

const choices = {
  activation: ['relu', 'gelu', 'swiglu'],
  norm: ['layer', 'rms'],
  normPosition: ['pre', 'post'],
  positions: ['learned', 'sinusoidal', 'rotary', 'none'],
  beyondLearned: ['none', 'clamp'],
  initialMemory: ['empty', 'zeros'],
  initialization: ['fair', 'transformer-xl', 'scaled'],
} as const

const switches = ['attendSelf', 'tiedOutput', 'outputBias', 'feedForwardBias'] as const

const known = new Set([
  ...Object.keys(choices),
  ...switches,
  ...['vocabulary', 'layers', 'width', 'heads', 'headSize', 'feedForward', 'learnedDistances'],
  ...['farthestPosition', 'persistentSlots', 'dropout', 'dropoutPlaces', 'layerDrop'],
  ...['embeddingScale', 'epsilon', 'method'],
])

/** The layer as its method sees it. */
export const layerInfo = (config: Omit<ResolvedConfig, 'learnedDistances'>, index: number): LayerInfo => ({
  index,
  layers: config.layers,
  width: config.width,
  heads: config.heads,
  headSize: config.headSize,
  attendSelf: config.attendSelf,
  initialMemory: config.initialMemory,
  persistentSlots: config.persistentSlots,
})

/**
 * Fills in defaults and refuses what cannot be built.
 * @throws ConfigError naming the field, its value and the fix
 */
export function resolveConfig(given: DecoderConfig): ResolvedConfig {
  const refuse = (message: string, values: Record<string, unknown>): never => {
    throw new ConfigError(message, values)
  }
  for (const field of Object.keys(given))
    if (!known.has(field))
      refuse(
        `unknown field "${field}" in the decoder's configuration; known are ${[...known].sort().join(', ')}`,
        {
          field,
        },
      )
  for (const [field, allowed] of Object.entries(choices)) {
    const value = given[field as keyof typeof choices]
    if (value !== undefined && !(allowed as readonly string[]).includes(value))
      refuse(`${field} must be one of ${allowed.join(', ')}, not "${value}"`, { [field]: value })
  }
  const count = (field: keyof DecoderConfig, value: unknown, least = 1) => {
    if (!Number.isInteger(value) || (value as number) < least)
      refuse(`${field} must be a whole number from ${least} up, not ${value}`, { [field]: value })
  }
  for (const field of ['vocabulary', 'layers', 'width', 'heads'] as const) count(field, given[field])
  const { width, heads, layers } = given
  if (given.headSize === undefined && width % heads !== 0)
    refuse(
      `width ${width} is not divisible by ${heads} heads: choose another width or number of heads, or set headSize`,
      { width, heads },
    )
  const methods = Array.isArray(given.method) ? given.method : new Array(layers).fill(given.method)
  if (methods.length !== layers)
    refuse(`${methods.length} methods for ${layers} layers: give one method, or one per layer`, {
      methods: methods.length,
      layers,
    })
  for (const method of methods as unknown[]) {
    const { specVersion, name } = (method ?? {}) as Partial<ForgettingMethod>
    if (specVersion !== 1)
      refuse(
        `method "${name}" speaks version ${specVersion} of the interface, this core speaks 1: install matching versions`,
        { name, specVersion },
      )
  }
  const positions = given.positions ?? 'rotary'
  const resolved: ResolvedConfig = {
    vocabulary: given.vocabulary,
    layers,
    width,
    heads,
    headSize: given.headSize ?? width / heads,
    feedForward: given.feedForward ?? 4 * width,
    activation: given.activation ?? 'swiglu',
    norm: given.norm ?? 'rms',
    normPosition: given.normPosition ?? 'pre',
    positions,
    learnedDistances: given.learnedDistances ?? 0,
    beyondLearned: given.beyondLearned ?? 'none',
    farthestPosition: given.farthestPosition ?? Number.POSITIVE_INFINITY,
    attendSelf: given.attendSelf ?? true,
    initialMemory: given.initialMemory ?? 'empty',
    persistentSlots: given.persistentSlots ?? 0,
    dropout: given.dropout ?? 0,
    dropoutPlaces: given.dropoutPlaces ?? dropoutPlaces,
    layerDrop: given.layerDrop ?? 0,
    tiedOutput: given.tiedOutput ?? false,
    outputBias: given.outputBias ?? false,
    feedForwardBias: given.feedForwardBias ?? false,
    embeddingScale: given.embeddingScale ?? 1,
    initialization: given.initialization ?? 'scaled',
    epsilon: given.epsilon ?? 1e-5,
    method: methods as readonly ForgettingMethod[],
  }
  const { embeddingScale, epsilon, farthestPosition } = resolved
  if (embeddingScale !== 'sqrt-width' && !Number.isFinite(embeddingScale))
    refuse(`embeddingScale must be a number or 'sqrt-width', not ${embeddingScale}`, { embeddingScale })
  if (!(epsilon > 0 && Number.isFinite(epsilon)))
    refuse(`epsilon must be a number above 0, not ${epsilon}`, { epsilon })
  if (farthestPosition !== Number.POSITIVE_INFINITY) count('farthestPosition', farthestPosition)
  for (const field of switches)
    if (typeof resolved[field] !== 'boolean')
      refuse(`${field} must be true or false, not ${resolved[field]}`, { [field]: resolved[field] })
  count('headSize', resolved.headSize)
  count('feedForward', resolved.feedForward, 0)
  count('persistentSlots', resolved.persistentSlots, 0)
  if (positions === 'rotary' && resolved.headSize % 2 !== 0)
    refuse(`rotary positions need an even headSize, not ${resolved.headSize}`, {
      headSize: resolved.headSize,
    })
  if (positions === 'sinusoidal' && width % 2 !== 0)
    refuse(`sinusoidal positions need an even width, not ${width}`, { width })
  if (!(resolved.dropout >= 0 && resolved.dropout < 1))
    refuse(`dropout must lie in [0, 1), not ${resolved.dropout}`, { dropout: resolved.dropout })
  if (!(resolved.layerDrop >= 0 && resolved.layerDrop < 1))
    refuse(`layerDrop must lie in [0, 1), not ${resolved.layerDrop}`, { layerDrop: resolved.layerDrop })
  for (const place of resolved.dropoutPlaces)
    if (!dropoutPlaces.includes(place))
      refuse(`dropoutPlaces may hold ${dropoutPlaces.join(', ')}, not "${place}"`, { place })
  if (!resolved.attendSelf && resolved.initialMemory === 'empty' && resolved.persistentSlots === 0)
    refuse(
      "with attendSelf: false the very first step would have nothing to attend to: set initialMemory: 'zeros' or persistentSlots",
      { attendSelf: false, initialMemory: 'empty' },
    )
  if (positions === 'sinusoidal' && !Number.isFinite(resolved.farthestPosition))
    // Slots of any age anywhere: there is no end to the distances that need a position.
    for (const [index, { name, reach, decode }] of resolved.method.entries())
      if (decode.worth && !Number.isFinite(reach(layerInfo(resolved, index))))
        refuse(
          `${name} keeps slots of any age, so sinusoidal positions need a farthest one: set farthestPosition, or use rotary or learned positions`,
          { positions, method: name },
        )
  if (positions !== 'learned') return resolved

  const nearest = resolved.attendSelf ? 0 : 1
  const reach = Math.max(
    ...resolved.method.map((method, index) => method.reach(layerInfo(resolved, index)) - nearest + 1),
  )
  const learnedDistances = given.learnedDistances ?? reach
  if (!Number.isInteger(learnedDistances) || learnedDistances < 1)
    refuse(
      `learnedDistances must be a whole number from 1 up, not ${learnedDistances}: the method reaches without limit, so say how many distances get a position`,
      { learnedDistances },
    )
  return { ...resolved, learnedDistances }
}
