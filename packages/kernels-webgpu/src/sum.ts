/** tfjs's Sum over the first axes, which it computes by transposing the tensor and with a workgroup for each value. */
import { type KernelFunc, type Tensor, type TensorInfo, util } from '@tensorflow/tfjs-core'
import { sumOf } from './program'

/** A thread adds up a value by itself: beyond so many numbers too few of them work at a time. */
const most = 64

/** The kernel. Other axes, longer ones and whatever is not float32 go to tfjs's own. */
export const sumOverFirst =
  (stock: KernelFunc): KernelFunc =>
  (args) => {
    const x = args.inputs.x as TensorInfo
    const { axis, keepDims } = args.attrs as unknown as { axis: number | number[]; keepDims: boolean }
    const axes = util.parseAxisParam(axis, x.shape).sort((one, other) => one - other)
    const [summed, left] = [x.shape.slice(0, axes.length), x.shape.slice(axes.length)]
    const [count, inner] = [util.sizeFromShape(summed), util.sizeFromShape(left)]
    const first = axes.every((of, place) => of === place) && axes.length > 0
    if (x.dtype !== 'float32' || !first || count > most || count === 0 || inner < count) return stock(args)
    return sumOf(x as Tensor, [...(keepDims ? summed.map(() => 1) : []), ...left], { count, inner })
  }
