/**
 * The Transformer-XL memory (Dai et al. 2019, arXiv 1901.02860, section 3.2): the last `span` hidden states of each
 * layer, all attended to alike. The simplest method, and the baseline of the others.
 */
import { type Tensor3D, zeros } from '@tensorflow/tfjs-core'
import { ConfigError } from './errors'
import type { ForgettingMethod } from './method'
import { lastSlots, validSlots } from './slots'

export interface FixedSpanOptions {
  /** Steps remembered: each step attends to the `span` steps before it. */
  readonly span: number
  /**
   * Whether every query of a block sees exactly `span` steps, so that the result does not depend on how the stream is
   * cut into blocks (the authors' `same_length`). False: later queries also see what earlier ones of their block
   * would have dropped. Default true.
   */
  readonly sameLength?: boolean
}

/**
 * A fixed window of the past.
 * @throws ConfigError for a wrong option
 */
export function fixedSpan({ span, sameLength = true, ...unknown }: FixedSpanOptions): ForgettingMethod {
  for (const name of Object.keys(unknown))
    throw new ConfigError(`unknown option "${name}" of fixed-span; known are span, sameLength`, { name })
  if (typeof sameLength !== 'boolean')
    throw new ConfigError(`sameLength must be true or false, not ${sameLength}`, { sameLength })
  if (!Number.isInteger(span) || span < 1)
    throw new ConfigError(`span must be a whole number from 1 up, not ${span}`, { span })
  return {
    specVersion: 1,
    name: 'fixed-span',
    options: { span, sameLength },
    decides: sameLength ? 'step' : 'block',
    reach: () => (sameLength ? span : Number.POSITIVE_INFINITY),
    capacity: () => span,
    initialMemory: ({ width, initialMemory }, batch) => {
      const slots = initialMemory === 'zeros' ? span : 0
      return { tensors: { hidden: zeros([batch, slots, width]) }, alive: new Array(batch).fill(slots) }
    },
    recall: (block) => {
      const { memory, layer, attended } = block
      const hidden = memory.tensors.hidden as Tensor3D
      const slots = hidden.shape[1]
      const remembered = slots > 0 ? [block.remembered(hidden)] : []
      const valid = validSlots(memory, block.length)
      return {
        groups: [
          {
            pieces: [...remembered, { hidden: attended, constant: false }],
            distance: { kind: 'contiguous', first: slots },
            window: { nearest: layer.attendSelf ? 0 : 1, ...(sameLength && { farthest: span }) },
            ...(valid && { valid }),
          },
        ],
      }
    },
    settle: (block) => ({ memory: lastSlots(block, span) }),
    decode: { capacity: () => span + 1 },
  }
}
