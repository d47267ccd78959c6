/**
 * Products by tiles, in WGSL. A workgroup computes a tile of the result, each thread quads of rows by quads of columns of
 * it in registers, and walks along the inner axis in steps through workgroup memory. Both factors stand there with the
 * inner axis outermost, as quads along rows and columns, so that one read brings four operands. What is copied there at
 * a time is a block of 4 × 4 values: four reads along whichever axis lies side by side, turned in registers where
 * that is the inner one. Quads are placed (`placed`) so that threads side by side meet different banks either way.
 */

import type { Ending } from '../ending'
import type { Shader, Uniform } from '../program'
import { matricesOf, type Product, widthsOf } from './product'

export interface Tiles {
  readonly kind: 'tiles'
  /** Of the result, by one workgroup. */
  readonly rows: number
  readonly columns: number
  /** Of the inner axis that is in workgroup memory at a time. */
  readonly inner: number
  /** Of the result, by one thread; multiples of four. */
  readonly perThread: readonly [rows: number, columns: number]
  /** Whether the next step's blocks are read while it computes: into a second half of workgroup memory, or to be held in
   * registers until the only one is free. */
  readonly ahead: false | 'halves' | 'registers'
}

export const threadsOf = ({ rows, columns, perThread }: Tiles) =>
  (rows / perThread[0]) * (columns / perThread[1])

/** Bytes of workgroup memory. */
export const bytesOf = ({ rows, columns, inner, ahead }: Tiles) =>
  (rows + columns) * inner * 4 * (ahead === 'halves' ? 2 : 1)

const letters = ['x', 'y', 'z', 'w'] as const
const upTo = (count: number) => Array.from({ length: count }, (_, i) => i)
const lines = (count: number, line: (i: number) => string) => upTo(count).map(line).join('\n')

/** Reads four values side by side of row `row` from `column` on; zeros beyond the matrix. */
const readQuad = (name: string, vector: boolean) => `
fn ${name}Quad(origin: i32, row: i32, column: i32, height: i32, width: i32) -> vec4<f32> {
  let at = origin + row * width + column;
  ${
    vector
      ? `return select(vec4<f32>(), ${name}[at / 4], (row < height) & (column < width));`
      : `let inside = vec4<bool>(
    column < width, column + 1 < width, column + 2 < width, column + 3 < width
  ) & vec4<bool>(row < height);
  return select(vec4<f32>(), vec4<f32>(${name}[at], ${name}[at + 1], ${name}[at + 2], ${name}[at + 3]), inside);`
  }
}`

/** Which matrix of the batch a product takes. */
export const originCode = `
fn originOf(batch: i32, steps: vec4<i32>) -> i32 {
  let sizes = uniforms.batch;
  let outer = batch / sizes.w;
  let first = outer / sizes.z;
  return dot(steps, vec4<i32>(first / sizes.y, first % sizes.y, outer % sizes.z, batch % sizes.w));
}`

export const productUniforms =
  'sizes: vec4<i32>, grid: vec4<i32>, batch: vec4<i32>, leftSteps: vec4<i32>, rightSteps: vec4<i32>, '

export const uniformsOf = (
  { rows, columns, inner, batch, left, right }: Product,
  perPart: number,
  grid: readonly number[],
): Uniform[] =>
  [[rows, columns, inner, perPart], grid, batch, left.steps, right.steps].map((data) => ({
    type: 'int32',
    data: [...data],
  }))

/** Which buffers of the product may be read or written by fours. */
export const vectorsOf = (product: Product): string[] =>
  Object.entries({ ...widthsOf(product), result: product.columns }).flatMap(([name, width]) =>
    width % 4 === 0 ? [name] : [],
  )

/** Writes the quad `value` of a row from `column` on, as far as the matrix goes. */
const writeQuad = (vector: boolean) => `
fn write(origin: i32, row: i32, column: i32, value: vec4<f32>) {
  let width = uniforms.sizes.y;
  if (row >= uniforms.sizes.x) { return; }
  let at = origin + row * width + column;
  ${
    vector
      ? 'if (column < width) { result[at / 4] = endingOfQuad(value, at - column, column); }'
      : lines(
          4,
          (j) =>
            `if (column + ${j} < width) { result[at + ${j}] = endingOf(value.${letters[j]}, at - column, column + ${j}); }`,
        )
  }
}`

interface Side {
  readonly name: 'left' | 'right'
  /** Rows or columns of the tile. */
  readonly size: number
  /** The inner axis lies side by side. */
  readonly alongInner: boolean
}

