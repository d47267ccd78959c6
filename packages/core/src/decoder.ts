/**
 * The cached decoder: embeddings, layers of attention over what a forgetting method recalls, output. It owns the one
 * loop over blocks; methods, positions and backends plug into it.
 */
import {
  add,
  clipByValue,
  concat,
  expandDims,
  gather,
  keep,
  mul,
  reshape,
  type Scalar,
  scalar,
  slice,
  type Tensor,
  type Tensor3D,
  tensor,
  tidy,
  type Variable,
} from '@tensorflow/tfjs-core'
import { type DecoderConfig, layerInfo, type ResolvedConfig, resolveConfig } from './config'
import {
  type ArenaState,
  type DecodeLayer,
  DecodeMemory,
  decodeLayer,
  enterArena,
  type Origin,
  readDecodeMemory,
} from './decode'
import { ConfigError, MemoryError, ShapeError } from './errors'
import { applyNorm, type LayerWeights, type Pass, runLayer } from './layer'
import { checkMethod, type LayerRules, Memory } from './memory'
import type { ForgettingMethod, LayerMemory, NamedTensors, ParameterSpec, PassOptions } from './method'
import { backpropagate, recordFor } from './ops/backpropagate'
import { Float16Weights } from './ops/float16'
import { crossEntropy } from './ops/loss'
import { linear, matMul } from './ops/matmul'
import { scope } from './ops/scope'
import { createParameters, matricesOf, parameterSpecs } from './parameters'
import type { Random } from './random'
import { type LayerReport, reportLayer } from './report'
import type { HostTensor } from './safetensors'

export interface ForwardResult {
  /** [batch, block, vocabulary] */
  readonly logits: Tensor3D
  readonly memory: Memory
  /** The methods' auxiliary losses, weights included, summed over layers. */
  readonly penalty: Scalar
  /** With `trace`: what each layer's method leaves for a reader. The caller's to dispose of. */
  readonly trace?: readonly NamedTensors[]
}

export interface GradientResult {
  /** Mean negative log-likelihood in nats (`gradientsOf`: the loss that was given), without the penalty. */
  readonly loss: Scalar
  readonly penalty: Scalar
  /** d (loss + penalty) / d parameter, by parameter name; parameters without influence are missing. */
  readonly gradients: Record<string, Tensor>
  readonly memory: Memory
}

/** How a block is read when gradients are wanted. */
export interface GradientOptions {
  /** Where dropout masks and the methods' own noise come from. */
  readonly random?: Random
  readonly draw?: number
  /** Default true. */
  readonly training?: boolean
  readonly unroll?: number
}

/** A decoder's configuration as plain JSON, methods by name and options. */
export type DecoderDescription = Omit<DecoderConfig, 'method'> & {
  readonly method: readonly MethodDescription[]
}

export interface MethodDescription {
  readonly name: string
  readonly options: Readonly<Record<string, unknown>>
}

/** Factories by the names of their methods. A wrapper's makes the methods in it from their descriptions by `make`. */
export type MethodFactories = Readonly<
  Record<
    string,
    // biome-ignore lint/suspicious/noExplicitAny: factories take options of their own types
    (options: any, make: (description: MethodDescription) => ForgettingMethod) => ForgettingMethod
  >
>

let decoders = 0

export class Decoder {
  readonly config: ResolvedConfig
  /** The trained tensors by name, in a fixed order. Owned by the decoder. */
  readonly parameters: ReadonlyMap<string, Variable>
  private readonly specs: ReadonlyMap<string, ParameterSpec>
  private readonly rules: readonly LayerRules[]
  private readonly weights: readonly LayerWeights[]
  /** What the methods prepared, and after which update of the weights: for others it must not be used. */
  private plans: { readonly update: number; readonly ofLayers: readonly unknown[] } | undefined
  private readonly identity = `decoder-${++decoders}`
  private updates = 0
  /** Whose weights these are, if another decoder's. */
  private readonly owner: Decoder | undefined

