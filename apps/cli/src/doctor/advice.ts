/** Turns facts into a diagnosis: what works, what is missing, and the exact command that mends it. Pure functions. */
import type { BackendName } from '@lethe/backends'
import { problemOf } from '../errors'
import type { MachineFacts, ProbeFacts, Speed, Started } from './facts'

export interface Diagnosis {
  readonly backend: BackendName
  readonly works: boolean
  readonly device?: string
  readonly software?: boolean
  readonly speed?: Speed
  /** What is wrong, in a few words. */
  readonly problem?: string
  /** What could be better, or how to mend it. */
  readonly advice: readonly Advice[]
  /** What the probe saw, for machines. */
  readonly started?: Started
}

export interface Advice {
  readonly text: string
  /** To be copied into a shell. */
  readonly command?: string
}

type Trouble = Pick<Diagnosis, 'problem' | 'advice'>

/** @param lethe how the user starts this program, so that its commands can be copied */
export function diagnose(probe: ProbeFacts, machine: MachineFacts, lethe: string): Diagnosis {
  const backend = probe.backend as BackendName
  const { started, speed, ended } = probe
  // A process that computed and failed at its end has shown that it works.
  if (started && speed) {
    const { device, software } = started
    const advice = [
      ...improvements(backend, started, machine, probe.output, lethe),
      ...badEnd(backend, ended),
    ]
    return { backend, works: true, device, software, speed, advice, started }
  }
  const trouble = troubleOf(probe, machine, lethe)
  return { backend, works: false, ...trouble, ...(started && { started }) }
}

function troubleOf(probe: ProbeFacts, machine: MachineFacts, lethe: string): Trouble {
  const { error, ended, started } = probe
  const where = started ? 'it computed' : 'it started'
  if (error) return orderlyTrouble(probe, machine, lethe)
  if (ended.timedOut)
    return {
      problem: `no answer while ${where}: stopped at the time limit`,
      advice: [
        { text: 'give it longer', command: `${lethe} doctor --backend ${probe.backend} --timeout 300` },
        ...mend(probe, machine, lethe),
      ],
    }
  const lastWords = probe.output.trim().split('\n').at(-1)
  const how = ended.signal ? `crashed (${ended.signal})` : `ended with code ${ended.code}`
  const words = lastWords ? `: ${shortened(lastWords)}` : ''
  const illegal = ended.signal === 'SIGILL' ? ', as with code that was built for another processor' : ''
  return {
    problem: `its process ${how} while ${where}${illegal}${words}`,
    advice: mend(probe, machine, lethe),
  }
}

/** A backend that broke without an explanation. */
function mend(probe: ProbeFacts, machine: MachineFacts, lethe: string): Advice[] {
  switch (probe.backend) {
    case 'tensorflow':
      return [{ text: 'build TensorFlow’s addon anew', command: setUp(machine, lethe) }]
    case 'webgpu':
      return [{ text: 'update the GPU’s driver; until then name another backend: --backend wasm' }]
    default:
      return [
        { text: 'install it anew', command: `npm install --force @tensorflow/tfjs-backend-${probe.backend}` },
      ]
  }
}

function orderlyTrouble(probe: ProbeFacts, machine: MachineFacts, lethe: string): Trouble {
  const { backend, error } = probe
  const { reason, message, fix } = error!
  if (backend === 'tensorflow') return tensorflowTrouble(error!, machine, lethe)
  if (backend === 'webgpu') return webgpuTrouble(reason, message, fix, machine)
  if (reason === 'missing-package')
    return { problem: 'not installed', advice: [{ text: 'install it', command: commandIn(fix) }] }
  return { problem: shortened(problemOf({ message, fix })), advice: fix ? [{ text: fix }] : [] }
}

const hasNvidia = (machine: MachineFacts) => machine.gpus.length > 0

const setUp = (machine: MachineFacts, lethe: string) =>
  `${lethe} setup tensorflow${hasNvidia(machine) ? ' --gpu' : ''}`

