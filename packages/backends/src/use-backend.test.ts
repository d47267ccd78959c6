/** Which backend is chosen, and what is said where one cannot be had. Packages and adapters are imitated. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, expect, test, vi } from 'vitest'
import { BackendError } from './errors'
import { nodePlatform } from './platform-node'
import type { AdapterDescription, BackendName, Platform } from './types'
import { type Backends, createBackends } from './use-backend'
import { isSoftwareAdapter } from './webgpu'

/** A backend that starts, and does nothing else. */
class ImitatedBackend extends tf.KernelBackend {
  isUsingGpuDevice = false
  readonly bufferManager = {}
  override dispose() {}
}

const notInstalled = (name: string) => async () => {
  throw Object.assign(new Error(`Cannot find package '${name}' imported from /app/index.js`), {
    code: 'ERR_MODULE_NOT_FOUND',
  })
}

const devices: {
  listeners: ((event: { error: unknown }) => void)[]
  lose: (loss: unknown) => void
  destroy: () => void
}[] = []

/** navigator.gpu with one adapter of this description. */
function imitatedGpu(info: AdapterDescription | null) {
  const requestAdapter = async () =>
    info && {
      info,
      features: new Set(['timestamp-query']),
      limits: {},
      async requestDevice() {
        let lose: (loss: unknown) => void = () => {}
        const lost = new Promise((resolve) => {
          lose = resolve
        })
        const listeners: ((event: { error: unknown }) => void)[] = []
        const destroy = vi.fn()
        devices.push({ listeners, lose, destroy })
        return {
          lost,
          addEventListener: (_: string, listener: (event: { error: unknown }) => void) =>
            listeners.push(listener),
          destroy,
        }
      },
    }
  return { requestAdapter }
}

const everything = {
  '@tensorflow/tfjs-backend-cpu': () => import('@tensorflow/tfjs-backend-cpu'),
  '@tensorflow/tfjs-backend-wasm': () => import('@tensorflow/tfjs-backend-wasm'),
  '@tensorflow/tfjs-backend-webgpu': async () => {
    await import('@tensorflow/tfjs-backend-webgpu') // its kernels and flags
    return { WebGPUBackend: ImitatedBackend }
  },
  '@tensorflow/tfjs-node': notInstalled('@tensorflow/tfjs-node'),
  '@tensorflow/tfjs-node-gpu': notInstalled('@tensorflow/tfjs-node-gpu'),
}

function platformWith(
  packages: Partial<Platform['packages']>,
  adapter: AdapterDescription | null = null,
  order: BackendName[] = ['tensorflow', 'webgpu', 'wasm', 'cpu'],
): Platform {
  return {
    ...nodePlatform,
    packages: { ...everything, ...(packages as Platform['packages']) },
    order,
    async prepareGpu() {
      vi.stubGlobal('navigator', { gpu: imitatedGpu(adapter) })
    },
    releaseGpu() {
      vi.unstubAllGlobals()
    },
  }
}

const tensorflow = (isUsingGpuDevice: boolean) => async () => {
  tf.registerBackend('tensorflow', () => Object.assign(new ImitatedBackend(), { isUsingGpuDevice }))
}

let backends: Backends | undefined
const start = (platform: Platform) => {
  backends = createBackends(platform)
  return backends
}

afterEach(async () => {
  await backends?.disposeBackend()
  if (tf.findBackendFactory('tensorflow')) tf.removeBackend('tensorflow')
  vi.unstubAllGlobals()
})

async function failure(promise: Promise<unknown>): Promise<BackendError> {
  const thrown = await promise.then(
    () => undefined,
    (error: unknown) => error,
  )
  expect(BackendError.isInstance(thrown)).toBe(true)
  return thrown as BackendError
}

const hardware = { vendor: 'nvidia', architecture: 'hopper', description: 'NVIDIA H200' }
const software = { vendor: 'google', architecture: 'swiftshader' }

test('auto takes TensorFlow where it is installed, the GPU package first', async () => {
  const info = await start(
    platformWith({
      '@tensorflow/tfjs-node-gpu': tensorflow(true),
      '@tensorflow/tfjs-node': tensorflow(false),
    }),
  ).useBackend()
  expect(info).toMatchObject({
    name: 'tensorflow',
    device: 'TensorFlow on a GPU (@tensorflow/tfjs-node-gpu)',
  })
  expect(tf.getBackend()).toBe('tensorflow')
})

