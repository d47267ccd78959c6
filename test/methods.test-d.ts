/** What the types of the method packages promise: checked by tsc, never run. */
import { adaptiveSpan } from '@lethe/adaptive-span'
import { type CompressiveOptions, compressive } from '@lethe/compressive'
import {
  combine,
  type Decoder,
  type ForgettingMethod,
  type LayerReport,
  type Memory,
  type MethodFactories,
  type NamedTensors,
  sinks,
  wrappers,
} from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { allocateBudgets, selective } from '@lethe/selective'
import type { Tensor } from '@tensorflow/tfjs-core'
import { expectTypeOf } from 'vitest'

expectTypeOf(expireSpan({ maxSpan: 9 })).toEqualTypeOf<ForgettingMethod>()
expectTypeOf(adaptiveSpan({ maxSpan: 9, per: 'layer' })).toEqualTypeOf<ForgettingMethod>()
expectTypeOf(compressive({ memory: 4, compressed: 2, rate: 2 })).toEqualTypeOf<ForgettingMethod>()
expectTypeOf(selective({ budget: [4, 8] })).toEqualTypeOf<ForgettingMethod>()
// @ts-expect-error the longest span is needed
expireSpan({ ramp: 4 })
// @ts-expect-error a choice, not any string
expireSpan({ maxSpan: 9, loss: 'sum' })
// @ts-expect-error options have full names
adaptiveSpan({ maxSpan: 9, step: 4 })
// @ts-expect-error how many compressed slots must be said
compressive({ memory: 4, rate: 2 })
expectTypeOf<CompressiveOptions['compression']>().toEqualTypeOf<
  'mean' | 'max' | 'conv' | 'dilated' | 'most-used' | undefined
>()

// Wrappers are methods, too, and go into each other.
const inner = combine({ keeper: expireSpan({ maxSpan: 9 }), overlays: [adaptiveSpan({ maxSpan: 9 })] })
expectTypeOf(sinks({ count: 2, method: inner })).toEqualTypeOf<ForgettingMethod>()
expectTypeOf(wrappers).toEqualTypeOf<MethodFactories>()

declare const decoder: Decoder
declare const memory: Memory
declare const tokens: Tensor
expectTypeOf(decoder.withMethod(selective({ span: 4 }))).toEqualTypeOf<Decoder>()
expectTypeOf(decoder.report(memory)).resolves.toEqualTypeOf<LayerReport[]>()
expectTypeOf(decoder.forward(tokens, memory, { trace: true }).trace).toEqualTypeOf<
  readonly NamedTensors[] | undefined
>()
expectTypeOf(
  allocateBudgets({ layers: 2, full: 8, step: 2, evaluate: async () => 1, target: { total: 8 } }),
).resolves.toHaveProperty('budgets')
