/**
 * Gradients of the tfjs kernels that Lethe and its methods use. tfjs-core registers none by itself, and its own list
 * cannot be imported alone in Node; whatever trains calls `registerGradients()` once. Kernels that already have a
 * gradient (from tfjs-layers, say) are left alone, except Cumsum, whose own gradient is wrong off the last axis, and
 * Max, whose own counts the gradient once for each of several largest values.
 */
import {
  add,
  cast,
  clone,
  concat,
  cos,
  cumsum,
  div,
  equal,
  exp,
  reverse as flip,
  type GradConfig,
  getBackend,
  getGradient,
  getKernel,
  greater,
  greaterEqual,
  lessEqual,
  logicalAnd,
  matMul,
  mul,
  type NamedAttrMap,
  neg,
  pad,
  registerGradient,
  reshape,
  rsqrt,
  sin,
  slice,
  split,
  sqrt,
  square,
  stack,
  step,
  sub,
  sum,
  type Tensor,
  type Tensor1D,
  transpose,
  unregisterGradient,
  unsortedSegmentSum,
  unstack,
  util,
  zerosLike,
} from '@tensorflow/tfjs-core'
import { indicator } from './ops/indicator'

type Gradient = GradConfig['gradFunc']

/**
 * Sums a gradient down to the shape its input had before broadcasting. Always a tensor of its own: the engine disposes
 * of a gradient once it has added another to it, and dy may serve several inputs.
 */
function unbroadcast(gradient: Tensor, shape: readonly number[]): Tensor {
  const extra = gradient.rank - shape.length
  const axes: number[] = []
  gradient.shape.forEach((size, axis) => {
    if (axis < extra || (shape[axis - extra] === 1 && size !== 1)) axes.push(axis)
  })
  return reshape(axes.length === 0 ? gradient : sum(gradient, axes), shape as number[])
}

const axesOf = (axis: unknown, rank: number) =>
  util.parseAxisParam(axis as number | number[], new Array(rank).fill(1))

/** The gradient of a reduction, spread back over the reduced axes. */
function spread(dy: Tensor, x: Tensor, axis: unknown): Tensor {
  const shape = x.shape.slice()
  for (const reduced of axesOf(axis, x.rank)) shape[reduced] = 1
  return reshape(dy, shape)
}

const elementwise =
  (derivative: (dy: Tensor, saved: Tensor[]) => Tensor): Gradient =>
  (dy, saved) => ({ x: () => derivative(dy as Tensor, saved) })

/** The gradient of gathering rows: each row of dy added to the row of x that it came from. */
function scatterRows(dy: Tensor, indices: Tensor, shape: number[]): Tensor {
  const [rows, ...rest] = shape as [number, ...number[]]
  const flat = reshape(indices, [indices.size]) as Tensor1D
  if (getKernel('UnsortedSegmentSum', getBackend()))
    return unsortedSegmentSum(reshape(dy, [indices.size, ...rest]), flat, rows)
  // tfjs's own wasm backend has no such kernel: a product with one-hot rows instead.
  const width = rest.reduce((product, size) => product * size, 1)
  const columns = reshape(dy, [indices.size, width])
  return reshape(matMul(indicator(flat, rows), columns, true), shape)
}

const mask = (condition: Tensor) => cast(condition, 'float32')

