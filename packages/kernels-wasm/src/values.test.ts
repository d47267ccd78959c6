/** exp, erf, sums and reversed lines: against float64, wherever float32 has something of its own, and not beyond the end. */
import { describe, expect, test } from 'vitest'
import { type Kernels, loadKernels, supportedBuilds } from './index'

const builds = supportedBuilds()

/** Runs a kernel on values in a memory of NaN, and expects none of it to change but the result. */
function run(
  relaxed: boolean,
  values: ArrayLike<number>,
  count: number,
  kernel: (kernels: Kernels, from: number, to: number) => void,
): Float32Array {
  const memory = new WebAssembly.Memory({ initial: 64 })
  const kernels = loadKernels(memory, () => 2 ** 21, { relaxed })!
  const all = new Float32Array(memory.buffer, 0, 2 ** 19).fill(Number.NaN)
  const [from, to] = [17, 17 + values.length + 5]
  all.set(values, from)
  kernel(kernels, 4 * from, 4 * to)
  const result = all.slice(to, to + count)
  all.fill(Number.NaN, to, to + count).fill(Number.NaN, from, from + values.length)
  expect(all.every(Number.isNaN)).toBe(true)
  return result
}

/** The distance from one float32 to the next at this size. */
const unit = (value: number) => 2 ** Math.max(-149, Math.floor(Math.log2(Math.abs(value))) - 23)

/** erf from its series, and from the continued fraction of erfc where the series is slow. */
function errorFunction(x: number): number {
  if (x < 0) return -errorFunction(-x)
  if (x > 3) {
    let fraction = x
    for (let k = 60; k > 0; k--) fraction = x + k / 2 / fraction
    return 1 - Math.exp(-x * x) / Math.sqrt(Math.PI) / fraction
  }
  let term = x
  let sum = x
  for (let k = 1; k < 100; k++) {
    term *= (-x * x) / k
    sum += term / (2 * k + 1)
  }
  return (2 / Math.sqrt(Math.PI)) * sum
}

describe.each([false, true])('relaxed: %s', (relaxed) => {
  const runs = test.skipIf(!builds[relaxed ? 'relaxed' : 'plain'])
  const line = (low: number, high: number, count: number) =>
    Float32Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1))

  runs('e^x within two units in the last place, down to the smallest float', () => {
    for (const x of [line(-103.9, 88.7, 100_003), line(-1e-3, 1e-3, 1001)]) {
      const y = run(relaxed, x, x.length, (kernels, from, to) => kernels.exponentials(from, to, x.length))
      const worst = y.reduce((worst, value, i) => {
        const exact = Math.exp(x[i]!)
        return Math.max(worst, Math.abs(value - exact) / unit(exact))
      }, 0)
      expect(worst).toBeLessThan(2)
    }
  })

  runs('e^x of what is no ordinary number', () => {
    const x = [0, -0, -Infinity, Infinity, Number.NaN, -1e30, 1e30, 89, -104.5]
    const y = run(relaxed, x, x.length, (kernels, from, to) => kernels.exponentials(from, to, x.length))
    expect([...y]).toEqual([1, 1, 0, Infinity, Number.NaN, 0, Infinity, Infinity, 0])
  })

  runs('erf within 3e-7, and relatively within 1e-6', () => {
    const x = line(-6, 6, 50_001)
    const y = run(relaxed, x, x.length, (kernels, from, to) => kernels.errorFunctions(from, to, x.length))
    y.forEach((value, i) => {
      const error = Math.abs(value - errorFunction(x[i]!))
      if (!(error < 3e-7 && error <= 1e-6 * Math.abs(errorFunction(x[i]!))))
        expect.fail(`erf(${x[i]}) = ${value}, off by ${error}`)
    })
    const special = [0, Infinity, -Infinity, Number.NaN, 1e20, -1e20]
    const z = run(relaxed, special, 6, (kernels, from, to) => kernels.errorFunctions(from, to, 6))
    expect([...z]).toEqual([0, 1, -1, Number.NaN, 1, -1])
  })

  for (const length of [0, 1, 3, 4, 5, 15, 16, 17, 64, 1003]) {
    runs(`lines of ${length}: sums, and the other way round`, () => {
      const lines = 3
      const x = Float32Array.from({ length: lines * length }, (_, i) => Math.sin(i))
      const sums = run(relaxed, x, lines, (kernels, from, to) => kernels.sumLines(from, to, length, lines))
      const turned = run(relaxed, x, x.length, (kernels, from, to) =>
        kernels.reverseLines(from, to, length, lines),
      )
      for (let at = 0; at < lines; at++) {
        const values = x.slice(at * length, (at + 1) * length)
        const exact = values.reduce((sum, value) => sum + value, 0)
        expect(Math.abs(sums[at]! - exact)).toBeLessThan(1e-4)
        expect(turned.slice(at * length, (at + 1) * length)).toEqual(values.reverse())
      }
    })
  }
})
