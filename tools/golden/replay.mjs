/**
 * Replays a golden file through the public packages, chained (our own memories carried on) and from the stored
 * memories, and returns the largest absolute errors.
 */
import { Decoder, encodeSafetensors, fromStateDict, logSoftmax, registerGradients } from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { optionsOf } from './config.mjs'

const largest = (a, b) => {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  let error = 0
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i] - b[i])
    // NaN is an error, too.
    if (!(difference <= error)) error = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference
  }
  return error
}

/** All tensors of a file under a prefix, without it. */
const under = (tensors, prefix) =>
  new Map(
    [...tensors]
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, t]) => [name.slice(prefix.length), t]),
  )

/** Builds the decoder of a golden file with its weights. */
function decoderOf({ tensors, metadata }) {
  const { stateDict, decoder: options } = optionsOf(metadata)
  const decoder = new Decoder(options)
  decoder.importParameters(fromStateDict(stateDict, decoder.config, under(tensors, 'param/')))
  return { decoder, stateDict }
}

/** The memory stored under a prefix as ours. */
function storedMemory(decoder, tensors, prefix, batch, step) {
  const named = new Map()
  const alive = decoder.config.method.map((_, layer) => {
    const hidden = tensors.get(`${prefix}/layer${layer}/hidden`)
    named.set(`layers.${layer}.hidden`, hidden)
    return new Array(batch).fill(hidden.shape[1])
  })
  const memory = JSON.stringify({ kind: 'hidden', batch, step, alive })
  return decoder.restoreMemory(
    encodeSafetensors({ tensors: named, metadata: { format: 'lethe-memory-1', memory } }),
  )
}

/** @returns maxAbsError `{ logprobs, loss, auxLoss, memory, grad }` over all blocks and both ways of replaying */
export async function replay({ tensors, metadata }) {
  registerGradients()
  const { decoder, stateDict } = decoderOf({ tensors, metadata })
  const batch = Number(metadata.batch)
  const block = Number(metadata.block)
  const blocks = Number(metadata.blocks)
  const gradBlocks = new Set(JSON.parse(metadata.grad_blocks))
  const error = { logprobs: 0, loss: 0, auxLoss: 0, memory: 0, grad: 0 }
  const note = (what, found, expected) => {
    error[what] = Math.max(error[what], largest(found, expected.data))
  }
  const host = (name) => tensors.get(name)
  const device = (name) => {
    const { data, shape, dtype } = host(name)
    return tf.tensor(data, shape, dtype)
  }
  const training = metadata.mode === 'train'

  const read = async (index, memory) => {
    const name = `block${index}`
    const x = device(`${name}/x`)
    const y = device(`${name}/y`)
    const draw = host(`${name}/span_noise`)?.data[0]
    const options = { training, ...(draw !== undefined && { draw }) }
    if (gradBlocks.has(index)) {
      const result = decoder.gradients(x, y, memory.clone(), options)
      const gradients = new Map()
      for (const [parameter, gradient] of Object.entries(result.gradients))
        gradients.set(parameter, { dtype: 'float32', shape: gradient.shape, data: await gradient.data() })
      const expected = fromStateDict(stateDict, decoder.config, under(tensors, `${name}/grad/`), {
        partial: true,
      })
      for (const [parameter, value] of expected)
        note('grad', gradients.get(parameter)?.data ?? new Float32Array(value.data.length), value)
      note('loss', await result.loss.data(), host(`${name}/loss`))
      note('auxLoss', await result.penalty.data(), host(`${name}/aux_loss`))
      tf.dispose([result.loss, result.penalty, Object.values(result.gradients)])
      result.memory.dispose()
    }
    const { logits, penalty, memory: next } = decoder.forward(x, memory, options)
    const logprobs = tf.tidy(() => logSoftmax(logits))
    const values = await logprobs.data()
    note('logprobs', values, host(`${name}/logprobs`))
    const targets = host(`${name}/y`).data
    const vocabulary = logits.shape[2]
    const loss = targets.reduce((sum, target, i) => sum - values[i * vocabulary + target], 0) / targets.length
    note('loss', [loss], host(`${name}/loss`))
    note('auxLoss', await penalty.data(), host(`${name}/aux_loss`))
    for (const [layer, { tensors: kept }] of next.layers.entries())
      note('memory', await kept.hidden.data(), host(`${name}/memory/layer${layer}/hidden`))
    tf.dispose([x, y, logits, penalty, logprobs])
    return next
  }

  let chained = storedMemory(decoder, tensors, 'init/memory', batch, 0)
  for (let index = 0; index < blocks; index++) chained = await read(index, chained)
  chained.dispose()
  for (let index = 0; index < blocks; index++) {
    const prefix = index === 0 ? 'init/memory' : `block${index - 1}/memory`
    const next = await read(index, storedMemory(decoder, tensors, prefix, batch, index * block))
    next.dispose()
  }
  decoder.dispose()
  return error
}
