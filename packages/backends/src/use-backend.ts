/**
 * Chooses a tfjs backend, starts it and says what was started. The same code serves Node and the browser; what
 * differs comes in as a Platform.
 */
import { shareMemory } from '@lethe/kernels-wasm'
import * as tf from '@tensorflow/tfjs-core'
import { BackendError, messageOf, packageError } from './errors'
import { patchTensorflowBackend } from './tensorflow-kernels'
import {
  type BackendInfo,
  type BackendName,
  type BackendOptions,
  type BackendRequest,
  backendRequests,
  type Platform,
  type WasmFile,
  type WasmPaths,
  wasmFiles,
} from './types'
import { refuseWhatIsNotThere, type WasmBackend } from './wasm/heap'
import { kernelsOf, stopThreads } from './wasm/kernels'
import { patchWasmBackend } from './wasm/patch'
import {
  adapterInfo,
  describeAdapter,
  isSoftwareAdapter,
  type OpenDevice,
  openDevice,
  requestAdapter,
  useKernels,
} from './webgpu'
import { recordRepeatedly } from './webgpu-recording'

export interface Backends {
  useBackend(name?: BackendRequest, options?: BackendOptions): Promise<BackendInfo>
  disposeBackend(): Promise<void>
}

/** What tfjs-node's backend shows of itself. */
interface TensorflowBackend {
  readonly isUsingGpuDevice?: boolean
  readonly binding?: { readonly TF_Version?: string }
}

const wasmFix =
  "Say where the .wasm files of @tensorflow/tfjs-backend-wasm/dist are: useBackend('wasm', { wasmPaths: '/wasm/' })."

/** One address per file. tfjs would go on using those that it was given before, where it is given a folder. */
function filesAt(paths: WasmPaths): Record<WasmFile, string> {
  if (typeof paths === 'string') {
    const folder = /[/\\]$/.test(paths) ? paths : `${paths}/`
    return Object.fromEntries(wasmFiles.map((file) => [file, folder + file])) as Record<WasmFile, string>
  }
  const missing = wasmFiles.filter((file) => typeof paths[file] !== 'string')
  if (missing.length === 0) return paths
  const problem = `wasmPaths gives no address of ${missing.join(', ')}.`
  throw new BackendError('invalid-option', 'wasm', problem, wasmFix)
}

/** What is said of all later starts of wasm: tfjs then refuses other addresses, and is silent about another failure. */
function triedOnce(cause: unknown): BackendError {
  const problem = `tfjs could not start its wasm backend, and tries once only. ${messageOf(cause)}`
  const fix = 'Then start the program anew, or load the page again.'
  return new BackendError('failed', 'wasm', problem, fix, { cause })
}

/** Whether threads can share a memory as large as the module of tfjs declares; some phones do not give it. */
function sharesFourGigabytes(): boolean {
  try {
    return new WebAssembly.Memory({ initial: 1, maximum: 65536, shared: true }).buffer.byteLength > 0
  } catch {
    return false
  }
}

