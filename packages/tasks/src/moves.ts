/** The four moves of the grid worlds. */
import { ConfigError } from '@lethe/core'

export const moves = ['up', 'down', 'left', 'right'] as const
export const [up, down, left, right] = [0, 1, 2, 3] as const

/** @throws ConfigError for an action that is not one of the moves, and for one after the end */
export function checkMove(world: string, done: boolean, action: number): void {
  if (done) throw new ConfigError(`the episode in ${world} has ended: reset() before the next step`)
  if (moves[action] === undefined)
    throw new ConfigError(
      `actions of ${world} are 0 to ${moves.length - 1} (${moves.join(', ')}), not ${action}`,
      { action },
    )
}
