/**
 * The cached decoder: embeddings, layers of attention over what a forgetting method recalls, output. It owns the one
 * loop over blocks; methods, positions and backends plug into it.
 */
import {
  add,
  clipByValue,
  expandDims,
  gather,
  keep,
  mul,
  reshape,
  type Scalar,
  scalar,
  type Tensor,
  type Tensor3D,
  tensor,
  tidy,
  type Variable,
  variableGrads,
} from '@tensorflow/tfjs-core'
import { type DecoderConfig, layerInfo, type ResolvedConfig, resolveConfig } from './config'
import { type Arena, type DecodeLayer, DecodeMemory, decodeLayer, enterArena } from './decode'
import { ConfigError, MemoryError, ShapeError } from './errors'
import { applyNorm, type LayerWeights, type Pass, runLayer } from './layer'
import { type LayerRules, Memory } from './memory'
import type { ForgettingMethod, LayerMemory, NamedTensors, ParameterSpec, PassOptions } from './method'
import { crossEntropy } from './ops/loss'
import { linear, matMul } from './ops/matmul'
import { scope } from './ops/scope'
import { createParameters, parameterSpecs } from './parameters'
import type { Random } from './random'
import type { HostTensor } from './safetensors'

export interface ForwardResult {
  /** [batch, block, vocabulary] */
  readonly logits: Tensor3D
  readonly memory: Memory
  /** The methods' auxiliary losses, weights included, summed over layers. */
  readonly penalty: Scalar
}

export interface GradientResult {
  /** Mean negative log-likelihood in nats, without the penalty. */
  readonly loss: Scalar
  readonly penalty: Scalar
  /** d (loss + penalty) / d parameter, by parameter name; parameters without influence are missing. */
  readonly gradients: Record<string, Tensor>
  readonly memory: Memory
}

/** A decoder's configuration as plain JSON, methods by name and options. */
export type DecoderDescription = Omit<DecoderConfig, 'method'> & {
  readonly method: readonly { readonly name: string; readonly options: Readonly<Record<string, unknown>> }[]
}

let decoders = 0

export class Decoder {
  readonly config: ResolvedConfig
  /** The trained tensors by name, in a fixed order. Owned by the decoder. */
  readonly parameters: ReadonlyMap<string, Variable>
  private readonly specs: ReadonlyMap<string, ParameterSpec>
  private readonly rules: readonly LayerRules[]
  private readonly weights: readonly LayerWeights[]
  private plans: unknown[]
  private readonly identity = `decoder-${++decoders}`
  private updates = 0

  /**
   * @param config what to build; `method` says what is remembered
   * @param options.seed of the initial weights (default 0)
   * @throws ConfigError before any tensor is made
   */
  constructor(config: DecoderConfig, { seed = 0 }: { readonly seed?: number } = {}) {
    this.config = resolveConfig(config)
    this.specs = parameterSpecs(this.config)
    this.parameters = createParameters(this.specs, seed)
    this.rules = this.config.method.map((method, index) => ({ method, info: layerInfo(this.config, index) }))
    this.weights = this.rules.map(({ info }) => this.weightsOf(info.index))
    this.plans = this.rules.map(() => undefined)
  }

  /** The decoder that `describe()` described. `methods`: name → factory. */
  static fromDescription(
    { method, ...rest }: DecoderDescription,
    // biome-ignore lint/suspicious/noExplicitAny: factories take options of their own types
    methods: Readonly<Record<string, (options: any) => ForgettingMethod>>,
    options?: { readonly seed?: number },
  ): Decoder {
    const made = method.map(({ name, options }) => {
      const factory = methods[name]
      if (!factory)
        throw new ConfigError(`unknown method "${name}"; known are ${Object.keys(methods).join(', ')}`, {
          name,
        })
      return factory(options)
    })
    return new Decoder({ ...rest, method: made }, options)
  }

  /** The resolved configuration as plain JSON. */
  describe(): DecoderDescription {
    const { method, farthestPosition, ...rest } = this.config
    return {
      ...rest,
      // JSON has no infinity: no limit is no field.
      ...(Number.isFinite(farthestPosition) && { farthestPosition }),
      method: method.map(({ name, options }) => ({ name, options })),
    }
  }

  /** Number of trained values. */
  get parameterCount(): number {
    let count = 0
    for (const { size } of this.parameters.values()) count += size
    return count
  }

  /** The memory before the first block. */
  initialMemory(batch: number): Memory {
    if (!Number.isInteger(batch) || batch < 1)
      throw new ShapeError(`batch must be a whole number from 1 up, not ${batch}`, { batch })
    const layers = scope(() => this.rules.map(({ method, info }) => method.initialMemory(info, batch)))
    return new Memory(this.rules, layers, batch, 0)
  }

