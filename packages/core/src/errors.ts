/**
 * Every error Lethe throws on purpose. One class per kind, found again by name even when two copies of the package
 * are loaded: `LetheError.isInstance(error)`.
 */

const marker = Symbol.for('lethe.error')

/** The base of all errors thrown on purpose: the message names the offending value and the fix. */
export class LetheError extends Error {
  override readonly name: string = 'LetheError'
  /** The offending values, for programs. */
  readonly values: Readonly<Record<string, unknown>>

  constructor(message: string, values: Record<string, unknown> = {}, options?: ErrorOptions) {
    super(message, options)
    this.values = values
    Object.defineProperty(this, marker, { value: true })
  }

  /** True for any error of this class or a subclass, also one made by another copy of the package. */
  // biome-ignore-start lint/complexity/noThisInStatic: subclasses ask about themselves
  static isInstance<T extends LetheError>(
    this: (abstract new (...args: never[]) => T) & { readonly name: string },
    error: unknown,
  ): error is T {
    if (error instanceof this) return true
    if (!(error instanceof Error) || !(marker in error)) return false
    return this.name === 'LetheError' || error.name === this.name
  }
  // biome-ignore-end lint/complexity/noThisInStatic: subclasses ask about themselves
}

/** A configuration that cannot be built: refused before any tensor is made. */
export class ConfigError extends LetheError {
  override readonly name = 'ConfigError'
}

/** A tensor or list of the wrong shape, type or range. */
export class ShapeError extends LetheError {
  override readonly name = 'ShapeError'
}

/** A memory that was disposed of, belongs to other weights, or does not fit the decoder. */
export class MemoryError extends LetheError {
  override readonly name = 'MemoryError'
}

/** A file or buffer that is not what it claims to be. */
export class FormatError extends LetheError {
  override readonly name = 'FormatError'
}
