/** The fused operations beside their formulas in float64, on Chromium's software driver. */
import { existsSync } from 'node:fs'
import { type BackendInfo, disposeBackend, useBackend } from '@lethe/backends'
import { type FusedKernels, fused } from '@lethe/core'
import { backend, clone, memory, type Tensor, tensor } from '@tensorflow/tfjs-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { fusedKernels, withholdSubgroups } from './index'

const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'
const missing = !existsSync(softwareVulkan)

type Name = keyof FusedKernels
type Values = readonly number[]

/** Reproducible values around 0. */
const wave = (size: number, phase: number, scale = 1): Values =>
  Array.from({ length: size }, (_, i) =>
    Math.fround(scale * (Math.sin(1.7 * i + phase) + Math.cos(0.31 * i * phase))),
  )

const positive = (size: number, phase: number): Values =>
  wave(size, phase).map((x) => Math.fround(x * x + 0.1))
const sum = (values: Values) => values.reduce((a, b) => a + b, 0)
const mean = (values: Values) => sum(values) / values.length
const byRow = (values: Values, width: number): Values[] =>
  Array.from({ length: values.length / width }, (_, row) => values.slice(row * width, (row + 1) * width))
const columns = (rows: readonly Values[]): Values => rows[0]!.map((_, k) => sum(rows.map((row) => row[k]!)))
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
/** Φ by Simpson's rule. */
const cumulative = (x: number) => {
  const steps = 400
  const density = (t: number) => Math.exp(-0.5 * t * t) / Math.sqrt(2 * Math.PI)
  const at = (k: number) => density((x * k) / steps) * (k === 0 || k === steps ? 1 : k % 2 === 1 ? 4 : 2)
  return 0.5 + (x / steps / 3) * sum(Array.from({ length: steps + 1 }, (_, k) => at(k)))
}

interface Case {
  readonly name: Name
  readonly inputs: Readonly<Record<string, readonly [shape: Values, values: Values, dtype?: 'int32']>>
  readonly attributes?: Readonly<Record<string, number | boolean>>
  readonly expected: readonly (readonly [shape: Values, values: Values])[]
}

/** Sizes around the 64 threads of a row, which read it by fours where they can, and the parts of 8 rows. */
function norms(rows: number, width: number): Case[] {
  const [x, dy] = [wave(rows * width, 1, 2), wave(rows * width, 2)]
  const [scale, bias] = [wave(width, 3), wave(width, 4)]
  const epsilon = 1e-3
  const means = byRow(x, width).map(mean)
  const inverses = byRow(x, width).map(
    (row, r) => 1 / Math.sqrt(mean(row.map((v) => (v - means[r]!) ** 2)) + epsilon),
  )
  const squares = byRow(x, width).map((row) => 1 / Math.sqrt(mean(row.map((v) => v * v)) + epsilon))
  const normal = byRow(x, width).map((row, r) => row.map((v) => (v - means[r]!) * inverses[r]!))
  const scaled = byRow(x, width).map((row, r) => row.map((v) => v * squares[r]!))
  const weighted = byRow(dy, width).map((row) => row.map((v, k) => v * scale[k]!))
  const along = (rows: readonly Values[]) =>
    rows.map((row, r) => mean(row.map((v, k) => v * weighted[r]![k]!)))
  const [shape, perRow] = [
    [rows, width],
    [rows, 1],
  ]
  const given = {
    dy: [shape, dy],
    x: [shape, x],
    scale: [[width], scale],
  } as const
  return [
    {
      name: 'LetheLayerNorm',
      inputs: { x: given.x, scale: given.scale, bias: [[width], bias] },
      attributes: { epsilon },
      expected: [
        [shape, normal.flatMap((row) => row.map((v, k) => v * scale[k]! + bias[k]!))],
        [perRow, means],
        [perRow, inverses],
      ],
    },
    {
      name: 'LetheLayerNormGradient',
      inputs: { ...given, mean: [perRow, means], inverse: [perRow, inverses] },
      expected: [
        [
          shape,
          weighted.flatMap((row, r) =>
            row.map((w, k) => inverses[r]! * (w - mean(row) - normal[r]![k]! * along(normal)[r]!)),
          ),
        ],
        [[width], columns(byRow(dy, width).map((row, r) => row.map((v, k) => v * normal[r]![k]!)))],
        [[width], columns(byRow(dy, width))],
      ],
    },
    {
      name: 'LetheRmsNorm',
      inputs: { x: given.x, scale: given.scale },
      attributes: { epsilon },
      expected: [
        [shape, scaled.flatMap((row) => row.map((v, k) => v * scale[k]!))],
        [perRow, squares],
      ],
    },
    {
      name: 'LetheRmsNormGradient',
      inputs: { ...given, inverse: [perRow, squares] },
      expected: [
        [
          shape,
          weighted.flatMap((row, r) =>
            row.map((w, k) => squares[r]! * (w - scaled[r]![k]! * along(scaled)[r]!)),
          ),
        ],
        [[width], columns(byRow(dy, width).map((row, r) => row.map((v, k) => v * scaled[r]![k]!)))],
      ],
    },
  ]
}