  /** The memory that `memory.serialize()` wrote. */
  restoreMemory(bytes: Uint8Array): Memory {
    return Memory.restore(this.rules, bytes)
  }

  /**
   * Reads one block. Consumes `memory` and returns the next one; on an error the memory stays as it was.
   * @param tokens int32 [batch, block]
   */
  forward(tokens: Tensor, memory: Memory, options: PassOptions = {}): ForwardResult {
    this.checkTokens(tokens, memory)
    const { logits, layers, penalty } = scope(() => this.run(tokens, memory, options))
    return { logits, penalty, memory: this.advance(memory, layers, tokens.shape[1]!) }
  }

  /**
   * One block forward, its mean cross-entropy, and the gradients of loss + penalty. Consumes `memory`; the memory
   * itself is a constant for the gradients. Needs `registerGradients()`.
   * @param inputs int32 [batch, block]
   * @param targets int32 [batch, block]
   * @param options.weights float32 [batch, block]: weights of positions in the mean
   */
  gradients(
    inputs: Tensor,
    targets: Tensor,
    memory: Memory,
    options: {
      readonly random?: Random
      readonly draw?: number
      readonly weights?: Tensor
      readonly training?: boolean
    } = {},
  ): GradientResult {
    this.checkTokens(inputs, memory)
    this.checkTargets(inputs, targets)
    const { weights, training = true, ...rest } = options
    let loss: Scalar | undefined
    let penalty: Scalar | undefined
    let layers: readonly LayerMemory[] = []
    const names = new Map<string, string>()
    for (const [name, variable] of this.parameters) names.set(variable.name, name)
    const { value, grads } = variableGrads(() => {
      const result = this.run(inputs, memory, { ...rest, training })
      loss = keep(crossEntropy(result.logits, targets, weights))
      penalty = keep(result.penalty)
      layers = result.layers
      for (const layer of layers) for (const kept of Object.values(layer.tensors)) keep(kept)
      return add(loss, penalty) as Scalar
    }, [...this.parameters.values()])
    value.dispose()
    const gradients = Object.fromEntries(
      Object.entries(grads).map(([name, gradient]) => [names.get(name)!, gradient as Tensor]),
    )
    return {
      loss: loss!,
      penalty: penalty!,
      gradients,
      memory: this.advance(memory, layers, inputs.shape[1]!),
    }
  }

  /** One block's mean cross-entropy in nats, without gradients or dropout. Consumes `memory`. */
  evaluate(
    inputs: Tensor,
    targets: Tensor,
    memory: Memory,
    { weights }: { readonly weights?: Tensor } = {},
  ): { readonly loss: Scalar; readonly memory: Memory } {
    this.checkTokens(inputs, memory)
    this.checkTargets(inputs, targets)
    const { loss, layers } = scope(() => {
      const { logits, layers } = this.run(inputs, memory, {})
      return { loss: crossEntropy(logits, targets, weights), layers }
    })
    return { loss, memory: this.advance(memory, layers, inputs.shape[1]!) }
  }

  /** After every update of the parameters: clamps what has bounds, reads once what shapes depend on. */
  async afterUpdate(): Promise<void> {
    this.updates++
    for (const [name, { clamp }] of this.specs)
      if (clamp)
        tidy(() => {
          const parameter = this.parameters.get(name)!
          parameter.assign(clipByValue(parameter, ...clamp))
        })
    this.plans = await Promise.all(
      this.rules.map(({ method, info }) => method.prepare?.(info, this.weights[info.index]!.method)),
    )
  }

  /** Gives back slots that are dead in every row. Consumes `memory`; may read counts back. */
  async compact(memory: Memory): Promise<Memory> {
    const layers = memory.consume()
    const compacted = await Promise.all(
      this.rules.map(({ method, info }, index) => method.compact?.(info, layers[index]!) ?? layers[index]!),
    )
    return new Memory(this.rules, compacted, memory.batch, memory.step)
  }

  /** Projects a memory into keys and values for `decode`. Consumes `memory`. */
  startDecoding(memory: Memory): DecodeMemory {
    const arenas = scope(() =>
      this.rules.map((_, index) => enterArena(this.decodeLayer(index), memory.layers[index]!, memory.step)),
    )
    const { batch, step } = memory
    memory.dispose()
    return new DecodeMemory(arenas, batch, step, this.revision, () => this.fingerprint())
  }

  /** The memory that a `DecodeMemory` wrote, refused unless the weights are the same. */
  restoreDecodeMemory(bytes: Uint8Array): Promise<DecodeMemory> {
    return DecodeMemory.restore(bytes, this.rules.length, this.revision, () => this.fingerprint())
  }

