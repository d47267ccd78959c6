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
  /** Blanks between the sequence and its copy: a number, or the least and the most of them, up to 1048576. Default 0. */
  readonly delay?: number | Range
}

const rules = () => ({
  length: range([1, 10], 1, 2 ** 17),
  alphabet: whole(10, 2),
  delay: range([0, 0], 0, 2 ** 20),
})

export function copy(given: CopyOptions = {}): SequenceTask {
  const options = readOptions('copy', rules(), given)
  const { length, alphabet, delay } = options
  const [begin, repeat, blank] = [alphabet, alphabet + 1, alphabet + 2]
  const delayed = delay[1] > 0
  return episodeTask({
    name: 'copy',
    description:
      'a sequence of random symbols, then the same again (Expire-Span, Sukhbaatar et al. 2021; sizes not published)',
    options,
    vocabulary: alphabet + (delayed ? 3 : 2),
    chance: 1 / alphabet,
    *episode(random) {
      yield say(begin)
      const symbols = draw(random, length)
      // The same numbers are drawn twice instead of being held.
      const again = new Random(random.state)
      for (let at = 0; at < symbols; at++) yield say(random.integer(alphabet))
      // Nothing is drawn without a delay: the stream of a seed stays what it was.
      const blanks = delayed ? draw(random, delay) : 0
      for (let at = 0; at < blanks; at++) yield say(blank)
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
          else if (input !== blank) symbols.push(input)
          return copied >= 0 ? symbols[copied] : undefined
        },
      }
    },
    asText: (tokens) =>
      Array.from(tokens, (token) => (token < alphabet ? `${token}` : ['<', '>', '_'][token - alphabet])).join(
        ' ',
      ),
  })
}
