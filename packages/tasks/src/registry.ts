/** All tasks by name, for programs that are told which one to take. */
import { ConfigError } from '@lethe/core'
import { assignment } from './assignment'
import { collision } from './collision'
import { copy } from './copy'
import { corridor } from './corridor'
import { instruction } from './instruction'
import { needle } from './needle'
import { parity } from './parity'
import { portal } from './portal'
import type { EnvironmentTask, SequenceTask } from './task'

/** Name → factory. */
export const tasks = {
  copy,
  collision,
  instruction,
  assignment,
  parity,
  needle,
} as const satisfies Record<string, (options?: never) => SequenceTask>

/** Name → factory. */
export const environments = { corridor, portal } as const satisfies Record<
  string,
  (options?: never) => EnvironmentTask
>

/**
 * The sequence task of that name.
 * @throws ConfigError that names the tasks there are, or the options it takes
 */
export function createTask(name: string, options: object = {}): SequenceTask {
  return factory<SequenceTask>(tasks, 'task', name)(options)
}

/**
 * The environment of that name.
 * @throws ConfigError that names the environments there are, or the options it takes
 */
export function createEnvironment(name: string, options: object = {}): EnvironmentTask {
  return factory<EnvironmentTask>(environments, 'environment', name)(options)
}

function factory<T>(
  known: Readonly<Record<string, (options: never) => T>>,
  what: string,
  name: string,
): (options: object) => T {
  if (!Object.hasOwn(known, name))
    throw new ConfigError(`unknown ${what} "${name}"; known are ${Object.keys(known).join(', ')}`, { name })
  return known[name] as (options: object) => T
}
