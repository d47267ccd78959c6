/** UnsortedSegmentSum, which tfjs's wasm backend lacks; the gradient of gather needs it. */
import { type KernelFunc, type TensorInfo, type UnsortedSegmentSumAttrs, util } from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend } from './heap'

export const unsortedSegmentSum: KernelFunc = (args) => {
  const { x, segmentIds } = args.inputs as { x: TensorInfo; segmentIds: TensorInfo }
  const { numSegments } = args.attrs as unknown as UnsortedSegmentSumAttrs
  const backend = args.backend as WasmBackend
  if (x.dtype !== 'float32' && x.dtype !== 'int32') {
    throw new Error(
      `UnsortedSegmentSum: dtype ${x.dtype} is not supported on wasm. Cast to float32 or int32 first.`,
    )
  }
  // x: [...segmentIds.shape, ...rest]; out: [numSegments, ...rest]
  const count = util.sizeFromShape(segmentIds.shape)
  const rest = x.shape.slice(segmentIds.shape.length)
  const width = util.sizeFromShape(rest)
  const out = backend.makeOutput([numSegments, ...rest], x.dtype)
  const buffer = backend.wasm.HEAPU8.buffer as ArrayBuffer
  const Values = x.dtype === 'float32' ? Float32Array : Int32Array
  const from = new Values(buffer, offsetOf(backend, x), count * width)
  const to = new Values(buffer, offsetOf(backend, out), numSegments * width)
  const ids = new Int32Array(buffer, offsetOf(backend, segmentIds), count)
  to.fill(0)
  for (let row = 0; row < count; row++) {
    const segment = ids[row]!
    if (segment < 0 || segment >= numSegments) continue // left out, as in TensorFlow
    const source = row * width
    const target = segment * width
    for (let k = 0; k < width; k++) to[target + k] = to[target + k]! + from[source + k]!
  }
  return out
}
