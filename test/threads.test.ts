/** Every method's training step is the same bits for any number of threads. */
import { adaptiveSpan } from '@lethe/adaptive-span'
import { disposeBackend, useBackend } from '@lethe/backends'
import { compressive } from '@lethe/compressive'
import { Decoder, fixedSpan, registerGradients } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { selective } from '@lethe/selective'
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, expect, test } from 'vitest'

afterEach(() => disposeBackend())

const span = 128
const methods = {
  'fixed span': () => fixedSpan({ span }),
  'Adaptive-Span': () => adaptiveSpan({ maxSpan: span, ramp: 32, penalty: 1e-3, initialSpan: 60 }),
  'Expire-Span': () => expireSpan({ maxSpan: span, ramp: 16, penalty: 1e-3, initialPercentage: 0.5 }),
  'a compressive memory': () => compressive({ memory: 64, compressed: 32, rate: 2 }),
  'Selective Attention': () => selective({ budget: 100 }),
}

/** Three blocks: the loss and all gradients of the last one. */
async function step(method: () => ReturnType<typeof fixedSpan>): Promise<Record<string, Uint8Array>> {
  const decoder = new Decoder(
    { vocabulary: 50, layers: 2, width: 64, heads: 4, method: method() },
    { seed: 3 },
  )
  let memory = decoder.initialMemory(4)
  let kept: Record<string, tf.Tensor> = {}
  for (let block = 0; block < 3; block++) {
    const tokens = (shift: number) =>
      tf.tensor2d(
        Int32Array.from({ length: 4 * 64 }, (_, i) => (i * (block + 3) + shift) % 50),
        [4, 64],
        'int32',
      )
    const [inputs, targets] = [tokens(0), tokens(1)]
    const result = decoder.gradients(inputs, targets, memory)
    tf.dispose([inputs, targets, result.penalty, kept])
    kept = { loss: result.loss, ...result.gradients }
    memory = await decoder.compact(result.memory)
  }
  const bytes = Object.entries(kept).map(([name, tensor]) => [name, new Uint8Array(tensor.dataSync().buffer)])
  tf.dispose(kept)
  memory.dispose()
  decoder.dispose()
  return Object.fromEntries(bytes)
}

test.each(Object.entries(methods))('%s', async (_, method) => {
  registerGradients()
  await useBackend('wasm', { threads: 1 })
  const expected = await step(method)
  for (const threads of [2, 3]) {
    await disposeBackend()
    const { device } = await useBackend('wasm', { threads })
    expect(device).toContain(`${threads} threads`)
    const found = await step(method)
    expect(Object.keys(found)).toEqual(Object.keys(expected))
    const different = Object.keys(found).filter((name) => Buffer.compare(found[name]!, expected[name]!) !== 0)
    expect(different, `with ${threads} threads`).toEqual([])
  }
})
