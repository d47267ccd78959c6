/** Shaders that compute each row of a tensor with a workgroup: norms, and the cross entropy of logits. */
import type { Tensor } from '@tensorflow/tfjs-core'
import { runAll, type Shader, type Uniform } from './program'

export type Inputs = Readonly<Record<string, Tensor>>
export type Attributes = Readonly<Record<string, number>>
/** Of core's FusedKernels, which say what each takes and returns. Nothing where core's plain operations are to compute. */
export type Compute = (inputs: Inputs, attributes: Attributes) => Tensor[]

export const widthOf = ({ shape }: Tensor) => shape.at(-1)!
export const rowsOf = (x: Tensor) => x.size / widthOf(x)
const perRow = ({ shape }: Tensor) => [...shape.slice(0, -1), 1]

const integers = (...data: number[]): Uniform => ({ type: 'int32', data })
const numbers = (...data: number[]): Uniform => ({ type: 'float32', data })

/** Threads of a row. */
export const rowThreads = 64

interface Row {
  /** Names of tensors that are as wide as a row: read and written by fours where the width allows it. */
  readonly wide: readonly string[]
  readonly code: () => string
  readonly helpers?: string
}

/**
 * A shader over x's rows. `code` knows `row`, whether it is there (`inside`), `local`, the `width`, in values of a row
 * (`Value`, four numbers or one: `total` adds them up), and what reduce.ts has.
 */
export function byRows(
  x: Tensor,
  key: string,
  inputs: Inputs,
  results: readonly string[],
  { wide, code, helpers = '' }: Row,
): Shader {
  const quads = wide.length > 0 && widthOf(x) % 4 === 0
  const sizes = wide.length > 0 ? `/${valuesPerThread(x)}${quads ? '/quads' : ''}` : ''
  return {
    key: `${key}${sizes}/${Object.keys(inputs).join()}`,
    inputs: Object.keys(inputs),
    results,
    vectors: quads ? wide : [],
    uniforms: 'width: i32, rows: i32, f: f32, n: i32, ',
    threads: rowThreads,
    reduces: true,
    code: () => `
alias Value = ${quads ? 'vec4<f32>' : 'f32'};
fn total(value: Value) -> f32 { return ${quads ? 'dot(value, Value(1.0))' : 'value'}; }
${helpers}
fn main(index: i32) {
  let row = index / ${rowThreads};
  let local = i32(localIndex);
  let width = uniforms.width${quads ? ' / 4' : ''};
  let inside = row < uniforms.rows;
  ${code()}
}`,
  }
}

/** The uniforms of such a shader: the sizes of x, and numbers of its own. */
export const rowUniforms = (x: Tensor, f = 0, n = 0): Uniform[] => [
  integers(widthOf(x)),
  integers(rowsOf(x)),
  numbers(f),
  integers(n),
]

/** Values of a row that each thread has at most. */
const valuesPerThread = (x: Tensor) => Math.ceil(widthOf(x) / (widthOf(x) % 4 === 0 ? 4 : 1) / rowThreads)

/** Runs `code` for the `n`-th of a thread's values, number k of its row, which is number i of all. */
const eachValue = (x: Tensor, code: string) => `
  for (var n = 0; n < ${valuesPerThread(x)}; n++) {
    let k = local + n * ${rowThreads};
    if (k < width) {
      let i = row * width + k;
      ${code}
    }
  }`

/** A thread's values of a row, in registers where they are few. */
const held = (x: Tensor, ...names: readonly string[]) =>
  names.map((name) => `var ${name}: array<Value, ${valuesPerThread(x)}>;`).join(' ')

/** Beyond so many values of a thread there may be no room for them. */
const mostPerThread = 64

/** Layer norm where there is a bias, else RMS norm. */
export const norm: Compute = ({ x, scale, bias }, { epsilon }) => {
  if (valuesPerThread(x!) > mostPerThread) return []
  const inputs = { x: x!, scale: scale!, ...(bias && { bias }) }
  const statistics = bias ? ['mean', 'inverse'] : ['inverse']
  const code = () => `
  ${held(x!, 'own')}
  var sum = Value();
  ${eachValue(x!, `own[n] = x[i]; sum += ${bias ? 'own[n]' : 'own[n] * own[n]'};`)}
  ${
    bias
      ? `let middle = sumOfThreads(total(sum)) / f32(uniforms.width);
  var squares = Value();
  ${eachValue(x!, 'own[n] -= middle; squares += own[n] * own[n];')}`
      : 'let squares = sum;'
  }
  let factor = inverseSqrt(sumOfThreads(total(squares)) / f32(uniforms.width) + uniforms.f);
  if (!inside) { return; }
  if (local == 0) { ${bias ? 'mean[row] = middle;' : ''} inverse[row] = factor; }
  ${eachValue(x!, `y[i] = own[n] * factor * scale[k]${bias ? ' + bias[k]' : ''};`)}`
  return runAll(
    byRows(x!, 'norm', inputs, ['y', ...statistics], { wide: ['x', 'scale', 'bias', 'y'], code }),
    {
      inputs: Object.values(inputs),
      into: [x!.shape, ...statistics.map(() => perRow(x!))],
      workgroups: rowsOf(x!),
      uniforms: rowUniforms(x!, epsilon),
    },
  )
}

/** Rows of which a workgroup adds up the gradients of scale and bias. */
const rowsPerPart = 8

