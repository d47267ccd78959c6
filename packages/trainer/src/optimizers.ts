/**
 * Adam, AdamW, Adagrad and SGD with PyTorch's formulas and clipping of the global gradient norm, as a few tensor
 * operations that never wait for the host: the norm and the factor it gives stay on the device. Where the backend has
 * core's fused kernels (`FusedKernels`), one of them updates a parameter and its state in one pass.
 *
 * Parameters are updated in groups: small ones (gains, biases) are strung together into one vector, so that fifty
 * tiny tensors cost as many kernel calls as one; large ones stand alone and are not copied. A backend that updates many
 * tensors at once (`LetheAdamInParts`) gets them all in one group, and copies none. The state is saved per parameter under
 * its own name, whatever the grouping.
 */
import { fused, type HostTensor, hasFused, several } from '@lethe/core'
import type { Scalar, Tensor, Variable } from '@tensorflow/tfjs-core'
import {
  add,
  concat,
  div,
  keep,
  minimum,
  mul,
  reshape,
  slice,
  sqrt,
  square as squareOf,
  sub,
  sum,
  tensor,
  tidy,
  zeros,
} from '@tensorflow/tfjs-core'
import { CheckpointError, OptionError } from './errors'

export const optimizerNames = ['adam', 'adamw', 'adagrad', 'sgd'] as const
export type OptimizerName = (typeof optimizerNames)[number]

export interface OptimizerOptions {
  readonly optimizer: OptimizerName
  /** Largest global gradient norm; 0 (default) for no clipping. */
  readonly clip?: number
  /** Adam, Adagrad, SGD: added to the gradient (L2). AdamW: decoupled. Default 0. */
  readonly weightDecay?: number
  /** Adam's decay rates: default 0.9 and 0.999. */
  readonly betas?: readonly [number, number]
  /** Default 1e-8, Adagrad 1e-10. */
  readonly epsilon?: number
  /** SGD: default 0. */
  readonly momentum?: number
}

/** Parameters whose state is one tensor, and which are updated as one. */
interface Group {
  readonly names: readonly string[]
  readonly sizes: readonly number[]
  readonly shape: readonly number[]
  readonly state: Tensor[]
}

/** Parameters with fewer values than this are strung together. */
const largeSize = 2 ** 14
/** No string of small parameters is longer than this. */
const groupSize = 2 ** 18
/** Nor the state of parameters that are updated together: a GPU binds so much at once. */
const togetherSize = 2 ** 24

/**
 * One update rule: new values and state from old ones and the gradient, times `factor` if there is one. Made of tensors
 * only; `state` has one tensor per name in `slotsOf`.
 */
type Rule = (
  values: Tensor,
  gradient: Tensor,
  state: readonly Tensor[],
  factor: Scalar | undefined,
) => { values: Tensor; state: Tensor[] }

/** Updates parameters in place and holds what it remembers about each. */
export class Optimizer {
  /** Updates made so far. */
  step = 0
  private readonly groups: Group[]
  private readonly slots: readonly string[]

  constructor(
    private readonly parameters: ReadonlyMap<string, Variable>,
    readonly options: OptimizerOptions,
  ) {
    checkOptimizer(options)
    this.slots = slotsOf(options)
    this.groups = groupParameters(parameters, updatesTogether(options)).map((group) => ({
      ...group,
      state: this.slots.map(() => keep(zeros([...group.shape]))),
    }))
  }

  /**
   * One update. Parameters without a gradient are treated as having gradient 0.
   * @returns the global gradient norm before clipping; the caller disposes of it. The gradients remain the caller's.
   */
  update(gradients: Readonly<Record<string, Tensor>>, learningRate: number): Scalar {
    this.step++
    return tidy(() => {
      const given = this.groups.map(({ names }) =>
        names.map((name) => gradients[name] ?? zeros(this.parameters.get(name)!.shape)),
      )
      const together = updatesTogether(this.options)
      const packed = together ? undefined : given.map(pack)
      const norm = sqrt(sum(sumSquares(packed ?? given.flat()))) as Scalar
      const { clip = 0 } = this.options
      const factor = clip > 0 ? (minimum(1, div(clip, add(norm, 1e-6))) as Scalar) : undefined
      const update = ruleOf(this.options, this.step, learningRate)
      this.groups.forEach((group, index) => {
        // A scope per group frees its intermediates before the next one: less memory at once, and it stays in the cache.
        tidy(() => {
          const parameters = group.names.map((name) => this.parameters.get(name)!)
          const all = { values: parameters, gradients: given[index]!, state: group.state, factor }
          const parts = together && updateInParts(this.options, this.step, learningRate, all)
          const updated =
            parts || update(pack(parameters), packed?.[index] ?? pack(given[index]!), group.state, factor)
          updated.state.forEach((next, slot) => {
            group.state[slot]!.dispose()
            group.state[slot] = keep(next)
          })
          const values = Array.isArray(updated.values) ? updated.values : split(group, updated.values)
          for (const [place, parameter] of parameters.entries())
            parameter.assign(reshape(values[place]!, parameter.shape))
        })
      })
      return norm
    })
  }

