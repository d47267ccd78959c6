/** Every replaced kernel against the cpu backend, and proof that nothing leaks and nothing stale is used. */
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { BackendError, disposeBackend, patchWasmBackend, useBackend } from '../index'
import type { WasmBackend } from './heap'
import { kernelsOf } from './kernels'

let state = 1
/** Reproducible numbers in [-1, 1). */
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return state / 2 ** 31 - 1
}
const randomValues = (size: number) => Float32Array.from({ length: size }, random)

beforeAll(async () => {
  await useBackend('cpu')
  await useBackend('wasm')
})

afterAll(() => disposeBackend())

/** Runs the same on cpu and wasm, and compares values, shape and dtype. */
async function same(compute: () => tf.Tensor, tolerance = 1e-5) {
  const results: { shape: number[]; dtype: string; values: ArrayLike<number> }[] = []
  for (const backend of ['cpu', 'wasm']) {
    await tf.setBackend(backend)
    const tensor = tf.tidy(compute)
    results.push({ shape: tensor.shape, dtype: tensor.dtype, values: tensor.dataSync() as Float32Array })
    tensor.dispose()
  }
  const [cpu, wasm] = results
  expect(wasm!.shape).toEqual(cpu!.shape)
  expect(wasm!.dtype).toEqual(cpu!.dtype)
  let worst = 0
  for (let i = 0; i < cpu!.values.length; i++) {
    const difference = Math.abs(cpu!.values[i]! - wasm!.values[i]!)
    worst = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(worst, difference)
  }
  expect(worst).toBeLessThan(tolerance)
}

const wasm = () => tf.backend() as unknown as WasmBackend & { numDataIds(): number }

/** Runs `work` often and expects nothing to be left over: tensors, data, heap. */
async function leaksNothing(work: () => void) {
  await tf.setBackend('wasm')
  for (let i = 0; i < 20; i++) tf.tidy(work) // let the heap reach its size
  const before = {
    tensors: tf.memory().numTensors,
    data: wasm().numDataIds(),
    heap: wasm().wasm.HEAPU8.length,
  }
  for (let i = 0; i < 1000; i++) tf.tidy(work)
  const after = {
    tensors: tf.memory().numTensors,
    data: wasm().numDataIds(),
    heap: wasm().wasm.HEAPU8.length,
  }
  expect(after).toEqual(before)
}