function losses(classes: number): Case[] {
  const rows = 5
  const logits = wave(rows * classes, 1, 30).map((v, i) => (i === 7 ? -1e30 : v))
  const targets = [0, classes - 1, -1, 64, classes]
  const all = byRow(logits, classes)
  const largest = all.map((row) => Math.max(...row))
  const logTotal = all.map((row, r) => Math.log(sum(row.map((v) => Math.exp(v - largest[r]!)))))
  const scale = wave(rows, 9)
  const inputs = { logits: [[rows, classes], logits], targets: [[rows], targets, 'int32'] } as const
  const perRow = [rows, 1]
  return [
    {
      name: 'LetheCrossEntropy',
      inputs,
      expected: [
        [perRow, all.map((row, r) => largest[r]! + logTotal[r]! - (row[targets[r]!] ?? 0))],
        [perRow, largest],
        [perRow, logTotal],
      ],
    },
    {
      name: 'LetheCrossEntropyGradient',
      inputs: { ...inputs, largest: [perRow, largest], logTotal: [perRow, logTotal], scale: [perRow, scale] },
      expected: [
        [
          [rows, classes],
          all.flatMap((row, r) =>
            row.map(
              (v, k) => scale[r]! * (Math.exp(v - largest[r]! - logTotal[r]!) - (k === targets[r] ? 1 : 0)),
            ),
          ),
        ],
      ],
    },
  ]
}

/** @param tables 1 or batch; @param angles 1 or steps */
function rotation(tables: number, angles: number, back: boolean): Case {
  const [batch, heads, half, steps] = [2, 3, 2, 5]
  const x = wave(batch * heads * 2 * half * steps, 1)
  const angle = wave(tables * half * angles, 2, 3)
  const at = (b: number, pair: number, step: number) =>
    angle[((tables === 1 ? 0 : b) * half + pair) * angles + (angles === 1 ? 0 : step)]! * (back ? -1 : 1)
  const turned = x.map((value, i) => {
    const step = i % steps
    const feature = Math.floor(i / steps) % (2 * half)
    const b = Math.floor(i / (steps * 2 * half * heads))
    const turn = at(b, feature % half, step)
    const partner = x[i + (feature < half ? half : -half) * steps]!
    return value * Math.cos(turn) + (feature < half ? -1 : 1) * Math.sin(turn) * partner
  })
  const shape = [tables, 1, half, angles]
  return {
    name: 'LetheRotate',
    inputs: {
      x: [[batch, heads, 2 * half, steps], x],
      cosine: [shape, angle.map(Math.cos)],
      sine: [shape, angle.map(Math.sin)],
    },
    attributes: { back },
    expected: [[[batch, heads, 2 * half, steps], turned]],
  }
}

