/** The methods that are compared: small enough for a processor that plays a GPU, large enough that each one forgets. */
import { adaptiveSpan } from '@lethe/adaptive-span'
import { compressive } from '@lethe/compressive'
import { fixedSpan, sinks } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'

/**
 * For each method: `train` makes the one that takes the training steps (memories of about 32 slots), `laws` what
 * `conformanceLaws` takes (streams of 48 steps).
 */
export const methods = {
  'fixed-span': {
    train: () => fixedSpan({ span: 32 }),
    laws: { method: () => fixedSpan({ span: 8 }), decoder: { learnedDistances: 14 } },
  },
  'adaptive-span': {
    train: () => adaptiveSpan({ maxSpan: 64, ramp: 8, initialSpan: 20, penalty: 2e-6, trimStep: 8 }),
    laws: {
      // Spans start between whole steps, where masks have no kink.
      method: () => adaptiveSpan({ maxSpan: 12, ramp: 2, initialSpan: 2.6, trimStep: 1, growth: 0 }),
      decoder: { beyondLearned: 'clamp', learnedDistances: 14 },
    },
  },
  'expire-span': {
    train: () => expireSpan({ maxSpan: 64, ramp: 8, initialPercentage: 0.4, penalty: 1e-5 }),
    laws: {
      method: () => expireSpan({ maxSpan: 8, ramp: 4, initialPercentage: 0.4, penalty: 0.01 }),
      decoder: { learnedDistances: 9 },
    },
  },
  compressive: {
    train: () => compressive({ memory: 24, compressed: 8, rate: 4, compression: 'conv', loss: 'attention' }),
    laws: {
      method: () => compressive({ memory: 4, compressed: 3, rate: 3, compression: 'conv' }),
      decoder: { learnedDistances: 14 },
      penaltyReaches: 'own',
    },
  },
  selective: {
    train: () => selective({ budget: 32, memoryLoss: 0.1 }),
    laws: {
      method: () => selective({ budget: 5, span: 9, memoryLoss: 0.5, tau: 0.3 }),
      decoder: { learnedDistances: 14 },
    },
  },
  sinks: {
    train: () => sinks({ count: 4, method: fixedSpan({ span: 28 }) }),
    laws: {
      method: () => sinks({ count: 2, method: fixedSpan({ span: 5 }) }),
      decoder: { learnedDistances: 14 },
    },
  },
}
