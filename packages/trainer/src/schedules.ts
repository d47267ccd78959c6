/** Learning rates: a linear warm-up, then constant, cosine, or inverse square root. Steps count from 1. */
import { OptionError } from './errors'

export const scheduleNames = ['constant', 'cosine', 'inverse-sqrt'] as const
export type ScheduleName = (typeof scheduleNames)[number]

export interface ScheduleOptions {
  readonly schedule: ScheduleName
  /** The highest rate, reached at the end of the warm-up. */
  readonly learningRate: number
  /** Steps of linear warm-up from 0; 0 for none. */
  readonly warmup: number
  /** Steps in all: where cosine reaches 0. */
  readonly steps: number
}

/** The learning rate of one step (from 1). */
export function learningRateAt(step: number, options: ScheduleOptions): number {
  const { schedule, learningRate, warmup, steps } = options
  if (step < warmup) return (learningRate * step) / warmup
  switch (schedule) {
    case 'constant':
      return learningRate
    case 'cosine': {
      const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup))
      return learningRate * 0.5 * (1 + Math.cos(Math.PI * progress))
    }
    case 'inverse-sqrt':
      return learningRate * Math.sqrt(Math.max(1, warmup) / Math.max(1, step))
    default:
      throw new OptionError(`unknown schedule "${schedule}"; known are ${scheduleNames.join(', ')}`, {
        schedule,
      })
  }
}
