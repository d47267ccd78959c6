/** Workers in one shared memory: the same bits as one thread computes, whatever happens to the memory or to them. */
import { afterEach, describe, expect, test } from 'vitest'
import { type Kernels, loadKernels, supportedBuilds } from './index'

const page = 65536
const builds = supportedBuilds()

let running: Kernels[] = []
afterEach(() => {
  for (const kernels of running) kernels.stopThreads()
  running = []
})

/** A shared memory with `pages` from address `from` on, and an allocator that hands them out in order. */
function space(pages: number, from = 0, relaxed = false) {
  const memory = new WebAssembly.Memory({
    initial: Math.ceil(from / page) + pages,
    maximum: 65536,
    shared: true,
  })
  let next = from + 16
  const allocate = (bytes: number) => {
    const at = next
    next += Math.ceil(bytes / 16) * 16
    return at
  }
  const kernels = loadKernels(memory, allocate, { relaxed })!
  running.push(kernels)
  return { memory, allocate, kernels }
}

type Space = ReturnType<typeof space>

const fill = (memory: WebAssembly.Memory, at: number, count: number) => {
  const view = new Float32Array(memory.buffer, at, count)
  for (let i = 0; i < count; i++) view[i] = Math.sin(i * 1.7 + at)
}

/** Products of all transposes: [batch, rows, inner] · [batch, inner, columns]. */
function products(
  { memory, kernels }: Space,
  [left, right, out]: number[],
  [batch, rows, columns, inner]: readonly number[],
): Uint8Array[] {
  const results: Uint8Array[] = []
  for (const turnedLeft of [false, true])
    for (const turnedRight of [false, true]) {
      const bytes = new Uint8Array(memory.buffer, out, 4 * batch! * rows! * columns!).fill(0xff)
      const step = (turned: boolean, height: number, width: number) => ({
        rowStep: turned ? 1 : width,
        columnStep: turned ? height : 1,
        matrixStep: height * width,
      })
      const a = { at: left!, ...step(turnedLeft, rows!, inner!) }
      const b = { at: right!, ...step(turnedRight, inner!, columns!) }
      kernels.multiply(a, b, out!, rows!, columns!, inner!, batch)
      results.push(bytes.slice())
    }
  return results
}

const shapes = [
  [1, 256, 256, 256],
  [1, 257, 131, 300],
  [1, 131, 257, 300],
  [1, 1, 2050, 700],
  [1, 3, 2053, 500],
  [1, 2050, 1, 700],
  [1, 4, 3001, 100],
  [1, 7, 9, 100_003],
  [1, 1030, 200, 70],
  [5, 65, 66, 130],
  [40, 17, 19, 64],
  [3, 1, 1000, 300],
] as const

