/** lethe setup: installs what a backend needs, for the whole machine user, outside of any project. */

import type { CommandLine } from '../command-line'
import { machineFacts } from '../doctor/probes'
import { UsageError } from '../errors'
import { bytes, duration } from '../output'
import { setUpTensorflow } from '../setup/tensorflow'

export async function setupCommand({ given, positionals }: CommandLine): Promise<number> {
  const what = positionals.join(' ')
  if (what !== 'tensorflow')
    throw new UsageError(
      `lethe setup needs to know what to set up: lethe setup tensorflow${what && `, not "${what}"`}`,
    )
  const json = given.json ?? false
  const result = await setUpTensorflow({
    gpu: given.gpu ?? false,
    from: given.from,
    machine: await machineFacts(),
    print: (text) => {
      if (!json) console.log(`${text} …`)
    },
    verbose: given.verbose ?? false,
  })
  if (json) console.log(JSON.stringify(result))
  else
    console.log(
      `${result.device}: ${result.gflops.toFixed(0)} GFLOPS; ${bytes(result.bytes)} in ${result.folder}` +
        (result.before ? ' (was there already)' : `, after ${duration(result.seconds)}`),
    )
  return 0
}
