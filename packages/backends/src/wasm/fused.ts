/**
 * The fused operations of @lethe/core (its `FusedKernels` says what each takes and returns). Each declines, by returning
 * nothing, where our own kernels cannot run, and for empty tensors; core's plain operations compute then.
 */
import type { Kernels } from '@lethe/kernels-wasm'
import { type DataType, type KernelFunc, type TensorInfo, util } from '@tensorflow/tfjs-core'
import { offsetOf, type WasmBackend } from './heap'
import { kernelsOf } from './kernels'

/** What a kernel computes with: inputs by name, addresses, and new tensors. */
interface Call<Inputs extends string> {
  readonly kernels: Kernels
  readonly inputs: Readonly<Record<Inputs, TensorInfo>>
  readonly attributes: Readonly<Record<string, number>>
  /** The address of a tensor; 0 for one that was not given. */
  at(tensor: TensorInfo | undefined): number
  /** A new float32 tensor. */
  make(shape: readonly number[]): TensorInfo
  /** A new tensor of whole numbers. */
  makeWhole(shape: readonly number[]): TensorInfo
  /** The tensor itself, to be written into, where nobody else holds its values, else a copy. */
  own(tensor: TensorInfo): TensorInfo
  /** The sum of [parts, width] over the parts: [width]. Consumes the parts. */
  total(parts: TensorInfo): TensorInfo
}

/** The inputs that are whole numbers; all others are float32. */
const dtypes: Readonly<Record<string, DataType>> = { targets: 'int32', age: 'int32', place: 'int32' }

function kernel<Inputs extends string>(compute: (call: Call<Inputs>) => TensorInfo[]): KernelFunc {
  return ({ inputs, attrs, backend: given }) => {
    const backend = given as WasmBackend
    const kernels = kernelsOf(backend)
    const served = Object.entries(inputs as Record<string, TensorInfo>).every(
      ([name, { shape, dtype }]) => dtype === (dtypes[name] ?? 'float32') && sizeOf(shape) > 0,
    )
    if (kernels === undefined || !served) return []
    const at = (tensor: TensorInfo | undefined) => (tensor ? offsetOf(backend, tensor) : 0)
    const make = (shape: readonly number[]) => backend.makeOutput([...shape], 'float32')
    return compute({
      kernels,
      inputs: inputs as Record<Inputs, TensorInfo>,
      attributes: attrs as unknown as Record<string, number>,
      at,
      make,
      makeWhole: (shape) => backend.makeOutput([...shape], 'int32'),
      own(tensor) {
        const { dataId, shape, dtype } = tensor
        if (backend.refCount(dataId) === 1) {
          backend.incRef(dataId)
          return { dataId, shape, dtype }
        }
        const copy = make(shape)
        kernels.copyLines(at(tensor), 0, at(copy), 0, 4 * sizeOf(shape), 1)
        return copy
      },
      total(parts) {
        const [count, width] = parts.shape as [number, number]
        const sums = make([width])
        kernels.sumRows(at(parts), at(sums), count, width, 0, width)
        backend.disposeData(parts.dataId)
        return sums
      },
    })
  }
}

const sizeOf = (shape: number[]) => util.sizeFromShape(shape)
const widthOf = ({ shape }: TensorInfo) => shape[shape.length - 1]!
const rowsOf = (x: TensorInfo) => sizeOf(x.shape) / widthOf(x)
const perRow = ({ shape }: TensorInfo) => [...shape.slice(0, -1), 1]

/** Inputs by one name and the numbers from 0 on. */
const numbered = (inputs: Readonly<Record<string, TensorInfo>>, name: string): TensorInfo[] => {
  const tensors: TensorInfo[] = []
  for (let index = 0; inputs[name + index]; index++) tensors.push(inputs[name + index]!)
  return tensors
}

/** Layer norm where there is a bias, else RMS norm. */
const norm = kernel<'x' | 'scale' | 'bias'>(({ kernels, inputs, attributes, at, make }) => {
  const { x, scale, bias } = inputs as typeof inputs & { bias?: TensorInfo }
  const [y, inverse] = [make(x.shape), make(perRow(x))]
  const mean = bias && make(perRow(x))
  const numbers = [widthOf(x), attributes.epsilon!, 0, rowsOf(x)] as const
  kernels.normalize(at(x), at(scale), at(bias), at(y), at(mean), at(inverse), ...numbers)
  return mean ? [y, mean, inverse] : [y, inverse]
})

