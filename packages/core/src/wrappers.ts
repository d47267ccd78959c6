/** The wrappers by name, for decoders that are made again from a description. */
import { combine } from './combine'
import type { MethodDescription, MethodFactories } from './decoder'
import { sinks } from './sinks'

interface SinksDescription {
  readonly count: number
  readonly method: MethodDescription
}

interface CombineDescription {
  readonly keeper: MethodDescription
  readonly overlays: readonly MethodDescription[]
}

/** To spread beside the factories of methods: `{ 'expire-span': expireSpan, ...wrappers }`. */
export const wrappers: MethodFactories = {
  sinks: ({ count, method }: SinksDescription, make) => sinks({ count, method: make(method) }),
  combine: ({ keeper, overlays }: CombineDescription, make) =>
    combine({ keeper: make(keeper), overlays: overlays.map(make) }),
}
