/** lethe doctor: which backends work here, how fast, and how to mend the others. */
import { execFile } from 'node:child_process'
import { cpus, freemem, totalmem } from 'node:os'
import { promisify } from 'node:util'
import { BackendError, type BackendName, backendRequests, disposeBackend } from '@lethe/backends'
import { matMul, randomNormal, tidy } from '@tensorflow/tfjs-core'
import { startBackend } from '../backend'
import type { CommandLine } from '../options'
import { bytes, colours } from '../output'

interface BackendReport {
  readonly backend: string
  readonly works: boolean
  readonly device?: string
  readonly software?: boolean
  readonly gflops?: number
  readonly problem?: string
}

const names = backendRequests.filter((name): name is BackendName => name !== 'auto')

export async function doctorCommand({ given }: CommandLine): Promise<number> {
  // One backend is looked at in this process; several each in a process of its own, so that none can take the others
  // down with it, and one after the other, so that each is measured alone.
  const one = given.backend !== undefined && given.backend !== 'auto'
  const reports: BackendReport[] = []
  if (one) reports.push(await examine(given.backend as BackendName))
  else for (const name of names) reports.push(await inChild(name))
  const machine = {
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    processor: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryBytes: totalmem(),
    freeMemoryBytes: freemem(),
  }
  if (given.json) {
    console.log(JSON.stringify({ ...machine, backends: reports }))
    return 0
  }
  const paint = colours(process.stdout)
  console.log(`Node ${machine.node} on ${machine.platform}`)
  console.log(
    `${machine.cores} cores (${machine.processor}), ${bytes(machine.memoryBytes)} of memory, ${bytes(machine.freeMemoryBytes)} free`,
  )
  for (const { backend, works, device, software, gflops, problem } of reports) {
    const mark = works ? paint.green('works') : paint.red('does not work')
    console.log(
      `\n${paint.bold(backend)}: ${mark}${works ? `, ${device}${software ? ' (software, slow)' : ''}` : ''}`,
    )
    if (gflops !== undefined) console.log(`  ${gflops.toFixed(1)} GFLOPS in matrix products`)
    if (problem) console.log(`  ${problem}`)
  }
  const best = reports.find(({ works, software }) => works && !software)
  if (!one) console.log(`\n--backend auto takes ${best?.backend ?? 'none'}`)
  return 0
}

async function inChild(backend: BackendName): Promise<BackendReport> {
  const args = [process.argv[1]!, 'doctor', '--backend', backend, '--json']
  try {
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 60_000 })
    return JSON.parse(stdout.trim().split('\n').at(-1)!).backends[0]
  } catch (error) {
    const { killed, signal, message } = error as Error & { killed?: boolean; signal?: string }
    const problem = killed ? 'no answer within a minute' : signal ? `the process ended by ${signal}` : message
    return { backend, works: false, problem: problem.split('\n')[0]! }
  }
}

/** Starts a backend and multiplies for about a second. */
async function examine(backend: BackendName): Promise<BackendReport> {
  try {
    const { device, software } = await startBackend(backend)
    const size = software ? 128 : 512
    const [a, b] = tidy(() => [randomNormal([size, size]), randomNormal([size, size])])
    const multiply = async () => {
      const product = tidy(() => matMul(a!, b!))
      await product.data()
      product.dispose()
    }
    await multiply()
    const began = performance.now()
    let products = 0
    while (performance.now() - began < 1000) {
      await multiply()
      products++
    }
    const gflops = (2 * size ** 3 * products) / (performance.now() - began) / 1e6
    a!.dispose()
    b!.dispose()
    await disposeBackend()
    return { backend, works: true, device, software, gflops }
  } catch (error) {
    if (!BackendError.isInstance(error)) throw error
    return { backend, works: false, problem: error.message }
  }
}
