/** Our own kernels, @lethe/kernels-wasm, in the memory of tfjs's wasm backend; and the flag that turns them off. */
import { type Kernels, loadKernels } from '@lethe/kernels-wasm'
import { env } from '@tensorflow/tfjs-core'
import type { WasmBackend } from './heap'

/** A flag of tfjs: one for all copies of this package, and `?tfjsflags=LETHE_WASM_KERNELS:false` sets it in a page. */
const flag = 'LETHE_WASM_KERNELS'

export function registerKernelsFlag(): void {
  env().registerFlag(flag, () => true)
}

export function setKernels(on: boolean): void {
  env().set(flag, on)
}

/** By wasm module: a backend that is started again has another one. */
const loaded = new WeakMap<WasmBackend['wasm'], Kernels | undefined>()

/** The kernels in this backend's memory; undefined where they are turned off, and where the engine has no SIMD. */
export function kernelsOf(backend: WasmBackend): Kernels | undefined {
  if (!env().getBool(flag)) return undefined
  const { wasm } = backend
  if (!loaded.has(wasm)) {
    const memory = wasm.wasmMemory ?? wasm.asm?.memory
    loaded.set(wasm, memory && loadKernels(memory, (bytes) => wasm._malloc(bytes) >>> 0))
  }
  return loaded.get(wasm)
}

/** Ends the worker threads of this backend's kernels; before the backend is disposed of. */
export function stopThreads(backend: WasmBackend | undefined): void {
  if (backend !== undefined) loaded.get(backend.wasm)?.stopThreads()
}
