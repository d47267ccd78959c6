/** What a product does with its values before it writes them: activation(value + bias) + residual. */
import type { Tensor } from '@tensorflow/tfjs-core'

export interface EndingOf {
  /** [columns] */
  readonly bias?: Tensor
  /** Of the result's shape. */
  readonly residual?: Tensor
  readonly relu?: boolean
}

export interface Ending {
  /** Behind the key of a shader. */
  readonly key: string
  /** Names of what is bound beside the factors. */
  readonly inputs: readonly string[]
  /** `endingOf` a value and `endingOfQuad` of four, from where their row begins, and their column. */
  readonly code: string
}

export function endingFor({ bias, residual, relu = false }: EndingOf): Ending {
  const inputs = [...(bias ? ['bias'] : []), ...(residual ? ['residual'] : [])]
  const added = bias ? 'value + bias[column]' : 'value'
  const active = relu ? `max(${added}, 0.0)` : added
  const quad = ['x', 'y', 'z', 'w'].map((letter, n) => `endingOf(value.${letter}, row, column + ${n})`)
  return {
    key: [...inputs, ...(relu ? ['relu'] : [])].map((name) => `/${name}`).join(''),
    inputs,
    code: `
fn endingOf(value: f32, row: i32, column: i32) -> f32 {
  return ${residual ? `${active} + residual[row + column]` : active};
}
fn endingOfQuad(value: vec4<f32>, row: i32, column: i32) -> vec4<f32> {
  return vec4<f32>(${quad.join(', ')});
}
`,
  }
}
