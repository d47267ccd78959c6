/** For tests: the method with spans that differ from slot to slot, where it really starts with equal ones. */
import type { ForgettingMethod } from '@lethe/core'
import { type ExpireSpanOptions, expireSpan } from '.'

export function livelySpans(options: ExpireSpanOptions, deviation = 0.7): ForgettingMethod {
  const method = expireSpan(options)
  return {
    ...method,
    parameters: (layer) => {
      const specs = method.parameters!(layer)
      return { ...specs, weight: { ...specs.weight!, initializer: { kind: 'normal', deviation } } }
    },
  }
}
