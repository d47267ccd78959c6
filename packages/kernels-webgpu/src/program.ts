/**
 * Runs a compute shader on tfjs's WebGPU backend: an object of the shape that it takes for a program is all it needs.
 * Tensors go in flat, so that a shader is compiled once for all shapes; sizes travel as uniforms.
 */
import { backend, type DataType, engine, type Tensor, type TensorInfo, util } from '@tensorflow/tfjs-core'

export interface Uniform {
  readonly type: 'int32' | 'float32'
  readonly data: number[]
}

export interface Shader {
  /** Two shaders of one key are one: whatever their code depends on is part of it. */
  readonly key: string
  /** Names of the inputs, as the code calls them. */
  readonly inputs: readonly string[]
  /** Those of the inputs, and 'result', that are arrays of vec4: their sizes are multiples of four. Default: none. */
  readonly vectors?: readonly string[]
  /** Those of the inputs that are arrays of vec2. Default: none. */
  readonly pairs?: readonly string[]
  /** Members of the struct `uniforms`. */
  readonly uniforms: string
  /** WGSL with `fn main(index: i32)`. */
  readonly code: () => string
  readonly threads: number
}

/** WebGPUProgram of tfjs. */
interface Program {
  readonly shaderKey: string
  readonly variableNames: string[]
  readonly variableComponents: number[]
  readonly uniforms: string
  readonly outputShape: number[]
  readonly outputComponent: number
  readonly workgroupSize: [number, number, number]
  readonly dispatchLayout: { x: number[] }
  readonly dispatch: [number, number, number]
  getUserCode(): string
}

interface WebGPUBackend {
  runWebGPUProgram(
    program: Program,
    inputs: TensorInfo[],
    dtype: DataType,
    uniforms: Uniform[],
    output?: TensorInfo,
  ): TensorInfo
}

const flat = ({ dataId, dtype, shape }: TensorInfo): TensorInfo => ({
  dataId,
  dtype,
  shape: [util.sizeFromShape(shape)],
})

const opening = 'fn main(index: i32) {'

/** The code with every input mentioned, since an input that is not mentioned would have no place in the layout. */
const named = ({ code, inputs }: Shader) =>
  code().replace(opening, `${opening} ${inputs.map((name) => `_ = &${name};`).join(' ')}`)

/** What the result becomes: a new tensor of a shape, of float32 unless something else is said, or one that is written into. */
export type Result =
  | readonly number[]
  | { readonly shape: readonly number[]; readonly dtype: 'int32' }
  | Tensor

export interface Run {
  readonly inputs: readonly TensorInfo[]
  readonly uniforms: Uniform[]
  readonly workgroups: number
  readonly into: Result
}

/** Runs a shader. */
export function run(shader: Shader, { inputs, uniforms, workgroups, into }: Run): Tensor {
  const componentsOf = (name: string) =>
    shader.vectors?.includes(name) ? 4 : shader.pairs?.includes(name) ? 2 : 1
  const [shape, dtype] = 'shape' in into ? [[...into.shape], into.dtype] : [[...into], 'float32' as const]
  const program: Program = {
    shaderKey: `lethe-${shader.key}`,
    variableNames: [...shader.inputs],
    variableComponents: shader.inputs.map(componentsOf),
    uniforms: shader.uniforms,
    outputShape: [shape.reduce((product, size) => product * size, 1)],
    outputComponent: componentsOf('result'),
    workgroupSize: [shader.threads, 1, 1],
    dispatchLayout: { x: [0] },
    dispatch: [workgroups, 1, 1],
    getUserCode: () => named(shader),
  }
  const output = 'dataId' in into ? into : undefined
  const info = (backend() as unknown as WebGPUBackend).runWebGPUProgram(
    program,
    inputs.map(flat),
    dtype,
    uniforms,
    output && flat(output),
  )
  return output ?? engine().makeTensorFromTensorInfo({ ...info, shape })
}

/** Threads of a shader that computes each value by itself. */
const elementThreads = 64

/** Runs a shader that computes value `index` of the result in each thread. */
export const runPerElement = (
  shader: Omit<Shader, 'threads'>,
  job: Omit<Run, 'workgroups' | 'into'> & { into: readonly number[] },
) =>
  run(
    { ...shader, threads: elementThreads },
    { ...job, workgroups: Math.ceil(job.into.reduce((product, size) => product * size, 1) / elementThreads) },
  )

interface Sum {
  readonly count: number
  readonly inner: number
  /** From one of the summed to the next. Default: `inner`. */
  readonly pitch?: number
  readonly outerPitch?: number
  readonly offset?: number
}

/** Σ over n of x[outer · outerPitch + n · pitch + offset + inner] for each outer and inner, as a tensor of shape `into`. */
export function sumOf(
  x: Tensor,
  into: readonly number[],
  { count, inner, pitch = inner, outerPitch = count * pitch, offset = 0 }: Sum,
): Tensor {
  return runPerElement(
    {
      key: 'sum',
      inputs: ['x'],
      uniforms: 'counts: vec4<i32>, places: vec4<i32>, ',
      code: () => `
fn main(index: i32) {
  if (index >= i32(arrayLength(&result))) { return; }
  let inner = index % uniforms.counts.y;
  let origin = (index / uniforms.counts.y) * uniforms.places.x + uniforms.places.z + inner;
  var sum = 0.0;
  for (var n = 0; n < uniforms.counts.x; n++) { sum += x[origin + n * uniforms.places.y]; }
  result[index] = sum;
}`,
    },
    {
      inputs: [x],
      into,
      uniforms: [
        { type: 'int32', data: [count, inner, 0, 0] },
        { type: 'int32', data: [outerPitch, pitch, offset, 0] },
      ],
    },
  )
}
