/** The doctor's findings as text: the machine, a line per backend, what to do. */
import { bytes } from '../output'
import type { Diagnosis } from './advice'
import type { MachineFacts, Started } from './facts'

export interface Paint {
  readonly bold: (text: string) => string
  readonly red: (text: string) => string
  readonly green: (text: string) => string
}

/** @param auto what --backend auto takes; undefined where it was not asked for */
export function report(
  machine: MachineFacts,
  diagnoses: readonly Diagnosis[],
  auto: string | undefined,
  paint: Paint,
): string[] {
  const lines = [...machineLines(machine), '']
  const nameWidth = Math.max(...diagnoses.map(({ backend }) => backend.length))
  const deviceWidth = Math.max(0, ...diagnoses.map(({ device }) => device?.length ?? 0))
  for (const { backend, works, device, speed, problem, started } of diagnoses) {
    const mark = works ? paint.green('✓') : paint.red('✗')
    const name = paint.bold(backend.padEnd(nameWidth))
    const result = works ? `${device!.padEnd(deviceWidth)}  ${speedText(speed!)}` : problem
    lines.push(`${mark} ${name}  ${result}`)
    for (const detail of detailsOf(started)) lines.push(`${' '.repeat(nameWidth + 4)}${detail}`)
  }
  if (auto !== undefined) lines.push('', `--backend auto takes ${paint.bold(auto)}`)
  const advised = diagnoses.flatMap(({ backend, advice }) => advice.map((item) => ({ backend, ...item })))
  if (advised.length > 0) lines.push('')
  for (const { backend, text, command } of advised) {
    lines.push(`${paint.bold(backend.padEnd(nameWidth))}  ${text}${command ? ':' : ''}`)
    if (command) lines.push(`${' '.repeat(nameWidth)}  ${command}`)
  }
  return lines
}

/** What a backend's device allows, and what is behind it. */
function detailsOf(started: Started | undefined): string[] {
  const { adapter, tensorflow } = started ?? {}
  if (tensorflow?.cuda.length) return [`with ${tensorflow.cuda.join(', ')}`]
  if (adapter === undefined) return []
  const { limits, features } = adapter
  const yes = (feature: string) => `${feature} ${features.includes(feature) ? 'yes' : 'no'}`
  return [
    [
      `buffers of up to ${bytes(limits.maxBufferSize!)}`,
      `${limits.maxStorageBuffersPerShaderStage} in a shader`,
      `workgroups of ${limits.maxComputeInvocationsPerWorkgroup} with ${bytes(limits.maxComputeWorkgroupStorageSize!)}`,
      yes('subgroups'),
      yes('shader-f16'),
    ].join(', '),
  ]
}

function speedText({ gflops, size }: { gflops: number; size: number }): string {
  const figure = gflops.toFixed(gflops >= 100 ? 0 : gflops >= 0.1 ? 1 : 3)
  return `${figure.padStart(7)} GFLOPS${size === 1024 ? '' : ` (of ${size}³)`}`
}

function machineLines(machine: MachineFacts): string[] {
  const { node, platform, arch, glibc, processor, cores, memoryBytes, freeMemoryBytes, memoryLimitBytes } =
    machine
  const system = `${platform} ${arch}${glibc ? `, glibc ${glibc}` : ''}`
  const limit = memoryLimitBytes ? `, ${bytes(memoryLimitBytes)} allowed` : ''
  const wasm = Object.entries({
    SIMD: machine.wasm.simd,
    'relaxed SIMD': machine.wasm.relaxedSimd,
    threads: machine.wasm.threads,
  })
  const gpus = machine.gpus.map(
    ({ name, memoryBytes, driver, computeCapability }) =>
      `${name}, ${bytes(memoryBytes)}, driver ${driver}${computeCapability ? `, compute capability ${computeCapability}` : ''}`,
  )
  const other =
    machine.gpuSeen === undefined
      ? 'see webgpu'
      : machine.gpuSeen
        ? 'one that nvidia-smi does not show'
        : 'none seen'
  return [
    `Node     ${node} (${system})`,
    `CPU      ${cores} x ${processor}`,
    `memory   ${bytes(memoryBytes)}, ${bytes(freeMemoryBytes)} free${limit}`,
    ...(gpus.length > 0 ? gpus : [other]).map((text) => `GPU      ${text}`),
    `wasm     ${wasm.map(([name, there]) => `${name} ${there ? 'yes' : 'no'}`).join(', ')}`,
  ]
}
