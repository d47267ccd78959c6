/** Options of the compressive memory with their defaults; what cannot be is refused before any tensor exists. */
import { ConfigError } from '@lethe/core'
import { type Compression, compressions, learnsFrom } from './compress'
import type { ReconstructionLoss } from './reconstruction'

export interface CompressiveOptions {
  /** n_m: steps remembered as they are. Slots. */
  readonly memory: number
  /** n_cm: compressed slots behind them, each standing for `rate` steps. Slots. */
  readonly compressed: number
  /** c: steps that become one compressed slot. The paper has 2 to 4. */
  readonly rate: number
  /**
   * How: pooling, a convolution (kernel = stride = rate), dilated convolutions, or the steps most attended to.
   * Default 'conv', with the attention loss the best of the paper (Table 5: 0.973 bpc, others 0.977 to 0.996).
   */
  readonly compression?: Compression
  /**
   * What the compression learns from, in nats, weight 1: telling its steps (auto-encoding), being attended to as they
   * were (attention), or only what later blocks make of it (none: needs unrolled gradients). It reaches no other
   * parameter. Default 'attention' where the compression has parameters, else 'none'.
   */
  readonly loss?: ReconstructionLoss
  /** The variant of FAIR's code, for training as they did: see src/overlap.ts. Mean pooling only. Default false. */
  readonly overlap?: boolean
}

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
