/** The operations with backward passes of their own: values from plain loops, gradients from central differences. */
import { useBackend } from '@lethe/backends'
import {
  concat,
  grads,
  memory,
  mul,
  sum,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  tensor,
  tidy,
} from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { registerGradients } from '../gradients'
import { Random } from '../random'
import { gelu, swiglu } from './activation'
import { stopGradient } from './differentiable'
import { indicator } from './indicator'
import { crossEntropy, negativeLogLikelihood } from './loss'
import { linear, matMul, projectFromHeads, projectToHeads } from './matmul'
import { layerNorm, rmsNorm } from './norm'
import { runningSum } from './running-sum'

const random = new Random(3)
const draw = (shape: readonly number[]) => ({
  shape,
  data: Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => random.normal()),
})
type Numbers = ReturnType<typeof draw>
const device = ({ shape, data }: Numbers) => tensor(Float32Array.from(data), shape as number[])

interface Case {
  readonly inputs: readonly Numbers[]
  readonly ours: (...x: Tensor[]) => Tensor
  readonly oracle: (...x: Float64Array[]) => number[]
  /** Inputs without a gradient, by place. */
  readonly constant?: readonly number[]
}

/** Rows × columns product of matrices stored row by row. */
const product = (
  a: (i: number, k: number) => number,
  b: (k: number, j: number) => number,
  m: number,
  k: number,
  n: number,
) =>
  Array.from({ length: m * n }, (_, place) => {
    let total = 0
    for (let inner = 0; inner < k; inner++) total += a(Math.floor(place / n), inner) * b(inner, place % n)
    return total
  })

const matMulCases = Object.fromEntries(
  [0, 1, 2, 3].flatMap((flags) =>
    ([undefined, 'a', 'b'] as const).flatMap((constant) =>
      [
        [2, 2],
        [1, 2],
        [2, 1],
      ].map(([batchA, batchB]) => {
        const [transposeA, transposeB] = [(flags & 1) > 0, (flags & 2) > 0]
        const [m, k, n] = [3, 4, 2]
        const c: Case = {
          inputs: [
            draw([batchA!, ...(transposeA ? [k, m] : [m, k])]),
            draw([batchB!, ...(transposeB ? [n, k] : [k, n])]),
          ],
          ours: (a, b) => matMul(a!, b!, { transposeA, transposeB, ...(constant && { constant }) }),
          oracle: (a, b) =>
            [0, 1].flatMap((item) => {
              const [fromA, fromB] = [batchA === 1 ? 0 : item * m * k, batchB === 1 ? 0 : item * k * n]
              return product(
                (i, inner) => a![fromA + (transposeA ? inner * m + i : i * k + inner)]!,
                (inner, j) => b![fromB + (transposeB ? j * k + inner : inner * n + j)]!,
                ...([m, k, n] as const),
              )
            }),
          constant: constant === 'a' ? [0] : constant === 'b' ? [1] : [],
        }
        return [`matMul ${batchA}x${batchB} flags ${flags} constant ${constant}`, c]
      }),
    ),
  ),
)

const rowsOf = (x: Float64Array, width: number) =>
  Array.from({ length: x.length / width }, (_, row) => Array.from(x.subarray(row * width, (row + 1) * width)))
const erf = (x: number) => {
  let total = 0
  const steps = 4000
  for (let i = 0; i < steps; i++) total += Math.exp(-((((i + 0.5) * x) / steps) ** 2)) * (x / steps)
  return (2 / Math.sqrt(Math.PI)) * total
}
const targets = [2, 0, 1, 2, 1, 1]
const weights = [1, 0, 2, 0.5, 0, 1]