/** The two public functions, for one platform. */
export function createBackends(platform: Platform): Backends {
  /** What runs now, and what was said about it. */
  const running = new Map<BackendName, BackendInfo>()
  let device: OpenDevice | undefined
  let wasmFailure: BackendError | undefined

  async function load(backend: BackendName, packageName: string): Promise<unknown> {
    const load = platform.packages[packageName]
    try {
      return await load!()
    } catch (cause) {
      throw BackendError.isInstance(cause) ? cause : packageError(backend, packageName, cause)
    }
  }

  /** One of tfjs's modules. What is wrong with it is found here: tfjs prints it, or waits for ever. */
  async function readWasm(file: string): Promise<Uint8Array<ArrayBuffer>> {
    const refuse = (problem: string, cause?: unknown) =>
      new BackendError('failed', 'wasm', problem, wasmFix, { cause })
    const content = await platform.readWasm(file).catch((cause) => {
      throw refuse(`The wasm file of tfjs cannot be read: ${messageOf(cause)}.`, cause)
    })
    if (WebAssembly.validate(content)) return content
    const start = new TextDecoder().decode(content.subarray(0, 20)).trim()
    throw refuse(
      `What is at ${file} is no wasm module, or not a whole one (${content.length} bytes, from "${start}" on).`,
    )
  }

  /** Starts a registered backend and makes it the current one. */
  async function activate(name: BackendName, fix: string): Promise<void> {
    const entry = tf.engine().registryFactory[name]
    const { factory } = entry ?? {}
    try {
      if (entry === undefined || factory === undefined) throw new Error('its package registered nothing')
      // tf.setBackend would swallow the cause of a failed start, and print it: start it here, hand it over started.
      const instance = tf.engine().registry[name] ?? (await factory())
      entry.factory = () => instance
      await tf.setBackend(name)
    } catch (cause) {
      const problem = `Backend '${name}' did not start: ${messageOf(cause)}.`
      throw new BackendError('failed', name, problem, fix, { cause })
    } finally {
      if (entry !== undefined && factory !== undefined) entry.factory = factory
    }
  }

  type Started = Pick<BackendInfo, 'device'> & Partial<BackendInfo>

  const start: Record<BackendName, (options: BackendOptions, hardwareOnly: boolean) => Promise<Started>> = {
    async cpu() {
      await load('cpu', '@tensorflow/tfjs-backend-cpu')
      await activate('cpu', 'Load @tensorflow/tfjs-core only once.')
      // Without this the backend prints an advertisement for tfjs-node at its first use.
      Object.assign(tf.backend(), { firstUse: false })
      return { device: 'JavaScript' }
    },

    async wasm(options) {
      if (wasmFailure !== undefined) throw wasmFailure
      if (typeof WebAssembly === 'undefined') {
        throw new BackendError(
          'unsupported',
          'wasm',
          'This environment has no WebAssembly.',
          "Call useBackend('cpu').",
        )
      }
      const wasm = (await load('wasm', '@tensorflow/tfjs-backend-wasm')) as {
        setWasmPaths(paths: Record<WasmFile, string>, usePlatformFetch: boolean): void
      }
      const patched = options.patch === false ? [] : patchWasmBackend({ kernels: options.kernels })
      const simd = await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT')
      const useful = simd && patched.length > 0 && options.kernels !== false
      const supply = await platform.threads()
      const wanted = useful ? (options.threads ?? supply.count) : 1
      const paths = options.wasmPaths ?? platform.wasmPaths
      // tfjs's own build with threads starts its workers from the text of a function, which minifiers break, and then
      // waits for them for ever. Its build for one thread, in a memory that can be shared, serves our threads.
      tf.env().set('WASM_HAS_MULTITHREAD_SUPPORT', false)
      const asksForThreads = wanted > 1 && platform.sharesMemory
      const shares = asksForThreads && sharesFourGigabytes()
      let shared: string | undefined
      try {
        if (paths !== undefined) {
          const files = filesAt(paths)
          const file = simd ? 'tfjs-backend-wasm-simd.wasm' : 'tfjs-backend-wasm.wasm'
          const content = await readWasm(files[file])
          if (shares) shared = await platform.addressOf(shareMemory(content))
          const addresses = shared === undefined ? files : { ...files, [file]: shared }
          wasm.setWasmPaths(addresses, shared !== undefined)
        }
        await activate('wasm', wasmFix).catch((cause) => {
          wasmFailure = triedOnce(cause)
          throw cause
        })
      } finally {
        if (shared?.startsWith('blob:')) URL.revokeObjectURL(shared)
      }
      const backend = tf.backend() as unknown as WasmBackend
      refuseWhatIsNotThere(backend)
      const kernels = useful ? kernelsOf(backend) : undefined
      await kernels?.startThreads(wanted)
      const instructions = kernels?.relaxed ? 'with relaxed SIMD' : simd ? 'with SIMD' : 'without SIMD'
      const device = `WebAssembly ${instructions}`
      const threads = kernels?.threads ?? 1
      if (threads > 1) return { device: `${device}, ${threads} threads`, patched, threads }
      let singleThread =
        supply.reason ??
        'No worker could be started: a Content Security Policy has to allow them (worker-src blob:; connect-src blob:).'
      if (asksForThreads && !shares)
        singleThread = 'This engine gives no memory of 4 GB that threads could share.'
      if (!simd) singleThread = 'This engine has no SIMD, which the kernels that run in threads need.'
      else if (kernels === undefined)
        singleThread = 'Our own kernels, which alone run in threads, are turned off (kernels, patch).'
      else if (options.threads === 1) singleThread = 'One was asked for.'
      return { device, patched, threads, singleThread }
    },

    async tensorflow(options) {
      if (platform.tensorflowPackages.length === 0) {
        throw new BackendError(
          'unsupported',
          'tensorflow',
          "Backend 'tensorflow' is native code and runs in Node only.",
          "Call useBackend('webgpu') or useBackend('wasm').",
        )
      }
      let failure: BackendError | undefined
      for (const packageName of platform.tensorflowPackages) {
        try {
          await load('tensorflow', packageName)
          await activate('tensorflow', 'Run: npx @lethe/cli setup tensorflow')
          const { isUsingGpuDevice, binding } = tf.backend() as unknown as TensorflowBackend
          const version = binding?.TF_Version ? ` ${binding.TF_Version}` : ''
          const where = isUsingGpuDevice ? 'on a GPU' : 'on the processor'
          const patched = options.patch === false ? [] : patchTensorflowBackend()
          return { device: `TensorFlow${version} ${where} (${packageName})`, patched }
        } catch (thrown) {
          const error = thrown as BackendError
          // A broken installation says more than a missing one; of two missing ones the plain package is proposed.
          if (failure === undefined || failure.reason === 'missing-package') failure = error
        }
      }
      throw failure
    },

    async webgpu(options, hardwareOnly) {
      let opened: OpenDevice | undefined
      try {
        await platform.prepareGpu(options, hardwareOnly)
        const adapter = await requestAdapter(options)
        const info = adapterInfo(adapter)
        const software = isSoftwareAdapter(info)
        if (software && hardwareOnly) {
          throw new BackendError(
            'no-adapter',
            'webgpu',
            `The only WebGPU adapter is software (${describeAdapter(info)}), which 'auto' never takes.`,
            "Call useBackend('webgpu') to use it all the same.",
          )
        }
        const module = await load('webgpu', '@tensorflow/tfjs-backend-webgpu')
        let failure: BackendError | undefined
        opened = await openDevice(adapter, module as Parameters<typeof openDevice>[1], options, (error) => {
          if (failure !== undefined) return // the first error is the cause of the others
          failure = error
          options.onError?.(error)
        })
        device?.destroy() // of a backend on another adapter, which is replaced
        device = opened
        await activate('webgpu', "Update the GPU's driver, or call useBackend('wasm').")
        if (options.patch !== false) recordRepeatedly(tf.backend())
        const patched = useKernels(
          options.kernels === false ? undefined : await import('@lethe/kernels-webgpu'),
          software,
        )
        return {
          device: describeAdapter(info),
          software,
          patched,
          throwIfFailed() {
            if (failure !== undefined) throw failure
          },
        }
      } catch (thrown) {
        // What runs already, on a software adapter that 'auto' does not take, goes on.
        if (opened !== undefined) {
          tf.removeBackend('webgpu')
          opened.destroy()
          device = undefined
        }
        if (device === undefined) platform.releaseGpu()
        throw thrown
      }
    },
  }

  let last: Promise<unknown> = Promise.resolve()
  /** One after the other: two that start the same backend at once would each take it for theirs. */
  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = last.then(work)
    last = done.catch(() => {})
    return done
  }

  async function choose(name: BackendRequest, options: BackendOptions): Promise<BackendInfo> {
    if (!backendRequests.includes(name)) {
      const valid = backendRequests.map((request) => `'${request}'`).join(', ')
      throw new BackendError(
        'unknown-backend',
        String(name),
        `There is no backend '${String(name)}'.`,
        `Use one of ${valid}.`,
      )
    }
    const { threads } = options
    if (threads !== undefined && !(Number.isInteger(threads) && threads > 0)) {
      throw new BackendError(
        'invalid-option',
        name,
        `The number of threads cannot be ${threads}.`,
        'Give a whole number from 1 on, or none to leave it to useBackend.',
      )
    }
    if (name !== 'auto') return begin(name, options, false, [])
    const skipped: { name: BackendName; reason: string }[] = []
    for (const candidate of platform.order) {
      try {
        return await begin(candidate, options, true, skipped)
      } catch (thrown) {
        skipped.push({ name: candidate, reason: messageOf(thrown) })
      }
    }
    const reasons = skipped.map((skip) => `${skip.name}: ${skip.reason}`).join(' ')
    throw new BackendError(
      'unsupported',
      'auto',
      `No backend could be started. ${reasons}`,
      'Fix one of these.',
    )
  }

  async function begin(
    name: BackendName,
    options: BackendOptions,
    hardwareOnly: boolean,
    skipped: BackendInfo['skipped'],
  ): Promise<BackendInfo> {
    const known = running.get(name)
    if (known !== undefined && name in tf.engine().registry && !(hardwareOnly && known.software)) {
      await tf.setBackend(name)
      return { ...known, skipped }
    }
    const started = await start[name](options, hardwareOnly)
    const info = { name, software: false, patched: [], skipped, throwIfFailed() {}, ...started }
    running.set(name, info)
    return info
  }

  async function dispose(): Promise<void> {
    for (const name of running.keys()) {
      // tfjs forgets a removed backend for good; register it again, so that it can be started again.
      const entry = tf.engine().registryFactory[name]
      if (entry === undefined) continue
      if (name === 'wasm') stopThreads(tf.engine().registry.wasm as unknown as WasmBackend | undefined)
      tf.removeBackend(name)
      if (name !== 'webgpu') tf.registerBackend(name, entry.factory, entry.priority)
    }
    running.clear()
    device?.destroy()
    device = undefined
    platform.releaseGpu()
  }

  return {
    useBackend: (name = 'auto', options = {}) => inTurn(() => choose(name, options)),
    disposeBackend: () => inTurn(dispose),
  }
}
