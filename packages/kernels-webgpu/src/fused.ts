/**
 * The fused operations of @lethe/core (its `FusedKernels` says what each takes and returns) in WGSL. tfjs gives a program
 * one output, so an operation is as many dispatches as it has outputs, where plain operations are several times that. Each
 * declines, by returning nothing, for empty tensors and other dtypes; core's plain operations compute then.
 */
import type { DataType, KernelConfig, KernelFunc, Tensor } from '@tensorflow/tfjs-core'
import { float16Product, toFloat16 } from './matmul/float16'
import { run, runPerElement, sumOf, type Uniform } from './program'

type Inputs = Readonly<Record<string, Tensor>>
type Attributes = Readonly<Record<string, number>>
type Compute = (inputs: Inputs, attributes: Attributes) => Tensor[]

/** The inputs that are whole numbers; all others are float32. */
const dtypes: Readonly<Record<string, DataType>> = { targets: 'int32', age: 'int32', packed: 'int32' }

const kernel =
  (compute: Compute): KernelFunc =>
  ({ inputs, attrs }) => {
    const given = Object.entries(inputs as Inputs).filter(([, tensor]) => tensor !== undefined)
    const served = given.every(([name, { size, dtype }]) => size > 0 && dtype === (dtypes[name] ?? 'float32'))
    return served ? compute(Object.fromEntries(given), attrs as unknown as Attributes) : []
  }

const widthOf = ({ shape }: Tensor) => shape.at(-1)!
const rowsOf = (x: Tensor) => x.size / widthOf(x)
const perRow = ({ shape }: Tensor) => [...shape.slice(0, -1), 1]

const integers = (...data: number[]): Uniform => ({ type: 'int32', data })
const numbers = (...data: number[]): Uniform => ({ type: 'float32', data })

/** Computes each value by itself: `value` is an expression of `i`, its index, and of the uniforms `n` and `f`. */
function each(
  key: string,
  inputs: Inputs,
  into: readonly number[],
  value: string,
  { n = [], f = [], helpers = '' }: { n?: readonly number[]; f?: readonly number[]; helpers?: string } = {},
): Tensor {
  const four = (data: readonly number[]) => [...data, 0, 0, 0, 0].slice(0, 4)
  const names = Object.keys(inputs)
  return runPerElement(
    {
      key: `each/${key}/${names.join()}`,
      inputs: names,
      uniforms: 'n: vec4<i32>, f: vec4<f32>, ',
      code: () => `${helpers}
fn main(index: i32) {
  if (index >= i32(arrayLength(&result))) { return; }
  let i = index;
  let n = uniforms.n;
  let f = uniforms.f;
  result[index] = ${value};
}`,
    },
    {
      inputs: Object.values(inputs),
      into,
      uniforms: [integers(...four(n)), numbers(...four(f))],
    },
  )
}

const rowThreads = 64

/** Combines what the threads of a workgroup have in `sums`, for all of them. */
const combined = (combine: (a: string, b: string) => string) => `
  workgroupBarrier();
  for (var step = ${rowThreads / 2}; step > 0; step /= 2) {
    if (local < step) { sums[local] = ${combine('sums[local]', 'sums[local + step]')}; }
    workgroupBarrier();
  }`
const plus = (a: string, b: string) => `${a} + ${b}`
const max = (a: string, b: string) => `max(${a}, ${b})`
const added = combined(plus)

interface Row {
  /** Default: adds. */
  readonly combine?: typeof plus
  readonly start?: string
  /** Of the whole row, from its `total`. */
  readonly finish: string
  readonly f?: number
}

/** Combines a row's `value`s, expressions of `i` and `row`, into one number for each row. */
function reduceRows(key: string, inputs: Inputs, x: Tensor, value: string, how: Row): Tensor {
  const { combine = plus, start = '0.0', finish, f = 0 } = how
  const names = Object.keys(inputs)
  return run(
    {
      key: `rows/${key}/${names.join()}`,
      inputs: names,
      uniforms: 'width: i32, rows: i32, f: f32, ',
      threads: rowThreads,
      code: () => `
var<workgroup> sums: array<f32, ${rowThreads}>;
fn main(index: i32) {
  let row = index / ${rowThreads};
  let local = i32(localIndex);
  let width = uniforms.width;
  sums[local] = ${start};
  for (var k = local; k < width; k += ${rowThreads}) {
    let i = row * width + k;
    sums[local] = ${combine('sums[local]', value)};
  }
  ${combined(combine)}
  let total = sums[0];
  if ((local == 0) & (row < uniforms.rows)) { result[row] = ${finish}; }
}`,
    },
    {
      inputs: Object.values(inputs),
      into: perRow(x),
      workgroups: rowsOf(x),
      uniforms: [integers(widthOf(x)), integers(rowsOf(x)), numbers(f)],
    },
  )
}