/**
 * Where a quad stands in its row of workgroup memory: threads that store blocks of different steps meet other banks. The
 * shader's compiler sees that it is within the row, and checks nothing.
 */
const placed = (quad: string, { rows, columns, inner }: Tiles, side: 'left' | 'right') => {
  const quads = (side === 'left' ? rows : columns) / 4
  return `((${quad} + step * ${Math.max(1, (4 * Math.min(8, quads)) / inner)}) % ${quads})`
}

/** Shader for a product of these tiles. Result: [parts, ...batch, rows, columns], each part of some of the inner axis. */
export function tilesShader(tiles: Tiles, product: Product, ending: Ending): Shader {
  const { rows, columns, inner, perThread, ahead } = tiles
  const threads = threadsOf(tiles)
  const vectors = vectorsOf(product)
  const sides: readonly [Side, Side] = [
    { name: 'left', size: rows, alongInner: !product.left.turned },
    { name: 'right', size: columns, alongInner: product.right.turned },
  ]
  return {
    key: `tiles/${[rows, columns, inner, ...perThread, ahead, ...sides.map((side) => side.alongInner), ...vectors].join()}${ending.key}`,
    inputs: ['left', 'right', ...ending.inputs],
    vectors,
    uniforms: productUniforms,
    threads,
    code: () => ending.code + tilesCode(tiles, sides, threads, vectors),
  }
}