describe.each([
  ['our own kernels', true],
  ['XNNPACK', false],
])('BatchMatMul through %s', (_, kernels) => {
  beforeAll(() => void patchWasmBackend({ kernels }))
  afterAll(() => void patchWasmBackend({ kernels: true }))

  test('that is what computes', async () => {
    await tf.setBackend('wasm')
    expect(kernelsOf(wasm()) !== undefined).toBe(kernels)
  })

  const sizes = [
    [1, 1, 1],
    [1, 5, 17],
    [17, 5, 1],
    [3, 1, 5],
    [5, 3, 17],
    [17, 64, 3],
    [64, 17, 33],
    [33, 65, 64],
    [64, 64, 64],
    [128, 16, 80],
    [1, 300, 200],
    [2, 300, 200],
    [200, 300, 1],
  ] as const
  const batches = [
    [[], []],
    [[1], [1]],
    [[3], [3]],
    [[1], [3]],
    [[3], [1]],
    [
      [2, 3],
      [2, 3],
    ],
    [
      [1, 1],
      [2, 3],
    ],
    [[3], [2, 3]],
  ] as const
  for (const [batchA, batchB] of batches) {
    test(`batches [${batchA}] and [${batchB}], all transposes and sizes`, async () => {
      for (const [rows, inner, columns] of sizes) {
        for (const transposeA of [false, true]) {
          for (const transposeB of [false, true]) {
            const shapeA: number[] = [...batchA, ...(transposeA ? [inner, rows] : [rows, inner])]
            const shapeB: number[] = [...batchB, ...(transposeB ? [columns, inner] : [inner, columns])]
            const a = randomValues(shapeA.reduce((x, y) => x * y, 1))
            const b = randomValues(shapeB.reduce((x, y) => x * y, 1))
            await same(
              () => tf.matMul(tf.tensor(a, shapeA), tf.tensor(b, shapeB), transposeA, transposeB),
              1e-4,
            )
          }
        }
      }
    })
  }

  test('broadcasting in the middle equals tiling (tfjs itself gets this wrong)', async () => {
    const a = randomValues(2 * 1 * 20 * 30)
    const b = randomValues(3 * 30 * 40)
    await tf.setBackend('wasm')
    const [broadcast, tiled] = tf.tidy(() => {
      const left = tf.tensor(a, [2, 1, 20, 30])
      const right = tf.tensor(b, [1, 3, 30, 40])
      return [tf.matMul(left, right), tf.matMul(tf.tile(left, [1, 3, 1, 1]), tf.tile(right, [2, 1, 1, 1]))]
    }) as [tf.Tensor, tf.Tensor]
    expect(broadcast.shape).toEqual([2, 3, 20, 40])
    expect(broadcast.dataSync()).toEqual(tiled.dataSync())
    tf.dispose([broadcast, tiled])
  })

  test('nothing to sum gives zeros, and an empty batch nothing', async () => {
    await same(() => tf.matMul(tf.zeros([2, 3, 0]), tf.zeros([2, 0, 4])))
    await same(() => tf.matMul(tf.zeros([0, 3, 2]), tf.zeros([0, 2, 4])))
  })

  test('nothing is left of what was in the memory of the result before', async () => {
    await tf.setBackend('wasm')
    for (const [rows, inner, columns] of [...sizes, [130, 300, 70] as const]) {
      const [a, b] = [tf.ones([rows, inner]), tf.ones([inner, columns])]
      // The next tensor of the same size gets the memory of the last one that was freed.
      tf.fill([rows, columns], Number.NaN).dispose()
      const product = tf.matMul(a, b)
      expect(new Set(product.dataSync())).toEqual(new Set([inner]))
      tf.dispose([a, b, product])
    }
  })

  test('the same data as right operand in two shapes', async () => {
    const b = randomValues(64 * 128)
    const left = randomValues(32 * 128)
    await tf.setBackend('wasm')
    tf.tidy(() => {
      const wide = tf.tensor(b, [64, 128])
      const tall = tf.reshape(wide, [128, 64])
      const first = tf.matMul(tf.tensor(left.slice(0, 32 * 64), [32, 64]), wide).dataSync()
      const second = tf.matMul(tf.tensor(left, [32, 128]), tall).dataSync()
      const fresh = tf.matMul(tf.tensor(left, [32, 128]), tf.tensor(b.slice(), [128, 64])).dataSync()
      expect(first.length).toBe(32 * 128)
      expect(second).toEqual(fresh)
    })
  })

  test('a variable changed in place', async () => {
    await tf.setBackend('wasm')
    const variable = tf.variable(tf.tensor(randomValues(64 * 64), [64, 64]))
    tf.tidy(() => {
      const left = tf.tensor(randomValues(64 * 64), [64, 64])
      tf.matMul(left, variable)
      const { memoryOffset } = wasm().dataIdMap.get(variable.dataId)
      wasm().wasm.HEAPF32.fill(2, memoryOffset / 4, memoryOffset / 4 + 64 * 64)
      const changed = tf.matMul(left, variable).dataSync()
      expect(changed).toEqual(tf.matMul(left, tf.fill([64, 64], 2)).dataSync())
    })
    variable.dispose()
  })

  test('the heap grows under a product', async () => {
    await tf.setBackend('wasm')
    const a = tf.tensor(randomValues(4 * 96 * 64), [4, 96, 64])
    const b = tf.tensor(randomValues(4 * 80 * 64), [4, 80, 64])
    const expected = tf.matMul(a, b, false, true)
    const before = wasm().wasm.HEAPU8.length
    const held: tf.Tensor[] = []
    while (wasm().wasm.HEAPU8.length === before) {
      held.push(tf.zeros([500_000]))
      const now = tf.matMul(a, b, false, true)
      expect(now.dataSync()).toEqual(expected.dataSync())
      now.dispose()
    }
    tf.dispose([a, b, expected, ...held])
  })

  test('int32 is refused, as by tfjs', async () => {
    await tf.setBackend('wasm')
    expect(() => tf.tidy(() => tf.matMul(tf.ones([2, 2], 'int32'), tf.ones([2, 2], 'int32')))).toThrow(
      /float32/,
    )
  })

  test('inner sizes that differ are refused', async () => {
    expect(() => tf.tidy(() => tf.matMul(tf.ones([2, 3]), tf.ones([2, 3])))).toThrow(/inner shapes/)
  })

  test('1,000 products of every plan leave nothing behind', async () => {
    await tf.setBackend('wasm')
    const small = tf.tensor(randomValues(4 * 8 * 8), [4, 8, 8])
    const tall = tf.tensor(randomValues(4 * 64 * 48), [4, 64, 48])
    const shared = tf.tensor(randomValues(48 * 48), [1, 48, 48])
    await leaksNothing(() => {
      tf.matMul(small, small, true)
      tf.matMul(tall, tall, true)
      tf.matMul(tall, tall, false, true)
      tf.matMul(shared, tall, true, true)
      tf.matMul(tall, shared)
    })
    tf.dispose([small, tall, shared])
  })
})

