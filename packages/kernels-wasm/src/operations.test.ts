/**
 * The kernels of whole operations: against float64 in plain loops, in any number of parts, for values that are no
 * ordinary numbers, and without a trace beside their results.
 */
import { describe, expect, test } from 'vitest'
import { type Kernels, loadKernels, supportedBuilds } from './index'

const builds = supportedBuilds()
const scratch = 2 ** 21

/** Tensors in a memory of NaN with gaps between them. */
class Arena {
  private readonly memory = new WebAssembly.Memory({ initial: 64 })
  private readonly all = new Float32Array(this.memory.buffer, 0, scratch / 4).fill(Number.NaN)
  private readonly taken: { from: number; to: number }[] = []
  private free = 5
  readonly kernels: Kernels

  constructor(relaxed: boolean) {
    this.kernels = loadKernels(this.memory, () => scratch, { relaxed })!
  }

  private place(size: number): { from: number; to: number } {
    const place = { from: this.free, to: this.free + size }
    this.taken.push(place)
    this.free = place.to + 7
    if (this.free > this.all.length) throw new Error('the arena is full')
    return place
  }

  /** The address of new floats with these values. */
  floats(values: ArrayLike<number>): number {
    const { from } = this.place(values.length)
    this.all.set(values, from)
    return 4 * from
  }

  whole(values: readonly number[]): number {
    const { from } = this.place(values.length)
    new Int32Array(this.memory.buffer, 4 * from, values.length).set(values)
    return 4 * from
  }

  /** The address of new floats full of NaN, and how to read them. */
  result(size: number): { at: number; read(): number[] } {
    const { from, to } = this.place(size)
    return { at: 4 * from, read: () => [...this.all.slice(from, to)] }
  }

  /** Nothing was written outside of what was taken. */
  expectGapsUntouched(): void {
    const rest = this.all.slice()
    for (const { from, to } of this.taken) rest.fill(Number.NaN, from, to)
    expect(rest.every(Number.isNaN)).toBe(true)
  }
}

let state = 7
/** Reproducible float32 numbers in [-2, 2). */
const draw = (size: number) =>
  Float32Array.from({ length: size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 30 - 2
  })

/** Every value within `tolerance` of its own size or 1; NaN and infinities where they are expected. */
function expectClose(found: readonly number[], expected: readonly number[], tolerance = 3e-6): void {
  expect(found.length).toBe(expected.length)
  expected.forEach((value, i) => {
    const close = Number.isFinite(value)
      ? Math.abs(found[i]! - value) <= tolerance * Math.max(1, Math.abs(value))
      : Object.is(found[i], value)
    if (!close) expect.fail(`[${i}] is ${found[i]}, expected ${value}`)
  })
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i)
const sumOf = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
const rowsOf = (x: ArrayLike<number>, width: number) =>
  range(x.length / width).map((row) => Array.from(x).slice(row * width, (row + 1) * width))

/** erf as the integral of its density, by Simpson's rule. */
function erf(x: number): number {
  const end = Math.min(Math.abs(x), 6)
  const steps = 2000
  const density = (i: number) => Math.exp(-(((i * end) / steps) ** 2))
  let total = density(0) + density(steps)
  for (let i = 1; i < steps; i++) total += (i % 2 ? 4 : 2) * density(i)
  return (Math.sign(x) * 2 * total * end) / steps / 3 / Math.sqrt(Math.PI)
}
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))

/** Runs [0, count) at once, and in two parts that are not of equal length, with the same result to the last bit. */
function inParts(count: number, run: (from: number, to: number) => void, read: () => number[]): void {
  run(0, count)
  const whole = read()
  const cut = Math.ceil(count / 3)
  run(cut, count)
  run(0, cut)
  expect(read()).toEqual(whole)
}

const sizes = [1, 3, 4, 5, 17, 64, 1000]