function tensorflowTrouble(
  { reason, message, fix }: NonNullable<ProbeFacts['error']>,
  machine: MachineFacts,
  lethe: string,
): Trouble {
  const command = setUp(machine, lethe)
  if (reason === 'missing-package') {
    const gain = hasNvidia(machine) ? `uses ${machine.gpus[0]!.name}` : 'the fastest on a processor'
    return { problem: 'not installed', advice: [{ text: `optional; ${gain}`, command }] }
  }
  if (/is not built/.test(message))
    return { problem: 'its addon is not built', advice: [{ text: 'build it', command }] }
  const libraries = missingLibraries(message)
  if (libraries.length > 0) {
    const names = libraries.join(', ')
    const cuda = libraries.some(isCuda)
    return {
      problem: `${cuda ? 'CUDA’s library' : 'a library'} is missing: ${names}`,
      advice: [{ text: cuda ? 'install TensorFlow with its CUDA libraries' : 'set it up again', command }],
    }
  }
  const glibc = /version [`'](GLIBC[A-Z]*_[\d.]+)' not found/.exec(message)?.[1]
  if (glibc)
    return {
      problem: `it needs ${glibc}${machine.glibc ? `, and this system has GLIBC ${machine.glibc}` : ''}`,
      advice: [{ text: 'build it against an older TensorFlow', command: `${command} --from OLDER.whl` }],
    }
  return { problem: shortened(problemOf({ message, fix })), advice: [{ text: 'set it up again', command }] }
}

function webgpuTrouble(
  reason: string,
  message: string,
  fix: string | undefined,
  machine: MachineFacts,
): Trouble {
  const noGpu = machine.gpuSeen === false
  const install = 'npm install webgpu @tensorflow/tfjs-backend-webgpu'
  if (reason === 'missing-package')
    return noGpu
      ? { problem: 'not installed, and no GPU is seen', advice: [] }
      : { problem: 'not installed', advice: [{ text: 'optional; uses the GPU', command: install }] }
  if (noGpu) return { problem: 'no GPU is seen', advice: [] }
  if (/libvulkan/.test(message)) {
    const command = machine.platform === 'linux' ? 'sudo apt-get install libvulkan1' : undefined
    return {
      problem: 'the Vulkan loader is missing: libvulkan.so.1',
      advice: [
        {
          text: 'install it (on Debian and Ubuntu as below) and the GPU’s driver',
          ...(command && { command }),
        },
      ],
    }
  }
  if (reason === 'no-adapter')
    return {
      problem: 'no adapter: WebGPU sees no GPU',
      advice: [{ text: 'install the GPU’s driver with Vulkan' }],
    }
  if (reason === 'missing-addon')
    return {
      problem: shortened(problemOf({ message, fix })),
      advice: [{ text: 'install it anew', command: `${install} --force` }],
    }
  return { problem: shortened(problemOf({ message, fix })), advice: fix ? [{ text: fix }] : [] }
}

/** What a backend that works could do better. */
function improvements(
  backend: BackendName,
  started: Started,
  machine: MachineFacts,
  output: string,
  lethe: string,
): Advice[] {
  if (started.software)
    return [{ text: 'the processor imitates a GPU: right, but slow; auto never takes it' }]
  if (backend === 'wasm' && !machine.wasm.relaxedSimd)
    return [{ text: `Node ${machine.node} has no relaxed SIMD: Node 22 and later multiply faster` }]
  if (backend === 'tensorflow' && started.tensorflow && !started.tensorflow.usesGpu && hasNvidia(machine)) {
    const libraries = missingLibraries(output)
    const why = libraries.length > 0 ? `, since ${libraries.join(', ')} cannot be loaded` : ''
    const command = `${lethe} setup tensorflow --gpu`
    return [{ text: `${machine.gpus[0]!.name} is not used${why}`, command }]
  }
  return []
}

function badEnd(backend: BackendName, { code, signal, timedOut }: ProbeFacts['ended']): Advice[] {
  if (code === 0) return []
  const how = timedOut
    ? 'did not end by itself'
    : signal
      ? `crashed at its end (${signal})`
      : `ended with code ${code}`
  return [{ text: `${backend} computed, but its process ${how}` }]
}

/** Names of shared libraries that the dynamic linker or TensorFlow's log misses. */
export function missingLibraries(text: string): string[] {
  const patterns = [
    /([\w.+-]+\.so(?:\.\d+)*): cannot open shared object file/g,
    /Could not load dynamic library '([^']+)'/g,
    /Library not loaded: (?:@\w+\/)?(?:\S*\/)?([\w.+-]+\.dylib)/g,
  ]
  const names = patterns.flatMap((pattern) => [...text.matchAll(pattern)].map((match) => match[1]!))
  return [...new Set(names)]
}

export const isCuda = (library: string) => /^lib(cu|nccl|nv)/.test(library)

const commandIn = (fix: string | undefined) => fix?.replace(/^Run: /, '') ?? ''

/** One line, not longer than a terminal is wide. */
function shortened(text: string): string {
  const line = text.trim().split('\n')[0]!
  return line.length > 160 ? `${line.slice(0, 159)}…` : line
}
