/**
 * Starts tfjs's WebGPU backend on an adapter of the caller's choice, and watches its device. tfjs would take any
 * adapter, say nothing about it, and give zeros after a pass that failed; so the device is requested here.
 */
import * as tf from '@tensorflow/tfjs-core'
import { offerAttention } from './attention'
import { BackendError, messageOf } from './errors'
import type { AdapterDescription, BackendOptions } from './types'

interface Adapter {
  readonly info?: AdapterDescription
  readonly isFallbackAdapter?: boolean
  readonly features: ReadonlySet<string>
  readonly limits: Record<string, number>
  requestDevice(descriptor: unknown): Promise<Device>
}

interface Device {
  readonly lost: Promise<{ readonly reason: string; readonly message: string }>
  addEventListener(type: 'uncapturederror', listener: (event: { error: unknown }) => void): void
  destroy(): void
}

interface Gpu {
  requestAdapter(options: unknown): Promise<Adapter | null>
}

type WebGPUModule = { WebGPUBackend: new (device: unknown, info: unknown) => tf.KernelBackend }

/** A device that was opened, until it is destroyed. */
export interface OpenDevice {
  readonly destroy: () => void
}

/** The adapter that the options ask for. Throws a BackendError where there is none. */
export async function requestAdapter(options: BackendOptions): Promise<Adapter> {
  const gpu = (globalThis.navigator as unknown as { gpu: Gpu }).gpu
  let reason = 'no GPU, or no driver for it'
  const adapter = await gpu
    .requestAdapter({
      powerPreference: options.powerPreference ?? 'high-performance',
      ...(options.forceFallbackAdapter ? { forceFallbackAdapter: true } : {}),
    })
    .catch((cause: unknown) => {
      // Dawn rejects where a browser gives null, and says which adapters there are.
      reason = messageOf(cause).trim().replace(/\s+/g, ' ') || reason
      return null
    })
  if (adapter) return adapter
  throw noAdapter(`WebGPU found no adapter: ${reason}.`, "Install the GPU's driver")
}

/** @param remedy what helps first, before the two ways out */
export function noAdapter(problem: string, remedy: string): BackendError {
  return new BackendError(
    'no-adapter',
    'webgpu',
    problem,
    `${remedy}, call useBackend('wasm'), or, in Node and to test without a GPU, name a software driver: ` +
      "useBackend('webgpu', { softwareVulkan: '/usr/lib/chromium/vk_swiftshader_icd.json' }).",
  )
}

/** What the adapter calls itself, in one line. */
export function describeAdapter(info: AdapterDescription): string {
  const parts = [info.vendor, info.architecture, info.device, info.description].filter(Boolean)
  return [...new Set(parts)].join(' ') || 'unnamed adapter'
}

/** True where the processor imitates a GPU: SwiftShader, llvmpipe (lavapipe), Microsoft's basic render driver. */
export function isSoftwareAdapter(info: AdapterDescription): boolean {
  if (info.isFallbackAdapter) return true
  const text = describeAdapter(info).toLowerCase()
  return /swiftshader|llvmpipe|lavapipe|softpipe|basic render|\bwarp\b|software/.test(text)
}

export function adapterInfo(adapter: Adapter): AdapterDescription {
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info ?? {}
  return {
    vendor: vendor ?? '',
    architecture: architecture ?? '',
    device: device ?? '',
    description: description ?? '',
    isFallbackAdapter: isFallbackAdapter ?? adapter.isFallbackAdapter ?? false,
  }
}

/** Of these an adapter's largest value is asked for: those that tfjs asks for, and the number of buffers, without
 * which tfjs's sum of more than seven tensors (addN) fails. */
const limits = [
  'maxComputeWorkgroupStorageSize',
  'maxComputeWorkgroupsPerDimension',
  'maxStorageBufferBindingSize',
  'maxBufferSize',
  'maxComputeWorkgroupSizeX',
  'maxComputeInvocationsPerWorkgroup',
  'maxStorageBuffersPerShaderStage',
]

