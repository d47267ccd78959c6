/** GatherV2: tfjs's is wrong with batchDims, and copies element by element; here runs of elements are copied. */
import {
  backend_util,
  type GatherV2Attrs,
  type KernelFunc,
  type TensorInfo,
  util,
} from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend } from './heap'

export function gather(stock: KernelFunc): KernelFunc {
  return (args) => {
    const { x, indices } = args.inputs as { x: TensorInfo; indices: TensorInfo }
    const { axis, batchDims } = args.attrs as unknown as GatherV2Attrs
    if (x.dtype !== 'float32' && x.dtype !== 'int32' && x.dtype !== 'bool') return stock(args)
    const backend = args.backend as WasmBackend
    const parsedAxis = util.parseAxisParam(axis, x.shape)[0]!
    const shape = backend_util.segment_util.collectGatherOpShapeInfo(
      x as never,
      indices as never,
      parsedAxis,
      batchDims,
    )
    const { batchSize, outerSize, dimSize, sliceSize } = shape

    const out = backend.makeOutput(shape.outputShape, x.dtype)
    const buffer = backend.wasm.HEAPU8.buffer as ArrayBuffer
    const count = util.sizeFromShape(indices.shape)
    const places = new Int32Array(buffer, offsetOf(backend, indices), count)
    for (const place of places) {
      if (place >= 0 && place < dimSize) continue
      backend.disposeData(out.dataId)
      throw new Error(`GatherV2: the index value ${place} is not in [0, ${dimSize - 1}]`)
    }
    if (util.sizeFromShape(x.shape) === 0) return out

    const Values = x.dtype === 'bool' ? Uint8Array : Int32Array // bits as they are, NaN included
    const from = new Values(buffer, offsetOf(backend, x), util.sizeFromShape(x.shape))
    const to = new Values(buffer, offsetOf(backend, out), util.sizeFromShape(out.shape))
    const perBatch = count / batchSize
    let target = 0
    for (let batch = 0; batch < batchSize; batch++) {
      for (let outer = 0; outer < outerSize; outer++) {
        const block = (batch * outerSize + outer) * dimSize
        for (let i = batch * perBatch; i < (batch + 1) * perBatch; i++) {
          const source = (block + places[i]!) * sliceSize
          // A call costs as much as copying a few elements.
          if (sliceSize >= 32) to.set(from.subarray(source, source + sliceSize), target)
          else for (let k = 0; k < sliceSize; k++) to[target + k] = from[source + k]!
          target += sliceSize
        }
      }
    }
    return out
  }
}
