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

type Buffer = object

interface Pass {
  setPipeline(pipeline: Pipeline): void
  setBindGroup(index: number, group: object): void
  dispatchWorkgroups(x: number, y: number, z: number): void
}

/** What we use of tfjs's backend; private there. */
interface Backend {
  readonly device: { createBindGroup(descriptor: object): object }
  readonly tensorMap: { get(dataId: object): { readonly resource: Buffer } }
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
    for (const { dataId } of tensors) key += `,${numberOf(backend.tensorMap.get(dataId).resource)}`
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