describe('a heap without room', () => {
  test('a tensor beyond what can be addressed is refused, and leaves nothing behind', async () => {
    await tf.setBackend('wasm')
    const before = { tensors: tf.memory().numTensors, data: wasm().numDataIds() }
    // 4 GiB and 1 MiB: as 32 bits it is the one MiB, for which there is room.
    let thrown: unknown
    try {
      tf.fill([4097, 512, 512], 1)
    } catch (error) {
      thrown = error
    }
    expect(BackendError.isInstance(thrown)).toBe(true)
    expect(thrown).toMatchObject({
      reason: 'failed',
      message:
        'The wasm heap has no 4296015872 bytes left, of 4 GiB at most. Dispose tensors, or use smaller batches or spans.',
    })
    expect({ tensors: tf.memory().numTensors, data: wasm().numDataIds() }).toEqual(before)
  })

  test('address 0 is not handed out, neither to our kernels nor to those of tfjs', async () => {
    await tf.setBackend('wasm')
    const x = tf.ones([64, 64])
    const { wasm: module } = wasm()
    const first = module.HEAPU8.slice(0, 64)
    // Leaves no more than half of what the next tensor needs, without taking it from this machine.
    const grown = vi.spyOn(WebAssembly.Memory.prototype, 'grow').mockImplementation(() => {
      throw new RangeError('no room')
    })
    const held: tf.Tensor[] = []
    try {
      const big = module.HEAPU8.length
      for (const compute of [
        () => tf.matMul(x, tf.zeros([64, big / 256])),
        () => tf.fill([big], 1),
        () => tf.tile(x, [big / 4096, 1]),
      ])
        expect(() => held.push(tf.tidy(compute))).toThrow('The wasm heap has no')
    } finally {
      grown.mockRestore()
      tf.dispose(held)
    }
    expect(module.HEAPU8.slice(0, 64)).toEqual(first)
    expect(tf.matMul(x, x).dataSync()[0]).toBe(64)
    x.dispose()
  })
})