test('auto takes the other TensorFlow package where the GPU one does not load', async () => {
  const broken = async () => {
    throw new Error(
      "Cannot find module '/app/node_modules/@tensorflow/tfjs-node-gpu/lib/napi-v8/tfjs_binding.node'",
    )
  }
  const info = await start(
    platformWith({ '@tensorflow/tfjs-node-gpu': broken, '@tensorflow/tfjs-node': tensorflow(false) }),
  ).useBackend('tensorflow')
  expect(info.device).toBe('TensorFlow on the processor (@tensorflow/tfjs-node)')
})

test('auto takes WebGPU on hardware', async () => {
  const info = await start(platformWith({}, hardware)).useBackend('auto')
  expect(info).toMatchObject({ name: 'webgpu', software: false, device: 'nvidia hopper NVIDIA H200' })
  expect(info.skipped.map((skip) => skip.name)).toEqual(['tensorflow'])
})

test('auto never takes a software GPU, and says so; asked for by name it is taken', async () => {
  const { useBackend } = start(platformWith({}, software))
  const info = await useBackend('auto')
  expect(info.name).toBe('wasm')
  expect(info.skipped[1]).toMatchObject({ name: 'webgpu', reason: expect.stringContaining('swiftshader') })
  expect(await useBackend('webgpu')).toMatchObject({ name: 'webgpu', software: true })
  expect((await useBackend('auto')).name).toBe('wasm') // although it runs by now
  const { length } = devices
  expect(devices.at(-1)!.destroy).not.toHaveBeenCalled()
  expect((await useBackend('webgpu')).name).toBe('webgpu')
  expect(devices).toHaveLength(length) // and it goes on, on the same device
  await backends!.disposeBackend()
  expect(devices.at(-1)!.destroy).toHaveBeenCalledOnce()
})

test('WebGPU that fails behind its device leaves nothing of it', async () => {
  const failing = class extends ImitatedBackend {
    constructor() {
      super()
      throw new Error('out of memory')
    }
  }
  const releaseGpu = vi.fn()
  const packages = { '@tensorflow/tfjs-backend-webgpu': async () => ({ WebGPUBackend: failing }) }
  const error = await failure(start({ ...platformWith(packages, hardware), releaseGpu }).useBackend('webgpu'))
  expect(error).toMatchObject({ reason: 'failed', message: expect.stringContaining('out of memory') })
  expect(devices.at(-1)!.destroy).toHaveBeenCalledOnce()
  expect(releaseGpu).toHaveBeenCalledOnce()
  expect(tf.findBackendFactory('webgpu')).toBeFalsy()
})

test('wasm files that are not there, or something else, are refused before tfjs sees them; right ones then work', async () => {
  const spies = (['log', 'warn', 'error'] as const).map((method) => vi.spyOn(console, method))
  const folder = mkdtempSync(join(tmpdir(), 'lethe-wasm-'))
  writeFileSync(join(folder, 'tfjs-backend-wasm-simd.wasm'), '<!doctype html><title>Not found</title>')
  const { useBackend } = start(platformWith({}))
  for (const threads of [1, 2]) {
    const page = await failure(useBackend('wasm', { wasmPaths: folder, threads }))
    expect(page).toMatchObject({
      reason: 'failed',
      backend: 'wasm',
      fix: expect.stringContaining('wasmPaths'),
    })
    expect(page.message).toMatch(/tfjs-backend-wasm-simd\.wasm is no wasm module.*<!doctype html>/)
    const absent = await failure(useBackend('wasm', { wasmPaths: '/absent', threads }))
    expect(absent.message).toContain(
      "ENOENT: no such file or directory, open '/absent/tfjs-backend-wasm-simd.wasm'",
    )
  }
  rmSync(folder, { recursive: true })
  const incomplete = { 'tfjs-backend-wasm.wasm': 'x' } as never
  expect(await failure(useBackend('wasm', { wasmPaths: incomplete }))).toMatchObject({
    reason: 'invalid-option',
    message: expect.stringMatching(/no address of tfjs-backend-wasm-simd\.wasm, .*threaded/),
  })
  expect((await useBackend('wasm')).name).toBe('wasm')
  for (const spy of spies) expect(spy).not.toHaveBeenCalled()
  vi.restoreAllMocks()
})

