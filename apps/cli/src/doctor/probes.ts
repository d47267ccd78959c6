/**
 * Finds the facts. A native addon that is broken can crash, hang or print, so each backend is started in a child
 * process with a time limit, one after the other, so that each is measured alone.
 */
import { execFile, fork } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cpus, freemem, totalmem } from 'node:os'
import { basename } from 'node:path'
import { promisify } from 'node:util'
import { BackendError, type BackendName, type BackendRequest } from '@lethe/backends'
import { backend as currentBackend, matMul, randomNormal, slice, tensor2d, tidy } from '@tensorflow/tfjs-core'
import { startBackend } from '../backend'
import { isCuda } from './advice'
import type { AdapterFacts, MachineFacts, NvidiaGpu, ProbeFacts, Speed, Started, WasmFeatures } from './facts'

export async function machineFacts(): Promise<MachineFacts> {
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined
  const total = totalmem()
  const limit = process.constrainedMemory()
  const gpus = await nvidiaGpus()
  const linuxGpu = ['/dev/dri', '/dev/nvidiactl', '/dev/dxg'].some((file) => existsSync(file))
  return {
    node: process.versions.node,
    platform: process.platform,
    arch: process.arch,
    glibc: report?.header?.glibcVersionRuntime,
    processor: cpus()[0]?.model.trim() || 'unknown',
    cores: cpus().length,
    memoryBytes: total,
    freeMemoryBytes: freemem(),
    memoryLimitBytes: limit > 0 && limit < total ? limit : undefined,
    gpus,
    gpuSeen: gpus.length > 0 || (process.platform === 'linux' ? linuxGpu : undefined),
    wasm: wasmFeatures(),
  }
}

async function nvidiaGpus(): Promise<NvidiaGpu[]> {
  const query = ['--query-gpu=name,driver_version,compute_cap,memory.total', '--format=csv,noheader,nounits']
  try {
    const { stdout } = await promisify(execFile)('nvidia-smi', query, { timeout: 10_000 })
    return parseNvidiaSmi(stdout)
  } catch {
    return [] // no NVIDIA driver
  }
}

/** @param text lines of name, driver, compute capability, MiB of memory */
export function parseNvidiaSmi(text: string): NvidiaGpu[] {
  return text
    .split('\n')
    .map((line) => line.split(',').map((field) => field.trim()))
    .filter((fields) => fields.length === 4)
    .map(([name, driver, capability, mebibytes]) => ({
      name: name!,
      driver: driver!,
      computeCapability: /^\d+\.\d+$/.test(capability!) ? capability : undefined,
      memoryBytes: Number(mebibytes) * 2 ** 20,
    }))
}

/** Asks the engine whether it accepts a module with one instruction of each proposal. */
function wasmFeatures(): WasmFeatures {
  const header = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00]
  const noArgumentsToVector = [0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b]
  const oneFunction = [0x03, 0x02, 0x01, 0x00]
  const accepts = (...sections: number[][]) =>
    WebAssembly.validate(new Uint8Array([header, ...sections].flat()))
  const code = (...body: number[]) => [0x0a, body.length + 4, 0x01, body.length + 2, 0x00, ...body, 0x0b]
  const splat = [0x41, 0x00, 0xfd, 0x0f] // i32.const 0, i8x16.splat
  return {
    simd: accepts(noArgumentsToVector, oneFunction, code(...splat)),
    // f32x4.relaxed_madd
    relaxedSimd: accepts(
      noArgumentsToVector,
      oneFunction,
      code(...splat, ...splat, ...splat, 0xfd, 0x85, 0x02),
    ),
    threads: accepts([0x05, 0x04, 0x01, 0x03, 0x01, 0x01]), // a shared memory
  }
}

/** What the child sends, as it gets on. */
type Message = Partial<Pick<ProbeFacts, 'started' | 'speed' | 'error'>>

/**
 * Starts and measures a backend in a process of its own.
 * @param timeout milliseconds, then it is killed
 * @param env added to the environment
 */
export function probe(
  backend: BackendRequest,
  timeout: number,
  env: NodeJS.ProcessEnv = {},
): Promise<ProbeFacts> {
  const child = fork(process.argv[1]!, ['doctor', '--probe', backend], {
    silent: true,
    execArgv: [],
    // TensorFlow names missing CUDA libraries in its log alone.
    env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: '0', ...env },
  })
  const facts: { -readonly [name in keyof Message]: Message[name] } = {}
  let output = ''
  const collect = (data: unknown) => {
    output = (output + String(data)).slice(-8000)
  }
  child.stdout!.on('data', collect)
  child.stderr!.on('data', collect)
  child.on('message', (message: Message) => Object.assign(facts, message))
  let timedOut = false
  const timer = setTimeout(() => {
    timedOut = true
    child.kill('SIGKILL')
  }, timeout)
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ backend: backend as BackendName, ...facts, ended: { code, signal, timedOut }, output })
    })
  })
}

