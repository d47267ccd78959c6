/**
 * Instruction retrieval: a line in a long text says how something is to be done, and the time to do it comes much
 * later. After Expire-Span's instruction task in the text world LIGHT, whose details were not found: here the text is
 * a small world of our own, whose other lines are about the same things, without instructing.
 */
import { ConfigError } from '@lethe/core'
import { answer, episodeTask, say } from './episodes'
import { draw, type Range, range, readOptions, shuffled, whole } from './options'
import type { SequenceTask } from './task'

export interface InstructionOptions {
  /** Lines of distracting text, about 7 words each: a number, or the least and the most of them. Default [2, 12]. */
  readonly distraction?: number | Range
  /** Instructions in a text, for different goals, one of which is asked for: default 1. */
  readonly instructions?: number
  /** Different goals, up to 12: default 6. */
  readonly goals?: number
  /** Different tools, up to 12: default 6. */
  readonly tools?: number
}

const goalWords = [
  'gate',
  'chest',
  'tower',
  'well',
  'crypt',
  'bridge',
  'mill',
  'vault',
  'chapel',
  'barn',
  'cellar',
  'lighthouse',
]
const toolWords = [
  'lamp',
  'rope',
  'key',
  'horn',
  'spade',
  'mirror',
  'candle',
  'hammer',
  'whistle',
  'ladder',
  'ring',
  'bell',
]
const people = ['Ada', 'Boris', 'Chloe', 'Dmitri', 'Elif', 'Farid', 'Greta', 'Hugo']
const otherWords = [
  '.',
  'to',
  'open',
  'the',
  'use',
  'now',
  'with',
  'saw',
  'near',
  'gave',
  'lay',
  'beside',
  'forgot',
  'was',
  'sold',
  'at',
  'asked',
  'about',
]

const rules = () => ({
  distraction: range([2, 12], 0, 2 ** 17),
  instructions: whole(1, 1, goalWords.length),
  goals: whole(6, 1, goalWords.length),
  tools: whole(6, 2, toolWords.length),
})

/** P is a person, G a goal, T a tool. */
const distractions = [
  'P saw the G near the T .',
  'the T lay beside the G .',
  'P gave P the T .',
  'P forgot the T near the G .',
  'the T was sold at the G .',
  'P asked P about the G .',
]

export function instruction(given: InstructionOptions = {}): SequenceTask {
  const options = readOptions('instruction', rules(), given)
  const { distraction, instructions, goals, tools } = options
  if (instructions > goals)
    throw new ConfigError(
      `instruction cannot give ${instructions} instructions for ${goals} goals: ask for fewer instructions, or more goals`,
      { instructions, goals },
    )
  const words = [...otherWords, ...people, ...goalWords.slice(0, goals), ...toolWords.slice(0, tools)]
  const tokenOf = new Map(words.map((word, token) => [word, token]))
  const line = (text: string) => text.split(' ').map((word) => say(tokenOf.get(word)!))
  return episodeTask({
    name: 'instruction',
    description:
      'an instruction in distracting text, to be followed later (after the LIGHT task of Expire-Span, Sukhbaatar et al. 2021; the text is our own)',
    options,
    vocabulary: words.length,
    chance: 1 / tools,
    *episode(random) {
      const pick = (list: readonly string[], size = list.length) => list[random.integer(size)]!
      const fill: Record<string, () => string> = {
        P: () => pick(people),
        G: () => pick(goalWords, goals),
        T: () => pick(toolWords, tools),
      }
      const given = shuffled(random, goalWords.slice(0, goals))
        .slice(0, instructions)
        .map((goal) => [goal, pick(toolWords, tools)] as const)
      const lines = draw(random, distraction)
      const places = given.map(() => random.integer(lines + 1)).sort((a, b) => a - b)
      let said = 0
      for (let at = 0; at <= lines; at++) {
        for (; places[said] === at; said++) {
          const [goal, tool] = given[said]!
          yield* line(`to open the ${goal} use the ${tool} .`)
        }
        if (at === lines) break
        yield* line(pick(distractions).replace(/\b[PGT]\b/g, (kind) => fill[kind]!()))
      }
      const [goal, tool] = given[random.integer(instructions)]!
      yield* line(`now open the ${goal} with the`)
      yield answer(tokenOf.get(tool)!)
      yield* line('.')
    },
    oracle() {
      const toolFor = new Map<string, string>()
      let sentence: string[] = []
      return {
        read(input) {
          sentence.push(words[input]!)
          const [first, , , goal = '', , , tool] = sentence
          if (first === 'now' && sentence.length === 6) return tokenOf.get(toolFor.get(goal)!)
          if (first === 'to' && tool) toolFor.set(goal, tool)
          if (words[input] === '.') sentence = []
          return undefined
        },
      }
    },
    asText: (tokens) => Array.from(tokens, (token) => words[token]).join(' '),
  })
}