  /** What is remembered, as named tensors: 'mean.layers.0.…'. */
  async state(): Promise<Map<string, HostTensor>> {
    const tensors = new Map<string, HostTensor>()
    for (const group of this.groups)
      for (const [slot, held] of group.state.entries()) {
        const data = (await held.data()) as Float32Array
        let offset = 0
        for (const [index, name] of group.names.entries()) {
          const size = group.sizes[index]!
          tensors.set(`${this.slots[slot]}.${name}`, {
            dtype: 'float32',
            shape: this.shape(name),
            data: data.slice(offset, offset + size),
          })
          offset += size
        }
      }
    return tensors
  }

  /** Goes on from a saved state. @throws CheckpointError when it belongs to other parameters or another optimiser. */
  load(step: number, tensors: ReadonlyMap<string, HostTensor>): void {
    for (const group of this.groups)
      for (const [slot, prefix] of this.slots.entries()) {
        const data = new Float32Array(group.sizes.reduce((total, size) => total + size, 0))
        let offset = 0
        for (const [index, name] of group.names.entries()) {
          const saved = tensors.get(`${prefix}.${name}`)
          const size = group.sizes[index]!
          if (saved?.data.length !== size)
            throw new CheckpointError(
              `the saved optimiser state has ${saved ? `${saved.data.length} values` : 'nothing'} for ` +
                `"${prefix}.${name}", ${size} are needed: resume with the optimiser and model of the checkpoint`,
              { name: `${prefix}.${name}`, saved: saved?.data.length, needed: size },
            )
          data.set(saved.data, offset)
          offset += size
        }
        group.state[slot]!.dispose()
        group.state[slot] = keep(tensor(data, [...group.shape]))
      }
    this.step = step
  }

  dispose(): void {
    for (const group of this.groups) for (const held of group.state) held.dispose()
  }

  private shape(name: string): number[] {
    return this.parameters.get(name)!.shape
  }
}

/** @throws OptionError */
export function checkOptimizer(options: OptimizerOptions): void {
  const { optimizer, clip = 0, weightDecay = 0, betas = [0.9, 0.999], epsilon = 1e-8, momentum = 0 } = options
  if (!optimizerNames.includes(optimizer))
    throw new OptionError(`unknown optimizer "${optimizer}"; known are ${optimizerNames.join(', ')}`, {
      optimizer,
    })
  const refuse = (name: string, value: unknown, range: string) => {
    throw new OptionError(`${name} must be ${range}, not ${value}`, { [name]: value })
  }
  if (!(clip >= 0)) refuse('clip', clip, '0 (no clipping) or more')
  if (!(weightDecay >= 0)) refuse('weightDecay', weightDecay, '0 or more')
  if (!(epsilon > 0)) refuse('epsilon', epsilon, 'more than 0')
  if (!(momentum >= 0 && momentum < 1)) refuse('momentum', momentum, 'from 0 to less than 1')
  if (momentum > 0 && optimizer !== 'sgd') refuse('momentum', momentum, `0 with ${optimizer} (it is sgd's)`)
  for (const beta of betas) if (!(beta >= 0 && beta < 1)) refuse('betas', betas, 'from 0 to less than 1')
}

function slotsOf({ optimizer, momentum = 0 }: OptimizerOptions): readonly string[] {
  switch (optimizer) {
    case 'adam':
    case 'adamw':
      return ['mean', 'square']
    case 'adagrad':
      return ['square']
    case 'sgd':
      return momentum > 0 ? ['momentum'] : []
  }
}

/** Numbers whose sum is that of the squares of all: [parts]. */
const sumSquares = (tensors: readonly Tensor[]): Tensor =>
  fused('LetheSumSquares', several('x', tensors), {})?.[0] ??
  concat(tensors.map((x) => tidy(() => reshape(sum(squareOf(x), -1), [-1]))))

/** Whether the backend updates many tensors of any shapes at once. */
const updatesTogether = ({ optimizer }: OptimizerOptions) =>
  optimizer.startsWith('adam') && hasFused('LetheAdamInParts')

interface Parts {
  readonly values: readonly Tensor[]
  readonly gradients: readonly Tensor[]
  readonly state: readonly Tensor[]
  readonly factor: Scalar | undefined
}

/** Adam's update of several tensors with one state; undefined where the backend declines. Consumes values and state. */
function updateInParts(
  options: OptimizerOptions,
  step: number,
  learningRate: number,
  { values, gradients, state, factor }: Parts,
): { values: Tensor[]; state: Tensor[] } | undefined {
  const [mean, square] = state as [Tensor, Tensor]
  const parts = { ...several('values', values), ...several('gradient', gradients) }
  const inputs = { mean, square, ...(factor && { factor }), ...parts }
  const found = fused('LetheAdamInParts', inputs, adamNumbers(options, step, learningRate))
  return found && { values: found.slice(0, -2), state: found.slice(-2) }
}

