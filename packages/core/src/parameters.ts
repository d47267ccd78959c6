/** The trained tensors: which there are, how they start, and where they live. */
import { type Tensor, tensor, tidy, type Variable, variable } from '@tensorflow/tfjs-core'
import type { ResolvedConfig } from './config'
import { layerInfo } from './config'
import type { Initializer, ParameterSpec } from './method'
import { Random } from './random'

/** Every parameter of a decoder by name, in a fixed order. */
export function parameterSpecs(config: ResolvedConfig): Map<string, ParameterSpec> {
  const { vocabulary, layers, width, heads, headSize, feedForward, norm, normPosition, positions } = config
  const specs = new Map<string, ParameterSpec>()
  const one: Initializer = { kind: 'constant', value: 1 }
  const zero: Initializer = { kind: 'constant', value: 0 }
  const linear = (inputs: number, residual = false): Initializer => {
    if (config.initialization === 'fair') return { kind: 'uniform', limit: 1 / Math.sqrt(inputs) }
    if (config.initialization === 'transformer-xl') return { kind: 'normal', deviation: 0.02 }
    const deviation = Math.sqrt(2 / (5 * width))
    return { kind: 'normal', deviation: residual ? deviation / Math.sqrt(2 * layers) : deviation }
  }
  const table = (): Initializer => ({
    kind: 'normal',
    deviation: config.initialization === 'fair' ? 1 : 0.02,
  })
  const bias = (inputs: number) => (config.initialization === 'fair' ? linear(inputs) : zero)
  const add = (name: string, shape: readonly number[], initializer: Initializer) =>
    specs.set(name, { shape, initializer })
  const addNorm = (name: string) => {
    add(`${name}.scale`, [width], one)
    if (norm === 'layer') add(`${name}.bias`, [width], zero)
  }

  const inner = heads * headSize
  add('embedding.weight', [vocabulary, width], config.initialization === 'fair' ? table() : linear(width))
  if (positions === 'learned') add('positions.table', [config.learnedDistances, headSize], table())
  if (positions === 'sinusoidal') {
    add('positions.contentBias', [heads, headSize], linear(headSize))
    add('positions.positionBias', [heads, headSize], linear(headSize))
  }
  for (let index = 0; index < layers; index++) {
    const prefix = `layers.${index}`
    addNorm(`${prefix}.attention.norm`)
    add(`${prefix}.attention.query`, [width, inner], linear(width))
    add(`${prefix}.attention.key`, [width, inner], linear(width))
    add(`${prefix}.attention.value`, [width, inner], linear(width))
    add(`${prefix}.attention.output`, [inner, width], linear(inner, true))
    if (positions === 'sinusoidal') add(`${prefix}.attention.position`, [width, inner], linear(width))
    if (config.persistentSlots > 0) {
      const shape = [heads, headSize, config.persistentSlots]
      add(`${prefix}.attention.persistent.keys`, shape, {
        kind: 'normal',
        deviation: 1 / Math.sqrt(headSize),
      })
      const deviation = 1 / Math.sqrt(config.persistentSlots)
      add(`${prefix}.attention.persistent.values`, shape, { kind: 'normal', deviation })
    }
    if (feedForward > 0) {
      addNorm(`${prefix}.feedForward.norm`)
      add(`${prefix}.feedForward.in`, [width, feedForward], linear(width))
      if (config.activation === 'swiglu')
        add(`${prefix}.feedForward.gate`, [width, feedForward], linear(width))
      if (config.feedForwardBias) add(`${prefix}.feedForward.inBias`, [feedForward], bias(width))
      add(`${prefix}.feedForward.out`, [feedForward, width], linear(feedForward, true))
      if (config.feedForwardBias) add(`${prefix}.feedForward.outBias`, [width], bias(feedForward))
    }
    for (const [name, spec] of Object.entries(
      config.method[index]!.parameters?.(layerInfo(config, index)) ?? {},
    ))
      specs.set(`${prefix}.method.${name}`, spec)
  }
  if (normPosition === 'pre') addNorm('norm')
  if (!config.tiedOutput) add('output.weight', [width, vocabulary], linear(width))
  if (config.outputBias) add('output.bias', [vocabulary], bias(width))
  return specs
}

/** The matrices that decoding reads as a whole for each token. */
export const matricesOf = (names: Iterable<string>, { tiedOutput }: ResolvedConfig): string[] =>
  [...names].filter(
    (name) =>
      /^layers\.\d+\.(attention\.(query|key|value|output)|feedForward\.(in|gate|out))$/.test(name) ||
      name === (tiedOutput ? 'embedding.weight' : 'output.weight'),
  )

/** Creates the variables, drawn in order from one seeded generator. */
export function createParameters(
  specs: ReadonlyMap<string, ParameterSpec>,
  seed: number,
): ReadonlyMap<string, Variable> {
  const random = new Random(seed)
  const parameters = new Map<string, Variable>()
  for (const [name, { shape, initializer }] of specs) {
    const value = tidy(() => initial(shape, initializer, random))
    parameters.set(name, variable(value))
    value.dispose()
  }
  return parameters
}

function initial(shape: readonly number[], initializer: Initializer, random: Random): Tensor {
  const size = shape.reduce((product, dimension) => product * dimension, 1)
  const values = {
    constant: () => new Float32Array(size).fill((initializer as { value: number }).value),
    normal: () => random.normals(size, (initializer as { deviation: number }).deviation),
    uniform: () => {
      const { limit } = initializer as { limit: number }
      return random.uniforms(size, -limit, limit)
    },
  }[initializer.kind]()
  return tensor(values, shape as number[])
}
