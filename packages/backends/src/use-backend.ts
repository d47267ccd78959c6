/**
 * Chooses a tfjs backend, starts it and says what was started. The same code serves Node and the browser; what
 * differs comes in as a Platform.
 */
import * as tf from '@tensorflow/tfjs-core'
import { BackendError, messageOf, packageError } from './errors'
import {
  type BackendInfo,
  type BackendName,
  type BackendOptions,
  type BackendRequest,
  backendRequests,
  type Platform,
} from './types'
import { patchWasmBackend } from './wasm/patch'
import {
  adapterInfo,
  describeAdapter,
  isSoftwareAdapter,
  type OpenDevice,
  openDevice,
  requestAdapter,
} from './webgpu'

export interface Backends {
  useBackend(name?: BackendRequest, options?: BackendOptions): Promise<BackendInfo>
  disposeBackend(): Promise<void>
}

/** The two public functions, for one platform. */
export function createBackends(platform: Platform): Backends {
  let device: OpenDevice | undefined

  async function load(backend: BackendName, packageName: string): Promise<unknown> {
    const load = platform.packages[packageName]
    try {
      return await load!()
    } catch (cause) {
      throw packageError(backend, packageName, cause)
    }
  }

  /** Makes a registered backend the current one. tfjs answers false, and warns, where the start failed. */
  async function activate(name: BackendName, fix: string): Promise<void> {
    let cause: unknown
    const started = await tf.setBackend(name).catch((thrown: unknown) => {
      cause = thrown
      return false
    })
    if (started) return
    const detail = cause === undefined ? '' : `: ${messageOf(cause)}`
    throw new BackendError('failed', name, `Backend '${name}' did not start${detail}.`, fix, { cause })
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
      if (typeof WebAssembly === 'undefined') {
        throw new BackendError(
          'unsupported',
          'wasm',
          'This environment has no WebAssembly.',
          "Call useBackend('cpu').",
        )
      }
      const wasm = (await load('wasm', '@tensorflow/tfjs-backend-wasm')) as {
        setWasmPaths(paths: unknown): void
      }
      const paths = options.wasmPaths ?? platform.wasmPaths
      if (paths !== undefined && tf.getBackend() !== 'wasm') wasm.setWasmPaths(paths)
      const patched = options.patch === false ? [] : patchWasmBackend()
      await activate(
        'wasm',
        "Serve the .wasm files of @tensorflow/tfjs-backend-wasm/dist, and say where: useBackend('wasm', { wasmPaths: '/wasm/' }).",
      )
      const simd = await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT')
      return { device: simd ? 'WebAssembly with SIMD' : 'WebAssembly without SIMD', patched }
    },

    async tensorflow() {
      if (platform.tensorflowPackages.length === 0) {
        throw new BackendError(
          'unsupported',
          'tensorflow',
          "Backend 'tensorflow' is native code and runs in Node only.",
          "Call useBackend('webgpu') or useBackend('wasm').",
        )
      }
      await platform.prepareTensorflow()
      let failure: BackendError | undefined
      for (const packageName of platform.tensorflowPackages) {
        try {
          await load('tensorflow', packageName)
          await activate('tensorflow', `Run: npm rebuild ${packageName} --build-addon-from-source`)
          const { isUsingGpuDevice } = tf.backend() as { isUsingGpuDevice?: boolean }
          return {
            device: `TensorFlow ${isUsingGpuDevice ? 'on a GPU' : 'on the processor'} (${packageName})`,
          }
        } catch (thrown) {
          const error = thrown as BackendError
          // A broken installation says more than a missing one; of two missing ones the plain package is proposed.
          if (failure === undefined || failure.reason === 'missing-package') failure = error
        }
      }
      throw failure
    },

    async webgpu(options, hardwareOnly) {
      await platform.prepareGpu(options)
      try {
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
        device?.destroy()
        device = await openDevice(adapter, module as Parameters<typeof openDevice>[1], options, (error) => {
          if (failure !== undefined) return // the first error is the cause of the others
          failure = error
          options.onError?.(error)
        })
        await activate('webgpu', "Update the GPU's driver, or call useBackend('wasm').")
        return {
          device: describeAdapter(info),
          software,
          throwIfFailed() {
            if (failure !== undefined) throw failure
          },
        }
      } catch (thrown) {
        device?.destroy()
        device = undefined
        platform.releaseGpu()
        throw thrown
      }
    },
  }

  async function useBackend(
    name: BackendRequest = 'auto',
    options: BackendOptions = {},
  ): Promise<BackendInfo> {
    if (!backendRequests.includes(name)) {
      const valid = backendRequests.map((request) => `'${request}'`).join(', ')
      throw new BackendError(
        'unknown-backend',
        String(name),
        `There is no backend '${name}'.`,
        `Use one of ${valid}.`,
      )
    }
    const skipped: { name: BackendName; reason: string }[] = []
    const complete = (chosen: BackendName, started: Started): BackendInfo => ({
      name: chosen,
      software: false,
      patched: [],
      skipped,
      throwIfFailed() {},
      ...started,
    })
    if (name !== 'auto') return complete(name, await start[name](options, false))
    for (const candidate of platform.order) {
      try {
        return complete(candidate, await start[candidate](options, true))
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

  async function disposeBackend(): Promise<void> {
    const name = tf.getBackend()
    if (name) {
      // tfjs forgets a removed backend for good; register it again, so that it can be used again.
      const factory = tf.findBackendFactory(name)
      tf.removeBackend(name)
      if (factory && name !== 'webgpu') tf.registerBackend(name, factory)
    }
    device?.destroy()
    device = undefined
    platform.releaseGpu()
  }

  return { useBackend, disposeBackend }
}
