/** Cumsum along any axis: lines four values at a time, or row after row. tfjs's transposes first, and goes value by value. */
import { type CumsumAttrs, type KernelFunc, type TensorInfo, util } from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend } from './heap'
import { kernelsOf } from './kernels'

export function cumsum(stock: KernelFunc): KernelFunc {
  return (args) => {
    const { x } = args.inputs as { x: TensorInfo }
    const { axis, exclusive, reverse } = args.attrs as unknown as CumsumAttrs
    const backend = args.backend as WasmBackend
    const kernels = x.dtype === 'float32' ? kernelsOf(backend) : undefined
    if (kernels === undefined || x.shape.length === 0) return stock(args)
    const along = util.parseAxisParam(axis, x.shape)[0]!
    const out = backend.makeOutput(x.shape, 'float32')
    const blocks = util.sizeFromShape(x.shape.slice(0, along))
    const width = util.sizeFromShape(x.shape.slice(along + 1))
    const [from, to] = [offsetOf(backend, x), offsetOf(backend, out)]
    kernels.cumulate(from, to, x.shape[along]!, width, exclusive, reverse, 0, blocks)
    return out
  }
}
