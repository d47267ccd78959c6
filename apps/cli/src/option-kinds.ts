/**
 * The kinds of values an option can take: how each is described in the table of options, typed, read and shown.
 */
import { UsageError } from './errors'
import { suggestion } from './suggestion'

/** What an option takes, as the table says it. */
export type Kind =
  | { readonly kind: 'flag' }
  | {
      readonly kind: 'text'
      readonly placeholder: string
      readonly many?: boolean
      /** The value may be left out: it is '' then. */
      readonly optional?: boolean
    }
  | { readonly kind: 'names' }
  | { readonly kind: 'json' }
  | { readonly kind: 'choice'; readonly choices: readonly string[] }
  | { readonly kind: 'choices'; readonly choices: readonly string[] }
  | { readonly kind: 'whole'; readonly least: number }
  | {
      readonly kind: 'number'
      readonly least: number
      readonly more?: boolean
      readonly below?: number
      readonly most?: number
    }
  | { readonly kind: 'wholes'; readonly least: number }

/** What an option of this kind is once it was read. */
export type ValueOf<O extends Kind> = O extends { kind: 'flag' }
  ? true
  : O extends { many: true } | { kind: 'choices' | 'names' }
    ? readonly string[]
    : O extends { kind: 'json' }
      ? Readonly<Record<string, unknown>>
      : O extends { kind: 'whole' | 'number' }
        ? number
        : O extends { kind: 'wholes' }
          ? readonly number[]
          : string

/**
 * The value that texts stand for: what was given for one option, in order, of which most kinds take the last.
 * @param where names the option in an error
 * @throws UsageError naming what the option takes
 */
export function parseValue(option: Kind, texts: readonly string[], where: string): unknown {
  const text = texts.at(-1)!
  const refuse = (range: string) => {
    throw new UsageError(`${where} must be ${range}, not "${text}"`)
  }
  switch (option.kind) {
    case 'flag':
      return true
    case 'text':
      return option.many ? texts : text
    case 'choice':
      if (!option.choices.includes(text))
        throw new UsageError(
          `${where} must be one of ${option.choices.join(', ')}, not "${text}"${suggestion(text, option.choices, '')}`,
        )
      return text
    case 'choices': {
      if (text === 'all') return option.choices
      const names = [...new Set(texts.join().split(','))]
      const unknown = names.find((name) => !option.choices.includes(name))
      if (unknown !== undefined)
        throw new UsageError(
          `${where} takes names with commas between them, of ${option.choices.join(', ')}, not "${unknown}"${suggestion(unknown, option.choices, '')}`,
        )
      return names
    }
    case 'names':
      return [...new Set(texts.join().split(','))]
    case 'json': {
      let value: unknown
      try {
        value = JSON.parse(text)
      } catch {}
      if (typeof value !== 'object' || value === null || Array.isArray(value))
        refuse('a JSON object such as {"length":8}')
      return value
    }
    case 'whole': {
      const value = Number(text)
      if (!Number.isSafeInteger(value) || value < option.least)
        refuse(`a whole number${option.least > 0 ? ` of at least ${option.least}` : ', 0 or more'}`)
      return value
    }
    case 'wholes': {
      const values = texts.join().split(',').map(Number)
      if (!values.every((value) => Number.isSafeInteger(value) && value >= option.least))
        refuse(`whole numbers of at least ${option.least} with commas between them, such as 1024,8192`)
      return values
    }
    case 'number': {
      const value = Number(text)
      const { least, more, below = Number.POSITIVE_INFINITY, most = Number.POSITIVE_INFINITY } = option
      const inside = (more ? value > least : value >= least) && value < below && value <= most
      if (text.trim() === '' || !Number.isFinite(value) || !inside)
        refuse(
          `a number ${more ? `more than ${least}` : `from ${least}`}` +
            (Number.isFinite(below)
              ? ` to less than ${below}`
              : Number.isFinite(most)
                ? ` to ${most}`
                : ' up'),
        )
      return value
    }
  }
}

/** What stands for the value in help texts. */
export function placeholder(option: Kind): string {
  switch (option.kind) {
    case 'flag':
      return ''
    case 'text':
      return option.placeholder
    case 'choice':
      return option.choices.length <= 4 ? option.choices.join('|') : 'NAME'
    case 'names':
      return 'NAME'
    case 'json':
      return 'JSON'
    case 'choices':
      return 'NAME,NAME,…'
    case 'wholes':
      return 'N,N,…'
    default:
      return 'N'
  }
}