describe.each([false, true])('relaxed: %s', (relaxed) => {
  const runs = test.skipIf(!builds[relaxed ? 'relaxed' : 'plain'])

  describe.each([true, false])('norm, centred: %s', (centred) => {
    for (const width of sizes)
      runs(`rows of ${width}: values and gradients`, () => {
        const rows = 67 // two parts of 32 rows, and one of three
        const arena = new Arena(relaxed)
        const { kernels } = arena
        const [xs, scales, biases, dys] = [draw(rows * width), draw(width), draw(width), draw(rows * width)]
        const epsilon = 1e-3
        const [x, scale, bias, dy] = [xs, scales, biases, dys].map((values) => arena.floats(values)) as [
          number,
          number,
          number,
          number,
        ]
        const [y, means, inverses, dx] = [
          arena.result(rows * width),
          arena.result(rows),
          arena.result(rows),
          arena.result(rows * width),
        ]
        const moments = rowsOf(xs, width).map((row) => {
          const mean = centred ? sumOf(row) / width : 0
          const variance = sumOf(row.map((value) => (value - mean) ** 2)) / width
          const inverse = 1 / Math.sqrt(variance + epsilon)
          return { mean, inverse, normal: row.map((value) => (value - mean) * inverse) }
        })
        const forward = (from: number, to: number) =>
          kernels.normalize(
            x,
            scale,
            centred ? bias : 0,
            y.at,
            centred ? means.at : 0,
            inverses.at,
            width,
            epsilon,
            from,
            to,
          )
        inParts(rows, forward, y.read)
        expectClose(
          y.read(),
          moments.flatMap(({ normal }) => normal.map((n, i) => n * scales[i]! + (centred ? biases[i]! : 0))),
          1e-5,
        )
        expectClose(
          inverses.read(),
          moments.map(({ inverse }) => inverse),
        )
        if (centred)
          expectClose(
            means.read(),
            moments.map(({ mean }) => mean),
          )
        else expect(means.read().every(Number.isNaN)).toBe(true)

        const parts = kernels.normalizeParts(rows)
        const [dscale, dbias] = [arena.result(parts * width), arena.result(parts * width)]
        const backward = (from: number, to: number) =>
          kernels.normalizeGradient(
            dy,
            x,
            scale,
            centred ? means.at : 0,
            inverses.at,
            dx.at,
            dscale.at,
            dbias.at,
            rows,
            width,
            from,
            to,
          )
        inParts(parts, backward, () => [...dx.read(), ...dscale.read()])
        // dx_j = Σ_i dy_i scale_i ∂n_i/∂x_j, ∂n_i/∂x_j = inverse ([i = j] - centred/width - n_i n_j / width)
        const expected = rowsOf(dys, width).flatMap((row, r) => {
          const { inverse, normal } = moments[r]!
          return range(width).map((j) =>
            sumOf(
              row.map(
                (d, i) =>
                  d *
                  scales[i]! *
                  inverse *
                  ((i === j ? 1 : 0) - (centred ? 1 : 0) / width - (normal[i]! * normal[j]!) / width),
              ),
            ),
          )
        })
        expectClose(dx.read(), expected, 1e-4)
        const columns = (values: number[]) =>
          range(width).map((i) => sumOf(range(parts).map((part) => values[part * width + i]!)))
        const dysByRow = rowsOf(dys, width)
        expectClose(
          columns(dscale.read()),
          range(width).map((i) => sumOf(dysByRow.map((row, r) => row[i]! * moments[r]!.normal[i]!))),
          1e-4,
        )
        if (centred)
          expectClose(
            columns(dbias.read()),
            range(width).map((i) => sumOf(dysByRow.map((row) => row[i]!))),
            1e-4,
          )
        else expect(dbias.read().every(Number.isNaN)).toBe(true)
        arena.expectGapsUntouched()
      })

    runs('a row of equal numbers, and rows with a NaN: none of it reaches another row', () => {
      const arena = new Arena(relaxed)
      const x = arena.floats([3, 3, 3, 3, 3, 1, Number.NaN, 2, 3, 4, 1, 2, 3, 4, 5])
      const ones = arena.floats([1, 1, 1, 1, 1])
      const zeros = arena.floats([0, 0, 0, 0, 0])
      const [y, means, inverses] = [arena.result(15), arena.result(3), arena.result(3)]
      arena.kernels.normalize(
        x,
        ones,
        centred ? zeros : 0,
        y.at,
        centred ? means.at : 0,
        inverses.at,
        5,
        1e-6,
        0,
        3,
      )
      const [equal, broken, ordinary] = rowsOf(y.read(), 5) as [number[], number[], number[]]
      expectClose(equal, centred ? [0, 0, 0, 0, 0] : [1, 1, 1, 1, 1])
      expect(broken.every(Number.isNaN)).toBe(true)
      expect(ordinary.every(Number.isFinite)).toBe(true)
    })
  })

  for (const size of sizes)
    runs(`${size} values: GELU, SwiGLU, ReLU and their gradients`, () => {
      const arena = new Arena(relaxed)
      const { kernels } = arena
      const [xs, gates, dys] = [draw(size).map((x) => 3 * x), draw(size).map((x) => 8 * x), draw(size)]
      const [x, gate, dy] = [arena.floats(xs), arena.floats(gates), arena.floats(dys)]
      const [y, dx, dgate] = [arena.result(size), arena.result(size), arena.result(size)]
      const expectResult = (
        result: { read(): number[] },
        run: (from: number, to: number) => void,
        oracle: (i: number) => number,
      ) => {
        inParts(size, run, result.read)
        expectClose(result.read(), range(size).map(oracle), 4e-6)
      }
      const cumulative = (value: number) => (1 + erf(value / Math.SQRT2)) / 2
      const density = (value: number) => Math.exp(-(value ** 2) / 2) / Math.sqrt(2 * Math.PI)
      expectResult(
        y,
        (from, to) => kernels.gelu(x, y.at, from, to),
        (i) => xs[i]! * cumulative(xs[i]!),
      )
      expectResult(
        dx,
        (from, to) => kernels.geluGradient(dy, x, dx.at, from, to),
        (i) => dys[i]! * (cumulative(xs[i]!) + xs[i]! * density(xs[i]!)),
      )
      expectResult(
        y,
        (from, to) => kernels.swiglu(gate, x, y.at, from, to),
        (i) => gates[i]! * sigmoid(gates[i]!) * xs[i]!,
      )
      const both = (from: number, to: number) =>
        kernels.swigluGradient(dy, gate, x, dgate.at, dx.at, from, to)
      expectResult(dgate, both, (i) => {
        const s = sigmoid(gates[i]!)
        return dys[i]! * xs[i]! * s * (1 + gates[i]! * (1 - s))
      })
      expectResult(dx, both, (i) => dys[i]! * gates[i]! * sigmoid(gates[i]!))
      expectResult(
        dx,
        (from, to) => kernels.reluGradient(dy, x, dx.at, from, to),
        (i) => (xs[i]! > 0 ? dys[i]! : 0),
      )
      arena.expectGapsUntouched()
    })

  runs('activations of what is no ordinary number', () => {
    const arena = new Arena(relaxed)
    const values = [0, 1e30, -1e30, 100, -100, Number.NaN]
    const [x, ones] = [arena.floats(values), arena.floats(values.map(() => 1))]
    const [y, other] = [arena.result(6), arena.result(6)]
    arena.kernels.gelu(x, y.at, 0, 6)
    expectClose(y.read(), [0, Math.fround(1e30), 0, 100, 0, Number.NaN])
    arena.kernels.geluGradient(ones, x, y.at, 0, 6)
    expectClose(y.read(), [0.5, 1, 0, 1, 0, Number.NaN])
    arena.kernels.swiglu(x, ones, y.at, 0, 6)
    expectClose(y.read(), [0, Math.fround(1e30), 0, 100, 0, Number.NaN])
    arena.kernels.swigluGradient(ones, x, ones, y.at, other.at, 0, 6)
    expectClose(y.read(), [0.5, 1, 0, 1, 0, Number.NaN])
    expectClose(other.read(), [0, Math.fround(1e30), 0, 100, 0, Number.NaN])
    arena.kernels.reluGradient(x, ones, y.at, 0, 6)
    expectClose(y.read(), values.map(Math.fround))
    arena.kernels.reluGradient(ones, x, y.at, 0, 6)
    expectClose(y.read().slice(0, 5), [0, 1, 0, 1, 0])
  })

  for (const classes of sizes)
    runs(`cross-entropy over ${classes} classes and its gradient`, () => {
      const rows = 7
      const arena = new Arena(relaxed)
      const { kernels } = arena
      const values = draw(rows * classes).map((value, i) => value * (i % 3 === 0 ? 20 : 1))
      // A row that is shifted far, one with a masked class, and a target outside the classes.
      for (let i = 0; i < classes; i++) values[classes + i]! += 1000
      values[2 * classes] = -1e30
      const targets = range(rows).map((row) => (row === 6 ? classes : (5 * row) % classes))
      const scales = draw(rows)
      const logits = arena.floats(values)
      const target = arena.whole(targets)
      const scale = arena.floats(scales)
      const [loss, largest, logTotal] = [arena.result(rows), arena.result(rows), arena.result(rows)]
      const gradient = arena.result(rows * classes)
      const exact = rowsOf(values, classes).map((row, r) => {
        const most = Math.max(...row)
        const total = sumOf(row.map((value) => Math.exp(value - most)))
        return {
          most,
          total: Math.log(total),
          loss: most + Math.log(total) - (row[targets[r]!] ?? 0),
          gradient: row.map(
            (value, i) => scales[r]! * (Math.exp(value - most) / total - (i === targets[r] ? 1 : 0)),
          ),
        }
      })
      const forward = (from: number, to: number) =>
        kernels.crossEntropy(logits, target, loss.at, largest.at, logTotal.at, classes, from, to)
      inParts(rows, forward, () => [...loss.read(), ...largest.read(), ...logTotal.read()])
      expectClose(
        loss.read(),
        exact.map((row) => row.loss),
      )
      expectClose(
        largest.read(),
        exact.map(({ most }) => most),
        0,
      )
      expectClose(
        logTotal.read(),
        exact.map(({ total }) => total),
      )
      const backward = (from: number, to: number) =>
        kernels.crossEntropyGradient(
          logits,
          target,
          largest.at,
          logTotal.at,
          scale,
          gradient.at,
          classes,
          from,
          to,
        )
      inParts(rows, backward, gradient.read)
      expectClose(
        gradient.read(),
        exact.flatMap((row) => row.gradient),
      )
      if (classes > 1)
        expect(gradient.read()[2 * classes]).toBe(targets[2] === 0 ? -scales[2]! : scales[2]! * 0)
      arena.expectGapsUntouched()
    })

  runs('cross-entropy: a NaN stays in its row', () => {
    const arena = new Arena(relaxed)
    const logits = arena.floats([1, Number.NaN, 3, 4, 5, 1, 2, 3, 4, 5])
    const target = arena.whole([4, 4])
    const results = [arena.result(2), arena.result(2), arena.result(2)] as const
    arena.kernels.crossEntropy(logits, target, results[0].at, results[1].at, results[2].at, 5, 0, 2)
    expect(results[0].read()[0]).toBeNaN()
    expect(results[0].read()[1]).toBeCloseTo(Math.log(sumOf([0, 1, 2, 3, 4].map((x) => Math.exp(-x)))), 6)
  })

  for (const [half, steps] of [
    [1, 1],
    [1, 3],
    [3, 5],
    [4, 17],
    [16, 60],
  ] as const)
    runs(`rotation of ${half} pairs, ${steps} steps, there and back`, () => {
      const arena = new Arena(relaxed)
      const { kernels } = arena
      const [matrices, tables] = [6, 2]
      const xs = draw(matrices * 2 * half * steps)
      const angles = draw(tables * half * steps)
      const x = arena.floats(xs)
      const [cosine, sine] = [arena.floats(angles.map(Math.cos)), arena.floats(angles.map(Math.sin))]
      const [y, back] = [arena.result(xs.length), arena.result(xs.length)]
      const turn = (from: number, to: number) =>
        kernels.rotate(x, cosine, sine, y.at, half, steps, matrices / tables, 1, from, to)
      inParts(matrices, turn, y.read)
      const expected = range(xs.length).map((place) => {
        const [matrix, inner] = [Math.floor(place / (2 * half * steps)), place % (2 * half * steps)]
        const pair = inner % (half * steps)
        const angle = angles[Math.floor(matrix / (matrices / tables)) * half * steps + pair]!
        const start = matrix * 2 * half * steps
        const [a, b] = [xs[start + pair]!, xs[start + half * steps + pair]!]
        return inner < half * steps
          ? a * Math.cos(angle) - b * Math.sin(angle)
          : b * Math.cos(angle) + a * Math.sin(angle)
      })
      expectClose(y.read(), expected)
      kernels.rotate(y.at, cosine, sine, back.at, half, steps, matrices / tables, -1, 0, matrices)
      expectClose(back.read(), [...xs])
      arena.expectGapsUntouched()
    })

  for (const slots of [1, 3, 4, 17])
    runs(`rotary angles of ${slots} slots, from the future to a million steps ago`, () => {
      const arena = new Arena(relaxed)
      const [half, rows, ratio] = [9, 3, 10000 ** (-1 / 9)]
      const ages = range(rows * slots).map((i) => [0, 1, -5, 63, 8191, 1_000_003, 2 ** 30][i % 7]! + i)
      const age = arena.whole(ages)
      const size = rows * half * slots
      const [cosine, sine] = [arena.result(size), arena.result(size)]
      const run = (from: number, to: number) =>
        arena.kernels.rotaryAngles(age, cosine.at, sine.at, half, slots, ratio, from, to)
      inParts(rows, run, () => [...cosine.read(), ...sine.read()])
      const angles = range(size).map((place) => {
        const [row, rest] = [Math.floor(place / (half * slots)), place % (half * slots)]
        return -ages[row * slots + (rest % slots)]! * ratio ** Math.floor(rest / slots)
      })
      expectClose(cosine.read(), angles.map(Math.cos), 2e-6)
      expectClose(sine.read(), angles.map(Math.sin), 2e-6)
      arena.expectGapsUntouched()
    })

  for (const size of [...sizes, 4096, 10_001])
    runs(`${size} values: sum of squares, Adam, Adagrad`, () => {
      const arena = new Arena(relaxed)
      const { kernels } = arena
      const [values, gradients, means] = [draw(size), draw(size), draw(size)]
      const squares = draw(size).map(Math.abs)
      const [value, gradient, mean, square] = [values, gradients, means, squares].map((x) =>
        arena.floats(x),
      ) as [number, number, number, number]
      const parts = kernels.sumSquaresParts(size)
      const sums = arena.result(parts)
      inParts(parts, (from, to) => kernels.sumSquares(value, sums.at, size, from, to), sums.read)
      const exact = sumOf([...values].map((x) => x * x))
      expect(Math.abs(sumOf(sums.read()) - exact)).toBeLessThan(1e-6 * exact)

      const [newValues, newMean, newSquare] = [arena.result(size), arena.result(size), arena.result(size)]
      const factors = arena.floats([0.25])
      const [beta1, beta2, rate, epsilon, decay, shrink] = [0.9, 0.95, 0.01, 1e-3, 0.1, 0.99]
      for (const factor of [0, factors]) {
        const g = [...gradients].map((x, i) => x * (factor ? 0.25 : 1) + decay * values[i]!)
        const m = g.map((x, i) => beta1 * means[i]! + x)
        const s = g.map((x, i) => beta2 * squares[i]! + x * x)
        const adam = (from: number, to: number) =>
          kernels.adam(
            value,
            gradient,
            mean,
            square,
            factor,
            newValues.at,
            newMean.at,
            newSquare.at,
            beta1,
            beta2,
            rate,
            epsilon,
            decay,
            shrink,
            from,
            to,
          )
        inParts(size, adam, () => [...newValues.read(), ...newMean.read(), ...newSquare.read()])
        expectClose(newMean.read(), m)
        expectClose(newSquare.read(), s)
        expectClose(
          newValues.read(),
          m.map((x, i) => shrink * values[i]! - (rate * x) / (Math.sqrt(s[i]!) + epsilon)),
        )
        const adagrad = (from: number, to: number) =>
          kernels.adagrad(
            value,
            gradient,
            square,
            factor,
            newValues.at,
            newSquare.at,
            rate,
            epsilon,
            decay,
            from,
            to,
          )
        inParts(size, adagrad, () => [...newValues.read(), ...newSquare.read()])
        const total = g.map((x, i) => squares[i]! + x * x)
        expectClose(newSquare.read(), total)
        expectClose(
          newValues.read(),
          g.map((x, i) => values[i]! - (rate * x) / (Math.sqrt(total[i]!) + epsilon)),
        )
      }
      arena.expectGapsUntouched()
    })

  for (const [length, width] of [
    [1, 1],
    [3, 1],
    [4, 1],
    [17, 1],
    [1000, 1],
    [1, 5],
    [6, 3],
    [5, 17],
    [9, 64],
  ] as const)
    runs(`[3, ${length}, ${width}]: cumulated, and rows added up`, () => {
      const arena = new Arena(relaxed)
      const { kernels } = arena
      const blocks = 3
      const xs = draw(blocks * length * width)
      const x = arena.floats(xs)
      const y = arena.result(xs.length)
      for (const exclusive of [false, true])
        for (const backwards of [false, true]) {
          const run = (from: number, to: number) =>
            kernels.cumulate(x, y.at, length, width, exclusive, backwards, from, to)
          inParts(blocks, run, y.read)
          const expected = range(xs.length).map((place) => {
            const [column, row, block] = [
              place % width,
              Math.floor(place / width) % length,
              Math.floor(place / width / length),
            ]
            return sumOf(
              range(length)
                .filter((other) => (backwards ? other > row : other < row) || (!exclusive && other === row))
                .map((other) => xs[(block * length + other) * width + column]!),
            )
          })
          expectClose(y.read(), expected, 4e-5)
        }
      const sums = arena.result(width)
      const rows = blocks * length
      inParts(width, (from, to) => kernels.sumRows(x, sums.at, rows, width, from, to), sums.read)
      expectClose(
        sums.read(),
        range(width).map((i) => sumOf(rowsOf(xs, width).map((row) => row[i]!))),
        2e-5,
      )
      arena.expectGapsUntouched()
    })
})
