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

/** A buffer of sizes, and the bind groups that have it. */
interface Sizes {
  readonly binding: Binding
  readonly groups: Map<string, object>
}

/** @param backend that of tfjs, which has started */
export function recordRepeatedly(given: tf.KernelBackend): void {
  const backend = given as unknown as Backend
  tf.env().set(batchFlag, dispatchesPerSubmit)
  const { recordAndSubmit: stock } = Object.getPrototypeOf(backend) as Backend
  const numbers = new WeakMap<object, number>()
  let lastNumber = 0
  const numberOf = (thing: object) => {
    const number = numbers.get(thing) ?? ++lastNumber
    numbers.set(thing, number)
    return number
  }

  reuseInOrder(backend.bufferManager, numberOf)
  forgetUnused(backend.bufferManager)
  uploadByQueue(backend)

  /** By what is written in them, those used last at the end; without sizes what was met once, by its submission. */
  const met = new Map<string, Sizes | number>()
  let submissions = 0
  let groups = 0

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
    const sizes = { binding, groups: new Map() }
    met.set(key, sizes)
    return sizes
  }

  function forget(): void {
    if (met.size <= uniformsKept) return
    const [oldest, sizes] = met.entries().next().value!
    met.delete(oldest)
    if (typeof sizes === 'number') return
    backend.uniformPendingDisposal.push(sizes.binding.buffer)
    groups -= sizes.groups.size
  }

  function groupOf(pipeline: Pipeline, sizes: Sizes | Binding, tensors: readonly Tensor[]): object {
    const make = (binding: Binding) =>
      backend.device.createBindGroup({
        layout: pipeline.getBindGroupLayout(0),
        entries: [...tensors.map((tensor) => backend.tensorToBinding(tensor)), binding].map(
          (resource, index) => ({ binding: index, resource }),
        ),
      })
    if (!('groups' in sizes)) return make(sizes)
    let key = String(numberOf(pipeline))
    for (const { dataId } of tensors) key += `,${numberOf(backend.tensorMap.get(dataId).resource!)}`
    const known = sizes.groups.get(key)
    if (known) return known
    if (groups >= groupsKept) {
      for (const other of met.values()) if (typeof other === 'object') other.groups.clear()
      groups = 0
    }
    const group = make(sizes.binding)
    sizes.groups.set(key, group)
    groups++
    return group
  }

  backend.recordAndSubmit = (program, output, inputs, own) => {
    if (backend.activeTimers != null || program.pixelsOpType != null || program.pipeline instanceof Promise) {
      stock.call(backend, program, output, inputs, own)
      return
    }
    // The struct that tfjs's shaders begin with: NaN, infinity, the shapes and strides of all, the size of the result.
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
    const group = groupOf(program.pipeline, sizesOf(uniforms), [output, ...inputs])
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
