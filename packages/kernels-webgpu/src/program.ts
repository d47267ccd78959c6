/**
 * Runs compute shaders on tfjs's WebGPU backend, which records and submits them among its own. tfjs's programs have one
 * result and are looked up by the shapes of all tensors; ours have as many as bindings allow, take tensors flat, so that a
 * shader is compiled once for all shapes, and sizes travel as uniforms.
 */
import { backend, type DataType, engine, type Tensor, type TensorInfo } from '@tensorflow/tfjs-core'
import { type Ending, endingFor } from './ending'
import { hasSubgroups, reductionCode } from './reduce'

export interface Uniform {
  readonly type: 'int32' | 'float32'
  readonly data: number[]
}

export interface Shader {
  /** Two shaders of one key are one: whatever their code depends on is part of it. */
  readonly key: string
  /** Names of the inputs, as the code calls them. */
  readonly inputs: readonly string[]
  /** Those of the results. Default: 'result'. */
  readonly results?: readonly string[]
  /** Those of all these that are arrays of vec4: their sizes are multiples of four. Default: none. */
  readonly vectors?: readonly string[]
  /** Those of the inputs that are arrays of vec2. Default: none. */
  readonly pairs?: readonly string[]
  /** Members of the struct `uniforms`. */
  readonly uniforms: string
  /**
   * WGSL with `fn main(index: i32) {`, which becomes the entry point and knows `localIndex`, a thread's number in its
   * workgroup, to other functions `ownIndex`.
   */
  readonly code: () => string
  readonly threads: number
  /** Whether its threads combine what they have, by the functions of reduce.ts. Default: no. */
  readonly reduces?: boolean
}

/** What tfjs's backend takes to record a program that was compiled. */
interface Program {
  readonly shaderKey: string
  readonly pipeline: object
  readonly outputShape: number[]
  readonly dispatch: readonly [number, number, number]
}

interface TensorData {
  readonly dtype: DataType
  values: Float32Array | null
  resource: object | null
}

/** Private there, but for the device. */
interface WebGPUBackend {
  readonly device: {
    readonly limits: Readonly<
      Record<'maxComputeWorkgroupsPerDimension' | 'maxStorageBuffersPerShaderStage', number>
    >
    createShaderModule(descriptor: object): object
    createComputePipeline(descriptor: object): object
  }
  readonly pipelineCache: Record<string, object>
  readonly tensorMap: { get(dataId: object): TensorData }
  makeTensorInfo(shape: number[], dtype: DataType, values?: Float32Array): TensorInfo
  uploadToGPU(dataId: object): void
  refCount(dataId: object): number
  recordAndSubmit(program: Program, output: TensorInfo, others: TensorInfo[], uniforms: Uniform[]): void
}

/** What a result becomes: a new tensor of a shape, of float32 unless something else is said, or one that is written into. */
export type Result =
  | readonly number[]
  | { readonly shape: readonly number[]; readonly dtype: 'int32' }
  | Tensor

export interface Run<Into = Result> {
  readonly inputs: readonly TensorInfo[]
  readonly uniforms: Uniform[]
  readonly workgroups: number
  readonly into: Into
}

const sizeOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)

/** Of all bindings alike: tfjs puts these sizes in front of a program's own uniforms. */
const flat = ({ dataId, dtype }: TensorInfo): TensorInfo => ({ dataId, dtype, shape: [] })

/** Runs a shader that has one result. */
export const run = (shader: Shader, job: Run): Tensor => runAll(shader, { ...job, into: [job.into] })[0]!

