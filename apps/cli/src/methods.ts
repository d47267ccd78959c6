/**
 * The forgetting methods that the command line knows. To add one: a line in this table.
 */
import { type ForgettingMethod, fixedSpan } from '@lethe/core'

/** What the command line says about a method; each takes what it needs. */
export interface MethodSettings {
  readonly span: number
}

interface MethodEntry {
  /** From the command line. */
  readonly create: (settings: MethodSettings) => ForgettingMethod
  /** From the options a checkpoint holds. */
  // biome-ignore lint/suspicious/noExplicitAny: factories take options of their own types
  readonly factory: (options: any) => ForgettingMethod
}

export const methods: Readonly<Record<string, MethodEntry>> = {
  'fixed-span': { factory: fixedSpan, create: ({ span }) => fixedSpan({ span }) },
}

/** Name → factory, as checkpoints are read with. */
export const methodFactories = Object.fromEntries(
  Object.entries(methods).map(([name, { factory }]) => [name, factory]),
)