describe('Identity', () => {
  test('shares data until the last owner is disposed of', async () => {
    await tf.setBackend('wasm')
    for (const dtype of ['float32', 'int32', 'bool'] as const) {
      const data = wasm().numDataIds()
      const x = tf.tensor([1, 0, 1], [3], dtype)
      const copy = tf.clone(x)
      expect(wasm().numDataIds()).toBe(data + 1)
      x.dispose()
      expect([...copy.dataSync()]).toEqual([1, 0, 1])
      copy.dispose()
      expect(wasm().numDataIds()).toBe(data)
    }
  })

  test('a clone survives the assignment of a variable', async () => {
    const variable = tf.variable(tf.tensor1d([1, 2]))
    const before = tf.clone(variable)
    const next = tf.tensor1d([3, 4])
    variable.assign(next)
    expect([...before.dataSync()]).toEqual([1, 2])
    tf.dispose([before, next])
    variable.dispose()
  })

  test('strings', async () => {
    const x = tf.tensor(['a', 'b'])
    const copy = tf.clone(x)
    expect(copy.dataSync()).toEqual(['a', 'b'])
    tf.dispose([x, copy])
  })

  test('1,000 clones leave nothing behind', async () => {
    const x = tf.ones([100])
    await leaksNothing(() => void tf.clone(x))
    x.dispose()
  })
})

describe('GatherV2', () => {
  const shapes = [
    { shape: [10, 3], indices: [4], axis: 0, batchDims: 0 },
    { shape: [10, 64], indices: [2, 3], axis: 0, batchDims: 0 },
    { shape: [4, 10, 33], indices: [5], axis: 1, batchDims: 0 },
    { shape: [4, 10], indices: [5, 2], axis: 1, batchDims: 0 },
    { shape: [4, 10, 40], indices: [4, 6], axis: 1, batchDims: 1 },
    { shape: [4, 3, 10, 2], indices: [4, 3, 6], axis: 2, batchDims: 2 },
    { shape: [4, 5, 10], indices: [4, 6], axis: 2, batchDims: 1 },
  ]
  for (const { shape, indices, axis, batchDims } of shapes) {
    test(`[${shape}] at [${indices}], axis ${axis}, batchDims ${batchDims}`, async () => {
      const size = shape.reduce((x, y) => x * y, 1)
      const places = Int32Array.from({ length: indices.reduce((x, y) => x * y, 1) }, () =>
        Math.floor(((random() + 1) / 2) * shape[axis]!),
      )
      for (const dtype of ['float32', 'int32', 'bool'] as const) {
        const values = Float32Array.from({ length: size }, () =>
          dtype === 'float32' ? random() : random() > 0 ? 1 : 0,
        )
        await same(() =>
          tf.gather(
            tf.cast(tf.tensor(values, shape), dtype),
            tf.tensor(places, indices, 'int32'),
            axis,
            batchDims,
          ),
        )
      }
    })
  }

  test('an index out of range is refused, and leaves nothing behind', async () => {
    await tf.setBackend('wasm')
    const data = wasm().numDataIds()
    expect(() => tf.tidy(() => tf.gather(tf.ones([3, 2]), tf.tensor1d([3], 'int32')))).toThrow(
      'GatherV2: the index value 3 is not in [0, 2]',
    )
    expect(wasm().numDataIds()).toBe(data)
  })

  test('1,000 gathers leave nothing behind', async () => {
    const x = tf.ones([50, 64])
    const places = tf.tensor1d([1, 2, 3], 'int32')
    await leaksNothing(() => void tf.gather(x, places))
    tf.dispose([x, places])
  })
})

describe('UnsortedSegmentSum', () => {
  for (const shape of [[12], [12, 1], [12, 5], [12, 3, 4]]) {
    test(`[${shape}]`, async () => {
      const ids = [0, 3, 3, 1, 0, 0, 6, 2, 5, 3, 1, 0] // 4 stays empty
      const values = randomValues(shape.reduce((x, y) => x * y, 1))
      await same(() => tf.unsortedSegmentSum(tf.tensor(values, shape), tf.tensor1d(ids, 'int32'), 7))
    })
  }

  test('int32 stays int32, as in TensorFlow (the cpu backend gives float32)', () => {
    const sums = tf.tidy(() =>
      tf.unsortedSegmentSum(tf.tensor1d([1, 2, 3], 'int32'), tf.tensor1d([1, 0, 1], 'int32'), 2),
    )
    expect(sums.dtype).toBe('int32')
    expect([...sums.dataSync()]).toEqual([2, 4])
    sums.dispose()
  })

  test('ids that name no segment are left out', async () => {
    await same(() => tf.unsortedSegmentSum(tf.ones([4, 2]), tf.tensor1d([-1, 0, 2, 1], 'int32'), 2))
  })

  test('1,000 sums leave nothing behind', async () => {
    const x = tf.ones([50, 64])
    const ids = tf.range(0, 50, 1, 'int32')
    await leaksNothing(() => void tf.unsortedSegmentSum(x, ids, 50))
    tf.dispose([x, ids])
  })
})

