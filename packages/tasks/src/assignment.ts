/**
 * Variable assignment: "Y=7;X=1;X=3;Z=5;X=?" asks for 3; an assignment makes earlier ones of the same variable
 * irrelevant. Selective Attention's example; the sizes of its experiments were not found, hence options.
 */
import { answer, episodeTask, say } from './episodes'
import { draw, type Range, range, readOptions, whole } from './options'
import type { SequenceTask } from './task'

export interface AssignmentOptions {
  /** Different variables: default 3. */
  readonly variables?: number
  /** Different values: default 10. */
  readonly values?: number
  /** Assignments before a question: a number, or the least and the most of them. Default 4, as in the example. */
  readonly assignments?: number | Range
}

const rules = () => ({ variables: whole(3, 1), values: whole(10, 2), assignments: range([4, 4], 1, 2 ** 20) })
const letters = ['X', 'Y', 'Z', ...'ABCDEFGHIJKLMNOPQRSTUVW']

export function assignment(given: AssignmentOptions = {}): SequenceTask {
  const options = readOptions('assignment', rules(), given)
  const { variables, values, assignments } = options
  const [equals, end, ask] = [0, 1, 2].map((sign) => variables + values + sign) as [number, number, number]
  return episodeTask({
    name: 'assignment',
    description:
      'the value last assigned to a variable, as in Y=7;X=1;X=3;Z=5;X=?3 (Selective Attention, Leviathan et al. 2025; sizes not published)',
    options,
    vocabulary: variables + values + 3,
    chance: 1 / values,
    *episode(random) {
      const last = new Map<number, number>()
      for (let left = draw(random, assignments); left > 0; left--) {
        const variable = random.integer(variables)
        const value = random.integer(values)
        last.set(variable, value)
        yield say(variable)
        yield say(equals)
        yield say(variables + value)
        yield say(end)
      }
      const [variable, value] = [...last][random.integer(last.size)]!
      yield say(variable)
      yield say(equals)
      yield say(ask)
      yield answer(variables + value)
      yield say(end)
    },
    oracle() {
      const last = new Map<number, number>()
      let variable = 0
      return {
        read(input) {
          if (input < variables) variable = input
          else if (input < equals) last.set(variable, input)
          return input === ask ? last.get(variable) : undefined
        },
      }
    },
    asText: (tokens) =>
      Array.from(tokens, (token) => {
        if (token < variables) return letters[token] ?? `v${token}`
        return token < equals ? `${token - variables}` : ['=', ';', '?'][token - equals]!
      }).join(''),
  })
}
