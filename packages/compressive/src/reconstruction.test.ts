/**
 * The convolution and the attention-reconstruction loss against the vectors of golden/compressive-conv: the stored
 * memories in, the reference's new entries, loss and gradient into the convolution out. Its quirks concern the inputs
 * alone: evicted steps are padded with zeros at their old end, and the whole memory is reconstructed, not only they.
 */
import { readFileSync } from 'node:fs'
import { useBackend } from '@lethe/backends'
import {
  Decoder,
  decodeSafetensors,
  type ForgettingMethod,
  fixedSpan,
  type HostTensor,
  registerGradients,
} from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { compress, compressionSpecs } from './compress'
import { reconstructionError } from './reconstruction'

const path = new URL('../../../test/golden/compressive-conv.safetensors', import.meta.url)
const { tensors, metadata } = decodeSafetensors(readFileSync(path), 'compressive-conv')
const {
  dim: width,
  heads,
  cmem_ratio: rate,
  depth,
  reconstruction_loss_weight,
} = JSON.parse(metadata.config!)
const lossWeight = reconstruction_loss_weight / depth
const batch = Number(metadata.batch)
const block = Number(metadata.block)

const stored = (name: string) => tensors.get(name)!
const device = ({ data, shape }: HostTensor) => tf.tensor(data, [...shape])
const worst = (found: ArrayLike<number>, expected: ArrayLike<number>) => {
  expect(found.length).toBe(expected.length)
  return Math.max(...Array.from(found, (value, at) => Math.abs(value - expected[at]!)))
}

/** (out, in) → [in, out] of some of the rows. */
const turned = (name: string, from = 0, rows = width) =>
  tf.tidy(() => tf.transpose(tf.slice(device(stored(name)), [from, 0], [rows, width])))
/** (out, in, tap) → [tap · in, out]. */
const turnedConv = (weight: HostTensor) =>
  tf.reshape(tf.transpose(device(weight), [2, 1, 0]), [rate * width, width])

const compressing = [1, 2, 7].flatMap((index) => [0, 1].map((layer) => [index, layer] as const))

describe.each(['cpu', 'wasm'] as const)('on %s', (backend) => {
  test.each(compressing)('block %i, layer %i', async (index, layer) => {
    await useBackend(backend)
    registerGradients()
    const theirs = `attn_layers.${layer}.fn.fn`
    const conv = `${theirs}.compress_mem_fn.conv`
    const memory = (at: number, name: string) => device(stored(`block${at}/memory/layer${layer}/${name}`))
    const before = memory(index - 1, 'hidden') as tf.Tensor3D
    const slots = before.shape[1]
    const gone = Math.min(slots, Math.max(0, slots + block - 8))
    const padding = (gone % rate) as 0 | 2
    expect([0, 2]).toContain(padding)

    // A method that does with the stored memory what the reference did; its trace is what it made.
    const probe: ForgettingMethod = {
      ...fixedSpan({ span: block }),
      parameters: () => compressionSpecs('conv', rate, width),
      settle: ({ memory, parameters, batch }, _, { attendWith }) => {
        const old = tf.slice(before, [0, 0, 0], [batch, gone, width])
        const hidden = tf.concat([tf.zeros([batch, padding, width]), old], 1) as tf.Tensor3D
        const valid = (x: tf.Tensor) => tf.ones([batch, x.shape[1]!]) as tf.Tensor2D
        const made = compress('conv', rate, { hidden, valid: valid(hidden) }, parameters)
        const whole = { hidden: before, valid: valid(before) }
        const penalty = reconstructionError('attention', whole, made, attendWith, {})
        return { memory, penalty, trace: { made: made.hidden } }
      },
    }
    // Each step of the block is a token of its own, whose embedding is the normalised layer input.
    const decoder = new Decoder({
      ...{ vocabulary: batch * block, layers: 1, width, heads, feedForward: 0, method: probe },
      ...{ norm: 'layer', normPosition: 'post', positions: 'none', attendSelf: true },
    })
    const set = (name: string, value: tf.Tensor) => decoder.parameters.get(name)!.assign(value)
    tf.tidy(() => {
      const after = memory(index, 'hidden')
      const input = tf.slice(after, [0, after.shape[1]! - block, 0], [batch, block, width])
      set('embedding.weight', tf.reshape(input, [batch * block, width]))
      set('layers.0.attention.query', turned(`param/${theirs}.to_q.weight`))
      set('layers.0.attention.key', turned(`param/${theirs}.to_kv.weight`))
      set('layers.0.attention.value', turned(`param/${theirs}.to_kv.weight`, width))
      set('layers.0.method.conv.weight', turnedConv(stored(`param/${conv}.weight`)))
      set('layers.0.method.conv.bias', device(stored(`param/${conv}.bias`)))
    })
    const tokens = tf.tensor2d(
      Array.from({ length: batch * block }, (_, at) => at),
      [batch, block],
      'int32',
    )

    const { trace } = decoder.forward(tokens, decoder.initialMemory(batch), { trace: true })
    const made = trace![0]!.made!
    const compressed = memory(index, 'compressed')
    const newest = tf.slice(compressed, [0, compressed.shape[1]! - made.shape[1]!, 0], made.shape)
    expect(worst(await made.data(), await newest.data())).toBeLessThan(1e-5)

    const { penalty, gradients } = decoder.gradients(tokens, tokens, decoder.initialMemory(batch))
    const expected = stored(`block${index}/layer${layer}/reconstruction_loss`).data
    expect(worst(await penalty.data(), expected)).toBeLessThan(1e-5)
    for (const part of ['weight', 'bias'] as const) {
      const gradient = stored(`block${index}/grad/${conv}.${part}`)
      const reference = part === 'weight' ? turnedConv(gradient) : device(gradient)
      const found = tf.mul(gradients[`layers.0.method.conv.${part}`]!, lossWeight)
      expect(Math.max(...(await tf.abs(reference).data()))).toBeGreaterThan(1e-4)
      expect(worst(await found.data(), await reference.data())).toBeLessThan(1e-5)
    }
    decoder.dispose()
  })
})