describe('Sum', () => {
  for (const [shape, axes] of [
    [[7, 33], [0]],
    [[4, 5, 64], [0]],
    [
      [4, 5, 64],
      [0, 1],
    ],
    [[4, 5, 64], [1]],
    [
      [4, 5, 6, 16],
      [1, 2],
    ],
    [
      [4, 5, 6, 16],
      [2, 0],
    ],
    [[4, 5, 3], [1]],
    [
      [4, 5, 3],
      [0, 1, 2],
    ],
    [[9, 17], [1]],
    [[3, 257], [-1]],
    [
      [3, 5, 7],
      [1, 2],
    ],
    [[4, 5, 1], [1]],
    [[1, 17], [0]],
    [[0, 17], [0]],
    [[0, 3], [0]],
    [[3, 0], [1]],
  ] as [number[], number[]][]) {
    test(`[${shape}] over [${axes}]`, async () => {
      const values = randomValues(shape.reduce((x, y) => x * y, 1))
      const whole = Int32Array.from(values, (value) => Math.round(9 * value))
      const bits = Uint8Array.from(values, (value) => (value > 0 ? 1 : 0))
      for (const keepDims of [false, true]) {
        await same(() => tf.sum(tf.tensor(values, shape), axes, keepDims))
        await same(() => tf.sum(tf.tensor(whole, shape, 'int32'), axes, keepDims))
      }
      await same(() => tf.sum(tf.tensor(bits, shape, 'bool'), axes))
    })
  }

  test('1,000 sums leave nothing behind', async () => {
    const x = tf.ones([8, 16, 16])
    await leaksNothing(() => void tf.sum(x, [0, 1]))
    x.dispose()
  })
})

describe('Reverse', () => {
  for (const [shape, axes] of [
    [[], []],
    [[1], [0]],
    [[17], [0]],
    [[5, 33], [1]],
    [[5, 33], [0]],
    [[3, 4, 9], [1]],
    [[3, 4, 9], [-1]],
    [[3, 4, 1], [1]],
    [
      [3, 4, 9],
      [0, 2],
    ],
    [[3, 0, 2], [0]],
  ] as [number[], number[]][]) {
    test(`[${shape}] along [${axes}]`, async () => {
      const values = randomValues(shape.reduce((x, y) => x * y, 1))
      const whole = new Int32Array(values.length).map((_, i) => (i % 3 ? 0x7fa00001 : i)) // signalling NaNs, as floats
      const flags = Uint8Array.from(values, (value) => (value > 0 ? 1 : 0))
      await same(() => tf.reverse(tf.tensor(values, shape), axes))
      await same(() => tf.reverse(tf.tensor(whole, shape, 'int32'), axes))
      await same(() => tf.reverse(tf.tensor(flags, shape, 'bool'), axes))
    })
  }
})