test('a start of wasm that failed inside tfjs is not repeated, which tfjs would never answer', async () => {
  await import('@tensorflow/tfjs-backend-wasm')
  const entry = tf.engine().registryFactory.wasm!
  const { factory } = entry
  entry.factory = () => Promise.reject({ message: 'aborted' })
  try {
    const { useBackend } = start(platformWith({}))
    expect((await failure(useBackend('wasm'))).message).toContain("Backend 'wasm' did not start: aborted.")
    entry.factory = () => new Promise(() => {})
    expect(await failure(useBackend('wasm'))).toMatchObject({
      reason: 'failed',
      message: expect.stringMatching(/tries once only.*aborted.*start the program anew/),
    })
  } finally {
    entry.factory = factory
  }
})

test('an engine that gives no large shared memory computes in one thread, and says so', async () => {
  class Refused extends WebAssembly.Memory {
    constructor(given: WebAssembly.MemoryDescriptor) {
      if (given.shared) throw new RangeError('could not allocate memory')
      super(given)
    }
  }
  vi.spyOn(WebAssembly, 'Memory').mockImplementation(Refused)
  const { useBackend } = start(platformWith({}))
  const info = await useBackend('wasm', { threads: 2 })
  vi.restoreAllMocks()
  expect(info).toMatchObject({ threads: 1, singleThread: expect.stringContaining('no memory of 4 GB') })
  const x = tf.ones([40, 40])
  expect(tf.tidy(() => tf.matMul(x, x)).dataSync()[0]).toBe(40)
})

test('auto goes on to wasm, and without that package to cpu', async () => {
  expect((await start(platformWith({})).useBackend()).name).toBe('wasm')
  await backends!.disposeBackend()
  const info = await start(
    platformWith({ '@tensorflow/tfjs-backend-wasm': notInstalled('@tensorflow/tfjs-backend-wasm') }),
  ).useBackend()
  expect(info.name).toBe('cpu')
  expect(info.skipped.map((skip) => skip.name)).toEqual(['tensorflow', 'webgpu', 'wasm'])
})

test.each([
  [{ vendor: 'google', architecture: 'swiftshader' }, true],
  [{ vendor: 'mesa', architecture: '', description: 'llvmpipe (LLVM 15.0.6, 256 bits)' }, true],
  [{ vendor: 'microsoft', description: 'Microsoft Basic Render Driver' }, true],
  [{ vendor: 'intel', isFallbackAdapter: true }, true],
  [{ vendor: 'nvidia', architecture: 'hopper' }, false],
  [{ vendor: 'apple', architecture: 'metal-3' }, false],
  [{}, false],
])('adapter %j is software: %s', (info, expected) => {
  expect(isSoftwareAdapter(info)).toBe(expected)
})

test('an unknown name lists the valid ones', async () => {
  const error = await failure(start(platformWith({})).useBackend('cuda' as never))
  expect(error).toMatchObject({ name: 'BackendError', reason: 'unknown-backend', backend: 'cuda' })
  expect(error.message).toBe(
    "There is no backend 'cuda'. Use one of 'auto', 'webgpu', 'tensorflow', 'wasm', 'cpu'.",
  )
})

test.each([
  ['wasm', '@tensorflow/tfjs-backend-wasm'],
  ['webgpu', '@tensorflow/tfjs-backend-webgpu'],
] as const)("backend '%s' without its package says what to install", async (name, packageName) => {
  const platform = platformWith({ [packageName]: notInstalled(packageName) }, hardware)
  const error = await failure(start(platform).useBackend(name))
  expect(error).toMatchObject({
    reason: 'missing-package',
    backend: name,
    fix: `Run: npm install ${packageName}`,
  })
  expect(error.message).toContain(error.fix)
})

test('without any TensorFlow package the plain one is proposed', async () => {
  const error = await failure(start(platformWith({})).useBackend('tensorflow'))
  expect(error).toMatchObject({ reason: 'missing-package', fix: 'Run: npm install @tensorflow/tfjs-node' })
})

