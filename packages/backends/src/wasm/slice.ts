/** Slice and SplitV: tfjs copies line by line from JavaScript, which costs more than the copying. */

import type { Kernels } from '@lethe/kernels-wasm'
import {
  backend_util,
  type KernelFunc,
  type SliceAttrs,
  type SplitVAttrs,
  slice_util,
  type TensorInfo,
  util,
} from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend } from './heap'
import { kernelsOf } from './kernels'

export function slice(stock: KernelFunc): KernelFunc {
  return (args) => {
    const { x } = args.inputs as { x: TensorInfo }
    const { begin, size } = args.attrs as unknown as SliceAttrs
    const backend = args.backend as WasmBackend
    const kernels = isNumeric(x) ? kernelsOf(backend) : undefined
    if (kernels === undefined) return stock(args)
    const [from, shape] = slice_util.parseSliceParams(x as never, begin, size) as [number[], number[]]
    slice_util.assertParamsValid(x as never, from, shape)
    return copyPart(backend, kernels, x, from, shape)
  }
}

export function splitV(stock: KernelFunc): KernelFunc {
  return (args) => {
    const { x } = args.inputs as { x: TensorInfo }
    const { numOrSizeSplits, axis } = args.attrs as unknown as SplitVAttrs
    const backend = args.backend as WasmBackend
    const kernels = isNumeric(x) ? kernelsOf(backend) : undefined
    if (kernels === undefined) return stock(args)
    const along = util.parseAxisParam(axis, x.shape)[0]!
    let start = 0
    return backend_util.prepareSplitSize(x as never, numOrSizeSplits, along).map((length) => {
      const from = x.shape.map((_, at) => (at === along ? start : 0))
      const shape = x.shape.map((whole, at) => (at === along ? length : whole))
      start += length
      return copyPart(backend, kernels, x, from, shape)
    })
  }
}

const isNumeric = (x: TensorInfo) => x.dtype === 'float32' || x.dtype === 'int32' || x.dtype === 'bool'

/** The part of x that starts at `begin` and has this shape. */
function copyPart(
  backend: WasmBackend,
  kernels: Kernels,
  x: TensorInfo,
  begin: number[],
  shape: number[],
): TensorInfo {
  const out = backend.makeOutput(shape, x.dtype)
  if (util.sizeFromShape(shape) === 0) return out
  const bytes = util.bytesPerElement(x.dtype)
  // Axes taken whole belong to the line; so does the first one, from the end, that is not.
  let axis = shape.length - 1
  while (axis > 0 && shape[axis] === x.shape[axis]) axis--
  const line = bytes * util.sizeFromShape(shape.slice(axis))
  // So it is with the axes before it: a step from line to line, as long as they are taken whole.
  let outer = axis - 1
  while (outer > 0 && shape[outer] === x.shape[outer]) outer--
  const lines = util.sizeFromShape(shape.slice(Math.max(outer, 0), axis))
  const step = bytes * util.sizeFromShape(x.shape.slice(axis))
  const strides = x.shape.map((_, at) => bytes * util.sizeFromShape(x.shape.slice(at + 1)))
  const start = begin.reduce((at, place, i) => at + place * strides[i]!, offsetOf(backend, x))
  const place = new Array<number>(Math.max(outer, 0)).fill(0)
  const blocks = util.sizeFromShape(shape.slice(0, Math.max(outer, 0)))
  let to = offsetOf(backend, out)
  for (let block = 0; block < blocks; block++) {
    const from = place.reduce((at, index, i) => at + index * strides[i]!, start)
    kernels.copyLines(from, step, to, line, line, lines)
    to += line * lines
    for (let i = place.length - 1; i >= 0 && ++place[i]! === shape[i]; i--) place[i] = 0
  }
  return out
}
