/** The browser (a page or a worker): WebGPU is the browser's own, TensorFlow's addons do not exist. */
import { env } from '@tensorflow/tfjs-core'
import { BackendError } from './errors'
import { mostThreads, type Platform } from './types'

export const browserPlatform: Platform = {
  // The catch makes bundlers take a missing optional package as a failure at run time, not of the build.
  packages: {
    '@tensorflow/tfjs-backend-cpu': () => import('@tensorflow/tfjs-backend-cpu'),
    '@tensorflow/tfjs-backend-wasm': () => import('@tensorflow/tfjs-backend-wasm').catch(rethrow),
    '@tensorflow/tfjs-backend-webgpu': () => import('@tensorflow/tfjs-backend-webgpu').catch(rethrow),
  },
  tensorflowPackages: [],
  order: ['webgpu', 'wasm', 'cpu'],
  // Written out one by one: this is the form in which bundlers find the files and copy them.
  get wasmPaths() {
    return {
      'tfjs-backend-wasm.wasm': new URL(
        '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm',
        import.meta.url,
      ).href,
      'tfjs-backend-wasm-simd.wasm': new URL(
        '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm',
        import.meta.url,
      ).href,
      'tfjs-backend-wasm-threaded-simd.wasm': new URL(
        '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-threaded-simd.wasm',
        import.meta.url,
      ).href,
    }
  },

  async threads() {
    // Only then tfjs takes the build with a shared memory.
    const isolated = await env().getAsync('WASM_HAS_MULTITHREAD_SUPPORT')
    return isolated ? Math.min(mostThreads, globalThis.navigator?.hardwareConcurrency ?? 1) : 1
  },

  async prepareGpu() {
    if ((globalThis.navigator as { gpu?: unknown } | undefined)?.gpu) return
    throw new BackendError(
      'unsupported',
      'webgpu',
      'This browser, or this page, has no WebGPU (navigator.gpu is missing).',
      "Serve the page over https or from localhost, use a browser with WebGPU, or call useBackend('wasm').",
    )
  },

  releaseGpu() {},
}

function rethrow(cause: unknown): never {
  throw cause
}
