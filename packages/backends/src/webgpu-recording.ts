/**
 * Recording of commands on tfjs's WebGPU backend. tfjs makes, for every dispatch, a buffer with its sizes, a write to it
 * and a bind group, and hands over its commands fifteen dispatches at a time; on the processor that takes several times
 * as long as small tensors take the GPU. Steps of training and decoding repeat themselves, so what was made for one
 * dispatch is kept and serves the next that has the same sizes and the same buffers.
 */
import * as tf from '@tensorflow/tfjs-core'

interface Uniform {
  readonly type: string
  readonly data: number[]
}

interface Tensor {
  readonly dataId: object
  readonly shape: number[]
}

interface Pipeline {
  getBindGroupLayout(index: number): object
}

interface Program {
  readonly pipeline: Pipeline
  readonly dispatch: readonly [number, number, number]
  readonly outputShape: number[]
  readonly outputComponent?: number
  readonly size?: boolean
  readonly pixelsOpType?: unknown
}

interface Binding {
  readonly buffer: Buffer
}

interface Buffer {
  readonly size: number
  destroy(): void
}

interface Pass {
  setPipeline(pipeline: Pipeline): void
  setBindGroup(index: number, group: object): void
  dispatchWorkgroups(x: number, y: number, z: number): void
}

interface TensorData {
  readonly dtype: tf.DataType
  readonly shape: number[]
  values: ArrayLike<number> | null
  resource: Buffer | null
}

interface BufferManager {
  /** Of each size and use, those that are free; the last one is taken. */
  readonly freeBuffers: Map<string, Buffer[]>
  numFreeBuffers: number
  readonly numBytesUsed: number
  numBytesAllocated: number
  acquireBuffer(size: number, usage: number, mappedAtCreation?: boolean, reuse?: boolean): Buffer
}

/** What we use of tfjs's backend; private there. */
interface Backend {
  readonly device: { createBindGroup(descriptor: object): object }
  readonly queue: { writeBuffer(buffer: Buffer, offset: number, values: ArrayBufferView): void }
  readonly bufferManager: BufferManager
  readonly tensorMap: { get(dataId: object): TensorData }
  readonly commandQueueOwnedIds: WeakSet<object>
  readonly activeTimers: unknown
  readonly commandEncoder: { beginComputePass(descriptor: object): Pass }
  readonly uniformPendingDisposal: Buffer[]
  computePassEncoder: Pass | null
  dispatchCountInPass: number
  ensureCommandEncoderReady(): void
  endComputePassEncoder(): void
  submitQueue(): void
  makeUniforms(uniforms: readonly Uniform[]): Binding
  tensorToBinding(tensor: Tensor): unknown
  uploadToGPU(dataId: object): void
  recordAndSubmit(program: Program, output: Tensor, inputs: Tensor[], uniforms?: Uniform[]): void
}

/** Sizes of dispatches that are kept, and the bind groups with them. */
const uniformsKept = 1024
const groupsKept = 4096
/** Dispatches after which commands are handed over, as tfjs's flag says, whose default is 15. */
const batchFlag = 'WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE'
const dispatchesPerSubmit = 64

/** A buffer of sizes that is kept. */
interface Sizes {
  readonly key: string
  readonly binding: Binding
  /** The buffer was given back. */
  forgotten: boolean
}

/** What was made for a dispatch. */
interface Group {
  readonly group: object
  readonly sizes: Sizes
}

/** Values by sequences of numbers, which cost less to compare than the strings they would make. */
class BySequence<Value> {
  readonly #rows = new Map<number, { readonly sequence: readonly number[]; value: Value }[]>()
  count = 0

  get(sequence: readonly number[]): Value | undefined {
    return this.#find(sequence)?.value
  }

  set(sequence: readonly number[], value: Value): void {
    const known = this.#find(sequence)
    if (known) {
      known.value = value
      return
    }
    const hash = hashOf(sequence)
    const row = this.#rows.get(hash) ?? []
    if (row.length === 0) this.#rows.set(hash, row)
    row.push({ sequence: [...sequence], value })
    this.count++
  }

  clear(): void {
    this.#rows.clear()
    this.count = 0
  }

  #find(sequence: readonly number[]) {
    const row = this.#rows.get(hashOf(sequence))
    if (row)
      for (const entry of row)
        if (entry.sequence.length === sequence.length && isSame(entry.sequence, sequence)) return entry
    return undefined
  }
}

function hashOf(sequence: readonly number[]): number {
  let hash = 0
  // Fractions count, too: 2^32 / golden ratio, as in Knuth's multiplicative hashing.
  for (let i = 0; i < sequence.length; i++) hash = Math.imul(hash ^ (sequence[i]! * 8191), 0x9e3779b1)
  return hash ^ (hash >>> 15)
}

