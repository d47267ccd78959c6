/**
 * The fused operations of @lethe/core (its `FusedKernels` says what each takes and returns) in WGSL, most of them a single
 * dispatch: what small tensors take is the recording of commands. Each declines, by returning nothing, for empty tensors
 * and other dtypes; core's plain operations compute then.
 */
import {
  type DataType,
  type KernelConfig,
  type KernelFunc,
  type Tensor,
  tensor1d,
} from '@tensorflow/tfjs-core'
import { products, productWith } from './matmul'
import { float16Product, toFloat16 } from './matmul/float16'
import { mostBindings, type Result, run, runAll, takeOver, type Uniform } from './program'
import {
  type Attributes,
  byRows,
  type Compute,
  crossEntropy,
  type Inputs,
  norm,
  normGradient,
  rowsOf,
  rowThreads,
  rowUniforms,
  widthOf,
} from './rows'

/** The inputs that are whole numbers; all others are float32. */
const dtypes: Readonly<Record<string, DataType>> = {
  targets: 'int32',
  age: 'int32',
  packed: 'int32',
  place: 'int32',
}

const kernel =
  (compute: Compute): KernelFunc =>
  ({ inputs, attrs }) => {
    const given = Object.entries(inputs as Inputs).filter(([, tensor]) => tensor !== undefined)
    const served = given.every(([name, { size, dtype }]) => size > 0 && dtype === (dtypes[name] ?? 'float32'))
    return served ? compute(Object.fromEntries(given), attrs as unknown as Attributes) : []
  }

const integers = (...data: number[]): Uniform => ({ type: 'int32', data })
const numbers = (...data: number[]): Uniform => ({ type: 'float32', data })

interface Each {
  readonly n?: readonly number[]
  readonly f?: readonly number[]
  readonly helpers?: string
}

/**
 * Computes each value of some results of one shape by itself: expressions of `i`, its index, of the uniforms `n` and `f`,
 * and of the results before.
 */
function eachOf(
  key: string,
  inputs: Inputs,
  values: Readonly<Record<string, string>>,
  into: readonly number[],
  { n = [], f = [], helpers = '' }: Each = {},
): Tensor[] {
  const four = (data: readonly number[]) => [...data, 0, 0, 0, 0].slice(0, 4)
  const [names, results] = [Object.keys(inputs), Object.keys(values)]
  const size = into.reduce((product, length) => product * length, 1)
  return runAll(
    {
      key: `each/${key}/${names.join()}`,
      inputs: names,
      results,
      uniforms: 'n: vec4<i32>, f: vec4<f32>, ',
      threads: rowThreads,
      code: () => `${helpers}
fn main(i: i32) {
  if (i >= i32(arrayLength(&${results[0]}))) { return; }
  let n = uniforms.n;
  let f = uniforms.f;
  ${Object.entries(values)
    .map(([name, value]) => `${name}[i] = ${value};`)
    .join('\n  ')}
}`,
    },
    {
      inputs: Object.values(inputs),
      into: results.map(() => into),
      workgroups: Math.ceil(size / rowThreads),
      uniforms: [integers(...four(n)), numbers(...four(f))],
    },
  )
}

/** The same for one result. */
const each = (key: string, inputs: Inputs, into: readonly number[], result: string, how?: Each): Tensor =>
  eachOf(key, inputs, { result }, into, how)[0]!

/** Inputs by one name and the numbers from 0 on. */
function numbered(inputs: Inputs, name: string): Tensor[] {
  const tensors: Tensor[] = []
  for (let n = 0; inputs[name + n]; n++) tensors.push(inputs[name + n]!)
  return tensors
}

const inGroups = <T>(all: readonly T[], most: number): T[][] =>
  Array.from({ length: Math.ceil(all.length / most) }, (_, n) => all.slice(n * most, (n + 1) * most))

/**
 * Threads for several tensors in one dispatch, so many for each, whole workgroups of them: `each(code)` runs `code(n)` for
 * the tensor n that a thread belongs to, where it is the `i`-th.
 */
