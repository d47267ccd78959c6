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

/** Host values of a tensor, which is disposed of unless kept. */
async function valuesOf(tensor, keep = false) {
  const data = await tensor.data()
  if (!keep) tensor.dispose()
  return data
}

/** Everything of one golden file that its replays share. */
class Golden {
  error = { logprobs: 0, loss: 0, auxLoss: 0, memory: 0, trace: 0, grad: 0 }

  constructor({ tensors, metadata }) {
    this.tensors = tensors
    this.options = optionsOf(metadata)
    this.batch = Number(metadata.batch)
    this.block = Number(metadata.block)
    this.blocks = Number(metadata.blocks)
    this.gradBlocks = new Set(JSON.parse(metadata.grad_blocks))
    this.training = metadata.mode === 'train'
    this.decoder = new Decoder(this.options.decoder)
    const weights = fromStateDict(this.options.stateDict, this.decoder.config, under(tensors, 'param/'))
    this.decoder.importParameters(weights)
  }

  note(what, found, expected) {
    this.error[what] = Math.max(this.error[what], largest(found, expected.data))
  }

  device(name) {
    const { data, shape, dtype } = this.tensors.get(name)
    return tf.tensor(data, shape, dtype)
  }

  /** The memory stored under a prefix as ours. */
  storedMemory(prefix, step) {
    const { batch, decoder, options, tensors } = this
    const named = new Map()
    const layers = decoder.config.method.map((_, layer) => {
      const stored = Object.fromEntries(under(tensors, `${prefix}/layer${layer}/`))
      const { tensors: ours, gapless = null } = options.memory(stored, step)
      for (const [name, value] of Object.entries(ours)) named.set(`layers.${layer}.${name}`, value)
      return { alive: new Array(batch).fill(stored.hidden.shape[1]), gapless }
    })
    const memory = JSON.stringify({
      kind: 'hidden',
      batch,
      step,
      starts: new Array(batch).fill(0),
      alive: layers.map(({ alive }) => alive),
      gapless: layers.map(({ gapless }) => gapless),
    })
    return decoder.restoreMemory(
      encodeSafetensors({ tensors: named, metadata: { format: 'lethe-memory-1', memory } }),
    )
  }

  /** Gradients of one block from a memory, which stays. */
  async gradients(prefix, memory, decoder = this.decoder, draw = undefined) {
    const { options, training, tensors } = this
    const [x, y] = [this.device(`${prefix}/x`), this.device(`${prefix}/y`)]
    const result = decoder.gradients(x, y, memory.clone(), { training, ...(draw !== undefined && { draw }) })
    const gradients = new Map()
    for (const [parameter, gradient] of Object.entries(result.gradients))
      gradients.set(parameter, await valuesOf(gradient))
    const stored = under(tensors, `${prefix}/grad/`)
    for (const [name, value] of fromStateDict(options.stateDict, decoder.config, stored, { partial: true }))
      this.note('grad', gradients.get(name) ?? new Float32Array(value.data.length), value)
    this.note('loss', await valuesOf(result.loss), tensors.get(`${prefix}/loss`))
    this.note('auxLoss', await valuesOf(result.penalty), tensors.get(`${prefix}/aux_loss`))
    result.memory.dispose()
    tf.dispose([x, y])
  }

  /** Notes the errors of log-probabilities and of their mean loss. */
  async noteLogits(prefix, logits) {
    const values = await valuesOf(tf.tidy(() => logSoftmax(logits)))
    this.note('logprobs', values, this.tensors.get(`${prefix}/logprobs`))
    const targets = this.tensors.get(`${prefix}/y`).data
    const vocabulary = logits.shape[2]
    const loss = targets.reduce((sum, target, i) => sum - values[i * vocabulary + target], 0) / targets.length
    this.note('loss', [loss], this.tensors.get(`${prefix}/loss`))
    logits.dispose()
  }

  /** One pass without gradients. Consumes the memory and returns the next. */
  async read(prefix, memory, decoder = this.decoder, draw = undefined) {
    const { options, tensors, training } = this
    const x = this.device(`${prefix}/x`)
    const pass = { training, trace: true, ...(draw !== undefined && { draw }) }
    const { logits, penalty, trace, memory: next } = decoder.forward(x, memory, pass)
    await this.noteLogits(prefix, logits)
    this.note('auxLoss', await valuesOf(penalty), tensors.get(`${prefix}/aux_loss`))
    for (const [layer, values] of trace.entries()) {
      for (const [ours, theirs] of Object.entries(options.trace ?? {}))
        this.note('trace', await values[ours].data(), tensors.get(`${prefix}/layer${layer}/${theirs}`))
      tf.dispose(values)
    }
    x.dispose()
    return decoder.compact(next)
  }

  async readBlock(index, memory) {
    const { decoder, options, tensors } = this
    const prefix = `block${index}`
    const draw = tensors.get(`${prefix}/span_noise`)?.data[0]
    if (this.gradBlocks.has(index)) await this.gradients(prefix, memory, decoder, draw)
    const next = await this.read(prefix, memory, decoder, draw)
    for (const [layer, { tensors: kept }] of next.layers.entries())
      for (const [ours, theirs] of Object.entries(options.names)) {
        const change = options.value?.[ours] ?? ((value) => value)
        const found = Float32Array.from(await valuesOf(kept[ours], true), (value) => change(value, next.step))
        this.note('memory', found, tensors.get(`${prefix}/memory/layer${layer}/${theirs}`))
      }
    return next
  }

  /** The whole stream as one block. */
  async readWhole() {
    const decoder = this.decoder.withMethod(this.options.whole)
    await this.gradients('full', decoder.initialMemory(this.batch), decoder)
    const next = await this.read('full', decoder.initialMemory(this.batch), decoder)
    next.dispose()
  }

  /** The stream token by token through streaming decode. */
  async readTokens() {
    const decoder = this.decoder.withMethod(this.options.perToken)
    const { data, shape } = this.tensors.get('token/x')
    const [batch, steps] = shape
    let memory = decoder.startDecoding(decoder.initialMemory(batch))
    const all = []
    for (let step = 0; step < steps; step++) {
      const tokens = tf.tensor1d(
        Int32Array.from({ length: batch }, (_, row) => data[row * steps + step]),
        'int32',
      )
      const result = decoder.decode(tokens, memory)
      memory = result.memory
      all.push(result.logits)
      tokens.dispose()
    }
    memory.dispose()
    await this.noteLogits('token', tf.stack(all, 1))
    tf.dispose(all)
  }
}

/** @returns maxAbsError `{ logprobs, loss, auxLoss, memory, trace, grad }` over all blocks and ways of replaying */
export async function replay(file) {
  registerGradients()
  const golden = new Golden(file)
  const { decoder, options, block, blocks, tensors } = golden
  await decoder.afterUpdate()
  let chained = golden.storedMemory('init/memory', 0)
  for (let index = 0; index < blocks; index++) chained = await golden.readBlock(index, chained)
  chained.dispose()
  for (let index = 1; index < blocks; index++) {
    const memory = golden.storedMemory(`block${index - 1}/memory`, index * block)
    const next = await golden.readBlock(index, memory)
    next.dispose()
  }
  if (options.whole && tensors.has('full/x')) await golden.readWhole()
  if (options.perToken && tensors.has('token/x')) await golden.readTokens()
  decoder.dispose()
  return golden.error
}
