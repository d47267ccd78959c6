/**
 * Seeded random numbers with a state that can be saved: xoshiro128** (Blackman, Vigna 2018), seeded by splitmix32.
 * Everything random in Lethe (initial weights, dropout, sampling, span noise) is drawn from one of these, so that the
 * same seed gives the same run and a resumed run equals the uninterrupted one.
 */
import { ConfigError } from './errors'

/** Four 32-bit words. */
export type RandomState = readonly [number, number, number, number]

export class Random {
  private a: number
  private b: number
  private c: number
  private d: number

  /** @param seed an integer in [0, 2^53), or a state saved before. */
  constructor(seed: number | RandomState) {
    if (typeof seed !== 'number') {
      ;[this.a, this.b, this.c, this.d] = seed.map((word) => word | 0) as [number, number, number, number]
      return
    }
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new ConfigError(`seed must be an integer from 0 to 2^53 - 1, not ${seed}`, { seed })
    let z = (seed ^ Math.imul(Math.floor(seed / 2 ** 32), 0x9e3779b9)) | 0
    const next = () => {
      z = (z + 0x9e3779b9) | 0
      let t = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
      t = Math.imul(t ^ (t >>> 15), 0x735a2d97)
      return t ^ (t >>> 15)
    }
    this.a = next()
    this.b = next()
    this.c = next()
    this.d = next()
  }

  /** The state, from which `new Random(state)` goes on exactly where this one is. */
  get state(): RandomState {
    return [this.a, this.b, this.c, this.d]
  }

  /** 32 random bits as an unsigned integer. */
  bits(): number {
    const scrambled = Math.imul(this.b, 5)
    const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9)
    const shifted = this.b << 9
    this.c ^= this.a
    this.d ^= this.b
    this.b ^= this.c
    this.a ^= this.d
    this.c ^= shifted
    this.d = (this.d << 11) | (this.d >>> 21)
    return result >>> 0
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    return this.bits() / 2 ** 32
  }

  /** A whole number, uniform in [0, limit). */
  integer(limit: number): number {
    return Math.floor(this.uniform() * limit)
  }

  /** Standard normal (Box-Muller; one of the pair, so that the state stays four words). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()))
    return radius * Math.cos(2 * Math.PI * this.uniform())
  }

  /** `count` numbers uniform in [low, high). */
  uniforms(count: number, low = 0, high = 1): Float32Array {
    const values = new Float32Array(count)
    for (let i = 0; i < count; i++) values[i] = low + (high - low) * this.uniform()
    return values
  }

  /** `count` numbers, normal with mean 0 and the given deviation. */
  normals(count: number, deviation = 1): Float32Array {
    const values = new Float32Array(count)
    for (let i = 0; i < count; i++) values[i] = deviation * this.normal()
    return values
  }

  /** `count` values that are 1 / (1 - rate) with probability 1 - rate, else 0: a dropout mask. */
  dropoutMask(count: number, rate: number): Float32Array {
    const values = new Float32Array(count)
    const threshold = rate * 2 ** 32
    const kept = 1 / (1 - rate)
    for (let i = 0; i < count; i++) values[i] = this.bits() >= threshold ? kept : 0
    return values
  }
}