function segmentsOf(sizes: readonly number[]) {
  const ends: number[] = []
  let workgroups = 0
  for (const size of sizes) {
    workgroups += Math.ceil(size / rowThreads)
    ends.push(workgroups * rowThreads)
  }
  return {
    workgroups,
    declaration: sizes.map((_, n) => `threads${n}: i32, end${n}: i32, `).join(''),
    uniforms: sizes.flatMap((size, n) => [integers(size), integers(ends[n]!)]),
    each: (code: (n: number) => string) =>
      sizes
        .map((_, n) => {
          const begin = n === 0 ? '0' : `uniforms.end${n - 1}`
          return `if ((index >= ${begin}) & (index < uniforms.end${n})) {
    let i = index - ${begin};
    if (i < uniforms.threads${n}) { ${code(n)} }
  }`
        })
        .join('\n  '),
  }
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
  LetheLayerNorm: norm,
  LetheRmsNorm: norm,
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
  LetheSwigluGradient: ({ dy, gate, x }) =>
    eachOf(
      'swiglu-back',
      { dy: dy!, gate: gate!, x: x! },
      {
        dgate: 'dy[i] * x[i] * sigmoid(gate[i]) * (1.0 + gate[i] * (1.0 - sigmoid(gate[i])))',
        dx: 'gate[i] * sigmoid(gate[i]) * dy[i]',
      },
      x!.shape,
      { helpers: sigmoid },
    ),
  LetheReluGradient: ({ dy, y }) => [
    each('relu-back', { dy: dy!, y: y! }, y!.shape, 'select(0.0, dy[i], y[i] > 0.0)'),
  ],

  LetheCrossEntropy: crossEntropy,
  LetheCrossEntropyGradient: ({ logits, targets, largest, logTotal, scale }) => [
    each(
      'cross-entropy-back',
      { logits: logits!, targets: targets!, largest: largest!, logTotal: logTotal!, scale: scale! },
      logits!.shape,
      'scale[i / n.x] * (exp(logits[i] - largest[i / n.x] - logTotal[i / n.x]) - select(0.0, 1.0, targets[i / n.x] == i % n.x))',
      { n: [widthOf(logits!)] },
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

  LetheProduct: ({ a, b, bias, residual }, attributes) => {
    const product = productWith(
      { a: a!, b: b!, ...(bias && { bias }), ...(residual && { residual }) },
      attributes as unknown as Parameters<typeof productWith>[1],
    )
    return product ? [product] : []
  },
  LetheProducts: ({ x, ...weights }) => products(x!, Object.values(weights)) ?? [],

  LetheTakePlace: ({ ages, valid, worths }, { empty, among }) => {
    const inputs = { ages: ages!, valid: valid!, ...(worths && { worths }) }
    const batch = rowsOf(ages!)
    return runAll(
      byRows(ages!, 'take-place', inputs, ['newAges', 'newValid', 'place'], {
        wide: [],
        helpers: `var<workgroup> worth_: array<f32, ${rowThreads}>; var<workgroup> taken: array<i32, ${rowThreads}>;`,
        code: () => `
  var worth = 0.0;
  var mine = width;
  for (var k = local; k < uniforms.n; k += ${rowThreads}) {
    let i = row * width + k;
    let own = ${worths ? 'worths[i]' : '-(ages[i] + 1.0)'} - (1.0 - valid[i]) * uniforms.f;
    if ((mine == width) | (own < worth)) { worth = own; mine = k; }
  }
  worth_[local] = worth;
  taken[local] = mine;
  workgroupBarrier();
  for (var step = ${rowThreads / 2}; step > 0; step /= 2) {
    if (local < step) {
      let other = taken[local + step];
      let less = (worth_[local + step] < worth_[local]) | ((worth_[local + step] == worth_[local]) & (other < taken[local]));
      if ((other < width) & ((taken[local] == width) | less)) {
        worth_[local] = worth_[local + step];
        taken[local] = other;
      }
    }
    workgroupBarrier();
  }
  if (!inside) { return; }
  if (local == 0) { place[row] = taken[0]; }
  for (var k = local; k < width; k += ${rowThreads}) {
    let i = row * width + k;
    newAges[i] = select(ages[i] + 1.0, 0.0, k == taken[0]);
    newValid[i] = select(valid[i], 1.0, k == taken[0]);
  }`,
      }),
      {
        inputs: Object.values(inputs),
        into: [ages!.shape, ages!.shape, { shape: [batch], dtype: 'int32' }],
        workgroups: batch,
        uniforms: rowUniforms(ages!, empty, among),
      },
    )
  },
  LetheWriteSlot: ({ place, ...given }) => {
    const columns = numbered(given, 'column')
    const slots = numbered(given, 'x').map((x, n) => ({ x: takeOver(x), column: columns[n]! }))
    for (const some of inGroups(slots, Math.floor((mostBindings() - 1) / 2))) {
      const lines = some.map(({ column }) => column.size)
      const segments = segmentsOf(lines)
      runAll(
        {
          key: `write-slot/${some.length}`,
          inputs: ['place', ...some.map((_, n) => `column${n}`)],
          results: some.map((_, n) => `x${n}`),
          uniforms: `${segments.declaration}${some.map((_, n) => `width${n}: i32, lines${n}: i32, `).join('')}`,
          threads: rowThreads,
          code: () => `
fn main(index: i32) {
  ${segments.each((n) => `x${n}[i * uniforms.width${n} + place[i / uniforms.lines${n}]] = column${n}[i];`)}
}`,
        },
        {
          inputs: [place!, ...some.map(({ column }) => column)],
          into: some.map(({ x }) => x),
          workgroups: segments.workgroups,
          uniforms: [
            ...segments.uniforms,
            ...some.flatMap(({ x }, n) => [integers(widthOf(x)), integers(lines[n]! / place!.size)]),
          ],
        },
      )
    }
    return slots.map(({ x }) => x)
  },

  LetheSumSquares: (inputs) => {
    const perPart = 1024
    const tensors = Object.values(inputs)
    const partsOf = (x: Tensor) => Math.ceil(x.size / perPart)
    let into: Result = [tensors.reduce((total, x) => total + partsOf(x), 0)]
    let offset = 0
    for (const some of inGroups(tensors, mostBindings() - 1)) {
      // A workgroup for each part.
      const segments = segmentsOf(some.map((x) => partsOf(x) * rowThreads))
      into = run(
        {
          key: `sum-squares/${some.length}`,
          inputs: some.map((_, n) => `x${n}`),
          uniforms: `${segments.declaration}offset: i32, parts: i32, ${some.map((_, n) => `size${n}: i32, `).join('')}`,
          threads: rowThreads,
          reduces: true,
          code: () => `
fn main(index: i32) {
  let part = index / ${rowThreads};
  let local = i32(localIndex);
  var sum = 0.0;
  ${segments.each(
    (n) => `
    let begin = i / ${rowThreads} * ${perPart};
    for (var k = begin + local; k < min(begin + ${perPart}, uniforms.size${n}); k += ${rowThreads}) {
      sum += x${n}[k] * x${n}[k];
    }`,
  )}
  let all = sumOfThreads(sum);
  if ((local == 0) & (part < uniforms.parts)) { result[uniforms.offset + part] = all; }
}`,
        },
        {
          inputs: some,
          into,
          workgroups: segments.workgroups,
          uniforms: [
            ...segments.uniforms,
            integers(offset),
            integers(segments.workgroups),
            ...some.map((x) => integers(x.size)),
          ],
        },
      )
      offset += segments.workgroups
    }
    return [into as Tensor]
  },

  LetheAdamInParts: ({ mean, square, factor, ...given }, attributes) => {
    const { beta1, beta2, rate, epsilon, decay, shrink } = attributes as Record<string, number>
    const [newMean, newSquare] = [takeOver(mean!), takeOver(square!)]
    let first = 0
    const gradients = numbered(given, 'gradient')
    const parts = numbered(given, 'values').map((values, n) => {
      first += values.size
      return { values: takeOver(values), gradient: gradients[n]!, first: first - values.size }
    })
    // As a tensor: uniforms that change from step to step would be made anew for each dispatch.
    const attributesGiven = tensor1d([beta1!, beta2!, rate!, epsilon!, decay!, shrink!], 'float32')
    const shared = { attributes: attributesGiven, ...(factor && { factor }) }
    const bound = 2 + Object.keys(shared).length
    for (const some of inGroups(parts, Math.floor((mostBindings() - bound) / 2))) {
      const segments = segmentsOf(some.map(({ values }) => values.size))
      runAll(
        {
          key: `adam/${some.length}/${Object.keys(shared).join()}`,
          inputs: [...Object.keys(shared), ...some.map((_, n) => `gradient${n}`)],
          results: ['mean', 'square', ...some.map((_, n) => `values${n}`)],
          uniforms: `${segments.declaration}${some.map((_, n) => `first${n}: i32, `).join('')}`,
          threads: rowThreads,
          code: () => `
fn updated(value: f32, gradient: f32, at: i32) -> f32 {
  let step = ${factor ? 'factor[0] * ' : ''}gradient + attributes[4] * value;
  mean[at] = attributes[0] * mean[at] + step;
  square[at] = attributes[1] * square[at] + step * step;
  return attributes[5] * value - attributes[2] * mean[at] / (sqrt(square[at]) + attributes[3]);
}
fn main(index: i32) {
  ${segments.each((n) => `values${n}[i] = updated(values${n}[i], gradient${n}[i], uniforms.first${n} + i);`)}
}`,
        },
        {
          inputs: [...Object.values(shared), ...some.map(({ gradient }) => gradient)],
          into: [newMean, newSquare, ...some.map(({ values }) => values)],
          workgroups: segments.workgroups,
          uniforms: [...segments.uniforms, ...some.map(({ first }) => integers(first))],
        },
      )
    }
    attributesGiven.dispose()
    return [...parts.map(({ values }) => values), newMean, newSquare]
  },
  LetheAdagrad: ({ values, gradient, square, factor }, attributes) => {
    const { rate, epsilon, decay } = attributes as Record<string, number>
    return eachOf(
      'adagrad',
      { values: values!, gradient: gradient!, square: square!, ...(factor && { factor }) },
      {
        newSquare: `square[i] + ${moved(factor)} * ${moved(factor)}`,
        newValues: `values[i] - f.x * ${moved(factor)} / (sqrt(newSquare[i]) + f.y)`,
      },
      values!.shape,
      { f: [rate!, epsilon!, 0, decay!] },
    ).reverse()
  },
}

/** To be registered with tfjs, for its backend 'webgpu'. */
export const fusedKernels: readonly KernelConfig[] = Object.entries(computations).map(
  ([kernelName, compute]) => ({ kernelName, backendName: 'webgpu', kernelFunc: kernel(compute) }),
)
