/** Updates against PyTorch's formulas, written out in float64, on every parameter shape that is grouped differently. */
import { existsSync } from 'node:fs'
import { disposeBackend, useBackend } from '@lethe/backends'
import { Random } from '@lethe/core'
import { memory, type Tensor, tensor, type Variable, variable } from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { OptimizerOptions } from './optimizers'
import { Optimizer } from './optimizers'

// Two small ones that are strung together and a large one that stands alone.
const shapes: Record<string, number[]> = { gain: [7], matrix: [3, 5], large: [130, 128] }
const learningRate = 0.01
const steps = 4

type Values = Record<string, number[]>

function draw(seed: number, scale: number): Values {
  const random = new Random(seed)
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const size = shape.reduce((a, b) => a * b, 1)
      return [name, [...random.normals(size, scale)]]
    }),
  )
}

const each = (step: number) => draw(100 + step, step === 2 ? 0.001 : 0.1)

/** PyTorch's clip_grad_norm_ and step(), in float64. */
function reference(options: OptimizerOptions) {
  const values = draw(1, 1)
  const [beta1, beta2] = options.betas ?? [0.9, 0.999]
  const { weightDecay = 0, clip = 0, momentum = 0 } = options
  const epsilon = options.epsilon ?? (options.optimizer === 'adagrad' ? 1e-10 : 1e-8)
  const first = Object.fromEntries(Object.keys(values).map((name) => [name, values[name]!.map(() => 0)]))
  const second = Object.fromEntries(Object.keys(values).map((name) => [name, values[name]!.map(() => 0)]))
  const norms: number[] = []
  for (let step = 1; step <= steps; step++) {
    const gradients = each(step)
    const norm = Math.sqrt(
      Object.values(gradients)
        .flat()
        .reduce((sum, g) => sum + g * g, 0),
    )
    norms.push(norm)
    const scale = clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1
    for (const [name, list] of Object.entries(values))
      for (let i = 0; i < list.length; i++) {
        let gradient = gradients[name]![i]! * scale
        if (options.optimizer === 'adamw') list[i]! *= 1 - learningRate * weightDecay
        else gradient += weightDecay * list[i]!
        const m = first[name]!
        const v = second[name]!
        if (options.optimizer === 'sgd') {
          m[i] = momentum * m[i]! + gradient
          list[i]! -= learningRate * m[i]!
        } else if (options.optimizer === 'adagrad') {
          v[i]! += gradient * gradient
          list[i]! -= (learningRate * gradient) / (Math.sqrt(v[i]!) + epsilon)
        } else {
          m[i] = beta1 * m[i]! + (1 - beta1) * gradient
          v[i] = beta2 * v[i]! + (1 - beta2) * gradient * gradient
          const denominator = Math.sqrt(v[i]!) / Math.sqrt(1 - beta2 ** step) + epsilon
          list[i]! -= ((learningRate / (1 - beta1 ** step)) * m[i]!) / denominator
        }
      }
  }
  return { values, norms }
}

function makeParameters(): Map<string, Variable> {
  return new Map(
    Object.entries(draw(1, 1)).map(([name, values]) => {
      const start = tensor(values, shapes[name]!, 'float32')
      const made = variable(start)
      start.dispose()
      return [name, made]
    }),
  )
}

const gradientsOf = (step: number): Record<string, Tensor> =>
  Object.fromEntries(
    Object.entries(each(step)).map(([name, values]) => [name, tensor(values, shapes[name]!, 'float32')]),
  )

async function run(optimizer: Optimizer, from = 1, to = steps) {
  const norms: number[] = []
  for (let step = from; step <= to; step++) {
    const gradients = gradientsOf(step)
    const norm = optimizer.update(gradients, learningRate)
    norms.push((await norm.data())[0]!)
    for (const used of [norm, ...Object.values(gradients)]) used.dispose()
  }
  return norms
}

const read = async (parameters: Map<string, Variable>): Promise<Values> =>
  Object.fromEntries(
    await Promise.all(
      [...parameters].map(async ([name, value]) => [name, [...(await value.data())]] as [string, number[]]),
    ),
  )

const cases: OptimizerOptions[] = [
  { optimizer: 'adam' },
  { optimizer: 'adam', clip: 0.3, betas: [0.8, 0.99], epsilon: 1e-6 },
  { optimizer: 'adam', weightDecay: 0.1 },
  { optimizer: 'adamw', weightDecay: 0.1, clip: 1 },
  { optimizer: 'adagrad', clip: 0.3 },
  { optimizer: 'sgd' },
  { optimizer: 'sgd', momentum: 0.9, weightDecay: 0.01, clip: 0.3 },
]

const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'
const backends = ['cpu', 'wasm', ...(existsSync(softwareVulkan) ? (['webgpu'] as const) : [])] as const

describe.each(backends)('on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend, { softwareVulkan })
  })
  afterAll(() => disposeBackend())

  // Shaders in software take their time to compile.
  test.each(backend === 'webgpu' ? cases.slice(1, 4) : cases)('%o is PyTorch’s', async (options) => {
    const parameters = makeParameters()
    const optimizer = new Optimizer(parameters, options)
    const norms = await run(optimizer)
    const expected = reference(options)
    for (const [index, norm] of expected.norms.entries()) expect(norms[index]! / norm).toBeCloseTo(1, 5)
    for (const [name, values] of Object.entries(await read(parameters))) {
      const difference = Math.max(...values.map((value, i) => Math.abs(value - expected.values[name]![i]!)))
      expect(difference, name).toBeLessThan(2e-6)
    }
    optimizer.dispose()
    for (const parameter of parameters.values()) parameter.dispose()
  })

  test('goes on from its saved state bit for bit, and neither leaks', async () => {
    const options: OptimizerOptions = { optimizer: 'adamw', weightDecay: 0.1, clip: 0.3 }
    const before = memory().numTensors
    const parameters = makeParameters()
    const optimizer = new Optimizer(parameters, options)
    await run(optimizer, 1, 2)
    const state = await optimizer.state()
    expect([...state.keys()].sort()).toEqual(
      ['gain', 'large', 'matrix'].flatMap((name) => [`mean.${name}`, `square.${name}`]).sort(),
    )
    const values = await read(parameters)
    const during = memory().numTensors
    await run(optimizer, 3)
    expect(memory().numTensors).toBe(during)

    const again = makeParameters()
    for (const [name, parameter] of again) {
      const value = tensor(values[name]!, shapes[name]!, 'float32')
      parameter.assign(value)
      value.dispose()
    }
    const resumed = new Optimizer(again, options)
    resumed.load(2, state)
    await run(resumed, 3)
    expect(await read(again)).toEqual(await read(parameters))
    for (const each of [optimizer, resumed, ...parameters.values(), ...again.values()]) each.dispose()
    expect(memory().numTensors).toBe(before)
  })
})

test('the state of another optimiser is refused', async () => {
  await useBackend('cpu')
  const parameters = makeParameters()
  const optimizer = new Optimizer(parameters, { optimizer: 'adam' })
  expect(() => optimizer.load(1, new Map())).toThrow(/saved optimiser state has nothing for "mean\./)
  expect(() => new Optimizer(parameters, { optimizer: 'lion' as 'adam' })).toThrow(/unknown optimizer "lion"/)
  expect(() => new Optimizer(parameters, { optimizer: 'sgd', momentum: 1 })).toThrow(/momentum must be/)
})
