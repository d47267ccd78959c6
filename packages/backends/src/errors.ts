/**
 * The one error class of this package: a backend could not be had, or failed while it ran.
 * It says what was asked for, why it did not work, and the command or setting that helps.
 */

/** Why a backend could not be used. */
export type BackendErrorReason =
  /** the name is not a backend's */
  | 'unknown-backend'
  /** an option has a value that it cannot have */
  | 'invalid-option'
  /** a package is not installed */
  | 'missing-package'
  /** a package is installed, but its native addon or its .wasm file does not load */
  | 'missing-addon'
  /** this environment (browser, Node version, page) cannot run the backend */
  | 'unsupported'
  /** WebGPU is there, but no adapter is */
  | 'no-adapter'
  /** the backend started and failed: device lost, validation error, out of memory */
  | 'failed'

const marker = Symbol.for('lethe.BackendError')

/** A backend could not be had, or failed while it ran. */
export class BackendError extends Error {
  override readonly name = 'BackendError'
  readonly [marker] = true as const
  /** What kind of failure this is; stable, for programs. */
  readonly reason: BackendErrorReason
  /** The offending value: the backend's name as it was asked for. */
  readonly backend: string
  /** The command or setting that helps. */
  readonly fix: string

  constructor(
    reason: BackendErrorReason,
    backend: string,
    problem: string,
    fix: string,
    options?: { cause?: unknown },
  ) {
    super(`${problem} ${fix}`, options)
    this.reason = reason
    this.backend = backend
    this.fix = fix
  }

  /** True for a BackendError of any copy of this package; `instanceof` fails across duplicates. */
  static isInstance(value: unknown): value is BackendError {
    return typeof value === 'object' && value !== null && marker in value
  }
}

/** The text of whatever was thrown; tfjs also throws plain objects with a message. */
export function messageOf(thrown: unknown): string {
  if (typeof thrown === 'object' && thrown !== null && 'message' in thrown) return String(thrown.message)
  return String(thrown)
}

/** Turns a failed import into an error that says what to type. */
export function packageError(backend: string, packageName: string, cause: unknown): BackendError {
  const message = messageOf(cause)
  // Node, Vite's stand-in for an optional package, and a browser's own loader each word it differently. A file
  // missing inside the package (an addon) is another case than the package itself.
  const quoted = `['"]${packageName}['"]`
  if (
    new RegExp(`(Cannot find (package|module)|Could not resolve|resolve module specifier) ${quoted}`).test(
      message,
    )
  ) {
    return new BackendError(
      'missing-package',
      backend,
      `The package ${packageName} is not installed, and backend '${backend}' needs it.`,
      `Run: npm install ${packageName}`,
      { cause },
    )
  }
  return new BackendError(
    'missing-addon',
    backend,
    `The package ${packageName} is installed, but does not load: ${message.split('\n')[0]}.`,
    `Run: npm install ${packageName} --force`,
    { cause },
  )
}
