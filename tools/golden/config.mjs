/**
 * From the configuration that a golden file carries to public options of our packages: architecture and method by
 * the file's family and fields, never by the name of a case.
 */
import { fixedSpan } from '@lethe/core'

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

const families = {
  /** transformer-sequential models/transformer_seq.py */
  seq(config) {
    if (config.adapt_span) throw new Error('adaptive spans are not part of the packages yet')
    return {
      stateDict: 'transformer-sequential',
      decoder: {
        ...fair,
        layers: config.nlayers,
        width: config.hid_sz,
        heads: config.nheads,
        headSize: config.head_dim,
        feedForward: config.inner_hid_sz,
        vocabulary: config.vocab_sz,
        normPosition: config.pre_norm ? 'pre' : 'post',
        method: fixedSpan({ span: config.attn_lim }),
      },
    }
  },
  /** adaptive-span models.py and persistent_memory.py */
  adaptive(config) {
    const persistentSlots = config.pers_mem_params.pers_mem_size
    if (config.adapt_span_params.adapt_span_enabled)
      throw new Error('adaptive spans are not part of the packages yet')
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
        method: fixedSpan({ span: config.attn_span }),
      },
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
    }
  },
}

/** Public options for a golden file's metadata: `{ stateDict, decoder }`. */
export function optionsOf(metadata) {
  const family = families[metadata.family]
  if (!family) throw new Error(`family "${metadata.family}" is not part of the packages yet`)
  return family(JSON.parse(metadata.config))
}
