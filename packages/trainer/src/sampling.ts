/** Choosing the next token from its logits, on plain arrays: temperature, top-k, top-p. */
import type { Random } from '@lethe/core'
import { OptionError } from './errors'

export interface SamplingOptions {
  /** Divides the logits: default 1; 0 always takes the likeliest token. */
  readonly temperature?: number
  /** Only the k likeliest tokens; 0 (default) for all. */
  readonly topK?: number
  /** Only the likeliest tokens that together have this probability; 1 (default) for all. */
  readonly topP?: number
}

/** @throws OptionError */
export function checkSampling({ temperature = 1, topK = 0, topP = 1 }: SamplingOptions): void {
  if (!(temperature >= 0 && Number.isFinite(temperature)))
    throw new OptionError(`temperature must be 0 or more, not ${temperature}`, { temperature })
  if (!(Number.isInteger(topK) && topK >= 0))
    throw new OptionError(`topK must be a whole number, 0 for all tokens, not ${topK}`, { topK })
  if (!(topP > 0 && topP <= 1))
    throw new OptionError(`topP must be more than 0 and at most 1, not ${topP}`, { topP })
}

/** The likeliest token; of equals the first. */
export function likeliest(logits: ArrayLike<number>): number {
  let best = 0
  for (let token = 1; token < logits.length; token++) if (logits[token]! > logits[best]!) best = token
  return best
}

/**
 * Tokens that may be sampled, likeliest first, with probabilities that sum to 1. Top-k is applied first, then top-p to
 * what it left; top-p keeps the token that crosses the threshold, so that there is always one.
 */
export function candidates(
  logits: ArrayLike<number>,
  options: SamplingOptions = {},
): { tokens: number[]; probabilities: number[] } {
  checkSampling(options)
  const { temperature = 1, topK = 0, topP = 1 } = options
  if (temperature === 0) return { tokens: [likeliest(logits)], probabilities: [1] }
  let tokens = Array.from({ length: logits.length }, (_, token) => token)
  tokens.sort((a, b) => logits[b]! - logits[a]! || a - b)
  if (topK > 0) tokens = tokens.slice(0, topK)
  const highest = logits[tokens[0]!]!
  let probabilities = tokens.map((token) => Math.exp((logits[token]! - highest) / temperature))
  probabilities = normalize(probabilities)
  if (topP < 1) {
    let kept = 0
    let sum = 0
    while (kept < tokens.length && sum < topP) sum += probabilities[kept++]!
    tokens = tokens.slice(0, kept)
    probabilities = normalize(probabilities.slice(0, kept))
  }
  return { tokens, probabilities }
}

/** Draws the next token; temperature 0 draws nothing from `random`. */
export function sampleToken(logits: ArrayLike<number>, options: SamplingOptions, random: Random): number {
  const { tokens, probabilities } = candidates(logits, options)
  if (tokens.length === 1) return tokens[0]!
  let left = random.uniform()
  for (let i = 0; i < tokens.length; i++) {
    left -= probabilities[i]!
    if (left < 0) return tokens[i]!
  }
  return tokens.at(-1)!
}

function normalize(weights: readonly number[]): number[] {
  const sum = weights.reduce((total, weight) => total + weight, 0)
  return weights.map((weight) => weight / sum)
}