  /**
   * @param config what to build; `method` says what is remembered
   * @param options.seed of the initial weights (default 0)
   * @param options.shared another decoder whose weights this one uses; see `withMethod`
   * @throws ConfigError before any tensor is made
   */
  constructor(
    config: DecoderConfig,
    { seed = 0, shared }: { readonly seed?: number; readonly shared?: Decoder } = {},
  ) {
    this.config = resolveConfig(config)
    this.specs = parameterSpecs(this.config)
    if (shared) checkSameParameters(this.specs, shared.specs)
    this.owner = shared
    this.parameters = shared?.parameters ?? createParameters(this.specs, seed)
    this.rules = this.config.method.map((method, index) => ({ method, info: layerInfo(this.config, index) }))
    this.weights = this.rules.map(({ info }) => this.weightsOf(info.index))
  }

  /** The decoder that `describe()` described. `methods`: name → factory; `wrappers` has those of core's wrappers. */
  static fromDescription(
    { method, ...rest }: DecoderDescription,
    methods: MethodFactories,
    options?: { readonly seed?: number },
  ): Decoder {
    return new Decoder({ ...rest, method: method.map((one) => methodFromDescription(one, methods)) }, options)
  }

  /**
   * A decoder with the same weights (not copies: training one trains both) and other methods: another budget, a
   * larger compressed memory at evaluation. Disposing of it leaves the weights alone. When another one updates them, it
   * does without what its methods prepared (Adaptive-Span trims nothing) until its own `afterUpdate()`.
   * @throws ConfigError when the methods have other parameters
   */
  withMethod(method: ForgettingMethod | readonly ForgettingMethod[]): Decoder {
    // The table of learned positions stays as it is, however far the new methods reach.
    return new Decoder({ ...this.config, method }, { shared: this.root })
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
    const layers = scope(() =>
      this.rules.map(({ method, info }, index) => method.initialMemory(info, batch, this.planOf(index))),
    )
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
    const { logits, layers, penalty, trace } = scope(() => {
      const { trace, ...result } = this.run(tokens, memory, options)
      return { ...result, ...(options.trace && { trace }) }
    })
    return {
      logits,
      penalty,
      ...(trace && { trace }),
      memory: this.advance(memory, layers, tokens.shape[1]!),
    }
  }

  /**
   * One block forward, its mean cross-entropy, and the gradients of loss + penalty. Consumes `memory`; the memory
   * itself is a constant for the gradients. Needs `registerGradients()`.
   * @param inputs int32 [batch, block]
   * @param targets int32 [batch, block]
   * @param options.weights float32 [batch, block]: weights of positions in the mean; where all are 0, so is the loss
   * @param options.unroll cuts the block into this many and backpropagates through the memory from one to the next
   *   (BPTT); loss and penalty are then means over them. Default 1
   */
  gradients(
    inputs: Tensor,
    targets: Tensor,
    memory: Memory,
    { weights, ...options }: GradientOptions & { readonly weights?: Tensor } = {},
  ): GradientResult {
    this.checkTokens(inputs, memory)
    this.checkTargets(inputs, targets, weights)
    return this.gradientsOf(inputs, memory, (logits) => crossEntropy(logits, targets, weights), options)
  }

