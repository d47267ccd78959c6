/** A command line that cannot be understood: exit code 2 instead of 1. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** Something could not be set up; the message says why and what helps. */
export class SetupError extends Error {
  override readonly name = 'SetupError'
}
