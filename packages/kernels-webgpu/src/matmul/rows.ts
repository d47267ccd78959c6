/**
 * Products of a few rows, in WGSL, where reading the right factor is all that takes time: threads of a workgroup share
 * its inner axis, read what lies side by side, and add up what they have in workgroup memory.
 */

import type { Ending } from '../ending'
import type { Shader } from '../program'
import { matricesOf, type Product } from './product'
import { originCode, productUniforms, vectorsOf } from './tiles'

export interface Rows {
  readonly kind: 'rows'
  /** Of the result, by one workgroup. */
  readonly rows: 1 | 4
  /** What one workgroup computes of a row: columns, or quads of columns where those are read by fours. */
  readonly units: number
}

const rowThreads = 256

/** Columns of a unit: a quad where columns lie side by side and rows of them begin at multiples of four. */
export const unitOf = ({ right, columns }: Product) =>
  !right.turned && (right.float16 || columns % 4 === 0) ? 4 : 1

/** Threads read this many values, or quads, of the inner axis at once. */
const unrolled = 4

/** [rows, columns] of a result by these workgroups. */
export const rowsGridOf = ({ rows, units }: Rows, product: Product) => [
  Math.ceil(product.rows / rows),
  Math.ceil(product.columns / unitOf(product) / units),
  matricesOf(product),
  1,
]

/** Four values of a right factor in float16. WGSL knows these everywhere; only arithmetic in them needs a feature. */
const quadOfCode = `
fn quadOf(stored: vec2<i32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(bitcast<u32>(stored.x)), unpack2x16float(bitcast<u32>(stored.y)));
}`

/** @param several right factors of one shape, each with a result of its own: the matrices of the batch */
export function rowsShader(variant: Rows, product: Product, ending: Ending, several = 1): Shader {
  const { rows, units } = variant
  const { turned } = product.right
  const quads = unitOf(product) === 4
  /** The inner axis by fours: both factors have it side by side. */
  const alongInner = turned && !product.left.turned && product.inner % 4 === 0
  const float16 = product.right.float16 ?? false
  const vectors = vectorsOf(product).filter(
    (name) =>
      (name === 'left' && alongInner) ||
      (name === 'right' && (quads || alongInner) && !float16) ||
      (name === 'result' && quads),
  )
  const lanes = rowThreads / units
  const sum = quads ? 'vec4<f32>' : 'f32'
  const term = (r: number) => {
    if (alongInner) return `dot(left[(leftOrigin + (firstRow + ${r}) * inner) / 4 + k], b)`
    return `left[leftOrigin + (firstRow + ${r}) * rowStep + k * innerStep] * b`
  }
  const numbered = (name: string) =>
    several === 1 ? [name] : Array.from({ length: several }, (_, n) => name + n)
  const [factors, results] = [numbered('right'), numbered('result')]
  const place = quads
    ? 'rightOrigin / 4 + k * unitsAcross + unit'
    : turned
      ? alongInner
        ? '(rightOrigin + unit * inner) / 4 + k'
        : 'rightOrigin + unit * inner + k'
      : 'rightOrigin + k * width + unit'
  const rightAt = float16 ? `quadOf(rightOf(batch, ${place}))` : `rightOf(batch, ${place})`
  const stored = float16 ? 'vec2<i32>' : quads || alongInner ? 'vec4<f32>' : 'f32'
  const written = vectors.includes('result') ? 'vec4<f32>' : 'f32'
  const origin = several === 1 ? 'batch * uniforms.sizes.x * width' : '0'
  /** One of several by a number that is the same for a whole workgroup. */
  const choose = (each: (n: number) => string) =>
    Array.from({ length: several }, (_, n) =>
      n < several - 1 ? `if (n == ${n}) { ${each(n)} } else ` : `{ ${each(n)} }`,
    ).join('')
  const end = !quads
    ? 'write(batch, row + unit, endingOf(total, row, unit));'
    : vectors.includes('result')
      ? 'write(batch, row / 4 + unit, endingOfQuad(total, row, 4 * unit));'
      : 'for (var j = 4 * unit; j < min(4 * unit + 4, width); j++) { write(batch, row + j, endingOf(total[j % 4], row, j)); }'
  const all = Array.from({ length: rows }, (_, r) => r)
  return {
    key: `rows/${rows}/${units}/${product.left.turned}/${turned}/${vectors.join()}/${float16}${ending.key}${several === 1 ? '' : `/${several}`}`,
    inputs: ['left', ...factors, ...ending.inputs],
    results,
    vectors: [
      ...vectors,
      ...(vectors.includes('right') ? factors : []),
      ...(vectors.includes('result') ? results : []),
    ],
    pairs: float16 ? ['right'] : [],
    uniforms: productUniforms,
    threads: rowThreads,
    code: () => `
var<workgroup> sums: array<${sum}, ${rows * rowThreads}>;
${originCode}
${ending.code}
${float16 ? quadOfCode : ''}
fn rightOf(n: i32, at: i32) -> ${stored} { ${choose((n) => `return ${factors[n]}[at];`)} }
fn write(n: i32, at: i32, value: ${written}) { ${choose((n) => `${results[n]}[at] = value;`)} }
fn main(index: i32) {
  let local = i32(localIndex);
  let grid = uniforms.grid;
  let width = uniforms.sizes.y;
  let unitsAcross = ${quads ? '(width + 3) / 4' : 'width'};
  let inner = uniforms.sizes.z;
  var rest = index / ${rowThreads};
  ${turned ? `let lane = local % ${lanes}; let place = local / ${lanes};` : `let lane = local / ${units}; let place = local % ${units};`}
  let unit = rest % grid.y * ${units} + place;
  rest /= grid.y;
  let firstRow = rest % grid.x * ${rows};
  let batch = rest / grid.x;
  let leftOrigin = originOf(batch, uniforms.leftSteps);
  let rightOrigin = originOf(batch, uniforms.rightSteps);
  ${product.left.turned ? 'let rowStep = 1; let innerStep = uniforms.sizes.x;' : 'let rowStep = inner; let innerStep = 1;'}
  let count = inner${alongInner ? ' / 4' : ''};
  ${all.map((r) => `var sum${r} = ${sum}();`).join('\n')}
  for (var start = lane; start < count; start += ${unrolled * lanes}) {
    ${Array.from(
      { length: unrolled },
      (_, n) => `{
      let inside = start + ${n * lanes} < count;
      let k = min(start + ${n * lanes}, count - 1);
      let b = ${rightAt};
      ${all.map((r) => `sum${r} += select(${sum}(), ${term(r)}, inside);`).join('\n')}
    }`,
    ).join('\n')}
  }
  ${all.map((r) => `sums[${r * rowThreads} + place * ${lanes} + lane] = sum${r};`).join('\n')}
  workgroupBarrier();
  for (var half = ${lanes / 2}; half > 0; half /= 2) {
    if (lane < half) {
      let at = place * ${lanes} + lane;
      ${all.map((r) => `sums[${r * rowThreads} + at] += sums[${r * rowThreads} + at + half];`).join('\n')}
    }
    workgroupBarrier();
  }
  if ((lane > 0) | (unit >= unitsAcross) | (batch >= grid.z)) { return; }
  ${all
    .map(
      (r) => `if (firstRow + ${r} < uniforms.sizes.x) {
    let row = ${origin} + (firstRow + ${r}) * width;
    let total = sums[${r * rowThreads} + place * ${lanes}];
    ${end}
  }`,
    )
    .join('\n')}
}`,
  }
}
