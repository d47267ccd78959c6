/** What the types promise: checked by tsc, never run. */
import type { Tensor, Tensor3D } from '@tensorflow/tfjs-core'
import { expectTypeOf } from 'vitest'
import {
  type Block,
  ConfigError,
  Decoder,
  type DecoderConfig,
  type ForgettingMethod,
  fixedSpan,
  type Memory,
  type PresetName,
  presets,
} from './index'

expectTypeOf(fixedSpan({ span: 4 })).toEqualTypeOf<ForgettingMethod>()
// @ts-expect-error a span is needed
fixedSpan({})
// @ts-expect-error options have full names
fixedSpan({ span: 4, same: true })

const config: DecoderConfig = { vocabulary: 3, layers: 1, width: 4, heads: 1, method: fixedSpan({ span: 2 }) }
// @ts-expect-error a choice, not any string
const wrong: DecoderConfig = { ...config, norm: 'batch' }
// @ts-expect-error what is remembered must be said
const forgetful: DecoderConfig = { vocabulary: 3, layers: 1, width: 4, heads: 1 }
void [wrong, forgetful]

declare const decoder: Decoder
declare const memory: Memory
declare const tokens: Tensor
expectTypeOf(decoder.forward(tokens, memory).logits).toEqualTypeOf<Tensor3D>()
expectTypeOf(decoder.forward(tokens, memory).memory).toEqualTypeOf<Memory>()
expectTypeOf(decoder.gradients(tokens, tokens, memory).gradients).toEqualTypeOf<Record<string, Tensor>>()
// @ts-expect-error keys and values are another kind of memory than hidden states
decoder.decode(tokens, memory)

// A preset leaves open what is the caller's: the vocabulary and the method.
new Decoder({
  ...presets.modern.decoder,
  vocabulary: 3,
  layers: 1,
  width: 4,
  heads: 1,
  method: fixedSpan({ span: 2 }),
})
expectTypeOf<'modern' | 'fair' | 'transformer-xl'>().toExtend<PresetName>()

// Narrowing by isInstance.
const error: unknown = null
if (ConfigError.isInstance(error)) expectTypeOf(error).toEqualTypeOf<ConfigError>()

// A method of one's own gets a typed view of the block.
expectTypeOf<Parameters<ForgettingMethod['recall']>[0]>().toEqualTypeOf<Block>()
