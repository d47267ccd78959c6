/** The fused operations beside their formulas in float64, on Chromium's software driver. */
import { existsSync } from 'node:fs'
import { type BackendInfo, disposeBackend, useBackend } from '@lethe/backends'
import { type FusedKernels, fused } from '@lethe/core'
import { memory, type Tensor, tensor } from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fusedKernels } from './index'

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

/** Sizes around the 64 threads of a row and the parts of 32 rows. */
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

function losses(): Case[] {
  const [rows, classes] = [5, 130]
  const logits = wave(rows * classes, 1, 30).map((v, i) => (i === 7 ? -1e30 : v))
  const targets = [0, 129, -1, 64, 130]
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
  const total = square.map((v, i) => v + g[i]! ** 2)
  return [
    {
      name: 'LetheAdam',
      inputs: { ...given, mean: [shape, average] },
      attributes: { beta1, beta2, rate, epsilon, decay, shrink },
      expected: [
        [
          shape,
          values.map((v, i) => shrink * v - (rate * newMean[i]!) / (Math.sqrt(newSquare[i]!) + epsilon)),
        ],
        [shape, newMean],
        [shape, newSquare],
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
  ...activations(),
  ...losses(),
  rotation(1, 5, false),
  rotation(2, 5, true),
  rotation(1, 1, true),
  ...optimisers(undefined),
  ...optimisers(0.7),
]

describe.skipIf(missing)('fused operations on webgpu', () => {
  let info: BackendInfo
  beforeAll(async () => {
    info = await useBackend('webgpu', { softwareVulkan })
  })
  afterAll(() => disposeBackend())

  const call = (name: Name, inputs: Record<string, Tensor>, attributes = {}) =>
    fused(name, inputs as never, attributes as never) as Tensor[] | undefined
  const host = ([shape, values, dtype]: Case['inputs'][string]) =>
    tensor([...values], [...shape], dtype ?? 'float32')

  test.each(cases)('$name', async ({ name, inputs, attributes, expected }) => {
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
  })

  test('sums of squares come in parts', async () => {
    const values = wave(2500, 1)
    const x = tensor([...values], [50, 50])
    const [parts] = call('LetheSumSquares', { x })!
    const total = sum([...(await parts!.data())])
    expect(total).toBeCloseTo(sum(values.map((v) => v * v)), 2)
    x.dispose()
    parts!.dispose()
  })

  test('all but the angles of ages are there; whole numbers and nothing are declined', () => {
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
