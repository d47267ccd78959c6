/**
 * Parity: is the number of ones so far even or odd? Named by Selective Attention as a task in which nearly everything
 * read can be forgotten: with the parity said after each bit, the last parity and the next bit are enough. Sizes were
 * not found, hence options.
 */
import { answer, episodeTask, say } from './episodes'
import { draw, flag, type Range, range, readOptions } from './options'
import type { SequenceTask } from './task'

export interface ParityOptions {
  /** Bits: a number, or the least and the most of them. Default [1, 16]. */
  readonly length?: number | Range
  /** True (default): the parity so far is asked and said after each bit. False: once, after the last. */
  readonly running?: boolean
}

const rules = () => ({ length: range([1, 16], 1, 2 ** 20), running: flag(true) })
const [even, begin, ask] = [2, 4, 5]

export function parity(given: ParityOptions = {}): SequenceTask {
  const options = readOptions('parity', rules(), given)
  const { length, running } = options
  return episodeTask({
    name: 'parity',
    description:
      'whether the number of ones so far is even or odd (Selective Attention, Leviathan et al. 2025; sizes not published)',
    options,
    vocabulary: running ? 5 : 6,
    // Whoever says the bit just read again is right after the first one, and after every second of the others.
    chance: running ? 1 / 2 + 1 / (length[0] + length[1]) : 1 / 2,
    *episode(random) {
      yield say(begin)
      const bits = draw(random, length)
      let ones = 0
      for (let at = 0; at < bits; at++) {
        const bit = random.integer(2)
        ones ^= bit
        yield say(bit)
        if (running) yield answer(even + ones)
      }
      if (running) return
      yield say(ask)
      yield answer(even + ones)
    },
    oracle() {
      let ones = 0
      return {
        read(input) {
          if (input === begin) ones = 0
          if (input === 1) ones++
          const asked = running ? input <= 1 : input === ask
          return asked ? even + (ones % 2) : undefined
        },
      }
    },
    asText: (tokens) => Array.from(tokens, (token) => ['0', '1', 'even', 'odd', '<', '?'][token]).join(' '),
  })
}