describe.each([
  ['plain', false],
  ['relaxed', true],
] as const)('%s', (name, relaxed) => {
  const runs = test.skipIf(!builds[name])

  runs('products are the same bits with 1, 2, 3 and 5 threads', async () => {
    const at = space(600, 0, relaxed)
    const places = [0, 1, 2].map(() => at.allocate(4 * 2_000_000))
    for (const place of places.slice(0, 2)) fill(at.memory, place, 2_000_000)
    const expected = shapes.map((shape) => products(at, places, shape))
    for (const count of [2, 3, 5]) {
      await at.kernels.startThreads(count)
      expect(at.kernels.threads).toBe(count)
      shapes.forEach((shape, i) => {
        const found = products(at, places, shape)
        const equal = found.every((bytes, k) => Buffer.compare(bytes, expected[i]![k]!) === 0)
        expect(equal, `${shape} with ${count} threads`).toBe(true)
      })
    }
  })

  runs('so are copies, sums, exp and erf', async () => {
    const at = space(600, 0, relaxed)
    const count = 1_000_003
    const [from, to] = [at.allocate(4 * count), at.allocate(4 * count)] as const
    fill(at.memory, from, count)
    const work = ({ kernels, memory }: Space) => {
      const calls = [
        () => kernels.exponentials(from, to, count),
        () => kernels.errorFunctions(from, to, count),
        () => kernels.sumLines(from, to, 37, 27_000),
        () => kernels.reverseLines(from, to, 37, 27_000),
        () => kernels.copyLines(from + 4, 148, to, 140, 139, 27_000),
        () => kernels.copyLines(from, 148, to + 148 * 26_999, -148, 148, 27_000),
      ]
      return calls.map((call) => {
        const bytes = new Uint8Array(memory.buffer, to, 4 * count).fill(0xff)
        call()
        return bytes.slice()
      })
    }
    const expected = work(at)
    for (const threads of [2, 3]) {
      await at.kernels.startThreads(threads)
      work(at).forEach((bytes, i) => {
        expect(Buffer.compare(bytes, expected[i]!), `kernel ${i} with ${threads} threads`).toBe(0)
      })
    }
  })

  runs('so are the kernels that take a range', async () => {
    const at = space(600, 0, relaxed)
    const [rows, width] = [1000, 301]
    const count = rows * width
    const inputs = Array.from({ length: 5 }, () => at.allocate(4 * count))
    const outputs = Array.from({ length: 3 }, () => at.allocate(4 * count))
    const [a, b, c, d, e] = inputs as [number, number, number, number, number]
    const [x, y, z] = outputs as [number, number, number]
    const end = at.allocate(0)
    const targets = at.allocate(4 * rows)
    const work = ({ kernels: k, memory }: Space) => {
      const bytes = new Uint8Array(memory.buffer, x, end - x)
      const calls: [string, () => void][] = [
        ['sumRows', () => k.sumRows(a, x, rows, width, 3, width)],
        ['cumulate', () => k.cumulate(a, x, 100, 7, true, true, 1, 430)],
        ['normalize', () => k.normalize(a, b, c, x, y, z, width, 1e-5, 2, rows)],
        [
          'normalizeGradient',
          () => k.normalizeGradient(a, b, c, d, e, x, y, z, rows, width, 0, k.normalizeParts(rows)),
        ],
        ['gelu', () => k.gelu(a, x, 5, count)],
        ['geluGradient', () => k.geluGradient(a, b, x, 0, count)],
        ['swiglu', () => k.swiglu(a, b, x, 0, count)],
        ['swigluGradient', () => k.swigluGradient(a, b, c, x, y, 0, count)],
        ['reluGradient', () => k.reluGradient(a, b, x, 0, count)],
        ['crossEntropy', () => k.crossEntropy(a, targets, x, y, z, width, 0, rows)],
        ['crossEntropyGradient', () => k.crossEntropyGradient(a, targets, b, c, d, x, width, 0, rows)],
        ['rotate', () => k.rotate(a, b, c, x, 15, 20, 4, -1, 0, 500)],
        ['rotaryAngles', () => k.rotaryAngles(targets, x, y, 30, 10, 0.9, 0, 100)],
        ['sumSquares', () => k.sumSquares(a, x, count, 0, k.sumSquaresParts(count))],
        ['adam', () => k.adam(a, b, c, e, 0, x, y, z, 0.9, 0.999, 1e-3, 1e-8, 0.1, 0.99, 0, count)],
        ['adagrad', () => k.adagrad(a, b, e, 0, x, y, 1e-3, 1e-8, 0.1, 0, count)],
      ]
      return calls.map(([name, call]) => {
        bytes.fill(0x3c)
        call()
        return { name, bytes: bytes.slice() }
      })
    }
    for (const from of inputs) fill(at.memory, from, count)
    new Int32Array(at.memory.buffer, targets, rows).forEach((_, i, all) => {
      all[i] = (i * 7) % width
    })
    const expected = work(at)
    for (const { name, bytes } of expected)
      expect(
        bytes.some((byte) => byte !== 0x3c),
        name,
      ).toBe(true)
    for (const threads of [2, 3]) {
      await at.kernels.startThreads(threads)
      for (let round = 0; round < 3; round++)
        work(at).forEach(({ name, bytes }, i) => {
          expect(Buffer.compare(bytes, expected[i]!.bytes), `${name} with ${threads} threads`).toBe(0)
        })
    }
  })
})

test('ten thousand products in a row, short and long, find their workers awake and asleep', async () => {
  const at = space(200)
  const places = [0, 1, 2].map(() => at.allocate(4 * 65536))
  for (const place of places.slice(0, 2)) fill(at.memory, place, 65536)
  const shapes = [
    [1, 64, 128, 64],
    [1, 128, 96, 40],
    [9, 16, 16, 64],
  ] as const
  const expected = shapes.map((shape) => products(at, places, shape))
  await at.kernels.startThreads(3)
  for (let i = 0; i < 2500; i++) {
    const which = i % shapes.length
    const found = products(at, places, shapes[which]!)
    if (found.some((bytes, k) => Buffer.compare(bytes, expected[which]![k]!) !== 0))
      expect.fail(`job ${i} differs`)
    // Now and then long enough for the workers to fall asleep.
    if (i % 100 === 0) await new Promise((resolve) => setTimeout(resolve, 2))
  }
})

