/** The matrix product beside sums in float64, on Chromium's software driver. */
import { existsSync } from 'node:fs'
import { type BackendInfo, disposeBackend, useBackend } from '@lethe/backends'
import {
  getKernel,
  type KernelConfig,
  matMul,
  memory,
  registerKernel,
  type Tensor,
  tensor,
  unregisterKernel,
} from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { batchMatMul, matMulVariants } from '.'
import { variantsFor } from './choose'
import { productOf } from './product'
import { bytesOf, threadsOf } from './tiles'

const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'
const missing = !existsSync(softwareVulkan)

type Sizes = readonly number[]
interface Case {
  readonly rows: number
  readonly inner: number
  readonly columns: number
  /** Of each factor: T where it is transposed. */
  readonly turned: 'NN' | 'NT' | 'TN' | 'TT'
  readonly batchA?: Sizes
  readonly batchB?: Sizes
}

const sizeOf = (shape: Sizes) => shape.reduce((product, size) => product * size, 1)

/** Values around 0 without a pattern that tiles could share. */
const wave = (size: number, phase: number) =>
  Float32Array.from({ length: size }, (_, i) => Math.sin(1.7 * i + phase) + Math.cos(0.31 * i * phase))

/** Which matrix of `own` stands at a place of `batch`. */
function matrixAt(place: number, batch: Sizes, own: Sizes): number {
  let [rest, matrix, step] = [place, 0, 1]
  for (let axis = batch.length - 1; axis >= 0; axis--) {
    const size = own[axis - batch.length + own.length] ?? 1
    matrix += size === 1 ? 0 : (rest % batch[axis]!) * step
    step *= size
    rest = Math.floor(rest / batch[axis]!)
  }
  return matrix
}

function prepare({ rows, inner, columns, turned, batchA = [], batchB = [] }: Case) {
  const [turnedA, turnedB] = [turned[0] === 'T', turned[1] === 'T']
  const shapeA = [...batchA, ...(turnedA ? [inner, rows] : [rows, inner])]
  const shapeB = [...batchB, ...(turnedB ? [columns, inner] : [inner, columns])]
  const [a, b] = [wave(sizeOf(shapeA), 1), wave(sizeOf(shapeB), 2)]
  const rank = Math.max(batchA.length, batchB.length)
  const batch = Array.from({ length: rank }, (_, axis) =>
    Math.max(batchA[axis - rank + batchA.length] ?? 1, batchB[axis - rank + batchB.length] ?? 1),
  )
  const expected = new Float64Array(sizeOf(batch) * rows * columns)
  for (let place = 0; place < sizeOf(batch); place++) {
    const startA = matrixAt(place, batch, batchA) * rows * inner
    const startB = matrixAt(place, batch, batchB) * inner * columns
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) {
        let sum = 0
        for (let k = 0; k < inner; k++)
          sum +=
            a[startA + (turnedA ? k * rows + row : row * inner + k)]! *
            b[startB + (turnedB ? column * inner + k : k * columns + column)]!
        expected[(place * rows + row) * columns + column] = sum
      }
  }
  return {
    a: tensor(a, shapeA),
    b: tensor(b, shapeB),
    turnedA,
    turnedB,
    shape: [...batch, rows, columns],
    expected,
  }
}

const nameOf = ({ rows, inner, columns, turned, batchA, batchB }: Case) =>
  `${rows} × ${inner} × ${columns} ${turned}${batchA ? `, [${batchA}] and [${batchB}]` : ''}`

/** Compiling a shader takes a second here, so each of these meets as many of the code's ways as it can. */
const cases: Case[] = [
  { rows: 33, inner: 41, columns: 22, turned: 'TT', batchA: [1], batchB: [2] },
  { rows: 40, inner: 600, columns: 68, turned: 'TN' },
  { rows: 70, inner: 65, columns: 51, turned: 'NT' },
  { rows: 12, inner: 20, columns: 36, turned: 'NN', batchA: [2, 1], batchB: [1, 3] },
  { rows: 1, inner: 100, columns: 40, turned: 'NN' },
  { rows: 24, inner: 68, columns: 1, turned: 'TT', batchA: [1], batchB: [3] },
  { rows: 1, inner: 1500, columns: 37, turned: 'NT' },
]

