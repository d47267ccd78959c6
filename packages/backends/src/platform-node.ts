/** Node: Dawn for WebGPU, the TensorFlow addons, and nothing that a browser could not do without. */
import { BackendError, messageOf, packageError } from './errors'
import { canLink } from './link'
import { loadTensorflow } from './tensorflow'
import { type BackendOptions, type Platform, threadsFor } from './types'
import { noAdapter } from './webgpu'

interface Dawn {
  create(settings: string[]): unknown
  globals: Record<string, unknown>
}

let navigatorIsOurs = false
let gpuIsOurs = false

export const nodePlatform: Platform = {
  packages: {
    '@tensorflow/tfjs-backend-cpu': () => import('@tensorflow/tfjs-backend-cpu'),
    '@tensorflow/tfjs-backend-wasm': () => import('@tensorflow/tfjs-backend-wasm'),
    '@tensorflow/tfjs-backend-webgpu': () => import('@tensorflow/tfjs-backend-webgpu'),
    // Bundlers shall not follow these: native addons, and mostly not installed.
    '@tensorflow/tfjs-node': () => loadTensorflow('@tensorflow/tfjs-node'),
    '@tensorflow/tfjs-node-gpu': () => loadTensorflow('@tensorflow/tfjs-node-gpu'),
    webgpu: () => import('webgpu'),
  },
  tensorflowPackages: ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'],
  order: ['tensorflow', 'webgpu', 'wasm', 'cpu'],
  get wasmPaths() {
    return wasmFolder()
  },

  async threads() {
    if (wasmFolder() === undefined)
      return {
        count: 1,
        reason: "This program is a bundle, and tfjs's wasm file is not where it could be read.",
      }
    const { availableParallelism } = process.getBuiltinModule('node:os')
    return threadsFor(Math.min(availableParallelism(), await processorQuota()))
  },

  sharesMemory: true,

  async readWasm(file) {
    const { readFile } = process.getBuiltinModule('node:fs/promises')
    return new Uint8Array(await readFile(file.startsWith('file:') ? new URL(file) : file))
  },

  async addressOf(module) {
    return `data:application/wasm;base64,${Buffer.from(module).toString('base64')}`
  },

  async prepareGpu(options: BackendOptions, hardwareOnly: boolean) {
    if ((globalThis.navigator as { gpu?: unknown } | undefined)?.gpu) return
    if (hardwareOnly) await expectGpu()
    await prepareVulkan(options)
    let dawn: Dawn
    try {
      dawn = (await nodePlatform.packages.webgpu!()) as Dawn
    } catch (cause) {
      throw packageError('webgpu', 'webgpu', cause)
    }
    for (const [name, value] of Object.entries(dawn.globals)) {
      if (!(name in globalThis))
        Object.defineProperty(globalThis, name, { value, configurable: true, writable: true })
    }
    // Node 20 has no navigator, later ones have one that cannot be assigned to.
    if (globalThis.navigator === undefined) {
      Object.defineProperty(globalThis, 'navigator', { value: {}, configurable: true, writable: true })
      navigatorIsOurs = true
    }
    let gpu: unknown
    try {
      gpu = dawn.create([...(options.dawn ?? [])])
    } catch (cause) {
      const problem = `Dawn does not take the settings ${JSON.stringify(options.dawn)}: ${messageOf(cause)}.`
      const fix = "Give each as 'key=value', such as dawn: ['backend=vulkan']."
      throw new BackendError('invalid-option', 'webgpu', problem, fix, { cause })
    }
    Object.defineProperty(globalThis.navigator, 'gpu', { value: gpu, configurable: true })
    gpuIsOurs = true
  },

  releaseGpu() {
    // Dawn keeps the process alive as long as its object can be reached.
    if (gpuIsOurs) Reflect.deleteProperty(globalThis.navigator, 'gpu')
    if (navigatorIsOurs) Reflect.deleteProperty(globalThis, 'navigator')
    gpuIsOurs = false
    navigatorIsOurs = false
  },
}

/** The folder of the installed package; undefined where it was bundled, and tfjs looks beside its own code. */
function wasmFolder(): string | undefined {
  const { createRequire } = process.getBuiltinModule('node:module')
  const { dirname, sep } = process.getBuiltinModule('node:path')
  try {
    const file = '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm'
    return dirname(createRequire(import.meta.url).resolve(file)) + sep
  } catch {
    return undefined
  }
}

/** The processors that a container may use (Linux, cgroup 2), of which older versions of Node do not know. */
async function processorQuota(): Promise<number> {
  const { readFile } = process.getBuiltinModule('node:fs/promises')
  const [quota, period] = (await readFile('/sys/fs/cgroup/cpu.max', 'utf8').catch(() => 'max')).split(' ')
  return quota === 'max' ? Number.POSITIVE_INFINITY : Math.max(1, Math.round(Number(quota) / Number(period)))
}

/** Linux shows every GPU as one of these. */
const gpuFiles = ['/dev/dri', '/dev/nvidiactl', '/dev/dxg']

/** Whether there may be a GPU: other systems are asked through WebGPU itself. */
async function mayHaveGpu(): Promise<boolean> {
  if (process.platform !== 'linux') return true
  const { existsSync } = await import('node:fs')
  return gpuFiles.some((file) => existsSync(file))
}

/** Without a GPU, looking on could only find software, with noise on stderr. */
async function expectGpu(): Promise<void> {
  if (!(await mayHaveGpu()))
    throw noAdapter(
      `This machine shows no GPU (none of ${gpuFiles.join(', ')} is there).`,
      'Install its driver',
    )
}

/**
 * Linux: Dawn needs the Vulkan loader, libvulkan.so.1, and prints to stderr where it is missing. So ask the dynamic
 * linker first. Chromium brings a loader beside its software driver; once loaded, Dawn finds it by its name.
 */
async function prepareVulkan({ softwareVulkan, dawn }: BackendOptions): Promise<void> {
  if (softwareVulkan !== undefined && process.env.VK_ICD_FILENAMES === undefined && !(await mayHaveGpu())) {
    const { existsSync } = await import('node:fs')
    if (!existsSync(softwareVulkan))
      throw new BackendError(
        'invalid-option',
        'webgpu',
        `There is no software Vulkan driver at ${softwareVulkan} (softwareVulkan).`,
        'Name the .json file of one: Debian’s package chromium has /usr/lib/chromium/vk_swiftshader_icd.json.',
      )
    process.env.VK_ICD_FILENAMES = softwareVulkan
  }
  const elsewhere = dawn?.some((setting) => setting.startsWith('backend=') && setting !== 'backend=vulkan')
  if (process.platform !== 'linux' || elsewhere || canLink('libvulkan.so.1')) return
  if (softwareVulkan !== undefined) {
    const { dirname, join } = await import('node:path')
    if (canLink(join(dirname(softwareVulkan), 'libvulkan.so.1'))) return
  }
  throw noAdapter(
    'WebGPU needs the Vulkan loader, and libvulkan.so.1 is not installed.',
    "Install it (Debian: apt-get install libvulkan1) and the GPU's driver",
  )
}
