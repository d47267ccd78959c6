/** lethe bench: measures training steps, decoding, attention, memory. */

import type { CommandLine } from '../../command-line'
import { UsageError } from '../../errors'
import { benchAttention } from './attention'
import { benchDecode } from './decode'
import { benchMemory } from './memory'
import { serveSteps } from './steps'
import { benchTrain } from './train'

export { benchDefaults } from './setup'

const benchmarks: Readonly<Record<string, (line: CommandLine) => Promise<number>>> = {
  train: benchTrain,
  decode: benchDecode,
  attention: benchAttention,
  memory: benchMemory,
}

export async function benchCommand(line: CommandLine): Promise<number> {
  const [what = '', ...rest] = line.positionals
  const benchmark = benchmarks[what]
  if (!benchmark)
    throw new UsageError(
      `lethe bench needs to know what to measure: ${Object.keys(benchmarks).join(', ')}${what && `, not "${what}"`}`,
    )
  const readsModel = what === 'train' || what === 'memory'
  if (rest.length > 0 && !readsModel)
    throw new UsageError(`lethe bench ${what} takes options only, not "${rest[0]}"; see lethe bench --help`)
  if (line.given.json && line.given.markdown)
    throw new UsageError('--json and --markdown each say how to print: give one of the two')
  if (line.given['by-turns'] && readsModel) {
    await serveSteps(line)
    return 0
  }
  return benchmark(line)
}