/** kernel name → what to save and the gradient. */
const table: Record<string, Omit<GradConfig, 'kernelName'>> = {
  Add: {
    inputsToSave: ['a', 'b'],
    gradFunc: (dy, [a, b]) => ({
      a: () => unbroadcast(dy as Tensor, a!.shape),
      b: () => unbroadcast(dy as Tensor, b!.shape),
    }),
  },
  Sub: {
    inputsToSave: ['a', 'b'],
    gradFunc: (dy, [a, b]) => ({
      a: () => unbroadcast(dy as Tensor, a!.shape),
      b: () => neg(unbroadcast(dy as Tensor, b!.shape)),
    }),
  },
  Multiply: {
    inputsToSave: ['a', 'b'],
    gradFunc: (dy, [a, b]) => ({
      a: () => unbroadcast(mul(dy as Tensor, b!), a!.shape),
      b: () => unbroadcast(mul(dy as Tensor, a!), b!.shape),
    }),
  },
  RealDiv: {
    inputsToSave: ['a', 'b'],
    gradFunc: (dy, [a, b]) => ({
      a: () => unbroadcast(div(dy as Tensor, b!), a!.shape),
      b: () => neg(unbroadcast(mul(dy as Tensor, div(a!, square(b!))), b!.shape)),
    }),
  },
  Maximum: {
    inputsToSave: ['a', 'b'],
    gradFunc: (dy, [a, b]) => ({
      a: () => unbroadcast(mul(dy as Tensor, mask(greaterEqual(a!, b!))), a!.shape),
      b: () => unbroadcast(mul(dy as Tensor, mask(greater(b!, a!))), b!.shape),
    }),
  },
  Minimum: {
    inputsToSave: ['a', 'b'],
    gradFunc: (dy, [a, b]) => ({
      a: () => unbroadcast(mul(dy as Tensor, mask(lessEqual(a!, b!))), a!.shape),
      b: () => unbroadcast(mul(dy as Tensor, mask(greater(a!, b!))), b!.shape),
    }),
  },
  Neg: { gradFunc: elementwise((dy) => neg(dy)) },
  Identity: { gradFunc: elementwise((dy) => clone(dy)) },
  Cast: { gradFunc: elementwise((dy) => cast(dy, 'float32')) },
  Square: { inputsToSave: ['x'], gradFunc: elementwise((dy, [x]) => mul(dy, mul(x!, 2))) },
  Sqrt: { inputsToSave: ['x'], gradFunc: elementwise((dy, [x]) => div(dy, mul(sqrt(x!), 2))) },
  Rsqrt: {
    inputsToSave: ['x'],
    gradFunc: elementwise((dy, [x]) => mul(dy, div(mul(rsqrt(x!), -0.5), x!))),
  },
  Exp: { outputsToSave: [true], gradFunc: elementwise((dy, [y]) => mul(dy, y!)) },
  Log: { inputsToSave: ['x'], gradFunc: elementwise((dy, [x]) => div(dy, x!)) },
  Log1p: { inputsToSave: ['x'], gradFunc: elementwise((dy, [x]) => div(dy, add(x!, 1))) },
  Softplus: {
    inputsToSave: ['x'],
    gradFunc: elementwise((dy, [x]) => div(dy, add(exp(neg(x!)), 1))),
  },
  Sigmoid: { outputsToSave: [true], gradFunc: elementwise((dy, [y]) => mul(dy, mul(y!, sub(1, y!)))) },
  Tanh: { outputsToSave: [true], gradFunc: elementwise((dy, [y]) => mul(dy, sub(1, square(y!)))) },
  Erf: {
    inputsToSave: ['x'],
    gradFunc: elementwise((dy, [x]) => mul(dy, mul(exp(neg(square(x!))), 2 / Math.sqrt(Math.PI)))),
  },
  Sin: { inputsToSave: ['x'], gradFunc: elementwise((dy, [x]) => mul(dy, cos(x!))) },
  Cos: { inputsToSave: ['x'], gradFunc: elementwise((dy, [x]) => neg(mul(dy, sin(x!)))) },
  Abs: { inputsToSave: ['x'], gradFunc: elementwise((dy, [x]) => mul(dy, step(x!, -1))) },
  Relu: { inputsToSave: ['x'], gradFunc: elementwise((dy, [x]) => mul(dy, step(x!))) },
  ClipByValue: {
    inputsToSave: ['x'],
    gradFunc: (dy, [x], attributes) => {
      const { clipValueMin, clipValueMax } = attributes as { clipValueMin: number; clipValueMax: number }
      const inside = () => logicalAnd(greaterEqual(x!, clipValueMin), lessEqual(x!, clipValueMax))
      return { x: () => mul(dy as Tensor, mask(inside())) }
    },
  },
  Softmax: {
    outputsToSave: [true],
    gradFunc: (dy, [y]) => ({
      logits: () => {
        const weighted = mul(dy as Tensor, y!)
        return sub(weighted, mul(sum(weighted, -1, true), y!))
      },
    }),
  },
  Sum: {
    inputsToSave: ['x'],
    gradFunc: (dy, [x], attributes) => ({
      x: () => add(zerosLike(x!), spread(dy as Tensor, x!, attributes.axis)),
    }),
  },
  Mean: {
    inputsToSave: ['x'],
    gradFunc: (dy, [x], attributes) => {
      const count = axesOf(attributes.axis, x!.rank).reduce((product, axis) => product * x!.shape[axis]!, 1)
      return { x: () => add(zerosLike(x!), mul(spread(dy as Tensor, x!, attributes.axis), 1 / count)) }
    },
  },
  Max: {
    inputsToSave: ['x'],
    outputsToSave: [true],
    gradFunc: (dy, [x, y], attributes) => {
      const { reductionIndices } = attributes as NamedAttrMap
      const back = (tensor: Tensor) => spread(tensor, x!, reductionIndices)
      const shared = () => {
        // Several largest values share it evenly. (A product makes true floats of the mask on webgpu, whose transpose
        // refuses those that a cast only calls so.)
        const largest = mul(mask(equal(x!, back(y!))), 1)
        return mul(div(back(dy as Tensor), sum(largest, axesOf(reductionIndices, x!.rank), true)), largest)
      }
      return { x: shared }
    },
  },
  Reshape: {
    inputsToSave: ['x'],
    gradFunc: (dy, [x]) => ({ x: () => reshape(dy as Tensor, x!.shape) }),
  },
  ExpandDims: {
    inputsToSave: ['input'],
    gradFunc: (dy, [input]) => ({ input: () => reshape(dy as Tensor, input!.shape) }),
  },
  Transpose: {
    gradFunc: (dy, _saved, attributes) => {
      const { perm } = attributes as { perm: number[] }
      const inverse = perm.map((_, axis) => perm.indexOf(axis))
      return { x: () => transpose(dy as Tensor, inverse) }
    },
  },
  Slice: {
    inputsToSave: ['x'],
    gradFunc: (dy, [x], attributes) => {
      // As the caller gave it: a number, or fewer numbers than axes; the rest starts at 0.
      const given = attributes.begin as unknown as number | number[]
      const begin = x!.shape.map((_, axis) => (typeof given === 'number' ? [given] : given)[axis] ?? 0)
      const size = (dy as Tensor).shape
      const padding = x!.shape.map(
        (length, axis) => [begin[axis]!, length - begin[axis]! - size[axis]!] as [number, number],
      )
      return { x: () => pad(dy as Tensor, padding) }
    },
  },
  PadV2: {
    inputsToSave: ['x'],
    gradFunc: (dy, [x], attributes) => {
      const { paddings } = attributes as { paddings: [number, number][] }
      return {
        x: () =>
          slice(
            dy as Tensor,
            paddings.map(([before]) => before),
            x!.shape,
          ),
      }
    },
  },
  Concat: {
    saveAllInputs: true,
    gradFunc: (dy, saved, attributes) => {
      const shapes = saved.map(({ shape }) => shape)
      const axis = util.parseAxisParam(attributes.axis as number, shapes[0]!)[0]!
      const pieces = split(
        dy as Tensor,
        shapes.map((shape) => shape[axis]!),
        axis,
      )
      return Object.fromEntries(pieces.map((piece, index) => [index, () => piece]))
    },
  },
  SplitV: {
    gradFunc: (dy, _saved, attributes) => ({
      x: () => concat(dy as Tensor[], attributes.axis as number),
    }),
  },
  Pack: {
    saveAllInputs: true,
    gradFunc: (dy, _saved, attributes) => {
      const pieces = unstack(dy as Tensor, attributes.axis as number)
      return Object.fromEntries(pieces.map((piece, index) => [index, () => piece]))
    },
  },
  Unpack: {
    gradFunc: (dy, _saved, attributes) => ({
      value: () => stack(dy as Tensor[], attributes.axis as number),
    }),
  },
  Tile: {
    inputsToSave: ['x'],
    gradFunc: (dy, [x], attributes) => {
      const { reps } = attributes as { reps: number[] }
      return {
        x: () => {
          const shape = x!.shape.flatMap((size, axis) => [reps[axis]!, size])
          const repeats = x!.shape.map((_, axis) => 2 * axis)
          return reshape(sum(reshape(dy as Tensor, shape), repeats), x!.shape)
        },
      }
    },
  },
  Select: {
    inputsToSave: ['condition'],
    gradFunc: (dy, [condition]) => ({
      condition: () => cast(zerosLike(condition!), 'float32'),
      t: () => mul(dy as Tensor, cast(condition!, 'float32')),
      e: () => mul(dy as Tensor, sub(1, cast(condition!, 'float32'))),
    }),
  },
  GatherV2: {
    inputsToSave: ['x', 'indices'],
    gradFunc: (dy, [x, indices], attributes) => {
      const { axis, batchDims = 0 } = attributes as { axis: number; batchDims?: number }
      if (axis !== 0 || batchDims !== 0)
        throw new Error('the gradient of gather is defined for axis 0 without batchDims: transpose first')
      return {
        x: () => scatterRows(dy as Tensor, indices!, x!.shape),
        indices: () => zerosLike(cast(indices!, 'float32')),
      }
    },
  },
  Cumsum: {
    gradFunc: (dy, _saved, attributes) => {
      const { axis, exclusive, reverse } = attributes as {
        axis: number
        exclusive: boolean
        reverse: boolean
      }
      // By turning round: webgpu compiles a reversed cumsum for the first length it meets, and then uses it for all.
      const turned = (x: Tensor) => flip(x, axis)
      return {
        x: () =>
          reverse
            ? cumsum(dy as Tensor, axis, exclusive)
            : turned(cumsum(turned(dy as Tensor), axis, exclusive)),
      }
    },
  },
}