const sizes = [
  { rows: 130, inner: 136, columns: 132 },
  { rows: 67, inner: 35, columns: 69 },
  { rows: 16, inner: 530, columns: 20 },
  { rows: 6, inner: 300, columns: 36, batchA: [2, 1, 3, 1], batchB: [4, 1, 2] },
  { rows: 9, inner: 7, columns: 1, batchA: [2], batchB: [1] },
]
const everything: Case[] = sizes.flatMap((size) =>
  (['NN', 'NT', 'TN', 'TT'] as const).map((turned) => ({ ...size, turned })),
)

/** Of values around 1, added in float32. */
const largestError = 2e-4

test('every tile fits what every device has', () => {
  const factor = (shape: number[]) => ({ shape })
  const { product } = productOf(factor([100, 5000]), factor([5000, 100]), false, false)
  const tiles = variantsFor(product).filter((variant) => variant.kind === 'tiles')
  expect(tiles.length).toBeGreaterThan(10)
  for (const one of tiles) {
    expect(bytesOf(one)).toBeLessThanOrEqual(16_384)
    expect(threadsOf(one)).toBeLessThanOrEqual(256)
  }
})

describe.skipIf(missing)('matrix product on webgpu', () => {
  let info: BackendInfo
  let stock: KernelConfig

  beforeAll(async () => {
    info = await useBackend('webgpu', { softwareVulkan })
    stock = getKernel('BatchMatMul', 'webgpu')
    unregisterKernel('BatchMatMul', 'webgpu')
    registerKernel({ ...stock, kernelFunc: batchMatMul(stock.kernelFunc) })
  })
  afterAll(async () => {
    unregisterKernel('BatchMatMul', 'webgpu')
    registerKernel(stock)
    await disposeBackend()
  })

  async function expectProduct(result: Tensor, shape: Sizes, expected: Float64Array) {
    expect(result.shape).toEqual(shape)
    const values = await result.data()
    result.dispose()
    info.throwIfFailed()
    expect(values.length).toBe(expected.length)
    expect(Math.max(...expected.map((value, i) => Math.abs(values[i]! - value)))).toBeLessThan(largestError)
  }

  test.each(cases.map((one) => [nameOf(one), one] as const))('%s', async (_, one) => {
    const before = memory().numTensors
    const { a, b, turnedA, turnedB, shape, expected } = prepare(one)
    await expectProduct(matMul(a, b, turnedA, turnedB), shape, expected)
    a.dispose()
    b.dispose()
    expect(memory().numTensors).toBe(before)
  })

  test('whole numbers stay with tfjs, and an empty inner axis gives zeros', async () => {
    const whole = matMul(tensor([[2, 3]], [1, 2], 'int32'), tensor([[4], [5]], [2, 1], 'int32'))
    expect([whole.dtype, ...(await whole.data())]).toEqual(['int32', 23])
    const zeros = matMul(tensor([], [2, 0]), tensor([], [0, 3]))
    expect([zeros.shape, ...(await zeros.data())]).toEqual([[2, 3], 0, 0, 0, 0, 0, 0])
    expect(matMul(tensor([], [0, 2]), tensor([1, 2], [2, 1])).shape).toEqual([0, 1])
  })

  test.skipIf(!process.env.LETHE_TEST_EVERYTHING).each(everything.map((one) => [nameOf(one), one] as const))(
    'every variant: %s',
    { timeout: 600_000 },
    async (_, one) => {
      const { a, b, turnedA, turnedB, shape, expected } = prepare(one)
      for (const { multiply } of matMulVariants(a, b, turnedA, turnedB))
        await expectProduct(multiply(), shape, expected)
      a.dispose()
      b.dispose()
    },
  )
})
