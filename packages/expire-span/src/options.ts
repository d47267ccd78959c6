/** Options of Expire-Span with their defaults; what cannot be is refused before any tensor exists. */
import { ConfigError } from '@lethe/core'
import type { ExpireSpanOptions } from './expire-span'

type Settings = Required<Omit<ExpireSpanOptions, 'budget'>> & Pick<ExpireSpanOptions, 'budget'>

/** @throws ConfigError naming the option, its value and the fix */
export function settingsOf(options: ExpireSpanOptions): Settings {
  const { maxSpan, ramp = 32, penalty = 1e-6, loss = 'ramp', initialPercentage = 0.1, ...more } = options
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
