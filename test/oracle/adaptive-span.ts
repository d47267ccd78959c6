/** Adaptive-Span (Sukhbaatar et al. 2019): how far a head looks, learned per head (or layer) or read off the query. */
import {
  clamp01,
  distance,
  type Layer,
  later,
  linear,
  type MethodOracle,
  mean,
  newest,
  range,
  type Slot,
  sigmoid,
  type View,
  zeroSlots,
} from './decoder'

export interface AdaptiveSpanOptions {
  readonly maxSpan: number
  readonly ramp: number
  readonly penalty: number
  readonly dynamic?: boolean
  /** Default: no trimming. */
  readonly trimStep?: number
  readonly growth?: number
  /** Whether nothing is seen beyond maxSpan; not so over another method's slots, where only ramps end. Default true. */
  readonly window?: boolean
}

export function adaptiveSpan(options: AdaptiveSpanOptions): MethodOracle<readonly Slot[]> {
  const {
    maxSpan,
    ramp,
    penalty,
    dynamic = false,
    trimStep = Number.POSITIVE_INFINITY,
    growth = 64,
    window = true,
  } = options

  /** z of each span there is, for a query: one, or one per head. */
  const spans = ({ layer, attended }: View, query: number) =>
    dynamic
      ? linear(attended[query]!, layer.parameter('weight'), layer.parameter('bias')).map(
          (x) => maxSpan * sigmoid(x),
        )
      : [...layer.parameter('span').data].map((share) => maxSpan * share)

  /** Distances at the far end that no head looks at. */
  const trim = (layer: Layer) => {
    if (dynamic || trimStep === Number.POSITIVE_INFINITY) return 0
    const longest = Math.max(
      ...[...layer.parameter('span').data].map((share) => Math.ceil(maxSpan * share) + ramp),
    )
    return Math.floor(Math.min(maxSpan - 1, maxSpan - Math.min(maxSpan, longest)) / trimStep) * trimStep
  }
  const kept = (layer: Layer) => (dynamic ? maxSpan : Math.min(maxSpan, maxSpan - trim(layer) + growth))

  return {
    start: (layer) => zeroSlots(layer, kept(layer)),
    slots: (row) => row,
    recall: (view) => ({
      m(head, i, j) {
        const d = distance(view, i, j)
        const z = spans(view, i)
        if (window && d > maxSpan - trim(view.layer)) return 0
        return clamp01((z[z.length === 1 ? 0 : head]! - d + view.layer.nearest) / ramp + 1)
      },
    }),
    settle: (views) => ({
      rows: views.map(({ layer, slots, input }) => newest(later(slots, input.length), kept(layer))),
      penalty:
        penalty * mean(views.flatMap((view) => range(view.input.length).flatMap((i) => spans(view, i)))),
    }),
  }
}