describe('Cumsum', () => {
  for (const [shape, axis] of [
    [[17], 0],
    [[3, 1000], 1],
    [[5, 33], 0],
    [[3, 4, 9], 1],
    [[3, 1, 4], 1],
    [[3, 0, 2], 1],
  ] as [number[], number][]) {
    test(`[${shape}] along ${axis}`, async () => {
      const values = randomValues(shape.reduce((x, y) => x * y, 1))
      const whole = Int32Array.from(values, (value) => Math.round(9 * value))
      for (const exclusive of [false, true])
        for (const reverse of [false, true]) {
          await same(() => tf.cumsum(tf.tensor(values, shape), axis, exclusive, reverse), 5e-5)
          if (values.length > 0)
            await same(() => tf.cumsum(tf.tensor(whole, shape, 'int32'), axis, exclusive, reverse))
        }
    })
  }

  test('an axis from the end, which the cpu backend gets wrong', async () => {
    await tf.setBackend('wasm')
    const [last, second] = tf.tidy(() => {
      const x = tf.tensor(randomValues(3 * 17), [3, 17])
      return [tf.cumsum(x, -1), tf.cumsum(x, 1)]
    }) as [tf.Tensor, tf.Tensor]
    expect(last.shape).toEqual([3, 17])
    expect(last.dataSync()).toEqual(second.dataSync())
    tf.dispose([last, second])
  })

  test('1,000 of them leave nothing behind', async () => {
    const x = tf.ones([4, 17, 5])
    await leaksNothing(() => {
      tf.cumsum(x, 1)
      tf.cumsum(x, 2, true, true)
    })
    x.dispose()
  })
})

describe('Exp and Erf', () => {
  for (const size of [0, 1, 3, 4, 5, 1000]) {
    test(`${size} values`, async () => {
      const values = randomValues(size).map((value) => 4 * value)
      await same(() => tf.exp(tf.tensor1d(values)), 1e-5)
      await same(() => tf.erf(tf.tensor1d(values)), 1e-6)
      await same(() => tf.exp(tf.tensor1d(Int32Array.from(values), 'int32')), 1e-5)
    })
  }

  test('1,000 of each, of sums and reversed ones, leave nothing behind', async () => {
    const x = tf.ones([8, 16, 17])
    await leaksNothing(() => {
      tf.exp(x)
      tf.erf(x)
      tf.sum(x, -1)
      tf.reverse(x, 1)
      tf.reverse(x, -1)
    })
    x.dispose()
  })
})

describe('Slice and SplitV', () => {
  for (const [shape, begin, size] of [
    [[9], [2], [5]],
    [[9], [0], [9]],
    [
      [7, 33],
      [2, 0],
      [3, 33],
    ],
    [
      [7, 33],
      [0, 3],
      [7, 17],
    ],
    [
      [7, 33],
      [1, 32],
      [5, 1],
    ],
    [
      [4, 5, 6],
      [1, 1, 0],
      [2, 3, 6],
    ],
    [
      [4, 5, 6],
      [1, 0, 2],
      [2, 5, 3],
    ],
    [
      [4, 5, 6],
      [0, 2, 1],
      [4, 2, 4],
    ],
    [
      [2, 3, 5, 7],
      [1, 0, 2, 3],
      [1, 3, 2, 4],
    ],
    [
      [2, 3, 5, 7],
      [0, 1, 0, 3],
      [2, 1, 5, 2],
    ],
    [
      [2, 3, 5, 7],
      [0, 0, 1, 0],
      [2, 3, 3, 7],
    ],
    [
      [2, 3, 2, 5, 7],
      [1, 1, 0, 2, 3],
      [1, 2, 2, 3, 1],
    ],
    [
      [2, 3, 2, 5, 7],
      [0, 1, 1, 0, 1],
      [2, 2, 1, 5, 6],
    ],
    [
      [4, 5],
      [1, 2],
      [-1, -1],
    ],
    [
      [4, 5],
      [1, 2],
      [0, 3],
    ],
    [
      [0, 5],
      [0, 2],
      [0, 3],
    ],
  ] as [number[], number[], number[]][]) {
    test(`[${size}] of [${shape}] from [${begin}]`, async () => {
      const values = randomValues(shape.reduce((x, y) => x * y, 1))
      const whole = new Int32Array(values.length).map((_, i) => (i % 3 ? 0x7fa00001 : i)) // signalling NaNs, as floats
      const flags = Uint8Array.from(values, (value) => (value > 0 ? 1 : 0))
      await same(() => tf.slice(tf.tensor(values, shape), begin, size))
      await same(() => tf.slice(tf.tensor(whole, shape, 'int32'), begin, size))
      await same(() => tf.slice(tf.tensor(flags, shape, 'bool'), begin, size))
    })
  }

  test('a part beyond the tensor is refused', async () => {
    await tf.setBackend('wasm')
    const data = wasm().numDataIds()
    expect(() => tf.tidy(() => tf.slice(tf.ones([4, 5]), [0, 3], [4, 3]))).toThrow(/begin\[1\]/)
    expect(wasm().numDataIds()).toBe(data)
  })

  for (const axis of [0, 1, 2, -1]) {
    test(`splits along axis ${axis}`, async () => {
      const shape = [4, 6, 8]
      const values = randomValues(4 * 6 * 8)
      for (const part of [0, 1]) {
        await same(() => tf.split(tf.tensor(values, shape), 2, axis)[part]!)
        const length = shape.at(axis)!
        await same(() => tf.split(tf.tensor(values, shape), [1, length - 1], axis)[part]!)
      }
    })
  }

  test('strings', () => {
    const part = tf.tidy(() => tf.slice(tf.tensor1d(['a', 'b', 'c']), 1, 2))
    expect(part.dataSync()).toEqual(['b', 'c'])
    part.dispose()
  })

  test('1,000 parts leave nothing behind', async () => {
    const x = tf.ones([8, 16, 16])
    await leaksNothing(() => {
      tf.slice(x, [1, 2, 3], [2, 5, 7])
      tf.split(x, 4, 1)
    })
    x.dispose()
  })
})

