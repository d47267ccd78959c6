/** What useBackend takes and gives, and what it needs from the place it runs in. */
import type { BackendError } from './errors'

/** A backend, named as tfjs registers it. */
export type BackendName = 'webgpu' | 'tensorflow' | 'wasm' | 'cpu'

/** What may be asked for: a backend by name, or the best one that is there. */
export type BackendRequest = 'auto' | BackendName

export const backendRequests: readonly BackendRequest[] = ['auto', 'webgpu', 'tensorflow', 'wasm', 'cpu']

/** Where tfjs finds its wasm files: a folder, or one address per file. */
export type WasmPaths = string | Record<WasmFile, string>

export type WasmFile =
  | 'tfjs-backend-wasm.wasm'
  | 'tfjs-backend-wasm-simd.wasm'
  | 'tfjs-backend-wasm-threaded-simd.wasm'

export const wasmFiles: readonly WasmFile[] = [
  'tfjs-backend-wasm.wasm',
  'tfjs-backend-wasm-simd.wasm',
  'tfjs-backend-wasm-threaded-simd.wasm',
]

export interface BackendOptions {
  /** WebGPU: which adapter to prefer where there are several. Default 'high-performance'. */
  powerPreference?: 'high-performance' | 'low-power'
  /** WebGPU: ask for the software adapter, to test without a GPU. Default false. */
  forceFallbackAdapter?: boolean
  /** WebGPU: device features to enable where the adapter has them, such as 'shader-f16', or 'subgroups', by which norms and
   * cross entropy then add up rows. */
  features?: readonly string[]
  /** WebGPU in Node: settings for Dawn, 'key=value' as `create` of the webgpu package takes them,
   * such as 'backend=vulkan', 'adapter=NVIDIA' or 'enable-dawn-features=allow_unsafe_apis'. */
  dawn?: readonly string[]
  /** WebGPU in Node: a software Vulkan driver's .json file for machines without a GPU, put into VK_ICD_FILENAMES
   * unless that is set or Linux shows a GPU; it counts only before Dawn has loaded. Debian's chromium has /usr/lib/chromium/vk_swiftshader_icd.json. */
  softwareVulkan?: string
  /** wasm: where the .wasm files are. Default: beside the installed package. */
  wasmPaths?: WasmPaths
  /** wasm: replace slow and wrong kernels, see patchWasmBackend; tensorflow: slow ones; WebGPU: record commands that
   * repeat themselves faster than tfjs does. Default true. */
  patch?: boolean
  /** wasm and WebGPU: compute with our own kernels (@lethe/kernels-wasm, where the engine can and with `patch`;
   * @lethe/kernels-webgpu). Default true. */
  kernels?: boolean
  /**
   * wasm: threads that compute our own kernels, the calling one among them. Results are the same bits for any number.
   * Default: one per processor, up to 8; 1 in a page that is not isolated across origins, which cannot have more. Counts
   * when the backend starts: call disposeBackend to change it.
   */
  threads?: number
  /** Called once, as soon as the backend fails after it started (WebGPU: device lost, invalid pass). */
  onError?: (error: BackendError) => void
}

/** Threads that are started unless more are asked for: beyond, products of ordinary size hardly gain. */
const mostThreads = 8

/** A thread per processor, up to `mostThreads`. */
export function threadsFor(processors: number): ThreadSupply {
  if (processors > 1) return { count: Math.min(mostThreads, processors) }
  return { count: 1, reason: 'There is one processor.' }
}

/** What was started. */
export interface BackendInfo {
  /** The backend, as tf.getBackend() now says. */
  readonly name: BackendName
  /** What computes: the adapter, or the package; on wasm, with how many threads. */
  readonly device: string
  /** wasm: threads that compute our own kernels, the calling one among them. */
  readonly threads?: number
  /** wasm: why there is only one thread, and what would change that; missing where there are more. */
  readonly singleThread?: string
  /** True where a GPU is only imitated by the processor (SwiftShader, llvmpipe): right, but slow. */
  readonly software: boolean
  /** Names of the kernels that were replaced. */
  readonly patched: readonly string[]
  /** What 'auto' tried first, and why it did not take it. */
  readonly skipped: readonly { readonly name: BackendName; readonly reason: string }[]
  /** Throws the BackendError with which this backend has failed since it started, if it has.
   * WebGPU reports failures late: await a result (`tensor.data()`) first. */
  throwIfFailed(): void
}

/** The parts of a WebGPU adapter that are looked at. */
export interface AdapterDescription {
  readonly vendor?: string
  readonly architecture?: string
  readonly device?: string
  readonly description?: string
  readonly isFallbackAdapter?: boolean
}

/** How many threads pay here; where that is 1, why. */
export type ThreadSupply =
  | { readonly count: number; readonly reason?: never }
  | { readonly count: 1; readonly reason: string }

/** What differs between Node and a browser, and what a test replaces. */
export interface Platform {
  /** Imports of the packages by name, each written out, so that bundlers see it. */
  readonly packages: { readonly [name: string]: () => Promise<unknown> }
  /** The packages that may register 'tensorflow', best first; empty where there is none. */
  readonly tensorflowPackages: readonly string[]
  /** The order in which 'auto' tries. */
  readonly order: readonly BackendName[]
  /** Where the wasm files are if the caller does not say; undefined leaves it to tfjs. */
  readonly wasmPaths: WasmPaths | undefined
  /** How many threads pay here. */
  threads(): Promise<ThreadSupply>
  /** Whether threads may share memory here; not in a page that is not isolated across origins. */
  readonly sharesMemory: boolean
  /** Reads a wasm file from one of `wasmPaths`. */
  readWasm(file: string): Promise<Uint8Array<ArrayBuffer>>
  /** An address at which tfjs can fetch these bytes; undefined where a policy forbids that. */
  addressOf(module: Uint8Array<ArrayBuffer>): Promise<string | undefined>
  /** Makes `navigator.gpu` be there; throws a BackendError if it cannot. `hardwareOnly`: nothing else is of use. */
  prepareGpu(options: BackendOptions, hardwareOnly: boolean): Promise<void>
  /** Takes away again what prepareGpu put there, so that the process can end. */
  releaseGpu(): void
}