function optimisers(factor: number | undefined): Case[] {
  const size = 70
  const shape = [7, 10]
  const [values, gradient, average, square] = [wave(size, 1), wave(size, 2), wave(size, 3), positive(size, 4)]
  const [beta1, beta2, rate, epsilon, decay, shrink] = [0.9, 0.99, 0.3, 0.01, 0.2, 0.98]
  const g = gradient.map((v, i) => (factor ?? 1) * v + decay * values[i]!)
  const given = {
    values: [shape, values],
    gradient: [shape, gradient],
    square: [shape, square],
    ...(factor !== undefined && { factor: [[], [factor]] as const }),
  } as const
  const newMean = average.map((v, i) => beta1 * v + g[i]!)
  const newSquare = square.map((v, i) => beta2 * v + g[i]! ** 2)
  const newValues = values.map(
    (v, i) => shrink * v - (rate * newMean[i]!) / (Math.sqrt(newSquare[i]!) + epsilon),
  )
  const total = square.map((v, i) => v + g[i]! ** 2)
  const cut = [
    [0, 1],
    [1, 66],
    [66, size],
  ] as const
  return [
    {
      name: 'LetheAdamInParts',
      // Of 70 values in three tensors.
      inputs: {
        ...Object.fromEntries(
          cut.flatMap(([from, to], n) => [
            [`values${n}`, [[to - from], values.slice(from, to)] as const],
            [`gradient${n}`, [[to - from], gradient.slice(from, to)] as const],
          ]),
        ),
        ...(factor !== undefined && { factor: [[], [factor]] as const }),
        mean: [[size], average],
        square: [[size], square],
      },
      attributes: { beta1, beta2, rate, epsilon, decay, shrink },
      expected: [
        ...cut.map(([from, to]) => [[to - from], newValues.slice(from, to)] as const),
        [[size], newMean],
        [[size], newSquare],
      ],
    },
    {
      name: 'LetheAdagrad',
      inputs: given,
      attributes: { rate, epsilon, decay },
      expected: [
        [shape, values.map((v, i) => v - (rate * g[i]!) / (Math.sqrt(total[i]!) + epsilon))],
        [shape, total],
      ],
    },
  ]
}

/** Products by rows and by tiles, whole and in parts of the inner axis, of sizes that fours divide and others. */
function products(): Case[] {
  const sizes = [
    { rows: 1, inner: 40, columns: 12, transposeA: false, transposeB: false },
    { rows: 3, inner: 7, columns: 5, transposeA: true, transposeB: true },
    { rows: 20, inner: 600, columns: 36, transposeA: false, transposeB: false },
  ]
  return sizes.map(({ rows, inner, columns, transposeA, transposeB }, n) => {
    const [a, b] = [wave(rows * inner, 1), wave(inner * columns, 2)]
    const [bias, residual] = [wave(columns, 3), wave(rows * columns, 4)]
    const at = (i: number, k: number) => a[transposeA ? k * rows + i : i * inner + k]!
    const of = (k: number, j: number) => b[transposeB ? j * inner + k : k * columns + j]!
    const plain = residual.map((_, i) =>
      sum(Array.from({ length: inner }, (_, k) => at(Math.floor(i / columns), k) * of(k, i % columns))),
    )
    const shape = [rows, columns]
    const relu = n % 2 === 0
    const biased = plain.map((v, i) => v + bias[i % columns]!)
    const factors = {
      a: [transposeA ? [inner, rows] : [rows, inner], a],
      b: [transposeB ? [columns, inner] : [inner, columns], b],
    } as const
    // Odd ones without a bias.
    return {
      name: 'LetheProduct',
      inputs: { ...factors, ...(relu && { bias: [[columns], bias] as const }), residual: [shape, residual] },
      attributes: { transposeA, transposeB, relu },
      expected: [[shape, (relu ? biased : plain).map((v, i) => (relu ? Math.max(0, v) : v) + residual[i]!)]],
    }
  })
}

function severalProducts(rows: number, inner: number, columns: number): Case {
  const x = wave(rows * inner, 1)
  const weights = [wave(inner * columns, 2), wave(inner * columns, 3), wave(inner * columns, 4)]
  const product = (weight: Values) =>
    Array.from({ length: rows * columns }, (_, i) =>
      sum(
        weight
          .slice(0, inner)
          .map((_, k) => x[Math.floor(i / columns) * inner + k]! * weight[k * columns + (i % columns)]!),
      ),
    )
  return {
    name: 'LetheProducts',
    inputs: {
      x: [[rows, inner], x],
      ...Object.fromEntries(weights.map((weight, n) => [`weight${n}`, [[inner, columns], weight] as const])),
    },
    expected: weights.map((weight) => [[rows, columns], product(weight)]),
  }
}