/** Runs a shader. A tensor may be bound once only. */
export function runAll(
  shader: Shader,
  { inputs, uniforms, workgroups, into }: Run<readonly Result[]>,
): Tensor[] {
  const webgpu = backend() as unknown as WebGPUBackend
  const results = into.map((result): Tensor => {
    if ('dataId' in result) return result
    const [shape, dtype] = 'shape' in result ? [result.shape, result.dtype] : [result, 'float32' as const]
    return engine().makeTensorFromTensorInfo(webgpu.makeTensorInfo([...shape], dtype))
  })
  if (results[0]!.size === 0) {
    for (const { dataId } of results) webgpu.tensorMap.get(dataId).values = new Float32Array(0)
    return results
  }
  const bound = [...results, ...inputs]
  for (const { dataId } of bound) webgpu.uploadToGPU(dataId)
  const types = bound.map(({ dataId }) => (webgpu.tensorMap.get(dataId).dtype === 'float32' ? 'f32' : 'i32'))
  const bySubgroups = shader.reduces && hasSubgroups()
  const key = `lethe-${shader.key};${types.join()}${bySubgroups ? ';subgroups' : ''}`
  webgpu.pipelineCache[key] ??= compile(webgpu, key, shader, types, bySubgroups)
  const [first, ...others] = bound.map(flat) as [TensorInfo, ...TensorInfo[]]
  const program: Program = {
    shaderKey: key,
    pipeline: webgpu.pipelineCache[key],
    outputShape: [],
    dispatch: gridOf(workgroups, webgpu.device.limits.maxComputeWorkgroupsPerDimension),
  }
  webgpu.recordAndSubmit(program, first, others, uniforms)
  return results
}

/** So many workgroups or more, as their number along one axis is limited. */
function gridOf(workgroups: number, most: number): [number, number, number] {
  if (workgroups <= most) return [workgroups, 1, 1]
  const side = Math.ceil(Math.sqrt(workgroups))
  if (side <= most) return [side, side, 1]
  const edge = Math.ceil(Math.cbrt(workgroups))
  return [edge, edge, edge]
}