  /**
   * The same for any other loss: of a policy and its value, a distillation, a contrast. Consumes `memory`.
   * @param inputs int32 [batch, block]
   * @param lossOf a scalar made from the logits [batch, block, vocabulary] by operations that have gradients
   */
  gradientsOf(
    inputs: Tensor,
    memory: Memory,
    lossOf: (logits: Tensor3D) => Scalar,
    { training = true, unroll = 1, ...rest }: GradientOptions = {},
  ): GradientResult {
    this.checkTokens(inputs, memory)
    if (!Number.isInteger(unroll) || unroll < 1 || inputs.shape[1]! % unroll !== 0)
      throw new ShapeError(
        `unroll must be a whole number that divides the block of ${inputs.shape[1]} steps, not ${unroll}`,
        { unroll, block: inputs.shape[1] },
      )
    let results: { loss: Scalar; penalty: Scalar; layers: readonly LayerMemory[] } | undefined
    const pass = () => {
      const { logits, layers, penalty } = this.runUnrolled(inputs, memory, { ...rest, training }, unroll)
      const loss = lossOf(logits)
      if (loss.rank !== 0)
        throw new ShapeError(`the loss must be a scalar, not [${loss.shape}]: take its mean or its sum`, {
          shape: loss.shape,
        })
      results = { loss, penalty, layers }
      for (const kept of [loss, penalty, ...tensorsOf(layers)]) keep(kept)
      return add(loss, penalty) as Scalar
    }
    let found: ReturnType<typeof backpropagate>
    try {
      found = backpropagate(pass, [...this.parameters.values()])
    } catch (error) {
      if (results) {
        const still = new Set(tensorsOf(memory.layers))
        for (const kept of [results.loss, results.penalty, ...tensorsOf(results.layers)])
          if (!still.has(kept)) kept.dispose()
      }
      throw error
    }
    const { value, gradients } = found
    const { loss, penalty, layers } = results!
    value.dispose()
    return {
      loss,
      penalty,
      gradients: Object.fromEntries(
        [...this.parameters.keys()].flatMap((name, index) =>
          gradients[index] ? [[name, gradients[index]]] : [],
        ),
      ),
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
    this.checkTargets(inputs, targets, weights)
    const { loss, layers } = scope(() => {
      const { logits, layers } = this.run(inputs, memory, {})
      return { loss: crossEntropy(logits, targets, weights), layers }
    })
    return { loss, memory: this.advance(memory, layers, inputs.shape[1]!) }
  }

  /** After every update of the parameters: clamps what has bounds, reads once what shapes depend on. */
  async afterUpdate(): Promise<void> {
    const update = ++this.root.updates
    for (const [name, { clamp }] of this.specs)
      if (clamp)
        tidy(() => {
          const parameter = this.parameters.get(name)!
          parameter.assign(clipByValue(parameter, ...clamp))
        })
    const ofLayers = await Promise.all(
      this.rules.map(({ method, info }) => method.prepare?.(info, this.weights[info.index]!.method)),
    )
    this.plans = { update, ofLayers }
  }

  /** Gives back slots that are dead in every row. Consumes `memory`; may read counts back. */
  async compact(memory: Memory): Promise<Memory> {
    this.checkMemory(memory)
    const layers = memory.consume()
    const compacted = await Promise.all(
      this.rules.map(({ method, info }, index) => method.compact?.(info, layers[index]!) ?? layers[index]!),
    )
    return new Memory(this.rules, compacted, memory.batch, memory.step, memory.starts)
  }

  /** The same for a memory of keys and values: dead slots leave it, and it shrinks to what is alive. Consumes it. */
  compactDecoding(memory: DecodeMemory): Promise<DecodeMemory> {
    return memory.compact()
  }

  /** What each layer remembers, attends to and costs; reads values back. `memory` stays as it is. */
  async report(memory: Memory): Promise<LayerReport[]> {
    this.checkMemory(memory)
    const layers = this.rules.map((rules, index) => ({
      ...rules,
      config: this.config,
      weights: this.weights[index]!,
      memory: memory.layers[index]!,
    }))
    return Promise.all(layers.map(reportLayer))
  }

  /** Projects a memory into keys and values for `decode`. Consumes `memory`. */
  startDecoding(memory: Memory): DecodeMemory {
    this.checkMemory(memory)
    const { batch, step, starts } = memory
    const layers = scope(() =>
      this.rules.map((_, index) => enterArena(this.decodeLayer(index), memory.layers[index]!, step, starts)),
    )
    memory.dispose()
    return this.decodeMemory(layers, batch, step, starts)
  }

  /** The memory that a `DecodeMemory` wrote, refused unless the weights are the same. */
  async restoreDecodeMemory(bytes: Uint8Array): Promise<DecodeMemory> {
    const { layers, batch, step, starts } = readDecodeMemory(bytes, await this.originOf(this.revision))
    return this.decodeMemory(layers(), batch, step, starts)
  }

  /**
   * Copies in float16 of the matrices that `decode` reads, for a backend that has kernels for them (WebGPU). They stay
   * beside the weights in float32, which reading blocks and training need, and belong to the caller. Reads values back.
   * @throws ConfigError where the backend has no such kernels, or where a weight is larger than float16 can be
   */
  float16Weights(): Promise<Float16Weights> {
    const names = matricesOf(this.parameters.keys(), this.config)
    return Float16Weights.of(
      new Map(names.map((name) => [name, this.parameters.get(name)!])),
      this.root.revision,
    )
  }

  /**
   * Reads one token per row. Consumes `memory`, from the first layer on: should a layer fail, it is disposed of. Gives the
   * numbers that `forward` gives, one step at a time.
   * @param tokens int32 [batch]
   * @param options.weights read these in place of the float32 ones: faster where batches are small, and less exact
   * @returns logits [batch, vocabulary] and the next memory
   */
  decode(
    tokens: Tensor,
    memory: DecodeMemory,
    { weights: float16 }: { readonly weights?: Float16Weights | undefined } = {},
  ): { readonly logits: Tensor; readonly memory: DecodeMemory } {
    float16?.check(this.root.revision)
    if (memory.revision !== this.revision) throw madeByOthers()
    if (memory.disposed) throw new MemoryError('cannot use a memory that was disposed of or already used')
    if (tokens.rank !== 1 || tokens.shape[0] !== memory.batch || tokens.dtype !== 'int32')
      throw new ShapeError(
        `decode() takes int32 tokens of shape [${memory.batch}], not ${tokens.dtype} [${tokens.shape}]`,
        { shape: tokens.shape, dtype: tokens.dtype },
      )
    const { batch, step, starts } = memory
    let writing = false
    const read = () => {
      const pass = { ...this.pass(memory, {}), float16 }
      let hidden = this.embed(expandDims(tokens, 1), pass)
      const layers: ArenaState[] = []
      writing = true
      for (const [index, state] of memory.layers.entries()) {
        const result = decodeLayer(pass, this.decodeLayer(index), hidden, state)
        hidden = result.output
        layers.push(result.state)
      }
      const logits = reshape(this.output(hidden, float16), [batch, this.config.vocabulary])
      return { logits, layers }
    }
    let result: ReturnType<typeof read>
    try {
      result = scope(read)
    } catch (error) {
      // Some layers may have been written into already.
      if (writing) memory.dispose()
      throw error
    }
    const { logits, layers } = result
    const old = memory.consume().map(({ tensors }) => tensors)
    disposeUnlessKept(
      old,
      layers.map(({ tensors }) => tensors),
    )
    return { logits, memory: this.decodeMemory(layers, batch, step + 1, starts) }
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
    this.root.updates++
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

  /** Frees all parameters, unless they are another decoder's. */
  dispose(): void {
    if (this.owner) return
    for (const variable of this.parameters.values()) variable.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  private decodeMemory(
    layers: readonly ArenaState[],
    batch: number,
    step: number,
    starts: readonly number[],
  ): DecodeMemory {
    const { revision } = this
    return new DecodeMemory(layers, batch, step, starts, revision, () => this.originOf(revision))
  }

  /** What keys and values made at a revision are known by; refused when the weights have moved on since. */
  private async originOf(revision: string): Promise<Origin> {
    if (revision !== this.revision) throw madeByOthers()
    return { weights: await this.fingerprint(), methods: this.rules.map(({ method }) => method.name) }
  }

  /** The decoder that counts the updates of the weights, whichever of those that share them makes them. */
  private get root(): Decoder {
    return this.owner ?? this
  }

  /** Changes with every update of the weights, and with the methods that read them. */
  private get revision(): string {
    return `${this.identity}.${this.root.updates}`
  }

  private planOf(index: number): unknown {
    return this.plans?.update === this.root.updates ? this.plans.ofLayers[index] : undefined
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
    return { config: this.config, info, method, weights: this.weights[index]!, plan: this.planOf(index) }
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
    this.checkMemory(memory)
  }

  private checkMemory(memory: Memory): void {
    if (memory.disposed)
      throw new MemoryError(
        'cannot use a memory that was disposed of or already used: keep the one forward() returns, or clone() it first',
      )
    if (memory.layers.length !== this.config.layers)
      throw new MemoryError(
        `the memory has ${memory.layers.length} layers, the decoder ${this.config.layers}: it was made by another decoder`,
        { layers: memory.layers.length },
      )
    for (const [index, { info, method }] of this.rules.entries()) {
      const { width } = memory.rules[index]!.info
      if (width !== info.width)
        throw new MemoryError(
          `the memory has hidden states of width ${width}, the decoder of ${info.width}: it was made by another decoder`,
          { width },
        )
      checkMethod(index, memory.rules[index]!.method.name, method.name)
    }
  }

  private checkTargets(inputs: Tensor, targets: Tensor, weights?: Tensor): void {
    if (targets.dtype !== 'int32' || targets.shape.join() !== inputs.shape.join())
      throw new ShapeError(
        `targets must be int32 [${inputs.shape}] like the inputs, not ${targets.dtype} [${targets.shape}]`,
        { shape: targets.shape, dtype: targets.dtype },
      )
    if (weights && weights.shape.join() !== inputs.shape.join())
      throw new ShapeError(`weights must be [${inputs.shape}] like the inputs, not [${weights.shape}]`, {
        shape: weights.shape,
      })
  }

  private pass(
    { step, starts }: Pick<Memory, 'step' | 'starts'>,
    { training = false, random, draw, trace = false }: PassOptions,
    memoryLearns = false,
  ): Pass {
    const { dropout: rate, dropoutPlaces, layerDrop } = this.config
    if (training && (rate > 0 || layerDrop > 0) && !random)
      throw new ConfigError(
        'training with dropout needs a random generator: pass { random: new Random(seed) }',
        {
          dropout: rate,
          layerDrop,
        },
      )
    return {
      config: this.config,
      step,
      starts,
      training,
      traced: trace,
      memoryLearns,
      draw: draw ?? (training && random ? random.uniform() : 1),
      skips: () => training && layerDrop > 0 && random!.uniform() < layerDrop,
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

  private output(hidden: Tensor3D, float16?: Float16Weights): Tensor3D {
    const get = (name: string) => this.parameters.get(name)!
    const x = this.config.normPosition === 'pre' ? applyNorm(this.config, hidden, get, 'norm') : hidden
    const bias = this.config.outputBias ? get('output.bias') : undefined
    const { tiedOutput } = this.config
    const weight = get(tiedOutput ? 'embedding.weight' : 'output.weight')
    const narrow = float16?.times(x, weight, tiedOutput)
    if (narrow) return (bias ? add(narrow, bias) : narrow) as Tensor3D
    if (!tiedOutput) return linear(x, weight, bias) as Tensor3D
    const flat = reshape(x, [x.size / this.config.width, this.config.width])
    const logits = matMul(flat, weight, { transposeB: true })
    const shaped = reshape(logits, [...x.shape.slice(0, -1), this.config.vocabulary])
    return (bias ? add(shaped, bias) : shaped) as Tensor3D
  }

  /**
   * The pass itself, inside a tidy or a gradient.
   * @param learning whether gradients reach the memory given (`before`) and will come through the next one (`after`)
   */
  private run(
    tokens: Tensor,
    memory: Pick<Memory, 'step' | 'starts' | 'layers'>,
    options: PassOptions,
    { before = false, after = true } = {},
  ) {
    const pass = this.pass(memory, options, before)
    let hidden = this.embed(tokens, pass)
    let penalty: Scalar = scalar(0)
    const layers: LayerMemory[] = []
    const trace: NamedTensors[] = []
    for (const [index, { info }] of this.rules.entries()) {
      const input = hidden
      // What a layer makes on the way is freed with it, but for what its gradients have saved.
      const read = () =>
        scope(() =>
          runLayer(pass, info, this.weights[index]!, input, memory.layers[index]!, this.planOf(index)),
        )
      const result = after
        ? read()
        : recordFor(({ output, penalty }) => (penalty ? [output, penalty] : [output]), read)
      hidden = result.output
      layers.push(result.memory)
      trace.push(result.trace ?? {})
      if (result.penalty) penalty = add(penalty, result.penalty) as Scalar
    }
    return { logits: this.output(hidden), layers, penalty, trace }
  }

  /** Several blocks one after the other in one gradient: what one remembers, the next learns through. */
  private runUnrolled(tokens: Tensor, memory: Memory, options: PassOptions, blocks: number) {
    if (blocks === 1) return this.run(tokens, memory, options, { after: false })
    const { starts } = memory
    const length = tokens.shape[1]! / blocks
    let { step, layers } = memory as Pick<Memory, 'step' | 'layers'>
    let penalty: Scalar = scalar(0)
    const logits: Tensor3D[] = []
    for (let index = 0; index < blocks; index++) {
      const part = slice(tokens, [0, index * length], [memory.batch, length])
      const learning = { before: index > 0, after: index < blocks - 1 }
      const result = this.run(part, { step, starts, layers }, options, learning)
      logits.push(result.logits)
      penalty = add(penalty, result.penalty) as Scalar
      layers = result.layers
      step += length
    }
    return { logits: concat(logits, 1), layers, penalty: mul(penalty, 1 / blocks) as Scalar }
  }

  /** Frees what the old memory held and the next one does not. */
  private advance(memory: Memory, layers: readonly LayerMemory[], block: number): Memory {
    disposeUnlessKept(
      memory.consume().map(({ tensors }) => tensors),
      layers.map(({ tensors }) => tensors),
    )
    return new Memory(this.rules, layers, memory.batch, memory.step + block, memory.starts)
  }
}

/** A method by name and options. */
function methodFromDescription(
  { name, options }: MethodDescription,
  methods: MethodFactories,
): ForgettingMethod {
  const factory = Object.hasOwn(methods, name) ? methods[name] : undefined
  if (!factory)
    throw new ConfigError(`unknown method "${name}"; known are ${Object.keys(methods).join(', ')}`, { name })
  return factory(options, (inner) => methodFromDescription(inner, methods))
}

/** Refuses methods whose parameters are not those that are there. */
function checkSameParameters(
  wanted: ReadonlyMap<string, ParameterSpec>,
  there: ReadonlyMap<string, ParameterSpec>,
): void {
  for (const name of new Set([...wanted.keys(), ...there.keys()])) {
    const [one, other] = [wanted.get(name)?.shape, there.get(name)?.shape]
    if (`${one}` !== `${other}`)
      throw new ConfigError(
        `a decoder with the same weights needs "${name}" of shape [${other ?? 'none'}], the methods given have [${one ?? 'none'}]: use methods with the same parameters`,
        { name, wanted: one, there: other },
      )
  }
}

const madeByOthers = () =>
  new MemoryError(
    'these keys and values were made by other weights: start again with startDecoding() from a memory of hidden states',
  )

const tensorsOf = (layers: readonly LayerMemory[]): Tensor[] =>
  layers.flatMap(({ tensors }) => Object.values(tensors))

/** Disposes of the old tensors that are not among the new ones. */
function disposeUnlessKept(old: readonly NamedTensors[], next: readonly NamedTensors[]): void {
  const kept = new Set(next.flatMap((tensors) => Object.values(tensors)))
  for (const tensors of old) for (const value of Object.values(tensors)) if (!kept.has(value)) value.dispose()
}
