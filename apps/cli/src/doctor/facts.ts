/** What the doctor finds out, as plain data: probes fill it in, advice.ts draws the conclusions. */
import type { BackendErrorReason, BackendName } from '@lethe/backends'

export interface MachineFacts {
  readonly node: string
  /** As Node names it: 'linux', 'darwin', 'win32'. */
  readonly platform: string
  readonly arch: string
  /** The version of the GNU C library; missing elsewhere. */
  readonly glibc?: string | undefined
  readonly processor: string
  readonly cores: number
  readonly memoryBytes: number
  readonly freeMemoryBytes: number
  /** What a container leaves this process, where that is less than the machine has. */
  readonly memoryLimitBytes?: number | undefined
  readonly gpus: readonly NvidiaGpu[]
  /** Whether the system shows any GPU; undefined where only WebGPU can tell. */
  readonly gpuSeen?: boolean | undefined
  readonly wasm: WasmFeatures
}

/** One line of nvidia-smi. */
export interface NvidiaGpu {
  readonly name: string
  readonly driver: string
  /** Such as '9.0' for Hopper; missing with drivers that do not tell. */
  readonly computeCapability?: string | undefined
  readonly memoryBytes: number
}

export interface WasmFeatures {
  readonly simd: boolean
  /** Relaxed SIMD has the fused multiply-add. */
  readonly relaxedSimd: boolean
  readonly threads: boolean
}

/** How a backend's child process went. Fields are missing where it did not get that far. */
export interface ProbeFacts {
  readonly backend: BackendName | 'auto'
  readonly started?: Started
  readonly speed?: Speed
  /** The start failed in an orderly way. */
  readonly error?: {
    readonly reason: BackendErrorReason | 'unexpected'
    readonly message: string
    readonly fix?: string
  }
  readonly ended: { readonly code: number | null; readonly signal: string | null; readonly timedOut: boolean }
  /** The end of what the process and its native libraries printed. */
  readonly output: string
}

export interface Started {
  readonly name: BackendName
  readonly device: string
  readonly software: boolean
  readonly tensorflow?: TensorflowFacts
  readonly adapter?: AdapterFacts
}

export interface TensorflowFacts {
  /** Of TensorFlow itself, such as '2.21.0'. */
  readonly version: string
  readonly usesGpu: boolean
  /** CUDA's libraries that it has loaded, such as 'libcudnn.so.9'. */
  readonly cuda: readonly string[]
}

export interface AdapterFacts {
  readonly limits: Readonly<Record<string, number>>
  readonly features: readonly string[]
}

export interface Speed {
  /** Of products of two matrices of `size` rows and columns. */
  readonly gflops: number
  readonly size: number
}
