export type { AttentionKernel, FusedResult, ResultGradients } from './attention/attend'
export { attend, attendPlain, setAttentionKernel } from './attention/attend'
export type { AttentionGroup, AttentionRequest, AttentionResult, DistanceRows } from './attention/request'
export { takeApart } from './attention/request'
export { breathe } from './breathe'
export type { CombineOptions } from './combine'
export { combine } from './combine'
export type { DecoderConfig, DropoutPlace, ResolvedConfig } from './config'
export { DecodeMemory } from './decode'
export type {
  DecoderDescription,
  ForwardResult,
  GradientOptions,
  GradientResult,
  MethodDescription,
  MethodFactories,
} from './decoder'
export { Decoder } from './decoder'
export * from './errors'
export type { FixedSpanOptions } from './fixed-span'
export { fixedSpan } from './fixed-span'
export { registerGradients } from './gradients'
export { Memory } from './memory'
export type * from './method'
export { stopGradient } from './ops/differentiable'
export type { Float16Weights } from './ops/float16'
export type { FusedKernels } from './ops/fused'
export { fused, hasFused, several } from './ops/fused'
export { crossEntropy, logSoftmax, negativeLogLikelihood } from './ops/loss'
export { linear } from './ops/matmul'
export type { Preset, PresetName, TrainingPreset } from './presets'
export { presets } from './presets'
export * from './random'
export type { LayerReport } from './report'
export * from './safetensors'
export type { SinksOptions } from './sinks'
export { sinks } from './sinks'
export {
  agesOf,
  joinSlots,
  keepSlots,
  lastSlots,
  newestSlots,
  pickSlots,
  roomFor,
  scatteredAges,
  scatteredEnter,
  scatteredGroups,
  scatteredNext,
  scatteredStart,
  slotsFrom,
  validSlots,
} from './slots'
export type { StateDictFamily } from './state-dict'
export { fromStateDict, toStateDict } from './state-dict'
export { wrappers } from './wrappers'