const cases: Record<string, Case> = {
  ...matMulCases,
  'linear with bias': {
    inputs: [draw([2, 3, 4]), draw([4, 5]), draw([5])],
    ours: (x, w, b) => linear(x!, w!, b!),
    oracle: (x, w, b) =>
      product(
        (i, k) => x![i * 4 + k]!,
        (k, j) => w![k * 5 + j]!,
        6,
        4,
        5,
      ).map((value, place) => value + b![place % 5]!),
  },
  'linear with bias and ReLU': {
    inputs: [draw([2, 3, 4]), draw([4, 5]), draw([5])],
    ours: (x, w, b) => linear(x!, w!, b!, { relu: true }),
    oracle: (x, w, b) =>
      product(
        (i, k) => x![i * 4 + k]!,
        (k, j) => w![k * 5 + j]!,
        6,
        4,
        5,
      ).map((value, place) => Math.max(0, value + b![place % 5]!)),
  },
  'linear with bias and a residual': {
    inputs: [draw([2, 3, 4]), draw([4, 5]), draw([5]), draw([2, 3, 5])],
    ours: (x, w, b, residual) => linear(x!, w!, b!, { residual: residual! }),
    oracle: (x, w, b, residual) =>
      product(
        (i, k) => x![i * 4 + k]!,
        (k, j) => w![k * 5 + j]!,
        6,
        4,
        5,
      ).map((value, place) => value + b![place % 5]! + residual![place]!),
  },
  'linear with a residual': {
    inputs: [draw([2, 3, 4]), draw([4, 5]), draw([2, 3, 5])],
    ours: (x, w, residual) => linear(x!, w!, undefined, { residual: residual! }),
    oracle: (x, w, residual) =>
      product(
        (i, k) => x![i * 4 + k]!,
        (k, j) => w![k * 5 + j]!,
        6,
        4,
        5,
      ).map((value, place) => value + residual![place]!),
  },
  'projectToHeads, a single step': {
    inputs: [draw([2, 1, 4]), draw([4, 6]), draw([4, 6])],
    ours: (now, w, v) =>
      concat(
        projectToHeads([{ hidden: now as Tensor3D, constant: false }], [w as Tensor2D, v as Tensor2D], 2),
        2,
      ),
    oracle: (now, w, v) =>
      [0, 1].flatMap((b) =>
        [0, 1].flatMap((head) =>
          [w, v].flatMap((weight) =>
            [0, 1, 2].map((feature) =>
              [0, 1, 2, 3].reduce(
                (total, i) => total + now![b * 4 + i]! * weight![i * 6 + head * 3 + feature]!,
                0,
              ),
            ),
          ),
        ),
      ),
  },
  'projectToHeads, a remembered and a present piece': {
    inputs: [draw([2, 3, 4]), draw([2, 2, 4]), draw([4, 6]), draw([4, 6])],
    constant: [0],
    ours: (old, now, w, v) =>
      concat(
        projectToHeads(
          [
            { hidden: old as Tensor3D, constant: true },
            { hidden: now as Tensor3D, constant: false },
          ],
          [w as Tensor2D, v as Tensor2D],
          2,
        ),
        2,
      ),
    // [batch, heads, twice headSize, steps]
    oracle: (old, now, w, v) =>
      [0, 1].flatMap((b) =>
        [0, 1].flatMap((head) =>
          [w, v].flatMap((weight) =>
            [0, 1, 2].flatMap((feature) =>
              [0, 1, 2, 3, 4].map((step) => {
                const row =
                  step < 3 ? old!.subarray((b * 3 + step) * 4) : now!.subarray((b * 2 + step - 3) * 4)
                const column = head * 3 + feature
                return [0, 1, 2, 3].reduce((total, i) => total + row[i]! * weight![i * 6 + column]!, 0)
              }),
            ),
          ),
        ),
      ),
  },
  'projectFromHeads, with a residual': {
    inputs: [draw([2, 2, 3, 4]), draw([6, 5]), draw([2, 4, 5])],
    ours: (context, w, residual) => projectFromHeads(context!, w as Tensor2D, residual),
    oracle: (context, w, residual) =>
      [0, 1].flatMap((b) =>
        product(
          (step, feature) => context![(b * 6 + feature) * 4 + step]!,
          (k, j) => w![k * 5 + j]!,
          4,
          6,
          5,
        ).map((value, place) => value + residual![b * 20 + place]!),
      ),
  },
  layerNorm: {
    inputs: [draw([2, 3, 5]), draw([5]), draw([5])],
    ours: (x, scale, bias) => layerNorm(x!, scale!, bias!, 1e-5),
    oracle: (x, scale, bias) =>
      rowsOf(x!, 5).flatMap((row) => {
        const mean = row.reduce((a, b) => a + b) / 5
        const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / 5
        return row.map((value, i) => ((value - mean) / Math.sqrt(variance + 1e-5)) * scale![i]! + bias![i]!)
      }),
  },
  rmsNorm: {
    inputs: [draw([2, 3, 5]), draw([5])],
    ours: (x, scale) => rmsNorm(x!, scale!, 1e-5),
    oracle: (x, scale) =>
      rowsOf(x!, 5).flatMap((row) => {
        const square = row.reduce((a, b) => a + b * b, 0) / 5
        return row.map((value, i) => (value / Math.sqrt(square + 1e-5)) * scale![i]!)
      }),
  },
  gelu: {
    inputs: [draw([7])],
    ours: (x) => gelu(x!),
    oracle: (x) => Array.from(x!, (value) => (value * (1 + erf(value / Math.SQRT2))) / 2),
  },
  swiglu: {
    inputs: [draw([2, 5]), draw([2, 5])],
    ours: (gate, x) => swiglu(gate!, x!),
    oracle: (gate, x) => Array.from(gate!, (value, i) => (value / (1 + Math.exp(-value))) * x![i]!),
  },
  crossEntropy: {
    inputs: [draw([2, 3, 3])],
    ours: (logits) => crossEntropy(logits!, tensor(targets, [2, 3], 'int32')),
    oracle: (logits) => [
      meanLoss(
        logits!,
        targets.map(() => 1),
      ),
    ],
  },
  'crossEntropy, weighted': {
    inputs: [draw([2, 3, 3])],
    ours: (logits) => crossEntropy(logits!, tensor(targets, [2, 3], 'int32'), tensor(weights, [2, 3])),
    oracle: (logits) => [meanLoss(logits!, weights)],
  },
  negativeLogLikelihood: {
    inputs: [draw([2, 3, 3])],
    ours: (logits) => negativeLogLikelihood(logits!, tensor(targets, [2, 3], 'int32')),
    oracle: (logits) =>
      targets.map((_, at) =>
        meanLoss(
          logits!,
          targets.map((_, other) => Number(other === at)),
        ),
      ),
    constant: [0],
  },
  ...Object.fromEntries(
    [false, true].map((exclusive) => [
      `runningSum${exclusive ? ', exclusive' : ''}`,
      {
        inputs: [draw([2, 4, 3])],
        ours: (x) => runningSum(x as Tensor3D, exclusive),
        oracle: (x) =>
          Array.from(x!, (_, place) => {
            const [row, column] = [Math.floor(place / 3), place % 3]
            let total = 0
            for (let step = row - (row % 4); step < row + (exclusive ? 0 : 1); step++)
              total += x![step * 3 + column]!
            return total
          }),
      } satisfies Case,
    ]),
  ),
  stopGradient: {
    inputs: [draw([4])],
    ours: (x) => mul(stopGradient(x!), x!),
    // Its gradient is that of x times a constant.
    oracle: (x) => Array.from(x!, (value) => value * value),
    constant: [0],
  },
}

