/** The browser (a page or a worker): WebGPU is the browser's own, TensorFlow's addons do not exist. */
import { BackendError, packageError } from './errors'
import { type Platform, threadsFor } from './types'

export const browserPlatform: Platform = {
  packages: {
    '@tensorflow/tfjs-backend-cpu': () => import('@tensorflow/tfjs-backend-cpu'),
    // Inside a `try`, a bundler takes an optional package that is missing as a failure at run time, not of the build.
    '@tensorflow/tfjs-backend-wasm': async () => {
      try {
        return await import('@tensorflow/tfjs-backend-wasm')
      } catch (cause) {
        throw packageError('wasm', '@tensorflow/tfjs-backend-wasm', cause)
      }
    },
    '@tensorflow/tfjs-backend-webgpu': async () => {
      try {
        return await import('@tensorflow/tfjs-backend-webgpu')
      } catch (cause) {
        throw packageError('webgpu', '@tensorflow/tfjs-backend-webgpu', cause)
      }
    },
  },
  tensorflowPackages: [],
  order: ['webgpu', 'wasm', 'cpu'],
  get wasmPaths() {
    // Written out one by one: this is the form in which bundlers find the files and copy them.
    const simd = new URL('@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm', import.meta.url)
      .href
    return {
      'tfjs-backend-wasm.wasm': new URL(
        '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm',
        import.meta.url,
      ).href,
      'tfjs-backend-wasm-simd.wasm': simd,
      'tfjs-backend-wasm-threaded-simd.wasm': simd, // has to be named, and is never loaded
    }
  },

  async threads() {
    if (browserPlatform.sharesMemory) return threadsFor(globalThis.navigator?.hardwareConcurrency ?? 1)
    return {
      count: 1,
      reason:
        'This page is not isolated across origins: serve it with the headers Cross-Origin-Opener-Policy: same-origin ' +
        'and Cross-Origin-Embedder-Policy: require-corp.',
    }
  },

  get sharesMemory() {
    return globalThis.crossOriginIsolated === true
  },

  async readWasm(file) {
    const response = await fetch(file)
    if (!response.ok) throw new Error(`${file}: ${response.status} ${response.statusText}`)
    return new Uint8Array(await response.arrayBuffer())
  },

  async addressOf(module) {
    const address = URL.createObjectURL(new Blob([module], { type: 'application/wasm' }))
    // A Content Security Policy may refuse it, and tfjs would wait for ever.
    const allowed = await fetch(address).then(
      () => true,
      () => false,
    )
    return allowed ? address : undefined
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