test('the memory grows while workers run, and results go where it has grown', async () => {
  const at = space(100)
  const places = [at.allocate(4 * 65536), at.allocate(4 * 65536)]
  for (const place of places) fill(at.memory, place, 65536)
  const shape = [1, 256, 256, 256] as const
  await at.kernels.startThreads(3)
  let expected: Uint8Array[] | undefined
  for (let grown = 0; grown < 20; grown++) {
    const out = at.memory.grow(10) * page
    const found = products(at, [...places, out], shape)
    // Its instructions for whole blocks of memory ask for the size of the memory themselves.
    at.kernels.sumRows(places[0]!, out, 64, 1000, 0, 1000)
    found.push(new Uint8Array(at.memory.buffer, out, 4000).slice())
    expected ??= found
    expect(found.every((bytes, k) => Buffer.compare(bytes, expected![k]!) === 0)).toBe(true)
  }
})

test('operands, control block and working space beyond 2 GiB', async () => {
  const shape = [3, 130, 67, 65] as const
  const bits: Uint8Array[][] = []
  for (const from of [0, 2 ** 31 + page]) {
    const at = space(160, from)
    const places = [0, 1, 2].map(() => at.allocate(4 * 100_000))
    // The same values in both places.
    places.slice(0, 2).forEach((place, which) => {
      const view = new Float32Array(at.memory.buffer, place, 100_000)
      view.forEach((_, i) => {
        view[i] = Math.sin(i + which)
      })
    })
    await at.kernels.startThreads(3)
    expect(at.kernels.threads).toBe(3)
    bits.push(products(at, places, shape))
    at.kernels.stopThreads()
  }
  expect(bits[1]!.every((bytes, k) => Buffer.compare(bytes, bits[0]![k]!) === 0)).toBe(true)
  expect(new Float32Array(bits[0]![0]!.buffer).every(Number.isFinite)).toBe(true)
})

test('workers can be stopped and started again; one thread needs none', async () => {
  const { kernels } = space(200)
  expect(kernels.threads).toBe(1)
  for (const count of [2, 3, 1, 2]) {
    await kernels.startThreads(count)
    expect(kernels.threads).toBe(count)
  }
  kernels.stopThreads()
  expect(kernels.threads).toBe(1)
  const stopped = kernels.startThreads(3)
  kernels.stopThreads()
  await stopped
  expect(kernels.threads).toBe(1)
})

test('in unshared memory there is one thread', async () => {
  const kernels = loadKernels(new WebAssembly.Memory({ initial: 40 }), () => 16)!
  await kernels.startThreads(4)
  expect(kernels.threads).toBe(1)
})

test.each([0, -1, 1.5, Number.NaN])('%s threads are refused', async (count) => {
  await expect(space(100).kernels.startThreads(count)).rejects.toThrow(RangeError)
})

describe('what goes wrong is an error, and no thread waits for ever', () => {
  /** Sums lines of a thousand values from `from` on: the last ones lie beyond the memory, whoever comes to them. */
  const sumBeyond = ({ kernels, memory }: Space, from: number, to: number) =>
    kernels.sumLines(from, to, 1000, Math.ceil(memory.buffer.byteLength / 4000) + 1000)

  test('a kernel that fails in every thread', async () => {
    const at = space(100)
    const [from, to] = [at.allocate(64), at.allocate(40_000)]
    await at.kernels.startThreads(2)
    expect(() => sumBeyond(at, from, to)).toThrow()
    // Once a worker has taken part, it has ended, and that is said until there is another.
    const message = () => {
      try {
        sumBeyond(at, from, to)
      } catch (error) {
        return (error as Error).message
      }
    }
    await expect.poll(message, { timeout: 60_000 }).toMatch(/has ended by itself/)
    expect(() => at.kernels.exponentials(to, to, 10_000)).toThrow(/has ended by itself/)
    await at.kernels.startThreads(2)
    at.kernels.exponentials(to, to, 10_000)
  })
})
