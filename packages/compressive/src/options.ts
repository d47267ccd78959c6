/** Options of the compressive memory with their defaults; what cannot be is refused before any tensor exists. */
import { ConfigError } from '@lethe/core'
import { compressions, learnsFrom } from './compress'
import type { CompressiveOptions } from './compressive'

export type Settings = Required<CompressiveOptions>

const losses = ['none', 'auto-encoding', 'attention'] as const

/** @throws ConfigError naming the option, its value and the fix */
export function settingsOf(options: CompressiveOptions): Settings {
  const { memory, compressed, rate, compression = 'conv', overlap = false, ...more } = options
  const { loss = learnsFrom[compression] ? 'attention' : 'none', ...unknown } = more
  const demand = (fine: boolean, name: string, wanted: string, value: unknown) => {
    if (!fine) throw new ConfigError(`${name} must be ${wanted}, not ${value}`, { [name]: value })
  }
  const count = (name: string, value: number, of: string) =>
    demand(Number.isInteger(value) && value >= 1, name, `a whole number of ${of} from 1 up`, value)

  for (const name of Object.keys(unknown))
    throw new ConfigError(
      `unknown option "${name}" of compressive; known are memory, compressed, rate, compression, loss, overlap`,
      { name },
    )
  count('memory', memory, 'slots')
  count('compressed', compressed, 'slots')
  count('rate', rate, 'steps per compressed slot')
  demand(compressions.includes(compression), 'compression', `one of ${compressions.join(', ')}`, compression)
  demand(losses.includes(loss), 'loss', `one of ${losses.join(', ')}`, loss)
  demand(typeof overlap === 'boolean', 'overlap', 'true or false', overlap)
  if (loss !== 'none' && !learnsFrom[compression])
    throw new ConfigError(
      `compression "${compression}" has no parameters that the ${loss} loss could train: set loss: 'none', or compression: 'conv' or 'dilated'`,
      { compression, loss },
    )
  if (overlap && compression !== 'mean')
    throw new ConfigError(
      `with overlap: true compression must be "mean", as in the authors' code, not "${compression}"`,
      { overlap, compression },
    )
  if (overlap && memory < rate)
    throw new ConfigError(
      `with overlap: true memory must hold a group of rate (${rate}) steps, not ${memory}`,
      { overlap, memory, rate },
    )
  return { memory, compressed, rate, compression, loss, overlap }
}