/** A place in each of two rows, the first of several that are worth least. */
function places(places: number, byWorth: boolean, among = places): Case[] {
  const shape = [2, places]
  const ages = Array.from({ length: 2 * places }, (_, i) => (i * 37) % 101)
  const valid = ages.map((_, i) => (i % places === places - 2 && i > places ? 0 : 1))
  const worths = ages.map((_, i) => ((i * 13) % 5) - 7)
  const worth = ages.map((age, i) => (byWorth ? worths[i]! : -(age + 1)) - (1 - valid[i]!) * 1000)
  const taken = byRow(worth, places).map((row) => row.indexOf(Math.min(...row.slice(0, among))))
  const here = (i: number) => taken[Math.floor(i / places)] === i % places
  const place = [[2], taken, 'int32'] as const
  const [x0, x1, x2, x3] = [
    wave(6 * places, 1),
    wave(2 * places, 2),
    wave(2 * places, 3),
    wave(2 * places, 4),
  ]
  const written = (x: Values, lines: number) =>
    x.map((v, i) =>
      here(Math.floor(i / places / lines) * places + (i % places)) ? 100 + Math.floor(i / places) : v,
    )
  const column = (lines: number, ...shape: number[]) =>
    [shape, Array.from({ length: lines }, (_, line) => 100 + line)] as const
  return [
    {
      name: 'LetheTakePlace',
      inputs: {
        ages: [shape, ages],
        valid: [shape, valid],
        ...(byWorth && { worths: [shape, worths] as const }),
      },
      attributes: { empty: 1000, among },
      expected: [
        [shape, ages.map((age, i) => (here(i) ? 0 : age + 1))],
        [shape, valid.map((v, i) => (here(i) ? 1 : v))],
        [[2], taken],
      ],
    },
    {
      name: 'LetheWriteSlot',
      inputs: {
        place,
        ...Object.fromEntries(
          [x1, x2, x3].flatMap((x, n) => [
            [`x${n + 1}`, [shape, x] as const],
            [`column${n + 1}`, column(2, 2, 1)],
          ]),
        ),
        x0: [[2, 3, places], x0],
        column0: column(6, 2, 3, 1),
      },
      expected: [
        [[2, 3, places], written(x0, 3)],
        ...[x1, x2, x3].map((x) => [shape, written(x, 1)] as const),
      ],
    },
  ]
}

function activations(): Case[] {
  const shape = [3, 31]
  const [x, dy] = [wave(93, 1, 3), wave(93, 2)]
  const gate = wave(93, 5, 40)
  const density = (v: number) => Math.exp(-0.5 * v * v) / Math.sqrt(2 * Math.PI)
  const slope = (v: number) => sigmoid(v) * (1 + v * (1 - sigmoid(v)))
  return [
    { name: 'LetheGelu', inputs: { x: [shape, x] }, expected: [[shape, x.map((v) => v * cumulative(v))]] },
    {
      name: 'LetheGeluGradient',
      inputs: { dy: [shape, dy], x: [shape, x] },
      expected: [[shape, x.map((v, i) => dy[i]! * (cumulative(v) + v * density(v)))]],
    },
    {
      name: 'LetheSwiglu',
      inputs: { gate: [shape, gate], x: [shape, x] },
      expected: [[shape, x.map((v, i) => gate[i]! * sigmoid(gate[i]!) * v)]],
    },
    {
      name: 'LetheSwigluGradient',
      inputs: { dy: [shape, dy], gate: [shape, gate], x: [shape, x] },
      expected: [
        [shape, x.map((v, i) => dy[i]! * v * slope(gate[i]!))],
        [shape, dy.map((v, i) => v * gate[i]! * sigmoid(gate[i]!))],
      ],
    },
    {
      name: 'LetheReluGradient',
      inputs: { dy: [shape, dy], y: [shape, x.map((v) => Math.max(0, v))] },
      expected: [[shape, dy.map((v, i) => (x[i]! > 0 ? v : 0))]],
    },
  ]
}

const cases: Case[] = [
  ...norms(3, 5),
  ...norms(70, 130),
  ...norms(10, 524),
  ...activations(),
  ...losses(130),
  ...losses(516),
  rotation(1, 5, false),
  rotation(2, 5, true),
  rotation(1, 1, true),
  ...products(),
  severalProducts(1, 40, 12),
  severalProducts(3, 9, 7),
  ...places(6, false),
  ...places(150, true, 100),
  ...optimisers(undefined),
  ...optimisers(0.7),
]

