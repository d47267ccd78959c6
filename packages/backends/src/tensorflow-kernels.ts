/**
 * Operations that TensorFlow has a kernel of its own for and tfjs has not, under the names of core's `FusedKernels`,
 * and Reshape, which tfjs uploads a shape for at every call.
 */
import {
  getKernel,
  type KernelFunc,
  registerKernel,
  type TensorInfo,
  unregisterKernel,
} from '@tensorflow/tfjs-core'

/** What we use of tfjs-node's backend. */
interface TensorflowBackend {
  readonly binding: {
    readonly TF_FLOAT: number
    readonly TF_INT32: number
    readonly TF_ATTR_BOOL: number
    readonly TF_ATTR_INT: number
    readonly TF_ATTR_TYPE: number
    createTensor(shape: readonly number[], dtype: number, values: Int32Array | Float32Array): number
    deleteTensor(id: number): void
    executeOp(
      name: string,
      attributes: readonly Attribute[],
      inputs: readonly number[],
      outputs: number,
    ): unknown[]
  }
  getInputTensorIds(tensors: readonly TensorInfo[]): number[]
  createOutputTensor(metadata: unknown): TensorInfo
  executeSingleOutput(
    name: string,
    attributes: readonly Attribute[],
    inputs: readonly TensorInfo[],
  ): TensorInfo
  disposeData(dataId: object): boolean
  incRef(dataId: object): void
}

interface Attribute {
  readonly name: string
  readonly type: number
  readonly value: unknown
}

/** The attribute that says of which type a kernel's tensors are. */
const typed = ({ binding }: TensorflowBackend, value: number, name = 'T'): Attribute => ({
  name,
  type: binding.TF_ATTR_TYPE,
  value,
})
const float32 = (backend: TensorflowBackend) => typed(backend, backend.binding.TF_FLOAT)

/** dy where y > 0, else 0. */
const reluGradient: KernelFunc = ({ inputs, backend: given }) => {
  const backend = given as TensorflowBackend
  const { dy, y } = inputs as { dy: TensorInfo; y: TensorInfo }
  return [backend.executeSingleOutput('ReluGrad', [float32(backend)], [dy, y])]
}

/** Σ x² of each: twice TensorFlow's L2 loss, without a tensor of squares. */
const sumSquares: KernelFunc = ({ inputs, backend: given }) => {
  const backend = given as TensorflowBackend
  const type = float32(backend)
  const totals = (Object.values(inputs) as TensorInfo[]).map((x) => {
    const half = backend.executeSingleOutput('L2Loss', [type], [x])
    const total = backend.executeSingleOutput('AddV2', [type], [half, half])
    backend.disposeData(half.dataId)
    return total
  })
  const count = { name: 'N', type: backend.binding.TF_ATTR_INT, value: totals.length }
  const packed = backend.executeSingleOutput('Pack', [count, type], totals)
  for (const { dataId } of totals) backend.disposeData(dataId)
  return [packed]
}

/** Constants on the side of TensorFlow, by a key; beyond a number of them those go that were used longest ago. */
class Constants {
  readonly #ids = new Map<string, number>()
  constructor(readonly kept: number) {}

  get({ binding }: TensorflowBackend, key: string, make: () => number): number {
    const id = this.#ids.get(key) ?? make()
    this.#ids.delete(key)
    this.#ids.set(key, id)
    if (this.#ids.size > this.kept) {
      const [oldest, unused] = this.#ids.entries().next().value!
      this.#ids.delete(oldest)
      binding.deleteTensor(unused)
    }
    return id
  }
}
const shapes = new Constants(512)
const triangles = new Constants(4)

const shapeTensor = (backend: TensorflowBackend, shape: readonly number[]): number =>
  shapes.get(backend, shape.join(), () =>
    backend.binding.createTensor([shape.length], backend.binding.TF_INT32, Int32Array.from(shape)),
  )

/** Ones where the column is before the row, or, inclusive, at it. */
const triangleTensor = (backend: TensorflowBackend, steps: number, exclusive: boolean): number =>
  triangles.get(backend, `${steps},${exclusive}`, () => {
    const ones = new Float32Array(steps * steps)
    for (let row = 0; row < steps; row++) ones.fill(1, row * steps, row * steps + row + (exclusive ? 0 : 1))
    return backend.binding.createTensor([steps, steps], backend.binding.TF_FLOAT, ones)
  })

/** Above this, TensorFlow's own sum is faster, which walks along a single thread. */
const mostTriangleSteps = 1024

/** A product with a triangle. */
const runningSum: KernelFunc = ({ inputs, attrs, backend: given }) => {
  const backend = given as TensorflowBackend
  const x = inputs.x as TensorInfo
  const { exclusive, backwards } = attrs as unknown as { exclusive: boolean; backwards: boolean }
  const steps = x.shape[1]!
  if (steps > mostTriangleSteps || x.shape.includes(0)) return []
  const { TF_ATTR_BOOL: type } = backend.binding
  const attributes = [
    float32(backend),
    { name: 'adj_x', type, value: backwards },
    { name: 'adj_y', type, value: false },
  ]
  const factors = [triangleTensor(backend, steps, exclusive), ...backend.getInputTensorIds([x])]
  return [backend.createOutputTensor(backend.binding.executeOp('BatchMatMulV2', attributes, factors, 1)[0])]
}

const reshape =
  (stock: KernelFunc): KernelFunc =>
  (call) => {
    const x = call.inputs.x as TensorInfo
    const { shape } = call.attrs as unknown as { shape: readonly number[] }
    const backend = call.backend as TensorflowBackend
    if (shape.length === x.shape.length && shape.every((size, axis) => size === x.shape[axis])) {
      backend.incRef(x.dataId)
      return { dataId: x.dataId, shape: x.shape, dtype: x.dtype }
    }
    if (x.dtype !== 'float32' || shape.length === 0) return stock(call)
    const attributes = [float32(backend), typed(backend, backend.binding.TF_INT32, 'Tshape')]
    const inputs = [...backend.getInputTensorIds([x]), shapeTensor(backend, shape)]
    return backend.createOutputTensor(backend.binding.executeOp('Reshape', attributes, inputs, 1)[0])
  }

/** On a patched kernel, so that a second copy of this package sees it too. */
const mark = Symbol.for('lethe.patched')

/**
 * Registers them with the tensorflow backend, which has started. A second call changes nothing.
 * @returns the names of the replaced kernels
 */
export function patchTensorflowBackend(): string[] {
  for (const [kernelName, kernelFunc] of [
    ['LetheReluGradient', reluGradient],
    ['LetheSumSquares', sumSquares],
    ['LetheRunningSum', runningSum],
  ] as const)
    if (!getKernel(kernelName, 'tensorflow'))
      registerKernel({ kernelName, backendName: 'tensorflow', kernelFunc })
  const stock = getKernel('Reshape', 'tensorflow')
  if (!stock) return []
  if (!(mark in stock)) {
    unregisterKernel('Reshape', 'tensorflow')
    registerKernel({ ...stock, kernelFunc: reshape(stock.kernelFunc), [mark]: true } as typeof stock)
  }
  return ['Reshape']
}