  /**
   * Reads one token per row. Consumes `memory`. Gives the numbers that `forward` gives, one step at a time.
   * @param tokens int32 [batch]
   * @returns logits [batch, vocabulary] and the next memory
   */
  decode(tokens: Tensor, memory: DecodeMemory): { readonly logits: Tensor; readonly memory: DecodeMemory } {
    if (memory.revision !== this.revision)
      throw new MemoryError(
        'these keys and values were made by other weights: start again with startDecoding() from a memory of hidden states',
      )
    if (memory.disposed) throw new MemoryError('cannot use a memory that was disposed of or already used')
    if (tokens.rank !== 1 || tokens.shape[0] !== memory.batch || tokens.dtype !== 'int32')
      throw new ShapeError(
        `decode() takes int32 tokens of shape [${memory.batch}], not ${tokens.dtype} [${tokens.shape}]`,
        { shape: tokens.shape, dtype: tokens.dtype },
      )
    const { logits, arenas } = scope(() => {
      const pass = this.pass(memory.step, {})
      let hidden = this.embed(expandDims(tokens, 1), pass)
      const arenas: Arena[] = []
      for (const [index, arena] of memory.layers.entries()) {
        const result = decodeLayer(pass, this.decodeLayer(index), hidden, arena)
        hidden = result.output
        arenas.push(result.arena)
      }
      const logits = reshape(this.output(hidden), [memory.batch, this.config.vocabulary])
      return { logits, arenas }
    })
    const { batch, step, revision } = memory
    disposeUnlessKept(memory.consume(), arenas)
    return { logits, memory: new DecodeMemory(arenas, batch, step + 1, revision, () => this.fingerprint()) }
  }

  /** Copies all parameters to the host. */
  async exportParameters(): Promise<Map<string, HostTensor>> {
    const tensors = new Map<string, HostTensor>()
    for (const [name, variable] of this.parameters)
      tensors.set(name, {
        dtype: 'float32',
        shape: variable.shape,
        data: (await variable.data()) as Float32Array,
      })
    return tensors
  }

  /**
   * Sets all parameters.
   * @throws ShapeError when one is missing, unknown or of another shape; then none is changed
   */
  importParameters(tensors: ReadonlyMap<string, HostTensor>): void {
    for (const name of tensors.keys())
      if (!this.parameters.has(name))
        throw new ShapeError(
          `the weights hold "${name}", which this decoder does not have: they belong to another configuration`,
          { name },
        )
    for (const [name, { shape }] of this.parameters) {
      const found = tensors.get(name)?.shape
      if (found?.length !== shape.length || found.some((size, axis) => size !== shape[axis]))
        throw new ShapeError(
          found
            ? `"${name}" has shape [${found}] in the weights and [${shape}] in this decoder: they belong to another configuration`
            : `the weights lack "${name}" [${shape}]: they belong to another configuration`,
          { name, expected: shape, found },
        )
    }
    for (const [name, variable] of this.parameters)
      tidy(() => variable.assign(tensor(tensors.get(name)!.data, variable.shape)))
    this.updates++
  }

  /** A hash of all parameter values: what keys and values belong to. */
  async fingerprint(): Promise<string> {
    let hash = 0x811c9dc5
    for (const variable of this.parameters.values()) {
      const values = (await variable.data()) as Float32Array
      for (const word of new Uint32Array(values.buffer, values.byteOffset, values.length))
        hash = Math.imul(hash ^ word, 0x01000193) ^ (hash >>> 15)
    }
    return (hash >>> 0).toString(16).padStart(8, '0')
  }