/**
 * Adam, with both averages kept without their factors 1 - beta, which saves two passes over every parameter:
 * mean = (1 - beta1) M, square = (1 - beta2) S with M = beta1 M + g, S = beta2 S + g². So the update
 *   lr · mean / (1 - beta1^t) / (sqrt(square / (1 - beta2^t)) + epsilon)
 * is M / (sqrt(S) + epsilon / root) · rate with two of these numbers.
 */
function adamNumbers(options: OptimizerOptions, step: number, learningRate: number) {
  const { optimizer, weightDecay = 0 } = options
  const [beta1, beta2] = options.betas ?? [0.9, 0.999]
  const root = Math.sqrt((1 - beta2) / (1 - beta2 ** step))
  const decoupled = optimizer === 'adamw'
  return {
    beta1,
    beta2,
    rate: (learningRate * (1 - beta1)) / (1 - beta1 ** step) / root,
    epsilon: (options.epsilon ?? 1e-8) / root,
    decay: decoupled ? 0 : weightDecay,
    shrink: decoupled ? 1 - learningRate * weightDecay : 1,
  }
}

/** The update rule at one step (from 1). */
function ruleOf(options: OptimizerOptions, step: number, learningRate: number): Rule {
  const { optimizer, weightDecay = 0, momentum = 0 } = options
  const decay = optimizer === 'adamw' ? 0 : weightDecay
  /** The gradient as the plain rules take it: clipped and with the L2 penalty's. */
  const whole = (gradient: Tensor, factor: Scalar | undefined, values: Tensor) => {
    const clipped = factor ? mul(gradient, factor) : gradient
    return decay > 0 ? add(clipped, mul(values, decay)) : clipped
  }

  if (optimizer === 'sgd')
    return (values, gradient, [moment], factor) => {
      const clipped = whole(gradient, factor, values)
      const change = moment ? add(mul(moment, momentum), clipped) : clipped
      return { values: sub(values, mul(change, learningRate)), state: moment ? [change] : [] }
    }

  if (optimizer === 'adagrad') {
    const { epsilon = 1e-10 } = options
    return (values, gradient, state, factor) => {
      const square = state[0]!
      const inputs = { values, gradient, square, ...(factor && { factor }) }
      const found = fused('LetheAdagrad', inputs, { rate: learningRate, epsilon, decay })
      if (found) return { values: found[0], state: [found[1]] }
      const clipped = whole(gradient, factor, values)
      const total = add(square, squareOf(clipped))
      const change = mul(div(clipped, add(sqrt(total), epsilon)), learningRate)
      return { values: sub(values, change), state: [total] }
    }
  }

  const numbers = adamNumbers(options, step, learningRate)
  const { beta1, beta2, rate, epsilon, shrink } = numbers
  return (values, gradient, state, factor) => {
    const [mean, square] = state as [Tensor, Tensor]
    const inputs = { values, gradient, mean, square, ...(factor && { factor }) }
    const found = fused('LetheAdam', inputs, numbers)
    if (found) return { values: found[0], state: [found[1], found[2]] }
    const clipped = whole(gradient, factor, values)
    const nextMean = add(mul(mean, beta1), clipped)
    const nextSquare = add(mul(square, beta2), squareOf(clipped))
    const change = mul(div(nextMean, add(sqrt(nextSquare), epsilon)), rate)
    const from = shrink === 1 ? values : mul(values, shrink)
    return { values: sub(from, change), state: [nextMean, nextSquare] }
  }
}

/** Tensors as one vector; the shape of a single one is kept. */
const pack = (tensors: readonly Tensor[]): Tensor =>
  tensors.length === 1 ? tensors[0]! : concat(tensors.map((tensor) => reshape(tensor, [-1])))

/** The other way round. */
function split({ sizes }: Group, values: Tensor): Tensor[] {
  if (sizes.length === 1) return [values]
  let end = 0
  return sizes.map((size) => {
    end += size
    return slice(values, [end - size], [size])
  })
}

function groupParameters(
  parameters: ReadonlyMap<string, Variable>,
  together: boolean,
): Omit<Group, 'state'>[] {
  const groups: Omit<Group, 'state'>[] = []
  let names: string[] = []
  let total = 0
  const group = (names: readonly string[]) => {
    const sizes = names.map((name) => parameters.get(name)!.size)
    const length = sizes.reduce((sum, size) => sum + size, 0)
    groups.push({ names, sizes, shape: names.length === 1 ? parameters.get(names[0]!)!.shape : [length] })
  }
  for (const [name, { size }] of parameters) {
    if (size >= (together ? togetherSize : largeSize)) {
      group([name])
      continue
    }
    if (names.length > 0 && total + size > (together ? togetherSize : groupSize)) {
      group(names)
      names = []
      total = 0
    }
    names.push(name)
    total += size
  }
  if (names.length > 0) group(names)
  return groups
}
