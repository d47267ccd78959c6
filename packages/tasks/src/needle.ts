/**
 * Needle in a haystack (passkey retrieval): keys hidden in noise, one of which is asked for at the end. The papers that
 * report it (Infini-attention, Munkhdalai et al. 2024) hide it in text; here the hay is random symbols.
 */
import { answer, episodeTask, say } from './episodes'
import { draw, fraction, type Range, range, readOptions, shuffled, whole } from './options'
import type { SequenceTask } from './task'

export interface NeedleOptions {
  /** Symbols of noise: a number, or the least and the most of them, up to 1048576. Default [4, 100]. */
  readonly haystack?: number | Range
  /** Keys hidden in it, each under a tag of its own: default 1. */
  readonly needles?: number
  /** Symbols of a key: default 1. */
  readonly keyLength?: number
  /** Different symbols of keys: default 10. */
  readonly alphabet?: number
  /** Different symbols of noise: default 8. */
  readonly noise?: number
  /** Keys are hidden in this first part of the haystack only: default 1, anywhere. 0: before it. */
  readonly depth?: number
}

const rules = () => ({
  haystack: range([4, 100], 0, 2 ** 20),
  needles: whole(1, 1, 1000),
  keyLength: whole(1, 1, 1000),
  alphabet: whole(10, 2),
  noise: whole(8, 1),
  depth: fraction(1),
})

export function needle(given: NeedleOptions = {}): SequenceTask {
  const options = readOptions('needle', rules(), given)
  const { haystack, needles, keyLength, alphabet, noise, depth } = options
  const tags = alphabet + noise
  const asks = tags + needles
  return episodeTask({
    name: 'needle',
    description:
      'keys hidden in noise, one of which is asked for at the end (passkey retrieval, after Munkhdalai et al. 2024)',
    options,
    vocabulary: asks + needles,
    chance: 1 / alphabet,
    *episode(random) {
      const hay = draw(random, haystack)
      const places = Array.from({ length: needles }, () => random.integer(Math.floor(hay * depth) + 1))
      places.sort((a, b) => a - b)
      const order = shuffled(
        random,
        Array.from({ length: needles }, (_, tag) => tag),
      )
      const keys: number[][] = []
      for (let at = 0; at <= hay; at++) {
        while (places[keys.length] === at) {
          const key = Array.from({ length: keyLength }, () => random.integer(alphabet))
          yield say(tags + order[keys.length]!)
          yield* key.map(say)
          keys.push(key)
        }
        if (at < hay) yield say(alphabet + random.integer(noise))
      }
      const asked = random.integer(needles)
      yield say(asks + order[asked]!)
      yield* keys[asked]!.map(answer)
    },
    oracle() {
      const keys = new Map<number, number[]>()
      let reading: number[] | undefined
      let saying: number[] = []
      return {
        read(input) {
          if (input >= asks) saying = [...keys.get(input - asks)!]
          else if (input >= tags) {
            reading = []
            keys.set(input - tags, reading)
          } else if (input < alphabet && reading && reading.length < keyLength) reading.push(input)
          return saying.shift()
        },
      }
    },
    asText: (tokens) =>
      Array.from(tokens, (token) => {
        if (token >= asks) return `?${token - asks}`
        if (token >= tags) return `!${token - tags}`
        return token < alphabet ? `${token}` : '.'.repeat(1 + token - alphabet)
      }).join(' '),
  })
}