/** The range that an index may have is known within the entry point only, and indices of a known range need no check. */
const mainCode = /fn main\((\w+): i32\) \{/

function compile(
  webgpu: WebGPUBackend,
  label: string,
  shader: Shader,
  types: readonly string[],
  bySubgroups = false,
): object {
  const { results = ['result'], inputs, vectors = [], pairs = [], uniforms, threads, reduces } = shader
  const names = [...results, ...inputs]
  const bindings = names.map((name, place) => {
    const width = vectors.includes(name) ? 4 : pairs.includes(name) ? 2 : 1
    const type = width > 1 ? `vec${width}<${types[place]}>` : types[place]
    const access = place < results.length ? 'read_write' : 'read'
    return `@group(0) @binding(${place}) var<storage, ${access}> ${name}: array<${type}>;`
  })
  const sizes = names.map((_, place) => `shape${place}: i32, strides${place}: i32, `)
  const subgroups = (code: string) => (bySubgroups ? code : '')
  const code = `${subgroups('enable subgroups;')}
struct Uniforms { nan: f32, infinity: f32, ${sizes.join('')}${uniforms}};
${bindings.join('\n')}
@group(0) @binding(${names.length}) var<uniform> uniforms: Uniforms;
var<private> ownIndex: u32;
${subgroups('var<private> lane: u32; var<private> lanes: u32;')}
${reduces ? reductionCode(threads, bySubgroups) : ''}
${shader.code().replace(
  mainCode,
  (_, index) => `
@compute @workgroup_size(${threads})
fn main(@builtin(local_invocation_index) localIndex: u32, @builtin(workgroup_id) ownGroup: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>${subgroups(', @builtin(subgroup_invocation_id) ownLane: u32, @builtin(subgroup_size) allLanes: u32')}) {
  ownIndex = localIndex;
  ${subgroups('lane = ownLane; lanes = allLanes;')}
  // A binding that is not mentioned would have no place in the layout.
  ${names.map((name) => `_ = &${name};`).join(' ')} _ = uniforms.nan;
  let ${index} = i32(((ownGroup.z * groups.y + ownGroup.y) * groups.x + ownGroup.x) * ${threads}u + localIndex);`,
)}`
  const module = webgpu.device.createShaderModule({ code, label })
  return webgpu.device.createComputePipeline({
    label,
    layout: 'auto',
    compute: { module, entryPoint: 'main' },
  })
}

/**
 * A tensor to be written into that has x's values: its very buffer where nobody else holds it, which x then loses, else a
 * copy. It is other data to tfjs, which may have, or be reading, x's values.
 */
export function takeOver(x: Tensor): Tensor {
  const webgpu = backend() as unknown as WebGPUBackend
  if (webgpu.refCount(x.dataId) !== 1)
    return runPerElement(
      {
        key: 'copy',
        inputs: ['x'],
        uniforms: '',
        code: () => 'fn main(i: i32) { if (i < i32(arrayLength(&result))) { result[i] = x[i]; } }',
      },
      { inputs: [x], into: x.shape, uniforms: [] },
    )
  webgpu.uploadToGPU(x.dataId)
  const info = webgpu.makeTensorInfo(x.shape, x.dtype)
  const [from, to] = [webgpu.tensorMap.get(x.dataId), webgpu.tensorMap.get(info.dataId)]
  to.resource = from.resource
  from.resource = null
  return engine().makeTensorFromTensorInfo(info)
}

/** Buffers that a shader may bind. */
export const mostBindings = (): number =>
  (backend() as unknown as WebGPUBackend).device.limits.maxStorageBuffersPerShaderStage

/** Threads of a shader that computes each value by itself. */
const elementThreads = 64

/** Runs a shader that computes value `index` of the result in each thread. */
export const runPerElement = (
  shader: Omit<Shader, 'threads'>,
  job: Omit<Run, 'workgroups' | 'into'> & { into: readonly number[] },
): Tensor =>
  run(
    { ...shader, threads: elementThreads },
    { ...job, workgroups: Math.ceil(sizeOf(job.into) / elementThreads) },
  )

interface Sum {
  readonly count: number
  readonly inner: number
  /** From one of the summed to the next. Default: `inner`. */
  readonly pitch?: number
  readonly outerPitch?: number
  readonly offset?: number
}

/** What is done to the sums: a matrix of so many columns. */
interface After {
  readonly ending: Ending
  readonly inputs: readonly TensorInfo[]
  readonly columns: number
}

const nothingAfter: After = { ending: /* @__PURE__ */ endingFor({}), inputs: [], columns: 1 }

/** Σ over n of x[outer · outerPitch + n · pitch + offset + inner] for each outer and inner, as a tensor of shape `into`. */
export function sumOf(
  x: Tensor,
  into: readonly number[],
  { count, inner, pitch = inner, outerPitch = count * pitch, offset = 0 }: Sum,
  { ending, inputs, columns }: After = nothingAfter,
): Tensor {
  const given = [inner, pitch, outerPitch, offset, ...(ending.key === '' ? [] : [columns])]
  const unit = sizeOf(into) > 0 && given.every((number) => number % 4 === 0) ? 4 : 1
  const quads = unit === 4
  return run(
    {
      key: `sum${ending.key}${quads ? '/quads' : ''}`,
      inputs: ['x', ...ending.inputs],
      vectors: quads ? ['x', 'result'] : [],
      uniforms: 'counts: vec4<i32>, places: vec4<i32>, ',
      threads: elementThreads,
      code: () => `${ending.code}
fn main(index: i32) {
  if (index >= i32(arrayLength(&result))) { return; }
  let inner = index % uniforms.counts.y;
  let origin = (index / uniforms.counts.y) * uniforms.places.x + uniforms.places.z + inner;
  var sum = ${quads ? 'vec4<f32>()' : '0.0'};
  for (var n = 0; n < uniforms.counts.x; n++) { sum += x[origin + n * uniforms.places.y]; }
  let column = index * ${unit} % uniforms.places.w;
  result[index] = ${quads ? 'endingOfQuad' : 'endingOf'}(sum, index * ${unit} - column, column);
}`,
    },
    {
      inputs: [x, ...inputs],
      into,
      uniforms: [
        { type: 'int32', data: [count, inner / unit, 0, 0] },
        { type: 'int32', data: [outerPitch / unit, pitch / unit, offset / unit, columns] },
      ],
      workgroups: Math.ceil(sizeOf(into) / unit / elementThreads),
    },
  )
}