/** The child's side of `probe`. The caller disposes of the backend; the process must then end by itself. */
export async function answerProbe(request: BackendRequest): Promise<void> {
  const send = (message: Message) => process.send?.(message)
  try {
    const { name, device, software, throwIfFailed } = await startBackend({ backend: request })
    const details =
      name === 'tensorflow' ? tensorflowDetails() : name === 'webgpu' ? await adapterDetails() : {}
    send({ started: { name, device, software, ...details } })
    if (request === 'auto') return
    const worst = await productError()
    if (!(worst < 1e-3)) throw wrongProduct(name, worst)
    const speed = await measure()
    throwIfFailed()
    send({ speed })
  } catch (error) {
    if (BackendError.isInstance(error)) {
      const { reason, message, fix } = error
      send({ error: { reason, message, fix } })
    } else send({ error: { reason: 'unexpected', message: String((error as Error)?.message ?? error) } })
  } finally {
    if (process.connected) process.disconnect()
  }
}

function tensorflowDetails(): Pick<Started, 'tensorflow'> {
  const { binding, isUsingGpuDevice } = currentBackend() as unknown as {
    binding: { TF_Version: string }
    isUsingGpuDevice: boolean
  }
  const { sharedObjects = [] } = process.report.getReport() as { sharedObjects?: string[] }
  const cuda = [...new Set(sharedObjects.map((path) => basename(path)).filter(isCuda))].sort()
  return { tensorflow: { version: binding.TF_Version, usesGpu: isUsingGpuDevice, cuda } }
}

const shownLimits = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
]

async function adapterDetails(): Promise<Pick<Started, 'adapter'>> {
  const { gpu } = globalThis.navigator as unknown as {
    gpu: {
      requestAdapter(
        options: unknown,
      ): Promise<{ limits: Record<string, number>; features: Set<string> } | null>
    }
  }
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' })
  if (!adapter) return {}
  const limits = Object.fromEntries(shownLimits.map((name) => [name, adapter.limits[name]!]))
  const facts: AdapterFacts = { limits, features: [...adapter.features].sort() }
  return { adapter: facts }
}

/** The largest error of a product whose right values are known, about 1e-6 where all is well. */
async function productError(): Promise<number> {
  const size = 48
  const left = Float32Array.from({ length: size * size }, (_, index) => Math.sin(index))
  const right = Float32Array.from({ length: size * size }, (_, index) => Math.cos(3 * index))
  const product = tidy(() => matMul(tensor2d(left, [size, size]), tensor2d(right, [size, size])))
  const values = await product.data()
  product.dispose()
  let worst = 0
  for (let row = 0; row < size; row++)
    for (let column = 0; column < size; column++) {
      let sum = 0
      for (let inner = 0; inner < size; inner++)
        sum += left[row * size + inner]! * right[inner * size + column]!
      const error = Math.abs(values[row * size + column]! - sum)
      if (!(error <= worst)) worst = error
    }
  return worst
}

const wrongProduct = (name: BackendName, worst: number) =>
  new BackendError(
    'failed',
    name,
    `Backend '${name}' multiplies matrices wrong: an element is off by ${worst}.`,
    'Do not use it here: name another with --backend.',
  )

/** Products of 1024 x 1024 for two seconds; smaller ones where a single one takes much longer than that. */
async function measure(): Promise<Speed> {
  const seconds = 2
  await products(128, 1) // compiles shaders, fills caches
  const estimate = (1024 / 128) ** 3 * ((await products(128, 4)) / 4)
  const size = estimate < 3 * seconds ? 1024 : 128
  if (estimate < seconds / 2) await products(size, 1)
  // Several at a time, so that reading a result does not count; as many as a fifth of the time takes.
  let atOnce = 1
  let count = 0
  let spent = 0
  while (spent < seconds) {
    const took = await products(size, atOnce)
    count += atOnce
    spent += took
    if (took < seconds / 10) atOnce *= 2
  }
  return { gflops: (2 * size ** 3 * count) / spent / 1e9, size }
}

/** Multiplies so many times and waits for the last product. @returns seconds */
async function products(size: number, count: number): Promise<number> {
  const [a, b] = tidy(() => [randomNormal([size, size]), randomNormal([size, size])])
  await Promise.all([a!.data(), b!.data()])
  const began = performance.now()
  const last = tidy(() => {
    let product = matMul(a!, b!)
    for (let index = 1; index < count; index++) {
      product.dispose()
      product = matMul(a!, b!)
    }
    return slice(product, [0, 0], [1, 1])
  })
  await last.data()
  const took = (performance.now() - began) / 1000
  for (const tensor of [a!, b!, last]) tensor.dispose()
  return took
}