function meanLoss(logits: Float64Array, weights: readonly number[]): number {
  const total = weights.reduce((a, b) => a + b)
  return rowsOf(logits, 3).reduce((loss, row, i) => {
    const normaliser = Math.log(row.reduce((a, b) => a + Math.exp(b), 0))
    return loss + (weights[i]! / total) * (normaliser - row[targets[i]!]!)
  }, 0)
}

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
    registerGradients()
  })

  test.each(Object.entries(cases))('%s', async (_, { inputs, ours, oracle, constant = [] }) => {
    const before = memory().numTensors
    const numbers = inputs.map(({ data }) => data)
    const xs = inputs.map(device)
    const value = tidy(() => ours(...xs))
    const expected = oracle(...numbers)
    const weighting = expected.map(() => random.normal())
    const weights = tensor(weighting, value.shape)
    const found = await value.data()
    expected.forEach((number, i) => {
      expect(found[i]).toBeCloseTo(number, 4)
    })
    const learning = inputs.map((_, i) => i).filter((i) => !constant.includes(i))
    if (learning.length > 0) {
      const gradients = tidy(() =>
        grads((...moved: Tensor[]) => {
          const all = xs.slice()
          learning.forEach((place, i) => {
            all[place] = moved[i]!
          })
          return sum(mul(ours(...all), weights))
        })(learning.map((place) => xs[place]!)),
      )
      for (const [i, place] of learning.entries()) {
        const gradient = await gradients[i]!.data()
        numbers[place]!.forEach((number, index) => {
          const moved = (step: number) => {
            const changed = numbers[place]!.slice()
            changed[index] = number + step
            const values = oracle(...numbers.map((x, other) => (other === place ? changed : x)))
            return values.reduce((total, x, j) => total + x * weighting[j]!, 0)
          }
          expect(gradient[index]).toBeCloseTo((moved(1e-5) - moved(-1e-5)) / 2e-5, 3)
        })
      }
      for (const gradient of gradients) gradient.dispose()
    }
    for (const used of [...xs, value, weights]) used.dispose()
    expect(memory().numTensors).toBe(before)
  })

  test('stopGradient lets nothing through', async () => {
    const x = tensor([1, 2, 3])
    const [gradient] = tidy(() => grads((y: Tensor) => sum(mul(stopGradient(mul(y, y)), y)))([x]))
    expect(Array.from(await gradient!.data())).toEqual([1, 4, 9])
    x.dispose()
    gradient!.dispose()
  })

  test('indicator: indices out of range give zeros', async () => {
    const rows = tidy(() => indicator(tensor([1, -1, 3, 0], [4], 'int32'), 3))
    expect(Array.from(await rows.data())).toEqual([0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0])
    rows.dispose()
    const ones = tidy(() => indicator(tensor([[1, 0]], [1, 2], 'int32'), 1))
    expect(ones.shape).toEqual([1, 2, 1])
    expect(Array.from(await ones.data())).toEqual([0, 1])
    ones.dispose()
  })
})
