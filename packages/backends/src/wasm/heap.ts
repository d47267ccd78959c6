/**
 * What the patched kernels use of tfjs's wasm backend. It is not in tfjs's public types, but its kernels are
 * written against it, and it has not changed since 3.0.
 */
import type { DataType, KernelBackend, TensorInfo } from '@tensorflow/tfjs-core'
import { BackendError } from '../errors'

interface TensorData {
  readonly id: number
  /** In bytes, from the start of the heap. */
  readonly memoryOffset: number
}

export interface WasmBackend extends KernelBackend {
  readonly wasm: {
    /** The exports of tfjs's module; its memory is among them, but where tfjs runs threads. */
    readonly asm?: { readonly memory?: WebAssembly.Memory }
    /** That memory where tfjs runs threads. */
    readonly wasmMemory?: WebAssembly.Memory
    /** The views change whenever the heap grows: read them anew after everything that may allocate. */
    readonly HEAPU8: Uint8Array
    readonly HEAP32: Int32Array
    readonly HEAPF32: Float32Array
    _malloc: (bytes: number) => number
    _free(offset: number): void
    _BatchMatMul(
      idA: number,
      shapeA: number,
      rankA: number,
      idB: number,
      shapeB: number,
      rankB: number,
      transposeA: number,
      transposeB: number,
      idOut: number,
    ): void
    readonly tfjs: {
      registerTensor(id: number, size: number, offset: number): void
      disposeData(id: number): void
    }
  }
  dataIdNextNumber: number
  readonly dataIdMap: { get(dataId: object): TensorData }
  makeOutput(shape: number[], dtype: DataType): TensorInfo
  incRef(dataId: object): void
  refCount(dataId: object): number
}

/** Where a tensor's values start, in bytes. */
export function offsetOf(backend: WasmBackend, tensor: TensorInfo): number {
  return backend.dataIdMap.get(tensor.dataId).memoryOffset
}

/** What 32 bits can address. A size beyond it would wrap to a small one, which tfjs's allocator grants. */
const mostBytes = 2 ** 32

/** Makes the allocator that all tensors come from throw instead of handing out address 0, or less than was asked for. */
export function refuseWhatIsNotThere({ wasm }: Pick<WasmBackend, 'wasm'>): void {
  wasm._free(wasm._malloc(1)) // at the first call Emscripten puts another function in its place
  const stock = wasm._malloc
  wasm._malloc = (bytes) => {
    const offset = bytes < mostBytes ? stock(bytes) >>> 0 : 0
    if (offset === 0) throw noRoom(bytes)
    return offset
  }
}

const noRoom = (bytes: number) =>
  new BackendError(
    'failed',
    'wasm',
    `The wasm heap has no ${bytes} bytes left, of 4 GiB at most.`,
    'Dispose tensors, or use smaller batches or spans.',
  )

/** Memory for the time of one kernel. Throws instead of handing out address 0. */
export function withScratch<T>(backend: WasmBackend, bytes: number, use: (offset: number) => T): T {
  const offset = backend.wasm._malloc(bytes) >>> 0
  if (offset === 0) throw noRoom(bytes)
  try {
    return use(offset)
  } finally {
    backend.wasm._free(offset)
  }
}