const zero = (x: Tensor) => zerosLike(cast(x, 'float32'))

// Comparisons and steps are flat almost everywhere: gradient 0 instead of tfjs's exception.
for (const kernelName of ['Greater', 'GreaterEqual', 'Less', 'LessEqual', 'Equal', 'NotEqual'])
  table[kernelName] = {
    inputsToSave: ['a', 'b'],
    gradFunc: (_dy, [a, b]) => ({ a: () => zero(a!), b: () => zero(b!) }),
  }
for (const kernelName of ['Floor', 'Ceil', 'Round', 'Sign', 'Step'])
  table[kernelName] = { inputsToSave: ['x'], gradFunc: (_dy, [x]) => ({ x: () => zero(x!) }) }

/** Registers the gradients once per realm. Idempotent; nothing is printed. */
export function registerGradients(): void {
  for (const [kernelName, config] of Object.entries(table)) {
    const present = getGradient(kernelName)
    if (present?.gradFunc === config.gradFunc) continue
    if (present !== undefined) {
      if (kernelName !== 'Cumsum' && kernelName !== 'Max') continue
      unregisterGradient(kernelName)
    }
    registerGradient({ kernelName, ...config })
  }
}

/** The kernels that `registerGradients` covers, for the gradient tests. */
export const kernelsWithGradient: readonly string[] = Object.keys(table)