describe.skipIf(missing)('fused operations on webgpu', () => {
  let info: BackendInfo
  beforeAll(async () => {
    info = await useBackend('webgpu', { softwareVulkan, features: ['subgroups'] })
  })
  afterEach(() => withholdSubgroups(false))
  afterAll(() => disposeBackend())

  const call = (name: Name, inputs: Record<string, Tensor>, attributes = {}) =>
    fused(name, inputs as never, attributes as never) as Tensor[] | undefined
  const host = ([shape, values, dtype]: Case['inputs'][string]) =>
    tensor([...values], [...shape], dtype ?? 'float32')

  const computed = async ({ name, inputs, attributes, expected }: Case) => {
    const given = Object.fromEntries(Object.entries(inputs).map(([key, value]) => [key, host(value)]))
    const before = memory().numTensors
    const outputs = call(name, given, attributes)!
    expect(memory().numTensors).toBe(before + expected.length)
    for (const [index, [shape, values]] of expected.entries()) {
      expect(outputs[index]!.shape).toEqual(shape)
      const actual = await outputs[index]!.data()
      for (const [i, value] of values.entries()) {
        const error = Math.abs(actual[i]! - value) / Math.max(1, Math.abs(value))
        if (!(error < 2e-5)) expect.fail(`output ${index} [${i}]: ${actual[i]} instead of ${value}`)
      }
    }
    info.throwIfFailed()
    for (const x of [...outputs, ...Object.values(given)]) x.dispose()
  }

  test.each(cases)('$name', computed)

  const combining = cases.filter(({ name }) => /Norm|CrossEntropy$/.test(name))
  test.each(combining)('$name without subgroups', async (given) => {
    withholdSubgroups()
    await computed(given)
  })
  test('each way has had shaders of its own', () => {
    const { pipelineCache } = backend() as unknown as { pipelineCache: object }
    const bySubgroups = Object.keys(pipelineCache).filter(
      (key) => /norm|entropy/.test(key) && key.endsWith(';subgroups'),
    )
    expect(bySubgroups.length).toBeGreaterThan(4)
    for (const key of bySubgroups) expect(pipelineCache).toHaveProperty([key.replace(';subgroups', '')])
  })

  test.each([true, false])('sums of squares of ten tensors come in parts', async (withheld) => {
    withholdSubgroups(withheld)
    const values = Array.from({ length: 10 }, (_, n) => wave(n === 3 ? 2500 : n + 1, n))
    const given = Object.fromEntries(values.map((value, n) => [`x${n}`, tensor([...value])]))
    const [parts] = call('LetheSumSquares', given)!
    const total = sum([...(await parts!.data())])
    expect(total).toBeCloseTo(sum(values.flat().map((v) => v * v)), 2)
    for (const x of [parts!, ...Object.values(given)]) x.dispose()
  })

  test('what is written into is another tensor to whoever holds the values or is reading them', async () => {
    const [column, place] = [tensor([9], [1, 1]), tensor([1], [1], 'int32')]
    const write = (x: Tensor) => call('LetheWriteSlot', { x0: x, column0: column, place })![0]!
    const x = tensor([1, 2, 3], [1, 3])
    const held = clone(x)
    const copied = write(x)
    held.dispose()
    const reading = x.data()
    const moved = write(x)
    expect([...(await reading)]).toEqual([1, 2, 3])
    expect([...(await copied.data())]).toEqual([1, 9, 3])
    expect([...(await moved.data())]).toEqual([1, 9, 3])
    for (const used of [column, place, x, copied, moved]) used.dispose()
    info.throwIfFailed()
  })

  test('all but the angles of ages and Adam for one tensor are there; whole numbers and nothing are declined', () => {
    const elsewhere = ['LetheSumSquares', 'LetheToFloat16', 'LetheFloat16Product'] // the last two in float16.test.ts
    const names = new Set([...cases.map(({ name }) => name), ...elsewhere])
    expect(new Set(fusedKernels.map(({ kernelName }) => kernelName))).toEqual(names)
    expect(info.patched).toEqual(['Sum', ...fusedKernels.map(({ kernelName }) => kernelName)])
    const [empty, whole] = [tensor([], [0, 4]), tensor([1, 2], [2], 'int32')]
    expect(call('LetheGelu', { x: empty })).toBe(undefined)
    expect(call('LetheGelu', { x: whole })).toBe(undefined)
    empty.dispose()
    whole.dispose()
  })
})
