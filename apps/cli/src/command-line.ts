/**
 * Reads a command's arguments and its --config file by the table of options.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { UsageError } from './errors'
import { parseValue, placeholder } from './option-kinds'
import { type CommandName, type Given, type Option, optionsOf, optionTable } from './options'
import { suggestion } from './suggestion'

export interface CommandLine {
  readonly given: Given
  readonly positionals: readonly string[]
}

/**
 * Reads a command's arguments and its --config file.
 * @throws UsageError naming the argument and the fix
 */
export function parseCommandLine(command: CommandName, args: readonly string[]): CommandLine {
  const known = Object.fromEntries(optionsOf(command))
  const alone = (arg: string, next: string | undefined) => {
    const option = arg.startsWith('--') ? known[arg.slice(2)] : undefined
    return option?.kind === 'text' && option.optional && (next === undefined || next.startsWith('-'))
  }
  const { tokens } = parseArgs({
    args: args.map((arg, at) => (alone(arg, args[at + 1]) ? `${arg}=` : arg)),
    strict: false,
    allowPositionals: true,
    tokens: true,
    options: {
      ...Object.fromEntries(
        Object.entries(known).map(([name, { kind }]) => [
          name,
          { type: kind === 'flag' ? 'boolean' : 'string' } as const,
        ]),
      ),
      help: { type: 'boolean', short: 'h' },
    },
  })
  const texts = new Map<string, string[]>()
  const positionals: string[] = []
  for (const token of tokens ?? []) {
    if (token.kind === 'positional') positionals.push(token.value)
    if (token.kind !== 'option') continue
    const { name, rawName, value, inlineValue } = token
    const option = known[name]
    if (!option || rawName !== (rawName.startsWith('--') ? `--${name}` : '-h'))
      throw new UsageError(
        `unknown option ${rawName} for lethe ${command}${suggestion(name, Object.keys(known))}`,
      )
    if (option.kind === 'flag') {
      if (value !== undefined) throw new UsageError(`--${name} takes no value, so leave out "${value}"`)
      texts.set(name, ['true'])
      continue
    }
    const optional = option.kind === 'text' && option.optional
    // What begins like an option is one, unless it is written with the name: --prompt=--help.
    if (value === undefined || (value === '' && !optional) || (value.startsWith('--') && !inlineValue))
      throw new UsageError(`--${name} needs a value: --${name} ${placeholder(option)}`)
    texts.set(name, [...(texts.get(name) ?? []), value])
  }
  const given: Record<string, unknown> = {}
  const file = texts.get('config')?.at(-1)
  if (file !== undefined) Object.assign(given, readConfig(file, command))
  for (const [name, values] of texts) given[name] = parseValue(known[name]!, values, `--${name}`)
  return { given: given as Given, positionals }
}

/** Options from a JSON file: an object with options' names, without dashes in front. */
function readConfig(path: string, command: CommandName): Given {
  let content: unknown
  try {
    content = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new UsageError(
      `cannot read --config ${path}: ${code === 'ENOENT' ? 'there is no such file' : message}`,
    )
  }
  return parseConfig(content, command, path)
}

/** Checks options that come as JSON. Those of other commands are left out, so that one file can serve several. */
export function parseConfig(content: unknown, command: CommandName, path: string): Given {
  if (typeof content !== 'object' || content === null || Array.isArray(content))
    throw new UsageError(`${path} must hold a JSON object such as {"layers": 4}`)
  const given: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(content)) {
    const option = (optionTable as Readonly<Record<string, Option>>)[name]
    if (!option || name === 'config')
      throw new UsageError(`unknown option "${name}" in ${path}${suggestion(name, Object.keys(optionTable))}`)
    if (!option.commands.includes(command) || value === undefined || value === null || value === false)
      continue
    given[name] = parseValue(option, [value].flat().map(plainText), `"${name}" in ${path}`)
  }
  return given as Given
}

const plainText = (value: unknown) => (typeof value === 'object' ? JSON.stringify(value) : String(value))
