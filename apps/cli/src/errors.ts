/** A command line that cannot be understood: exit code 2 instead of 1. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** Something could not be set up; the message says why and what helps. */
export class SetupError extends Error {
  override readonly name = 'SetupError'
}

/** An error's message without its fix, which is for programs: calls of this project's functions, mostly. */
export const problemOf = ({
  message,
  fix,
}: {
  readonly message: string
  readonly fix?: string | undefined
}) => (fix && message.endsWith(fix) ? message.slice(0, -fix.length).trim() : message)
