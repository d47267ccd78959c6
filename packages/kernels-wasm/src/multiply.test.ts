/** Products against float64 loops, both builds, in a memory full of NaN: whatever is read or written wrongly shows. */
import { expect, test } from 'vitest'
import { type Kernels, loadKernels, type Matrix, supportedBuilds } from './index'

const sizes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 63, 64, 65, 130, 257]
const page = 65536
/** Values left alone before and behind each result. */
const guard = 16

let state = 1
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return state / 2 ** 31 - 1
}

/** A memory of its own with `bytes` to use, poisoned; the kernels' working space too. */
function bench(relaxed: boolean, bytes: number, from = 0) {
  const memory = new WebAssembly.Memory({ initial: Math.ceil((from + bytes) / page) + 24, maximum: 65536 })
  let next = from + 16
  const allocate = (size: number) => {
    const at = next
    next += Math.ceil(size / 16) * 16
    new Float32Array(memory.buffer, at, Math.ceil(size / 4)).fill(Number.NaN)
    return at
  }
  const kernels = loadKernels(memory, allocate, { relaxed }) as Kernels
  expect(kernels.relaxed).toBe(relaxed)
  return { memory, allocate, kernels }
}

/** A matrix [rows, columns], stored as it is or transposed, each line followed by `padding` values of NaN. */
function store(
  memory: WebAssembly.Memory,
  at: number,
  values: Float32Array,
  rows: number,
  columns: number,
  turned: boolean,
  padding: number,
): Matrix {
  const step = (turned ? rows : columns) + padding
  const view = new Float32Array(memory.buffer, at, (turned ? columns : rows) * step).fill(Number.NaN)
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      view[turned ? column * step + row : row * step + column] = values[row * columns + column]!
  return turned ? { at, rowStep: 1, columnStep: step } : { at, rowStep: step, columnStep: 1 }
}

/** The product in float64, and the same of absolute values, to which rounding errors are proportional. */
function oracle(left: Float32Array, right: Float32Array, rows: number, columns: number, inner: number) {
  const product = new Float64Array(rows * columns)
  const scale = new Float64Array(rows * columns)
  for (let row = 0; row < rows; row++)
    for (let k = 0; k < inner; k++) {
      const x = left[row * inner + k]!
      for (let column = 0; column < columns; column++) {
        const term = x * right[k * columns + column]!
        product[row * columns + column]! += term
        scale[row * columns + column]! += Math.abs(term)
      }
    }
  return { product, scale }
}

type Place = ReturnType<typeof bench> & { left: number; right: number; out: number }

function place(relaxed: boolean, room: number, from?: number): Place {
  const base = bench(relaxed, 3 * 4 * room + 2_000_000, from)
  const [left, right, out] = [0, 1, 2].map(() => base.allocate(4 * room)) as [number, number, number]
  return { ...base, left, right, out }
}

/** One size, all transposes: the largest error, in units of what float32 may be off. */
function worstOf(at: Place, rows: number, columns: number, inner: number, padding: number): number {
  const left = Float32Array.from({ length: rows * inner }, random)
  const right = Float32Array.from({ length: inner * columns }, random)
  const { product, scale } = oracle(left, right, rows, columns, inner)
  const tolerance = 2 ** -23 * (2 + Math.sqrt(inner))
  let worst = 0
  for (const turnedLeft of [false, true]) {
    for (const turnedRight of [false, true]) {
      const a = store(at.memory, at.left, left, rows, inner, turnedLeft, padding)
      const b = store(at.memory, at.right, right, inner, columns, turnedRight, padding)
      const around = new Float32Array(at.memory.buffer, at.out, rows * columns + 2 * guard).fill(Number.NaN)
      at.kernels.multiply(a, b, at.out + 4 * guard, rows, columns, inner)
      for (let i = 0; i < product.length; i++) {
        const error = Math.abs(around[guard + i]! - product[i]!) / (tolerance * scale[i]!)
        if (!(error <= worst)) worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error
      }
      for (let i = 0; i < guard; i++)
        if (!Number.isNaN(around[i]! + around[around.length - 1 - i]!)) worst = Number.POSITIVE_INFINITY
    }
  }
  return worst
}

const builds = supportedBuilds()

for (const relaxed of [false, true]) {
  const name = relaxed ? 'relaxed' : 'plain'
  const runs = test.skipIf(!builds[name])

  for (const padding of [0, 3]) {
    runs(`${name}: all sizes and transposes, rows ${padding ? 'padded' : 'dense'}`, () => {
      const at = place(relaxed, 257 * 260 + 2 * guard)
      const failed: string[] = []
      for (const rows of sizes)
        for (const columns of sizes)
          for (const inner of sizes) {
            if (padding > 0 && Math.max(rows, columns, inner) > 65) continue
            const worst = worstOf(at, rows, columns, inner, padding)
            if (!(worst < 1)) failed.push(`${rows} x ${columns} x ${inner}: ${worst}`)
          }
      expect(failed).toEqual([])
    })
  }

  runs(`${name}: several blocks in every direction`, () => {
    const at = place(relaxed, 2100 * 530)
    for (const [rows, columns, inner] of [
      [3, 2070, 515],
      [16, 1100, 300],
      [17, 1100, 300],
      [200, 1030, 513],
    ] as const)
      expect(worstOf(at, rows, columns, inner, 0)).toBeLessThan(1)
  })

  runs(`${name}: after the memory has grown, and beyond 2 GiB`, () => {
    const at = place(relaxed, 70 * 70)
    at.memory.grow(16)
    expect(worstOf(at, 66, 67, 65, 0)).toBeLessThan(1)
    const far = place(relaxed, 70 * 70, 2 ** 31 + page)
    for (const rows of [1, 3, 8, 66]) expect(worstOf(far, rows, 67, 65, 0)).toBeLessThan(1)
  })

  runs(`${name}: a product with a column of one and with an inner size of one`, () => {
    const at = place(relaxed, 4096)
    expect(worstOf(at, 1, 1, 1000, 0)).toBeLessThan(1)
    expect(worstOf(at, 1000, 1, 1, 0)).toBeLessThan(1)
  })
}

test('the relaxed build is taken where the engine has it, and refused where it has not', () => {
  const memory = () => new WebAssembly.Memory({ initial: 40 })
  expect(loadKernels(memory(), () => 16)?.relaxed).toBe(builds.relaxed)
  expect(loadKernels(memory(), () => 16, { relaxed: true }) !== undefined).toBe(builds.relaxed)
})

test('a memory without room is refused', () => {
  expect(() => loadKernels(new WebAssembly.Memory({ initial: 1 }), () => 0)).toThrow(RangeError)
})