function isSame(one: readonly number[], other: readonly number[]): boolean {
  for (let i = 0; i < one.length; i++) if (one[i] !== other[i]) return false
  return true
}

/** @param backend that of tfjs, which has started */
export function recordRepeatedly(given: tf.KernelBackend): void {
  const backend = given as unknown as Backend
  tf.env().set(batchFlag, dispatchesPerSubmit)
  const { recordAndSubmit: stock } = Object.getPrototypeOf(backend) as Backend
  const numbers = new WeakMap<object, number>()
  let lastNumber = 0
  const numberOf = (thing: object) => {
    const known = numbers.get(thing)
    if (known !== undefined) return known
    numbers.set(thing, ++lastNumber)
    return lastNumber
  }

  reuseInOrder(backend.bufferManager, numberOf)
  forgetUnused(backend.bufferManager)
  uploadByQueue(backend)

  /** By what is written in them, those used last at the end; without sizes what was met once, by its submission. */
  const met = new Map<string, Sizes | number>()
  let submissions = 0
  /** By what a dispatch is made of. */
  const groups = new BySequence<Group>()

  function sizesOf(uniforms: readonly Uniform[]): Sizes | Binding {
    let key = ''
    for (const { type, data } of uniforms) key += `${type[0]}${data.join()};`
    const known = met.get(key)
    met.delete(key)
    // Numbers that change from step to step, such as a learning rate, are not worth keeping.
    if (typeof known === 'object') {
      met.set(key, known)
      return known
    }
    const binding = backend.makeUniforms(uniforms)
    if (known === undefined || known === submissions) {
      met.set(key, known ?? submissions)
      forget()
      return binding
    }
    // tfjs would use the buffer again after this submission.
    backend.uniformPendingDisposal.pop()
    const sizes = { key, binding, forgotten: false }
    met.set(key, sizes)
    return sizes
  }

  function forget(): void {
    if (met.size <= uniformsKept) return
    const [oldest, sizes] = met.entries().next().value!
    met.delete(oldest)
    if (typeof sizes === 'number') return
    backend.uniformPendingDisposal.push(sizes.binding.buffer)
    sizes.forgotten = true
  }

  function known(sequence: readonly number[]): object | undefined {
    const found = groups.get(sequence)
    if (!found || found.sizes.forgotten) return undefined
    const { key } = found.sizes
    met.delete(key)
    met.set(key, found.sizes)
    return found.group
  }

  function make(program: Program, uniforms: readonly Uniform[], tensors: readonly Tensor[]): object {
    const sizes = sizesOf(uniforms)
    const binding = 'key' in sizes ? sizes.binding : sizes
    const entries = [...tensors.map((tensor) => backend.tensorToBinding(tensor)), binding]
    const group = backend.device.createBindGroup({
      layout: program.pipeline.getBindGroupLayout(0),
      entries: entries.map((resource, index) => ({ binding: index, resource })),
    })
    if ('key' in sizes) {
      if (groups.count >= groupsKept) groups.clear()
      groups.set(sequence, { group, sizes })
    }
    return group
  }

  /** All that a dispatch depends on: shader, buffers, sizes. Used again and again, so that none has to be made. */
  const sequence: number[] = []
  function describe(program: Program, tensors: readonly Tensor[], own: readonly Uniform[] | undefined): void {
    sequence.length = 0
    sequence.push(numberOf(program.pipeline))
    for (const { dataId, shape } of tensors) {
      sequence.push(numberOf(backend.tensorMap.get(dataId).resource!), shape.length)
      for (const size of shape) sequence.push(size)
    }
    if (program.size) {
      sequence.push(program.outputComponent ?? 1)
      for (const size of program.outputShape) sequence.push(size)
    }
    if (own)
      for (const { type, data } of own) {
        sequence.push(type === 'float32' ? -1 : -2, data.length)
        for (const value of data) sequence.push(value)
      }
  }

  backend.recordAndSubmit = (program, output, inputs, own) => {
    if (backend.activeTimers != null || program.pixelsOpType != null || program.pipeline instanceof Promise) {
      stock.call(backend, program, output, inputs, own)
      return
    }
    const tensors = [output, ...inputs]
    describe(program, tensors, own)
    const group = known(sequence) ?? make(program, uniformsOf(program, output, inputs, own), tensors)
    for (const { dataId } of inputs) backend.commandQueueOwnedIds.add(dataId)
    backend.commandQueueOwnedIds.add(output.dataId)

    backend.ensureCommandEncoderReady()
    backend.computePassEncoder ??= backend.commandEncoder.beginComputePass({})
    const pass = backend.computePassEncoder
    pass.setPipeline(program.pipeline)
    pass.setBindGroup(0, group)
    pass.dispatchWorkgroups(...program.dispatch)
    if (++backend.dispatchCountInPass < tf.env().getNumber(batchFlag)) return
    backend.endComputePassEncoder()
    backend.submitQueue()
  }
  const { submitQueue } = Object.getPrototypeOf(backend) as Backend
  backend.submitQueue = () => {
    submissions++
    submitQueue.call(backend)
  }
}

