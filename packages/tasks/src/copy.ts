/**
 * Copy: a sequence is read and has to be said again. Named by Expire-Span (accuracy per symbol at lengths up to 128k) and
 * by Selective Attention; alphabet, lengths and delimiters were not found in either, hence options.
 */
import { Random } from '@lethe/core'
import { answer, episodeTask, say } from './episodes'
import { draw, type Range, range, readOptions, whole } from './options'
import type { SequenceTask } from './task'

export interface CopyOptions {
  /** Symbols to copy: a number, or the least and the most of them, up to 131072 (128k). Default [1, 10]. */
  readonly length?: number | Range
  /** Different symbols: default 10. */
  readonly alphabet?: number
}

const rules = () => ({ length: range([1, 10], 1, 2 ** 17), alphabet: whole(10, 2) })

export function copy(given: CopyOptions = {}): SequenceTask {
  const options = readOptions('copy', rules(), given)
  const { length, alphabet } = options
  const [begin, repeat] = [alphabet, alphabet + 1]
  return episodeTask({
    name: 'copy',
    description:
      'a sequence of random symbols, then the same again (Expire-Span, Sukhbaatar et al. 2021; sizes not published)',
    options,
    vocabulary: alphabet + 2,
    chance: 1 / alphabet,
    *episode(random) {
      yield say(begin)
      const symbols = draw(random, length)
      // The same numbers are drawn twice instead of being held.
      const again = new Random(random.state)
      for (let at = 0; at < symbols; at++) yield say(random.integer(alphabet))
      yield say(repeat)
      for (let at = 0; at < symbols; at++) yield answer(again.integer(alphabet))
    },
    oracle() {
      let symbols: number[] = []
      let copied = -1
      return {
        read(input) {
          if (input === begin) {
            symbols = []
            copied = -1
          } else if (input === repeat || copied >= 0) copied++
          else symbols.push(input)
          return copied >= 0 ? symbols[copied] : undefined
        },
      }
    },
    asText: (tokens) =>
      Array.from(tokens, (token) => (token === begin ? '<' : token === repeat ? '>' : `${token}`)).join(' '),
  })
}