/**
 * Opens the adapter's device and registers a tfjs backend 'webgpu' on it, in place of tfjs's own.
 * `onFailure` is called with every error of the device that nobody else catches, and with its loss.
 */
export async function openDevice(
  adapter: Adapter,
  module: WebGPUModule,
  options: BackendOptions,
  onFailure: (error: BackendError) => void,
): Promise<OpenDevice> {
  const wanted = ['timestamp-query', 'bgra8unorm-storage', ...(options.features ?? [])]
  let device: Device
  try {
    device = await adapter.requestDevice({
      requiredFeatures: wanted.filter((feature) => adapter.features.has(feature)),
      requiredLimits: Object.fromEntries(limits.map((name) => [name, adapter.limits[name]])),
    })
  } catch (cause) {
    throw new BackendError(
      'failed',
      'webgpu',
      `The adapter (${describeAdapter(adapterInfo(adapter))}) gave no device: ${messageOf(cause)}.`,
      "Free GPU memory or update the driver, or call useBackend('wasm').",
      { cause },
    )
  }

  let destroyed = false
  device.addEventListener('uncapturederror', (event) => {
    if (destroyed) return
    const problem = `WebGPU refused work: ${messageOf(event.error).trim()} Results since then may be zeros.`
    const fix = "Report the operation that caused it, and use another backend meanwhile: useBackend('wasm')."
    onFailure(new BackendError('failed', 'webgpu', problem, fix, { cause: event.error }))
  })
  void device.lost.then((loss) => {
    if (destroyed) return
    const problem = `The GPU device was lost (${loss.reason}): ${loss.message}.`
    const fix = 'Call disposeBackend() and useBackend() again, and load the weights anew.'
    onFailure(new BackendError('failed', 'webgpu', problem, fix, { cause: loss }))
  })

  if (tf.findBackendFactory('webgpu')) tf.removeBackend('webgpu')
  tf.registerBackend('webgpu', () => new module.WebGPUBackend(device, adapter.info), 3)
  return {
    destroy() {
      destroyed = true
      device.destroy()
    },
  }
}

/** On a kernel that stands in for tfjs's: tfjs's, so that a second copy of this package sees it too. */
const stockOf = Symbol.for('lethe.stock')

/** Puts a kernel of our own in the place of tfjs's, or tfjs's own back. */
function replaceKernel(kernelName: string, ours?: (stock: tf.KernelFunc) => tf.KernelFunc): void {
  const kernel = tf.getKernel(kernelName, 'webgpu') as tf.KernelConfig & { [stockOf]?: tf.KernelConfig }
  const stock = kernel[stockOf] ?? kernel
  tf.unregisterKernel(kernelName, 'webgpu')
  tf.registerKernel(
    ours ? ({ ...stock, kernelFunc: ours(stock.kernelFunc), [stockOf]: stock } as tf.KernelConfig) : stock,
  )
}

/**
 * Puts our own kernels in place, or takes them away, and names those in tfjs's registry. Software keeps tfjs's product:
 * the compilation of large tiles takes a processor seconds, and gains it nothing.
 * @param kernels @lethe/kernels-webgpu
 */
export function useKernels(
  kernels: typeof import('@lethe/kernels-webgpu') | undefined,
  software: boolean,
): string[] {
  offerAttention('webgpu', kernels?.attentionKernel)
  for (const { kernelName } of tf.getKernelsForBackend('webgpu'))
    if (kernelName.startsWith('Lethe')) tf.unregisterKernel(kernelName, 'webgpu')
  for (const kernel of kernels?.fusedKernels ?? []) tf.registerKernel(kernel)
  const replaced = { BatchMatMul: software ? undefined : kernels?.batchMatMul, Sum: kernels?.sumOverFirst }
  for (const [kernelName, ours] of Object.entries(replaced)) replaceKernel(kernelName, ours)
  const names = Object.entries(replaced).flatMap(([kernelName, ours]) => (ours ? [kernelName] : []))
  return [...names, ...(kernels?.fusedKernels ?? []).map(({ kernelName }) => kernelName)]
}
