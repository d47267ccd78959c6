/** Options of Expire-Span with their defaults; what cannot be is refused before any tensor exists. */
import { ConfigError } from '@lethe/core'

export interface ExpireSpanOptions {
  /** L: the longest span a memory can ask for. Steps. */
  readonly maxSpan: number
  /** R: over this many steps after its span a memory fades to nothing. Default 32. */
  readonly ramp?: number
  /** α: weight of the penalty on spans, in nats per step. Default 1e-6. */
  readonly penalty?: number
  /** 'mean': the mean span of the block's steps (the paper). 'ramp': pushes only the memories that now fade (the
   *  authors' code; its value is negative). Default 'mean': both learn alike (docs/results), and its value says what
   *  is paid. */
  readonly loss?: 'ramp' | 'mean'
  /** Where spans start, as a fraction of maxSpan between 0 and 1. Default 0.1. */
  readonly initialPercentage?: number
  /** Divides hidden states before the span is predicted, so that long spans move gently. Default 1. */
  readonly divider?: number
  /** Random shortening: a training pass attends as if no span were longer than a random part of maxSpan. Default false. */
  readonly shorten?: boolean
  /** 'row': each row of the batch drops what expired. 'blocks': all rows drop as many slots, a multiple of the block
   *  (the authors' code). Default 'row'. */
  readonly deletion?: 'row' | 'blocks'
  /** Zero states in the first memory, where the decoder starts with such; the authors' code has a block of them, which
   *  'blocks' needs to drop all of them later. Default: `ramp`. */
  readonly initialSlots?: number
  /** Most slots that a row remembers after `compact`; those with the least life left go. Default: no such limit. */
  readonly budget?: number
}

type Settings = Required<Omit<ExpireSpanOptions, 'budget'>> & Pick<ExpireSpanOptions, 'budget'>

/** @throws ConfigError naming the option, its value and the fix */
export function settingsOf(options: ExpireSpanOptions): Settings {
  const { maxSpan, ramp = 32, penalty = 1e-6, loss = 'mean', initialPercentage = 0.1, ...more } = options
  const { divider = 1, shorten = false, deletion = 'row', initialSlots = ramp, budget, ...unknown } = more
  const demand = (fine: boolean, name: string, wanted: string, value: unknown) => {
    if (!fine) throw new ConfigError(`${name} must be ${wanted}, not ${value}`, { [name]: value })
  }
  const count = (name: string, value: number) =>
    demand(Number.isInteger(value) && value >= 1, name, 'a whole number of steps from 1 up', value)
  const choice = (name: string, value: string, ...allowed: readonly string[]) =>
    demand(allowed.includes(value), name, `one of ${allowed.join(', ')}`, value)

  for (const name of Object.keys(unknown))
    throw new ConfigError(
      `unknown option "${name}" of expire-span; known are maxSpan, ramp, penalty, loss, initialPercentage, divider, shorten, deletion, initialSlots, budget`,
      { name },
    )
  count('maxSpan', maxSpan)
  count('ramp', ramp)
  count('initialSlots', initialSlots)
  if (budget !== undefined) count('budget', budget)
  demand(penalty >= 0 && penalty < Infinity, 'penalty', 'a number from 0 up', penalty)
  demand(divider > 0 && divider < Infinity, 'divider', 'a number above 0', divider)
  const start = initialPercentage
  demand(start > 0 && start < 1, 'initialPercentage', 'a fraction of maxSpan between 0 and 1', start)
  demand(typeof shorten === 'boolean', 'shorten', 'true or false', shorten)
  choice('loss', loss, 'ramp', 'mean')
  choice('deletion', deletion, 'row', 'blocks')
  const spans = { maxSpan, ramp, penalty, loss, initialPercentage, divider }
  const settings = { ...spans, shorten, deletion, initialSlots }
  return { ...settings, ...(budget !== undefined && { budget }) }
}