describe('Transpose', () => {
  for (const [shape, perm] of [
    [
      [33, 70],
      [1, 0],
    ],
    [
      [3, 17, 9],
      [0, 2, 1],
    ],
    [
      [3, 17, 9],
      [2, 0, 1],
    ],
    [
      [3, 17, 9],
      [1, 2, 0],
    ],
    [
      [3, 17, 9],
      [2, 1, 0],
    ],
    [
      [3, 17, 9],
      [1, 0, 2],
    ],
    [
      [2, 3, 5, 7],
      [0, 2, 3, 1],
    ],
    [
      [2, 3, 5, 7],
      [0, 2, 1, 3],
    ],
    [
      [2, 3, 5, 7],
      [0, 3, 2, 1],
    ],
    [
      [2, 3, 5, 7],
      [3, 0, 1, 2],
    ],
    [
      [2, 1, 5, 7],
      [1, 3, 0, 2],
    ],
    [
      [4, 1, 6],
      [1, 0, 2],
    ],
    [
      [1, 1],
      [1, 0],
    ],
    [
      [0, 3],
      [1, 0],
    ],
  ] as [number[], number[]][]) {
    test(`[${shape}] to [${perm}]`, async () => {
      const values = randomValues(shape.reduce((x, y) => x * y, 1))
      const bits = new Int32Array(values.length).fill(0x7fa00001) // a signalling NaN, read as a float
      const flags = Uint8Array.from(values, (value) => (value > 0 ? 1 : 0))
      await same(() => tf.transpose(tf.tensor(values, shape), perm))
      await same(() => tf.transpose(tf.tensor(bits, shape, 'int32'), perm))
      await same(() => tf.transpose(tf.tensor(flags, shape, 'bool'), perm))
    })
  }

  test('1,000 transposes leave nothing behind', async () => {
    const x = tf.ones([4, 40, 40])
    await leaksNothing(() => void tf.transpose(x, [0, 2, 1]))
    x.dispose()
  })
})

test('patching twice changes nothing', () => {
  const kernel = tf.getKernel('BatchMatMul', 'wasm')
  const names = patchWasmBackend()
  expect(names).toContain('BatchMatMul')
  expect(tf.getKernel('BatchMatMul', 'wasm')).toBe(kernel)
})
