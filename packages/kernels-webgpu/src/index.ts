/**
 * Attention for tfjs's WebGPU backend in WGSL, forward and backward, behind core's seam:
 * `setAttentionKernel('webgpu', attentionKernel)`. No tensor of queries × slots × heads is made. And core's fused
 * operations and a faster matrix product, as kernels for tfjs's registry.
 */

export { attentionKernel } from './attention'
export { overrideTilings, type TiledProgram, type Tiling } from './attention/tiling'
export { fusedKernels } from './fused'
export { batchMatMul, type MeasurableVariant, matMulVariants } from './matmul'
export { withholdSubgroups } from './reduce'
export { sumOverFirst } from './sum'