  /** Frees all parameters. */
  dispose(): void {
    for (const variable of this.parameters.values()) variable.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  private get revision(): string {
    return `${this.identity}.${this.updates}`
  }

  private weightsOf(index: number): LayerWeights {
    const prefix = `layers.${index}.`
    const methodPrefix = `${prefix}method.`
    const method: NamedTensors = Object.fromEntries(
      [...this.parameters]
        .filter(([name]) => name.startsWith(methodPrefix))
        .map(([name, variable]) => [name.slice(methodPrefix.length), variable]),
    )
    return {
      own: (name) => this.parameters.get(prefix + name)!,
      shared: (name) => this.parameters.get(name)!,
      method,
    }
  }

  private decodeLayer(index: number): DecodeLayer {
    const { method, info } = this.rules[index]!
    return { config: this.config, info, method, weights: this.weights[index]!, plan: this.plans[index] }
  }

  private checkTokens(tokens: Tensor, memory: Memory): void {
    if (
      tokens.rank !== 2 ||
      tokens.dtype !== 'int32' ||
      tokens.shape[0] !== memory.batch ||
      tokens.size === 0
    )
      throw new ShapeError(
        `tokens must be int32 [${memory.batch}, block], not ${tokens.dtype} [${tokens.shape}]`,
        { shape: tokens.shape, dtype: tokens.dtype, batch: memory.batch },
      )
    if (memory.disposed)
      throw new MemoryError(
        'cannot use a memory that was disposed of or already used: keep the one forward() returns, or clone() it first',
      )
    if (memory.layers.length !== this.config.layers)
      throw new MemoryError(
        `the memory has ${memory.layers.length} layers, the decoder ${this.config.layers}: it was made by another decoder`,
        { layers: memory.layers.length },
      )
  }

  private checkTargets(inputs: Tensor, targets: Tensor): void {
    if (targets.dtype !== 'int32' || targets.shape.join() !== inputs.shape.join())
      throw new ShapeError(
        `targets must be int32 [${inputs.shape}] like the inputs, not ${targets.dtype} [${targets.shape}]`,
        { shape: targets.shape, dtype: targets.dtype },
      )
  }

  private pass(step: number, { training = false, random, draw }: PassOptions): Pass {
    const { dropout: rate, dropoutPlaces } = this.config
    if (training && rate > 0 && !random)
      throw new ConfigError(
        'training with dropout needs a random generator: pass { random: new Random(seed) }',
        {
          dropout: rate,
        },
      )
    return {
      config: this.config,
      step,
      training,
      draw: draw ?? (training && random ? random.uniform() : 1),
      dropout: (place) =>
        training && rate > 0 && dropoutPlaces.includes(place)
          ? (shape) => {
              const size = shape.reduce((product, dimension) => product * dimension, 1)
              return tensor(random!.dropoutMask(size, rate), shape as number[])
            }
          : undefined,
    }
  }

  private embed(tokens: Tensor, pass: Pass): Tensor3D {
    const { embeddingScale, width } = this.config
    const scale = embeddingScale === 'sqrt-width' ? Math.sqrt(width) : embeddingScale
    const rows = gather(this.parameters.get('embedding.weight')!, tokens)
    const hidden = scale === 1 ? rows : mul(rows, scale)
    const dropout = pass.dropout('embedding')
    return (dropout ? mul(hidden, dropout(hidden.shape)) : hidden) as Tensor3D
  }

  private output(hidden: Tensor3D): Tensor3D {
    const get = (name: string) => this.parameters.get(name)!
    const x = this.config.normPosition === 'pre' ? applyNorm(this.config, hidden, get, 'norm') : hidden
    const bias = this.config.outputBias ? get('output.bias') : undefined
    if (!this.config.tiedOutput) return linear(x, get('output.weight'), bias) as Tensor3D
    const flat = reshape(x, [x.size / this.config.width, this.config.width])
    const logits = matMul(flat, get('embedding.weight'), { transposeB: true })
    const shaped = reshape(logits, [...x.shape.slice(0, -1), this.config.vocabulary])
    return (bias ? add(shaped, bias) : shaped) as Tensor3D
  }

  /** The pass itself, inside a tidy or a gradient. */
  private run(tokens: Tensor, memory: Memory, options: PassOptions) {
    const pass = this.pass(memory.step, options)
    let hidden = this.embed(tokens, pass)
    let penalty: Scalar = scalar(0)
    const layers: LayerMemory[] = []
    for (const [index, { info }] of this.rules.entries()) {
      const result = runLayer(
        pass,
        info,
        this.weights[index]!,
        hidden,
        memory.layers[index]!,
        this.plans[index],
      )
      hidden = result.output
      layers.push(result.memory)
      if (result.penalty) penalty = add(penalty, result.penalty) as Scalar
    }
    return { logits: this.output(hidden), layers, penalty }
  }

  /** Frees what the old memory held and the next one does not. */
  private advance(memory: Memory, layers: readonly LayerMemory[], block: number): Memory {
    disposeUnlessKept(
      memory.consume().map(({ tensors }) => tensors),
      layers.map(({ tensors }) => tensors),
    )
    return new Memory(this.rules, layers, memory.batch, memory.step + block)
  }
}

/** Disposes of the old tensors that are not among the new ones. */
function disposeUnlessKept(old: readonly NamedTensors[], next: readonly NamedTensors[]): void {
  const kept = new Set(next.flatMap((tensors) => Object.values(tensors)))
  for (const tensors of old) for (const value of Object.values(tensors)) if (!kept.has(value)) value.dispose()
}
