/** What people see: numbers in a readable form, one status line on a terminal, plain lines elsewhere. */

export const count = (value: number) => Math.round(value).toLocaleString('en-US')

/** Of a part from 0 to 1. */
export const percent = (part: number) => `${(100 * part).toFixed(1)} %`

export function bytes(value: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?'
  const whole = Math.round(seconds)
  const hours = Math.floor(whole / 3600)
  const minutes = Math.floor((whole % 3600) / 60)
  const rest = String(whole % 60).padStart(2, '0')
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, '0')}:${rest}` : `${minutes}:${rest}`
}

/** Colours, unless the output is no terminal or NO_COLOR is set (https://no-color.org). */
export function colours(stream: NodeJS.WriteStream) {
  const on = Boolean(stream.isTTY) && !process.env.NO_COLOR && process.env.TERM !== 'dumb'
  const paint = (code: number) => (text: string) => (on ? `\u001b[${code}m${text}\u001b[0m` : text)
  return { bold: paint(1), dim: paint(2), red: paint(31), green: paint(32), yellow: paint(33) }
}

/** One line that is written over and over on a terminal; elsewhere a new line every few seconds. */
export class StatusLine {
  private shown = false
  private last = Number.NEGATIVE_INFINITY

  constructor(
    private readonly stream: NodeJS.WriteStream,
    private readonly plainSeconds = 10,
  ) {}

  /** Shows the line, at most ten times a second on a terminal. `text` is only called when it is shown. */
  update(text: () => string): void {
    const now = performance.now()
    const { stream } = this
    if (now - this.last < (stream.isTTY ? 100 : this.plainSeconds * 1000)) return
    this.last = now
    if (!stream.isTTY) {
      stream.write(`${text()}\n`)
      return
    }
    // Cut to the terminal's width: a wrapped line could not be rewritten.
    const line = [...text()].slice(0, Math.max(20, (stream.columns || 80) - 1)).join('')
    stream.write(`\r\u001b[2K${line}`)
    this.shown = true
  }

  /** Removes the line, and prints what stays, if anything. */
  print(...lines: readonly string[]): void {
    if (this.shown) this.stream.write('\r\u001b[2K')
    this.shown = false
    for (const line of lines) this.stream.write(`${line}\n`)
  }
}

/** How the user starts this program, so that commands in messages can be copied. */
export function program(): string {
  const path = process.argv[1] ?? 'lethe'
  if (/[\\/]node_modules[\\/]\.bin[\\/]lethe$/.test(path)) return 'npx lethe'
  if (/[\\/]lethe$/.test(path)) return 'lethe'
  return `node ${shellQuoted(relativePath(path))}`
}

/** Shorter of the two: relative to the current folder, or as it is. */
export function relativePath(path: string): string {
  const prefix = `${process.cwd()}/`
  return path.startsWith(prefix) ? path.slice(prefix.length) : path
}

/** An option's value as on a command line: lists with commas, objects as JSON. */
export const written = (value: unknown = '(none)') =>
  typeof value === 'object' && !Array.isArray(value) ? JSON.stringify(value) : String(value)

export const shellQuoted = (text: string) =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