const normGradient = kernel<'dy' | 'x' | 'scale' | 'mean' | 'inverse'>(
  ({ kernels, inputs, at, make, total }) => {
    const { dy, x, scale, mean, inverse } = inputs as typeof inputs & { mean?: TensorInfo }
    const [rows, width] = [rowsOf(x), widthOf(x)]
    const parts = kernels.normalizeParts(rows)
    const [dx, dscale] = [make(x.shape), make([parts, width])]
    const dbias = mean && make([parts, width])
    const addresses = [
      at(dy),
      at(x),
      at(scale),
      at(mean),
      at(inverse),
      at(dx),
      at(dscale),
      at(dbias),
    ] as const
    kernels.normalizeGradient(...addresses, rows, width, 0, parts)
    return [dx, total(dscale), ...(dbias ? [total(dbias)] : [])]
  },
)

/** By the name of the kernel. */
export const fusedKernels: Readonly<Record<string, KernelFunc>> = {
  LetheLayerNorm: norm,
  LetheRmsNorm: norm,
  LetheLayerNormGradient: normGradient,
  LetheRmsNormGradient: normGradient,

  LetheGelu: kernel<'x'>(({ kernels, inputs: { x }, at, make }) => {
    const y = make(x.shape)
    kernels.gelu(at(x), at(y), 0, sizeOf(x.shape))
    return [y]
  }),
  LetheGeluGradient: kernel<'dy' | 'x'>(({ kernels, inputs: { dy, x }, at, make }) => {
    const dx = make(x.shape)
    kernels.geluGradient(at(dy), at(x), at(dx), 0, sizeOf(x.shape))
    return [dx]
  }),
  LetheSwiglu: kernel<'gate' | 'x'>(({ kernels, inputs: { gate, x }, at, make }) => {
    const y = make(x.shape)
    kernels.swiglu(at(gate), at(x), at(y), 0, sizeOf(x.shape))
    return [y]
  }),
  LetheSwigluGradient: kernel<'dy' | 'gate' | 'x'>(({ kernels, inputs: { dy, gate, x }, at, make }) => {
    const [dgate, dx] = [make(x.shape), make(x.shape)]
    kernels.swigluGradient(at(dy), at(gate), at(x), at(dgate), at(dx), 0, sizeOf(x.shape))
    return [dgate, dx]
  }),
  LetheReluGradient: kernel<'dy' | 'y'>(({ kernels, inputs: { dy, y }, at, make }) => {
    const dx = make(y.shape)
    kernels.reluGradient(at(dy), at(y), at(dx), 0, sizeOf(y.shape))
    return [dx]
  }),

  LetheCrossEntropy: kernel<'logits' | 'targets'>(({ kernels, inputs: { logits, targets }, at, make }) => {
    const [rows, classes] = logits.shape as [number, number]
    const [loss, largest, logTotal] = [make([rows, 1]), make([rows, 1]), make([rows, 1])]
    const outputs = [at(loss), at(largest), at(logTotal)] as const
    kernels.crossEntropy(at(logits), at(targets), ...outputs, classes, 0, rows)
    return [loss, largest, logTotal]
  }),
  LetheCrossEntropyGradient: kernel<'logits' | 'targets' | 'largest' | 'logTotal' | 'scale'>(
    ({ kernels, inputs: { logits, targets, largest, logTotal, scale }, at, make }) => {
      const [rows, classes] = logits.shape as [number, number]
      const dlogits = make(logits.shape)
      const addresses = [at(largest), at(logTotal), at(scale), at(dlogits)] as const
      kernels.crossEntropyGradient(at(logits), at(targets), ...addresses, classes, 0, rows)
      return [dlogits]
    },
  ),

  LetheRotate: kernel<'x' | 'cosine' | 'sine'>(
    ({ kernels, inputs: { x, cosine, sine }, attributes: { back }, at, make }) => {
      const [batch, heads, , steps] = x.shape as [number, number, number, number]
      const [tables, , half] = cosine.shape as [number, number, number]
      if (cosine.shape[3] !== steps) return [] // one angle for all steps
      const y = make(x.shape)
      const perTable = (batch * heads) / tables
      const addresses = [at(x), at(cosine), at(sine), at(y)] as const
      kernels.rotate(...addresses, half, steps, perTable, back ? -1 : 1, 0, batch * heads)
      return [y]
    },
  ),
  LetheRotaryAngles: kernel<'age'>(({ kernels, inputs: { age }, attributes, at, make }) => {
    const [batch, slots] = age.shape as [number, number]
    const { half, ratio } = attributes as { half: number; ratio: number }
    const [cosine, sine] = [make([batch, 1, half, slots]), make([batch, 1, half, slots])]
    kernels.rotaryAngles(at(age), at(cosine), at(sine), half, slots, ratio, 0, batch)
    return [cosine, sine]
  }),

  LetheTakePlace: kernel<'ages' | 'valid' | 'worths'>(
    ({ kernels, inputs: { ages, valid, worths }, attributes: { empty, among }, at, make, makeWhole }) => {
      const [batch, count] = ages.shape as [number, number]
      const [newAges, newValid, place] = [make(ages.shape), make(ages.shape), makeWhole([batch])]
      const outputs = [at(newAges), at(newValid), at(place)] as const
      kernels.takePlaces(at(ages), at(valid), at(worths), ...outputs, count, among!, empty!, 0, batch)
      return [newAges, newValid, place]
    },
  ),
  LetheWriteSlot: kernel<string>(({ kernels, inputs: { place, ...given }, at, own }) =>
    numbered(given, 'x').map((x, index) => {
      const [y, column] = [own(x), given[`column${index}`]!]
      const lines = sizeOf(column.shape)
      const perPlace = lines / sizeOf(place!.shape)
      kernels.writePlaces(at(y), at(column), at(place), widthOf(x), perPlace, 0, lines)
      return y
    }),
  ),

  LetheSumSquares: kernel<string>(({ kernels, inputs, at, make }) => {
    const counts = Object.values(inputs).map(({ shape }) => sizeOf(shape))
    const parts = counts.map((count) => kernels.sumSquaresParts(count))
    const sums = make([parts.reduce((total, count) => total + count, 0)])
    let place = at(sums)
    for (const [index, x] of Object.values(inputs).entries()) {
      kernels.sumSquares(at(x), place, counts[index]!, 0, parts[index]!)
      place += 4 * parts[index]!
    }
    return [sums]
  }),
  LetheAdam: kernel<'values' | 'gradient' | 'mean' | 'square' | 'factor'>(
    ({ kernels, inputs: { values, gradient, mean, square, factor }, attributes, at, make }) => {
      const { beta1, beta2, rate, epsilon, decay, shrink } = attributes as Record<string, number>
      const outputs = [make(values.shape), make(values.shape), make(values.shape)] as const
      const [newValues, newMean, newSquare] = outputs
      const before = [at(values), at(gradient), at(mean), at(square), at(factor)] as const
      const after = [at(newValues), at(newMean), at(newSquare)] as const
      const numbers = [beta1!, beta2!, rate!, epsilon!, decay!, shrink!] as const
      kernels.adam(...before, ...after, ...numbers, 0, sizeOf(values.shape))
      return [...outputs]
    },
  ),
  LetheAdagrad: kernel<'values' | 'gradient' | 'square' | 'factor'>(
    ({ kernels, inputs: { values, gradient, square, factor }, attributes, at, make }) => {
      const { rate, epsilon, decay } = attributes as Record<string, number>
      const [newValues, newSquare] = [make(values.shape), make(values.shape)]
      const before = [at(values), at(gradient), at(square), at(factor)] as const
      const after = [at(newValues), at(newSquare)] as const
      kernels.adagrad(...before, ...after, rate!, epsilon!, decay!, 0, sizeOf(values.shape))
      return [newValues, newSquare]
    },
  ),
}
