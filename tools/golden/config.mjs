/**
 * From the configuration that a golden file carries to public options of our packages: architecture, method and the
 * form of its memory by the file's family and fields, never by the name of a case.
 */
import { adaptiveSpan } from '@lethe/adaptive-span'
import { compressive } from '@lethe/compressive'
import { fixedSpan } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'

/** FAIR's decoders: post-norm, ReLU, learned relative positions, no attention to oneself, zero initial memory. */
const fair = {
  activation: 'relu',
  norm: 'layer',
  positions: 'learned',
  attendSelf: false,
  initialMemory: 'zeros',
  outputBias: true,
  feedForwardBias: true,
}

/** Sizes as transformer-sequential names them. */
const sequential = (config) => ({
  ...fair,
  layers: config.nlayers,
  width: config.hid_sz,
  heads: config.nheads,
  headSize: config.head_dim,
  feedForward: config.inner_hid_sz,
  vocabulary: config.vocab_sz,
  normPosition: config.pre_norm ? 'pre' : 'post',
})

/** Stored tensors of a memory → ours, and our names → theirs where values are compared. */
const hiddenOnly = {
  memory: ({ hidden }) => ({ tensors: { hidden } }),
  names: { hidden: 'hidden' },
}

const filled = ({ shape }, value) => ({
  dtype: 'float32',
  shape: shape.slice(0, 2),
  data: new Float32Array(shape[0] * shape[1]).fill(value),
})
const asFloats = ({ shape, data }, change = (x) => x) => ({
  dtype: 'float32',
  shape,
  data: Float32Array.from(data, change),
})

const families = {
  /** transformer-sequential models/transformer_seq.py and modules/adaptive_span.py */
  seq: (config) => ({
    stateDict: 'transformer-sequential',
    decoder: {
      ...sequential(config),
      method: config.adapt_span
        ? adaptiveSpan({
            maxSpan: config.attn_lim,
            ramp: config.adapt_span_len,
            penalty: config.adapt_span_loss,
            per: config.adapt_span_layer ? 'layer' : 'head',
            trimStep: config.adapt_span_trim_step,
          })
        : fixedSpan({ span: config.attn_lim }),
    },
    ...hiddenOnly,
  }),
  /** adaptive-span models.py and persistent_memory.py */
  adaptive(config) {
    const persistentSlots = config.pers_mem_params.pers_mem_size
    const spans = config.adapt_span_params
    return {
      stateDict: 'adaptive-span',
      decoder: {
        ...fair,
        layers: config.nb_layers,
        width: config.hidden_size,
        heads: config.nb_heads,
        feedForward: persistentSlots > 0 ? 0 : config.inner_hidden_size,
        persistentSlots,
        vocabulary: config.vocab_size,
        normPosition: 'post',
        method: spans.adapt_span_enabled
          ? adaptiveSpan({
              maxSpan: config.attn_span,
              ramp: spans.adapt_span_ramp,
              penalty: spans.adapt_span_loss,
            })
          : fixedSpan({ span: config.attn_span }),
      },
      ...hiddenOnly,
    }
  },
  /** transformer-sequential models/expire_span.py */
  expire: (config) => ({
    stateDict: 'transformer-sequential',
    decoder: {
      ...sequential(config),
      learnedDistances: config.mem_sz,
      method: expireSpan({
        maxSpan: config.attn_lim,
        ramp: config.expire_span_ramp,
        penalty: config.expire_span_loss,
        loss: 'ramp',
        divider: config.expire_span_pre_div,
        initialPercentage: config.expire_span_init_percentage,
        shorten: config.expire_span_noisy,
        deletion: 'blocks',
      }),
    },
    memory: ({ hidden, counter }) => ({
      tensors: { hidden, age: asFloats(counter), valid: filled(hidden, 1), life: filled(hidden, 0) },
      gapless: config.mem_sz,
    }),
    names: { hidden: 'hidden', age: 'counter' },
    trace: { span: 'span', mask: 'mask', penalty: 'expire_loss' },
  }),
  /** transformer-sequential models/compressive.py */
  compress: (config) => ({
    stateDict: 'transformer-sequential',
    decoder: {
      ...sequential(config),
      method: compressive({
        memory: config.attn_lim,
        compressed: config.compress_size / config.compress_rate,
        rate: config.compress_rate,
        compression: 'mean',
        overlap: true,
      }),
    },
    memory: ({ hidden, compressed }) => ({
      tensors: { hidden, compressed, valid: filled(hidden, 1), compressedValid: filled(compressed, 1) },
    }),
    names: { hidden: 'hidden', compressed: 'compressed' },
  }),
  /** Selective Attention, written from the paper */
  select: (config) => {
    const options = { memoryLoss: config.mem_epsilon, tau: config.mem_tau }
    const whole = { ...options, budget: config.max_positions }
    return {
      stateDict: 'adaptive-span',
      decoder: {
        ...sequential(config),
        attendSelf: true,
        initialMemory: 'empty',
        learnedDistances: config.max_positions,
        method: selective(config.budgets ? { ...options, budget: config.budgets } : whole),
      },
      memory: ({ hidden, F, position }, step) => ({
        tensors: {
          hidden,
          F,
          age: asFloats(position, (at) => step - at),
          valid: filled(hidden, 1),
          bos: asFloats(position, (at) => (at === 0 ? 1 : 0)),
        },
        gapless: 0,
      }),
      names: { hidden: 'hidden', F: 'F', age: 'position' },
      value: { age: (age, step) => step - age },
      trace: { S: 'S', F: 'F', requirement: 'requirement' },
      /** The whole stream as one context; token by token, where a budget counts the present token, too. */
      whole: selective(whole),
      ...(config.budgets && {
        perToken: selective({ ...options, budget: config.budgets.map((budget) => budget - 1) }),
      }),
    }
  },
  /** transformer-xl pytorch/mem_transformer.py */
  xl(config) {
    if (config.pre_lnorm) throw new Error('pre_lnorm has no norm before the output there: not supported')
    return {
      stateDict: 'transformer-xl',
      decoder: {
        activation: 'relu',
        norm: 'layer',
        normPosition: 'post',
        positions: 'sinusoidal',
        attendSelf: true,
        initialMemory: 'empty',
        embeddingScale: 'sqrt-width',
        outputBias: true,
        feedForwardBias: true,
        tiedOutput: config.tie_weight,
        layers: config.n_layer,
        width: config.d_model,
        heads: config.n_head,
        headSize: config.d_head,
        feedForward: config.d_inner,
        vocabulary: config.n_token,
        method: fixedSpan({ span: config.mem_len, sameLength: false }),
      },
      ...hiddenOnly,
    }
  },
}

/** Families that are not replayed, and why. */
export const notReplayed = {
  lucid:
    'this reference deviates from its paper in positions and padding: packages/compressive/src/reconstruction.test.ts compares its convolution and its reconstruction loss',
}

/**
 * Public options for a golden file's metadata: `{ stateDict, decoder }`, the form of its memory, `trace` (our names of
 * what a pass leaves → theirs), and where it has them the methods of its other runs.
 */
export function optionsOf(metadata) {
  const family = families[metadata.family]
  if (!family) throw new Error(`family "${metadata.family}" is not part of the packages yet`)
  return family(JSON.parse(metadata.config))
}
