/** How much is left of a token at a later step. Shared by the page, the terminal and tests. */
import type { LayerTrace, Trace } from './trace'

export interface Left {
  /** From 1, there as it was, to 0, gone. */
  readonly strength: number
  readonly state: 'ahead' | 'held' | 'fading' | 'compressed' | 'voted down' | 'forgotten'
  /** The method's own number behind it. */
  readonly detail: string
}

const clamp = (value: number) => Math.min(1, Math.max(0, value))
const ramped = (strength: number, detail: string): Left => ({
  strength,
  state: strength === 1 ? 'held' : strength > 0 ? 'fading' : 'forgotten',
  detail,
})

/**
 * What token `token` is to the query at `step` in one layer.
 * @param head 'mean' for the mean over heads, where heads differ
 */
export function leftOf(
  trace: Trace,
  layer: LayerTrace,
  head: number | 'mean',
  step: number,
  token: number,
): Left {
  const distance = step - token
  if (distance < 0) return { strength: 0, state: 'ahead', detail: 'not read yet' }
  if (token < trace.sinks) return { strength: 1, state: 'held', detail: 'always stays' }
  switch (layer.kind) {
    case 'window':
      return ramped(distance <= layer.span ? 1 : 0, `of the last ${layer.span} steps`)
    case 'compressed': {
      const { rate, compression, whole, compressed } = layer
      if (token >= whole[step]!) return ramped(1, 'as it was')
      if (token < compressed[step]!) return ramped(0, `older than token ${compressed[step]}`)
      // Which ones those are, no memory says.
      const detail =
        compression === 'most-used' ? `the most used stay, one of ${rate}` : `one of ${rate} in a slot`
      return { strength: 1 / rate, state: 'compressed', detail }
    }
    case 'life': {
      const life = layer.life[token] ?? 0
      const gone = layer.gone[token]
      const detail = `life ${life.toFixed(0)}, ${Math.max(0, life - distance).toFixed(0)} left`
      if (gone != null && step >= gone)
        return { strength: 0, state: 'forgotten', detail: `${detail}; freed at ${gone}` }
      return ramped(clamp(1 + (life - distance) / layer.ramp), detail)
    }
    case 'spans': {
      const { spans, ramp, longest } = layer
      const of = (own: readonly number[]) => own[own.length === 1 ? 0 : step] ?? 0
      const chosen = head === 'mean' || spans.length === 1 ? spans : [spans[head]!]
      if (distance > longest) return ramped(0, `older than ${longest} steps`)
      // As Adaptive-Span counts: the nearest step that is attended to is at distance 0.
      const away = Math.max(0, distance - trace.nearest)
      const strength =
        chosen.reduce((sum, own) => sum + clamp(1 + (of(own) - away) / ramp), 0) / chosen.length
      return ramped(strength, `span ${chosen.map((own) => of(own).toFixed(0)).join(', ')}`)
    }
    case 'votes': {
      const gone = layer.gone[token]
      if (gone != null && step >= gone)
        return { strength: 0, state: 'forgotten', detail: `pruned at ${gone}` }
      if (layer.span !== null && distance > layer.span) return ramped(0, `older than ${layer.span} steps`)
      const snapshot = snapshotAt(layer.snapshots, step)
      const index = snapshot?.tokens.indexOf(token) ?? -1
      const votes = index < 0 ? 0 : snapshot!.votes[index]!
      // F is taken from the logits: attention to the token shrinks by e^-F.
      const strength = Math.exp(-votes)
      const asOf = snapshot && snapshot.step < step ? ` at step ${snapshot.step}` : ''
      const detail = `F ${votes.toFixed(2)}${asOf}`
      return { strength, state: strength > 0.5 ? 'held' : 'voted down', detail }
    }
  }
}

/** The last snapshot taken up to a step. */
function snapshotAt<T extends { readonly step: number }>(
  snapshots: readonly T[],
  step: number,
): T | undefined {
  let [low, high] = [0, snapshots.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (snapshots[middle]!.step <= step) low = middle + 1
    else high = middle
  }
  return snapshots[low - 1]
}