const width = (x: Tensor) => ({ n: [widthOf(x)] })

const layerNorm: Compute = ({ x, scale, bias }, { epsilon }) => {
  const mean = reduceRows('mean', { x: x! }, x!, 'x[i]', { finish: 'total / f32(width)' })
  const inverse = reduceRows('deviation', { x: x!, mean }, x!, '(x[i] - mean[row]) * (x[i] - mean[row])', {
    finish: 'inverseSqrt(total / f32(width) + uniforms.f)',
    f: epsilon!,
  })
  const value = '(x[i] - mean[i / n.x]) * inverse[i / n.x] * scale[i % n.x] + bias[i % n.x]'
  const inputs = { x: x!, mean, inverse, scale: scale!, bias: bias! }
  return [each('layer-norm', inputs, x!.shape, value, width(x!)), mean, inverse]
}

const rmsNorm: Compute = ({ x, scale }, { epsilon }) => {
  const inverse = reduceRows('square', { x: x! }, x!, 'x[i] * x[i]', {
    finish: 'inverseSqrt(total / f32(width) + uniforms.f)',
    f: epsilon!,
  })
  const value = 'x[i] * inverse[i / n.x] * scale[i % n.x]'
  return [each('rms-norm', { x: x!, inverse, scale: scale! }, x!.shape, value, width(x!)), inverse]
}

/** dx, and dscale and dbias (of layer norm) as sums over rows. */
const normGradient: Compute = ({ dy, x, scale, mean, inverse }) => {
  const count = mean ? 2 : 1
  const size = widthOf(x!)
  const rows = rowsOf(x!)
  const inputs = { dy: dy!, x: x!, inverse: inverse!, ...(mean && { mean }) }
  const names = Object.keys(inputs)
  const normal = `(x[i] ${mean ? '- mean[row]' : ''}) * inverse[row]`
  const dx = run(
    {
      key: `norm-back/${names.join()}`,
      inputs: [...names, 'scale'],
      uniforms: 'width: i32, rows: i32, ',
      threads: rowThreads,
      code: () => `
var<workgroup> sums: array<f32, ${rowThreads}>;
fn main(index: i32) {
  let row = index / ${rowThreads};
  let local = i32(localIndex);
  let width = uniforms.width;
  var along = 0.0;
  var all = 0.0;
  for (var k = local; k < width; k += ${rowThreads}) {
    let i = row * width + k;
    along += dy[i] * scale[k] * ${normal};
    all += dy[i] * scale[k];
  }
  sums[local] = along;
  ${added}
  along = sums[0] / f32(width);
  workgroupBarrier();
  sums[local] = all;
  ${added}
  all = ${mean ? 'sums[0] / f32(width)' : '0.0'};
  if (row >= uniforms.rows) { return; }
  for (var k = local; k < width; k += ${rowThreads}) {
    let i = row * width + k;
    result[i] = inverse[row] * (dy[i] * scale[k] - all - ${normal} * along);
  }
}`,
    },
    {
      inputs: [...Object.values(inputs), scale!],
      into: x!.shape,
      workgroups: rows,
      uniforms: [integers(size), integers(rows)],
    },
  )
  // Rows are added in parts, so that there are threads enough, and then the parts.
  const perPart = 32
  const parts = Math.ceil(rows / perPart)
  const partial = runPerElement(
    {
      key: `norm-parts/${names.join()}`,
      inputs: names,
      uniforms: 'width: i32, rows: i32, ',
      code: () => `
fn main(index: i32) {
  if (index >= i32(arrayLength(&result))) { return; }
  let width = uniforms.width;
  let k = index % width;
  let kind = (index / width) % ${count};
  let begin = index / (width * ${count}) * ${perPart};
  var sum = 0.0;
  for (var row = begin; row < min(begin + ${perPart}, uniforms.rows); row++) {
    let i = row * width + k;
    sum += dy[i] * select(1.0, ${normal}, kind == 0);
  }
  result[index] = sum;
}`,
    },
    {
      inputs: Object.values(inputs),
      into: [parts, count, size],
      uniforms: [integers(size), integers(rows)],
    },
  )
  const total = (offset: number) =>
    sumOf(partial, [size], { count: parts, inner: size, pitch: count * size, offset })
  const gradients = [dx, total(0), ...(mean ? [total(size)] : [])]
  partial.dispose()
  return gradients
}

