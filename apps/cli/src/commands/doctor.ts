/** lethe doctor: which backends work here, how fast, and how to mend the others. */
import type { BackendName, BackendRequest } from '@lethe/backends'
import type { CommandLine } from '../command-line'
import { diagnose } from '../doctor/advice'
import { answerProbe, machineFacts, probe } from '../doctor/probes'
import { report } from '../doctor/report'
import { colours, program } from '../output'

const names: readonly BackendName[] = ['tensorflow', 'webgpu', 'wasm', 'cpu']

/** Exit code 0 if what was asked about works: the backend that was named, or any. */
export async function doctorCommand({ given }: CommandLine): Promise<number> {
  if (given.probe !== undefined) {
    await answerProbe(given.probe as BackendRequest)
    return 0
  }
  const timeout = (given.timeout ?? 60) * 1000
  const all = given.backend === undefined || given.backend === 'auto'
  const machine = await machineFacts()
  const diagnoses = []
  for (const name of all ? names : [given.backend as BackendName])
    diagnoses.push(diagnose(await probe(name, timeout), machine, program()))
  const auto = all ? ((await probe('auto', timeout)).started?.name ?? 'none') : undefined
  if (given.json) console.log(JSON.stringify({ ...machine, backends: diagnoses, auto }))
  else for (const line of report(machine, diagnoses, auto, colours(process.stdout))) console.log(line)
  return diagnoses.some(({ works }) => works) ? 0 : 1
}
