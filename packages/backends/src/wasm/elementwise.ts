/** Exp and Erf four values at a time; tfjs's call the C library for each value. */
import type { KernelFunc, TensorInfo } from '@tensorflow/tfjs-core'
import { util } from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend } from './heap'
import { kernelsOf } from './kernels'

export const exp = elementwise('exponentials')
export const erf = elementwise('errorFunctions')

function elementwise(name: 'exponentials' | 'errorFunctions') {
  return (stock: KernelFunc): KernelFunc =>
    (args) => {
      const { x } = args.inputs as { x: TensorInfo }
      const backend = args.backend as WasmBackend
      const kernels = x.dtype === 'float32' ? kernelsOf(backend) : undefined
      if (kernels === undefined) return stock(args)
      const out = backend.makeOutput(x.shape, 'float32')
      kernels[name](offsetOf(backend, x), offsetOf(backend, out), util.sizeFromShape(x.shape))
      return out
    }
}
