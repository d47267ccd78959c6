/** Identity without a copy: the new tensor shares the data, which counts its owners, as on the cpu backend. */
import type { KernelFunc, TensorInfo } from '@tensorflow/tfjs-core'
import type { WasmBackend } from './heap'

export function identity(stock: KernelFunc): KernelFunc {
  return (args) => {
    const { x } = args.inputs as { x: TensorInfo }
    if (x.dtype === 'string') return stock(args)
    ;(args.backend as WasmBackend).incRef(x.dataId)
    return { dataId: x.dataId, shape: x.shape, dtype: x.dtype }
  }
}
