/** Options of tasks: each rule has a default and says what it accepts, so that one function checks them all. */
import { ConfigError, Random } from '@lethe/core'

/** One option. `read` gives the value in its full form, undefined for what is refused. */
export interface Rule<T> {
  readonly initial: T
  readonly expected: string
  read(value: unknown): T | undefined
}

type Values<Rules> = { readonly [name in keyof Rules]: Rules[name] extends Rule<infer T> ? T : never }

/** A range of whole numbers, both ends included. */
export type Range = readonly [least: number, most: number]

export function whole(initial: number, least: number, most = Number.MAX_SAFE_INTEGER): Rule<number> {
  const upTo = most === Number.MAX_SAFE_INTEGER ? 'up' : `to ${most}`
  return {
    initial,
    expected: `a whole number from ${least} ${upTo}`,
    read: (value) =>
      Number.isInteger(value) && (value as number) >= least && (value as number) <= most
        ? (value as number)
        : undefined,
  }
}

export const even = (initial: number, least: number, most: number) => everyOther('even', initial, least, most)
export const odd = (initial: number, least: number, most: number) => everyOther('odd', initial, least, most)

function everyOther(which: 'even' | 'odd', initial: number, least: number, most: number): Rule<number> {
  const { read } = whole(initial, least, most)
  return {
    initial,
    expected: `an ${which} number from ${least} to ${most}`,
    read: (value) =>
      read(value) !== undefined && (value as number) % 2 === least % 2 ? read(value) : undefined,
  }
}

/** A number of things, or the least and the most of them. */
export function range(initial: Range, least: number, most: number): Rule<Range> {
  const one = whole(least, least, most)
  return {
    initial,
    expected: `${one.expected}, or [least, most] of such`,
    read: (value) => {
      const ends = Array.isArray(value) ? value : [value, value]
      const [low, high] = ends.map(one.read)
      return ends.length === 2 && low !== undefined && high !== undefined && low <= high
        ? [low, high]
        : undefined
    },
  }
}

export function fraction(initial: number): Rule<number> {
  return number(initial, 'a number from 0 to 1', (value) => value >= 0 && value <= 1)
}

export function number(initial: number, expected: string, accepts: (value: number) => boolean): Rule<number> {
  return {
    initial,
    expected,
    read: (value) =>
      typeof value === 'number' && Number.isFinite(value) && accepts(value) ? value : undefined,
  }
}

export function flag(initial: boolean): Rule<boolean> {
  return {
    initial,
    expected: 'true or false',
    read: (value) => (typeof value === 'boolean' ? value : undefined),
  }
}

/**
 * Fills in defaults and refuses what is unknown or out of range.
 * @throws ConfigError that says what the task takes
 */
export function readOptions<Rules extends Record<string, Rule<unknown>>>(
  task: string,
  rules: Rules,
  given: object,
): Values<Rules> {
  for (const [name, value] of Object.entries(given))
    if (!Object.hasOwn(rules, name))
      throw new ConfigError(`${task} has no option "${name}"; it has ${Object.keys(rules).join(', ')}`, {
        [name]: value,
      })
  const read = Object.entries(rules).map(([name, rule]) => {
    const value = (given as Record<string, unknown>)[name]
    if (value === undefined) return [name, rule.initial]
    const accepted = rule.read(value)
    if (accepted === undefined)
      throw new ConfigError(`${name} of ${task} must be ${rule.expected}, not ${JSON.stringify(value)}`, {
        [name]: value,
      })
    return [name, accepted]
  })
  return Object.fromEntries(read)
}

const rows = 2 ** 20

/** The random numbers of one row. */
export function randomOf(seed: number, row: number): Random {
  const refuse = (name: string, value: number, most: number): never => {
    throw new ConfigError(`${name} must be a whole number from 0 to ${most}, not ${value}`, { [name]: value })
  }
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) refuse('seed', seed, 2 ** 32 - 1)
  if (!Number.isInteger(row) || row < 0 || row >= rows) refuse('row', row, rows - 1)
  return new Random(seed * rows + row)
}

/** A whole number within the range. */
export const draw = (random: Random, [least, most]: Range): number => least + random.integer(most - least + 1)

/** A list in random order (Fisher-Yates). */
export function shuffled<T>(random: Random, list: readonly T[]): T[] {
  const result = [...list]
  for (let last = result.length - 1; last > 0; last--) {
    const other = random.integer(last + 1)
    ;[result[last], result[other]] = [result[other]!, result[last]!]
  }
  return result
}