/** The struct that tfjs's shaders begin with: NaN, infinity, the shapes and strides of all, the size of the result. */
function uniformsOf(
  program: Program,
  output: Tensor,
  inputs: readonly Tensor[],
  own: readonly Uniform[] | undefined,
): Uniform[] {
  const uniforms: Uniform[] = [
    { type: 'float32', data: [Number.NaN] },
    { type: 'float32', data: [Number.POSITIVE_INFINITY] },
  ]
  for (const { shape } of [...inputs, output])
    uniforms.push({ type: 'int32', data: shape }, { type: 'int32', data: tf.util.computeStrides(shape) })
  if (program.size) {
    const size = tf.util.sizeFromShape(program.outputShape)
    uniforms.push({
      type: 'int32',
      data: [program.outputComponent ? size / program.outputComponent : size],
    })
  }
  if (own) uniforms.push(...own)
  return uniforms
}

/**
 * Always takes the first that was made of the buffers that are free. By tfjs's order, last in and first out, equal steps
 * get the same buffers in ever new arrangements.
 */
function reuseInOrder(manager: BufferManager, numberOf: (buffer: Buffer) => number): void {
  const { acquireBuffer } = Object.getPrototypeOf(manager) as BufferManager
  manager.acquireBuffer = (size, usage, mappedAtCreation, reuse) => {
    const free = manager.freeBuffers.get(`${size}_${usage}`)
    if (reuse !== false && free && free.length > 1) {
      let first = 0
      for (let place = 1; place < free.length; place++)
        if (numberOf(free[place]!) < numberOf(free[first]!)) first = place
      const last = free.length - 1
      const buffer = free[first]!
      free[first] = free[last]!
      free[last] = buffer
    }
    const buffer = acquireBuffer.call(manager, size, usage, mappedAtCreation, reuse)
    numberOf(buffer)
    return buffer
  }
}

/** Bytes of free buffers that are kept in any case; beyond them, as many as were in use at once. */
const freeBytesKept = 2 ** 28

/**
 * Destroys free buffers, those first of a size that was asked for longest ago, where a buffer has to be made and too many
 * lie free. tfjs keeps all: work of ever new sizes, as prompts of any length are, would fill the GPU. Equal steps are not
 * concerned, since they make none. No command that was not handed over yet has a free buffer.
 */
function forgetUnused(manager: BufferManager): void {
  const { acquireBuffer } = manager
  let most = 0
  const isTooMuch = () => manager.numBytesAllocated - manager.numBytesUsed > Math.max(freeBytesKept, most)
  manager.acquireBuffer = (size, usage, mappedAtCreation, reuse) => {
    const { freeBuffers } = manager
    const key = `${size}_${usage}`
    const free = freeBuffers.get(key)
    if (free) {
      freeBuffers.delete(key) // to the end of the order
      freeBuffers.set(key, free)
    }
    if (!free?.length)
      for (const unused of freeBuffers.values()) {
        if (!isTooMuch()) break
        for (const buffer of unused) {
          buffer.destroy()
          manager.numBytesAllocated -= buffer.size
          manager.numFreeBuffers--
        }
        unused.length = 0
      }
    const buffer = acquireBuffer.call(manager, size, usage, mappedAtCreation, reuse)
    most = Math.max(most, manager.numBytesUsed)
    return buffer
  }
}

/** Buffers that values from the processor go to. */
const storage = 0x80 | 0x4 | 0x8 // GPUBufferUsage.STORAGE | COPY_SRC | COPY_DST

/** Values go to a buffer by the queue, which has memory for that, and not by a buffer that is made and destroyed for it. */
function uploadByQueue(backend: Backend): void {
  const { uploadToGPU } = Object.getPrototypeOf(backend) as Backend
  backend.uploadToGPU = (dataId) => {
    const data = backend.tensorMap.get(dataId)
    const { dtype, values } = data
    if (data.resource != null || !values || (dtype !== 'float32' && dtype !== 'int32')) {
      uploadToGPU.call(backend, dataId)
      return
    }
    // A buffer that is free is in no command that was not handed over yet.
    const Numbers = dtype === 'int32' ? Int32Array : Float32Array
    const numbers = values instanceof Numbers ? values : Numbers.from(values)
    data.resource = backend.bufferManager.acquireBuffer(numbers.byteLength, storage)
    backend.queue.writeBuffer(data.resource, 0, numbers)
    data.values = null
  }
}