test('a backend whose start fails gives the cause', async () => {
  const failing = async () => {
    tf.registerBackend('tensorflow', () => {
      throw new Error('libtensorflow.so.2: cannot open shared object file')
    })
  }
  const error = await failure(
    start(platformWith({ '@tensorflow/tfjs-node': failing })).useBackend('tensorflow'),
  )
  expect(error).toMatchObject({ reason: 'failed' })
  expect(error.message).toContain('libtensorflow.so.2: cannot open shared object file')
})

test('no adapter', async () => {
  const error = await failure(start(platformWith({}, null)).useBackend('webgpu'))
  expect(error).toMatchObject({ reason: 'no-adapter', backend: 'webgpu' })
  expect(error.message).toContain("useBackend('wasm')")
})

test('nothing can be started: all reasons are given', async () => {
  const error = await failure(start(platformWith({}, software, ['tensorflow', 'webgpu'])).useBackend())
  expect(error.message).toMatch(/tensorflow: .*npm install.*webgpu: .*swiftshader/)
})

test('errors of the device, and its loss, arrive at the caller; the first one stays', async () => {
  const onError = vi.fn()
  const info = await start(platformWith({}, hardware)).useBackend('webgpu', { onError })
  const device = devices.at(-1)!
  info.throwIfFailed()
  device.listeners[0]!({ error: new Error('too many storage buffers.') })
  expect(() => info.throwIfFailed()).toThrow('WebGPU refused work: too many storage buffers. Results since')
  device.lose({ reason: 'unknown', message: 'gone' })
  await new Promise((resolve) => setTimeout(resolve))
  expect(onError).toHaveBeenCalledTimes(1)
  expect(BackendError.isInstance(onError.mock.calls[0]![0])).toBe(true)
})

test('a lost device is a failure', async () => {
  const info = await start(platformWith({}, hardware)).useBackend('webgpu')
  devices.at(-1)!.lose({ reason: 'unknown', message: 'the driver was reset' })
  await new Promise((resolve) => setTimeout(resolve))
  expect(() => info.throwIfFailed()).toThrow(/device was lost \(unknown\): the driver was reset/)
})

test('tensors outlive a second call for the same backend, and it can be started again after its end', async () => {
  const { useBackend, disposeBackend } = start(platformWith({}))
  await useBackend('wasm')
  const kept = tf.tensor1d([1, 2])
  await useBackend('cpu')
  await useBackend('wasm')
  expect([...kept.dataSync()]).toEqual([1, 2])
  kept.dispose()
  await disposeBackend()
  await useBackend('wasm')
  const product = tf.tidy(() => tf.matMul(tf.ones([40, 40]), tf.ones([40, 40])))
  expect(product.dataSync()[0]).toBe(40)
  product.dispose()
})

test('calls at the same time are answered one after the other', async () => {
  const { useBackend, disposeBackend } = start(platformWith({}))
  const [first, unknown, second] = await Promise.allSettled([
    useBackend('wasm', { threads: 2 }),
    useBackend('gpu' as never),
    useBackend('wasm', { threads: 2 }),
  ])
  expect(unknown).toMatchObject({ status: 'rejected' })
  expect(first).toMatchObject({ status: 'fulfilled', value: { threads: 2 } })
  expect(second).toEqual(first)
  await Promise.all([disposeBackend(), useBackend('cpu')])
  expect(tf.getBackend()).toBe('cpu')
})

test('an error of another copy of this package is recognised', () => {
  const other = Object.assign(new Error('x'), { [Symbol.for('lethe.BackendError')]: true })
  expect(BackendError.isInstance(other)).toBe(true)
  expect(BackendError.isInstance(new Error('x'))).toBe(false)
})

test('nothing is printed', async () => {
  const spies = (['log', 'warn', 'error', 'info'] as const).map((method) => vi.spyOn(console, method))
  const { useBackend } = start(platformWith({}))
  await useBackend('cpu')
  tf.tidy(() => tf.add(tf.ones([2]), 1))
  await useBackend('wasm')
  tf.tidy(() => tf.add(tf.ones([2]), 1))
  for (const spy of spies) expect(spy).not.toHaveBeenCalled()
  vi.restoreAllMocks()
})