function tilesCode(tiles: Tiles, sides: readonly [Side, Side], threads: number, vectors: readonly string[]) {
  const { rows, columns, inner, perThread, ahead } = tiles
  const steps = inner / 4
  const [left, right] = sides
  const blocksOf = ({ size }: Side) => (size / 4) * steps
  const total = blocksOf(left) + blocksOf(right)
  const turns = Math.ceil(total / threads)
  const [down, across] = [rows / perThread[0], columns / perThread[1]]
  const [quadsDown, quadsAcross] = [perThread[0] / 4, perThread[1] / 4]

  /** Blocks are dealt to the threads by turns, the left factor's first: what each does in a turn. */
  const eachTurn = (act: (side: Side, turn: number, block: string) => string) =>
    lines(turns, (turn) => {
      const [begin, end] = [turn * threads, (turn + 1) * threads]
      const cut = blocksOf(left)
      const id = `(local + ${begin})`
      const ofLeft = act(left, turn, id)
      const ofRight = act(right, turn, `(local + ${begin - cut})`)
      const bounded = end > total ? `if (local < ${total - begin}) {${ofRight}}` : `{${ofRight}}`
      if (end <= cut) return `{${ofLeft}}`
      if (begin >= cut) return bounded
      return `if (local < ${cut - begin}) {${ofLeft}} else ${bounded}`
    })
  const placeOf = ({ size, alongInner }: Side, block: string) =>
    alongInner
      ? `let step = ${block} % ${steps}; let quad = ${block} / ${steps};`
      : `let step = ${block} / ${size / 4}; let quad = ${block} % ${size / 4};`
  const read = eachTurn(({ name, ...side }, turn, block) => {
    const [height, width] = [name === 'left' ? 'uniforms.sizes.x' : 'uniforms.sizes.y', 'uniforms.sizes.z']
    const origin = `${name}Origin`
    const start = `${name}Start + quad * 4`
    return `
    ${placeOf({ name, ...side }, block)}
    ${lines(4, (j) =>
      side.alongInner
        ? `read${turn}_${j} = ${name}Quad(${origin}, ${start} + ${j}, at + step * 4, ${height}, ${width});`
        : `read${turn}_${j} = ${name}Quad(${origin}, at + step * 4 + ${j}, ${start}, ${width}, ${height});`,
    )}
    `
  })
  const store = (half: string) =>
    eachTurn((side, turn, block) => {
      const quads = side.size / 4
      return `
    ${placeOf(side, block)}
    let place = ${half} * ${inner * quads} + step * ${4 * quads} + ${placed('quad', tiles, side.name)};
    ${lines(4, (j) => {
      const value = side.alongInner
        ? `vec4<f32>(${upTo(4)
            .map((i) => `read${turn}_${i}.${letters[j]}`)
            .join(', ')})`
        : `read${turn}_${j}`
      return `${side.name}Tile[place + ${j * quads}] = ${value};`
    })}
    `
    })
  const quadOf = (i: number, axis: 'down' | 'across') =>
    `(${axis === 'down' ? `y + ${i * down}` : `x + ${i * across}`})`
  const compute = (half: string) => `
    for (var step = 0; step < ${steps}; step++) {
      ${lines(quadsDown, (i) => `let down${i} = ${half} * ${(inner * rows) / 4} + step * ${rows} + ${placed(quadOf(i, 'down'), tiles, 'left')};`)}
      ${lines(quadsAcross, (i) => `let across${i} = ${half} * ${(inner * columns) / 4} + step * ${columns} + ${placed(quadOf(i, 'across'), tiles, 'right')};`)}
      ${lines(
        4,
        (k) => `{
        ${lines(quadsDown, (i) => `let a${i} = leftTile[down${i} + ${(k * rows) / 4}];`)}
        ${lines(quadsAcross, (i) => `let b${i} = rightTile[across${i} + ${(k * columns) / 4}];`)}
        ${lines(perThread[0], (i) =>
          lines(
            quadsAcross,
            (j) => `sum${i}_${j} = fma(vec4<f32>(a${i >> 2}.${letters[i & 3]}), b${j}, sum${i}_${j});`,
          ),
        )}
      }`,
      )}
    }`
  const walks = {
    halves: `
  ${read}
  ${store('0')}
  workgroupBarrier();
  for (var n = 0; n < count; n++) {
    let half = i32(u32(n) % 2u);
    at += ${inner};
    if (n + 1 < count) {
      ${read}
    }
    ${compute('half')}
    if (n + 1 < count) {
      ${store('(1 - half)')}
    }
    workgroupBarrier();
  }`,
    registers: `
  ${read}
  for (var n = 0; n < count; n++) {
    ${store('0')}
    workgroupBarrier();
    at += ${inner};
    if (n + 1 < count) {
      ${read}
    }
    ${compute('0')}
    workgroupBarrier();
  }`,
    none: `
  for (var n = 0; n < count; n++) {
    ${read}
    ${store('0')}
    workgroupBarrier();
    ${compute('0')}
    at += ${inner};
    workgroupBarrier();
  }`,
  }
  return `
${sides.map(({ name, size }) => `var<workgroup> ${name}Tile: array<vec4<f32>, ${((size * inner) / 4) * (ahead === 'halves' ? 2 : 1)}>;`).join('\n')}
${readQuad('left', vectors.includes('left'))}
${readQuad('right', vectors.includes('right'))}
${writeQuad(vectors.includes('result'))}
${originCode}
fn main(index: i32) {
  let local = i32(localIndex);
  let grid = uniforms.grid;
  var rest = index / ${threads};
  let rightStart = rest % grid.y * ${columns};
  rest /= grid.y;
  let leftStart = rest % grid.x * ${rows};
  rest /= grid.x;
  let batch = rest % grid.z;
  let part = rest / grid.z;
  let leftOrigin = originOf(batch, uniforms.leftSteps);
  let rightOrigin = originOf(batch, uniforms.rightSteps);
  var at = part * uniforms.sizes.w;
  let count = uniforms.sizes.w / ${inner};
  ${threadPlace(down, across)}
  ${lines(turns, (turn) => lines(4, (j) => `var read${turn}_${j} = vec4<f32>();`))}
  ${lines(perThread[0], (i) => lines(quadsAcross, (j) => `var sum${i}_${j} = vec4<f32>();`))}
  ${walks[ahead || 'none']}
  if (part >= grid.w) { return; }
  let origin = (part * grid.z + batch) * uniforms.sizes.x * uniforms.sizes.y;
  ${lines(perThread[0], (i) =>
    lines(
      quadsAcross,
      (j) =>
        `write(origin, leftStart + ${quadOf(i >> 2, 'down')} * 4 + ${i & 3}, rightStart + ${quadOf(j, 'across')} * 4, sum${i}_${j});`,
    ),
  )}
}`
}

/** x and y of a thread: 32 of them stand 8 × 4 where they can, and so read few different quads. */
const threadPlace = (down: number, across: number) =>
  across % 8 === 0 && down % 4 === 0
    ? `
  let x = local % 8 + local / 32 % ${across / 8} * 8;
  let y = local / 8 % 4 + local / ${4 * across} * 4;`
    : `
  let x = local % ${across};
  let y = local / ${across};`

/** Values of the inner axis that each of `parts` parts takes: whole steps. */
export const perPartOf = ({ inner }: Tiles, product: Product, parts: number) =>
  Math.ceil(Math.ceil(product.inner / parts) / inner) * inner

export const gridOf = (tiles: Tiles, product: Product, parts: number) => [
  Math.ceil(product.rows / tiles.rows),
  Math.ceil(product.columns / tiles.columns),
  matricesOf(product),
  parts,
]