/** dx, and dscale and dbias (of layer norm) as sums over rows: in parts, so that there are threads enough, then of these. */
export const normGradient: Compute = ({ dy, x, scale, mean, inverse }) => {
  if (valuesPerThread(x!) > mostPerThread) return []
  const inputs = { dy: dy!, x: x!, scale: scale!, inverse: inverse!, ...(mean && { mean }) }
  const gradients = ['dscale', 'dbias'].slice(0, mean ? 2 : 1)
  const count = gradients.length
  const parts = Math.ceil(rowsOf(x!) / rowsPerPart)
  const code = () => `
  ${held(x!, 'scales', 'normal', 'weighted', ...gradients)}
  let part = row;
  ${eachValue(x!, 'scales[n] = scale[k];')}
  for (var m = 0; m < ${rowsPerPart}; m++) {
    let row = part * ${rowsPerPart} + m;
    let inside = row < uniforms.rows;
    let factor = inverse[row];
    var along = Value();
    var all = Value();
    ${eachValue(
      x!,
      `let change = select(Value(), dy[i], inside);
      normal[n] = select(Value(), (x[i]${mean ? ' - mean[row]' : ''}) * factor, inside);
      weighted[n] = change * scales[n];
      along += weighted[n] * normal[n];
      dscale[n] += change * normal[n];
      ${mean ? 'all += weighted[n]; dbias[n] += change;' : ''}`,
    )}
    ${
      mean
        ? 'let means = sumsOfThreads(vec2<f32>(total(along), total(all))) / f32(uniforms.width);'
        : 'let means = vec2<f32>(sumOfThreads(total(along)) / f32(uniforms.width), 0.0);'
    }
    if (inside) {
      ${eachValue(x!, 'dx[i] = factor * (weighted[n] - means.y - normal[n] * means.x);')}
    }
  }
  ${eachValue(x!, gradients.map((name, kind) => `partial[(part * ${count} + ${kind}) * width + k] = ${name}[n];`).join(' '))}`
  const [dx, partial] = runAll(
    byRows(x!, 'norm-back', inputs, ['dx', 'partial'], { wide: ['dy', 'x', 'scale', 'dx', 'partial'], code }),
    {
      inputs: Object.values(inputs),
      into: [x!.shape, [parts, count, widthOf(x!)]],
      workgroups: parts,
      uniforms: rowUniforms(x!),
    },
  ) as [Tensor, Tensor]
  const totals = totalsOf(partial, gradients)
  partial.dispose()
  return [dx, ...totals]
}

/** Sums over the parts of [parts, results, width]: columns side by side, each by several threads that take parts in turn. */
function totalsOf(partial: Tensor, results: readonly string[]): Tensor[] {
  const [columns, threads] = [16, 256]
  const [parts, count, width] = partial.shape as [number, number, number]
  return runAll(
    {
      key: `norm-totals/${count}`,
      inputs: ['partial'],
      results,
      uniforms: 'width: i32, parts: i32, ',
      threads,
      code: () => `
${results.map((name) => `var<workgroup> sums_${name}: array<f32, ${threads}>;`).join('\n')}
fn main(index: i32) {
  let local = i32(localIndex);
  let width = uniforms.width;
  let k = index / ${threads} * ${columns} + local % ${columns};
  ${results.map((name) => `var of_${name} = 0.0;`).join(' ')}
  if (k < width) {
    for (var part = local / ${columns}; part < uniforms.parts; part += ${threads / columns}) {
      let place = part * ${count} * width + k;
      ${results.map((name, kind) => `of_${name} += partial[place + ${kind} * width];`).join(' ')}
    }
  }
  ${results.map((name) => `sums_${name}[local] = of_${name};`).join(' ')}
  workgroupBarrier();
  if ((local >= ${columns}) | (k >= width)) { return; }
  for (var other = local + ${columns}; other < ${threads}; other += ${columns}) {
    ${results.map((name) => `of_${name} += sums_${name}[other];`).join(' ')}
  }
  ${results.map((name) => `${name}[k] = of_${name};`).join(' ')}
}`,
    },
    {
      inputs: [partial],
      into: results.map(() => [width]),
      workgroups: Math.ceil(width / columns),
      uniforms: [integers(width), integers(parts)],
    },
  )
}

/** -log softmax(logits)[target] of each row, and what its gradient needs of it. */
export const crossEntropy: Compute = ({ logits, targets }) => {
  const inputs = { logits: logits!, targets: targets! }
  const results = ['loss', 'largest', 'logTotal']
  const quads = widthOf(logits!) % 4 === 0
  const code = () => `
  var most = Value(-3.4e38);
  ${eachValue(logits!, 'most = max(most, logits[i]);')}
  let top = largestOfThreads(${quads ? 'max(max(most.x, most.y), max(most.z, most.w))' : 'most'});
  var sum = Value();
  ${eachValue(logits!, 'sum += exp(logits[i] - top);')}
  let logSum = log(sumOfThreads(total(sum)));
  if ((local > 0) | !inside) { return; }
  let chosen = targets[row];
  let known = clamp(chosen, 0, uniforms.width - 1);
  let logit = logits[${quads ? 'row * width + known / 4][known % 4' : 'row * width + known'}];
  largest[row] = top;
  logTotal[row] = logSum;
  loss[row] = top + logSum - select(0.0, logit, chosen == known);`
  return runAll(byRows(logits!, 'cross-entropy', inputs, results, { wide: ['logits'], code }), {
    inputs: Object.values(inputs),
    into: results.map(() => perRow(logits!)),
    workgroups: rowsOf(logits!),
    uniforms: rowUniforms(logits!),
  })
}