/** Abramowitz and Stegun, 7.1.26, as tfjs has it. */
const normal = `
fn erf(x: f32) -> f32 {
  let a = abs(x);
  let t = 1.0 / (1.0 + 0.3275911 * a);
  let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return sign(x) * (1.0 - p * exp(-a * a));
}
fn cumulative(x: f32) -> f32 { return 0.5 * (1.0 + erf(x * 0.7071067811865476)); }
fn density(x: f32) -> f32 { return 0.3989422804014327 * exp(-0.5 * x * x); }`

/** Without an overflow of e^-x, which WGSL leaves open. */
const sigmoid = `
fn sigmoid(x: f32) -> f32 {
  let e = exp(-abs(x));
  return select(e, 1.0, x >= 0.0) / (1.0 + e);
}`

/** The step of an optimiser, with the factor that not everybody gives. */
const moved = (factor: Tensor | undefined) =>
  `((${factor ? 'factor[0] * ' : ''}gradient[i]) + f.w * values[i])`

const computations: Readonly<Record<string, Compute>> = {
  LetheLayerNorm: layerNorm,
  LetheRmsNorm: rmsNorm,
  LetheLayerNormGradient: normGradient,
  LetheRmsNormGradient: normGradient,

  LetheGelu: ({ x }) => [each('gelu', { x: x! }, x!.shape, 'x[i] * cumulative(x[i])', { helpers: normal })],
  LetheGeluGradient: ({ dy, x }) => [
    each('gelu-back', { dy: dy!, x: x! }, x!.shape, 'dy[i] * (cumulative(x[i]) + x[i] * density(x[i]))', {
      helpers: normal,
    }),
  ],
  LetheSwiglu: ({ gate, x }) => [
    each('swiglu', { gate: gate!, x: x! }, x!.shape, 'gate[i] * sigmoid(gate[i]) * x[i]', {
      helpers: sigmoid,
    }),
  ],
  LetheSwigluGradient: ({ dy, gate, x }) => [
    each(
      'swiglu-gate',
      { dy: dy!, gate: gate!, x: x! },
      x!.shape,
      'dy[i] * x[i] * sigmoid(gate[i]) * (1.0 + gate[i] * (1.0 - sigmoid(gate[i])))',
      { helpers: sigmoid },
    ),
    each('swiglu', { gate: gate!, x: dy! }, x!.shape, 'gate[i] * sigmoid(gate[i]) * x[i]', {
      helpers: sigmoid,
    }),
  ],
  LetheReluGradient: ({ dy, y }) => [
    each('relu-back', { dy: dy!, y: y! }, y!.shape, 'select(0.0, dy[i], y[i] > 0.0)'),
  ],

  LetheCrossEntropy: ({ logits, targets }) => {
    const largest = reduceRows('largest', { logits: logits! }, logits!, 'logits[i]', {
      combine: max,
      start: '-3.4e38',
      finish: 'total',
    })
    const logTotal = reduceRows(
      'log-total',
      { logits: logits!, largest },
      logits!,
      'exp(logits[i] - largest[row])',
      { finish: 'log(total)' },
    )
    const logit = 'logits[i * n.x + clamp(targets[i], 0, n.x - 1)]'
    const loss = each(
      'cross-entropy',
      { logits: logits!, targets: targets!, largest, logTotal },
      perRow(logits!),
      `largest[i] + logTotal[i] - select(0.0, ${logit}, (targets[i] >= 0) & (targets[i] < n.x))`,
      width(logits!),
    )
    return [loss, largest, logTotal]
  },
  LetheCrossEntropyGradient: ({ logits, targets, largest, logTotal, scale }) => [
    each(
      'cross-entropy-back',
      { logits: logits!, targets: targets!, largest: largest!, logTotal: logTotal!, scale: scale! },
      logits!.shape,
      'scale[i / n.x] * (exp(logits[i] - largest[i / n.x] - logTotal[i / n.x]) - select(0.0, 1.0, targets[i / n.x] == i % n.x))',
      width(logits!),
    ),
  ],

  LetheRotate: ({ x, cosine, sine }, { back }) => {
    const [batch, heads, size, steps] = x!.shape as [number, number, number, number]
    const [tables, , half, angles] = cosine!.shape as [number, number, number, number]
    return [
      each(
        'rotate',
        { x: x!, cosine: cosine!, sine: sine! },
        x!.shape,
        'x[i] * cosine[angleOf(i)] + f.x * select(1.0, -1.0, isFirst(i)) * sine[angleOf(i)] * x[partnerOf(i)]',
        {
          n: [half, steps, (batch / tables) * heads, angles],
          f: [back ? -1 : 1, size],
          helpers: `
fn isFirst(i: i32) -> bool { return (i / uniforms.n.y) % (2 * uniforms.n.x) < uniforms.n.x; }
fn partnerOf(i: i32) -> i32 { return i + select(-1, 1, isFirst(i)) * uniforms.n.x * uniforms.n.y; }
fn angleOf(i: i32) -> i32 {
  let pair = (i / uniforms.n.y) % uniforms.n.x;
  let table = i / (uniforms.n.y * 2 * uniforms.n.x * uniforms.n.z);
  return (table * uniforms.n.x + pair) * uniforms.n.w + min(i % uniforms.n.y, uniforms.n.w - 1);
}`,
        },
      ),
    ]
  },

  LetheToFloat16: ({ x }) => [toFloat16(x!)],
  LetheFloat16Product: ({ x, packed }, { columns, transpose }) => {
    const y = float16Product(x!, packed!, columns!, Boolean(transpose))
    return y ? [y] : []
  },

  LetheSumSquares: ({ x }) => {
    const perPart = 1024
    const parts = Math.ceil(x!.size / perPart)
    return [
      run(
        {
          key: 'sum-squares',
          inputs: ['x'],
          uniforms: 'size: i32, parts: i32, ',
          threads: rowThreads,
          code: () => `
var<workgroup> sums: array<f32, ${rowThreads}>;
fn main(index: i32) {
  let part = index / ${rowThreads};
  let local = i32(localIndex);
  var sum = 0.0;
  for (var k = part * ${perPart} + local; k < min((part + 1) * ${perPart}, uniforms.size); k += ${rowThreads}) {
    sum += x[k] * x[k];
  }
  sums[local] = sum;
  ${added}
  if ((local == 0) & (part < uniforms.parts)) { result[part] = sums[0]; }
}`,
        },
        { inputs: [x!], into: [parts], workgroups: parts, uniforms: [integers(x!.size), integers(parts)] },
      ),
    ]
  },

  LetheAdam: ({ values, gradient, mean, square, factor }, attributes) => {
    const { beta1, beta2, rate, epsilon, decay, shrink } = attributes as Record<string, number>
    const given = { values: values!, gradient: gradient!, ...(factor && { factor }) }
    const step = moved(factor)
    const f = [beta1!, beta2!, 0, decay!]
    const { shape } = values!
    const newMean = each('adam-mean', { ...given, mean: mean! }, shape, `f.x * mean[i] + ${step}`, { f })
    const newSquare = each(
      'adam-square',
      { ...given, square: square! },
      shape,
      `f.y * square[i] + ${step} * ${step}`,
      { f },
    )
    const newValues = each(
      'adam-values',
      { values: values!, newMean, newSquare },
      shape,
      'f.x * values[i] - f.y * newMean[i] / (sqrt(newSquare[i]) + f.z)',
      { f: [shrink!, rate!, epsilon!] },
    )
    return [newValues, newMean, newSquare]
  },
  LetheAdagrad: ({ values, gradient, square, factor }, attributes) => {
    const { rate, epsilon, decay } = attributes as Record<string, number>
    const given = { values: values!, gradient: gradient!, ...(factor && { factor }) }
    const step = moved(factor)
    const { shape } = values!
    const f = [rate!, epsilon!, 0, decay!]
    const newSquare = each(
      'adagrad-square',
      { ...given, square: square! },
      shape,
      `square[i] + ${step} * ${step}`,
      { f },
    )
    const newValues = each(
      'adagrad-values',
      { ...given, newSquare },
      shape,
      `values[i] - f.x * ${step} / (sqrt(newSquare[i]) + f.y)`,
      { f },
    )
    return [newValues, newSquare]
  },
}

/** To be registered with tfjs, for its backend 'webgpu'. */
export const fusedKernels: readonly KernelConfig[] = Object.entries(computations).map(
  ([kernelName, compute]) => ({ kernelName, backendName: 'webgpu', kernelFunc: kernel(compute) }),
)
