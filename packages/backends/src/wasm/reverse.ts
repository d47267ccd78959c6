/**
 * Reverse, axis by axis: lines in the opposite order, or the values of each line. The gradient of Cumsum needs it. tfjs's
 * own is slow, and writes four bytes for each boolean, beyond the end of the result.
 */
import type { Kernels } from '@lethe/kernels-wasm'
import { type KernelFunc, type ReverseAttrs, type TensorInfo, util } from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend } from './heap'
import { kernelsOf } from './kernels'

export function reverse(stock: KernelFunc): KernelFunc {
  return (args) => {
    const { x } = args.inputs as { x: TensorInfo }
    const { dims } = args.attrs as unknown as ReverseAttrs
    const backend = args.backend as WasmBackend
    const kernels = x.dtype === 'string' || x.dtype === 'complex64' ? undefined : kernelsOf(backend)
    const axes = util.parseAxisParam(dims, x.shape)
    if (kernels === undefined || axes.length === 0) return stock(args)
    let out = x
    for (const axis of axes) {
      const next = reverseAxis(backend, kernels, out, axis)
      if (out !== x) backend.disposeData(out.dataId)
      out = next
    }
    return out
  }
}

function reverseAxis(backend: WasmBackend, kernels: Kernels, x: TensorInfo, axis: number): TensorInfo {
  const out = backend.makeOutput(x.shape, x.dtype)
  const from = offsetOf(backend, x)
  const to = offsetOf(backend, out)
  const blocks = util.sizeFromShape(x.shape.slice(0, axis))
  const length = x.shape[axis]!
  const line = util.bytesPerElement(x.dtype) * util.sizeFromShape(x.shape.slice(axis + 1))
  if (line === 4) kernels.reverseLines(from, to, length, blocks)
  else
    for (let block = 0; block < blocks; block++) {
      const start = block * length * line
      kernels.copyLines(from + start, line, to + start + (length - 1) * line, -line, line, length)
    }
  return out
}
