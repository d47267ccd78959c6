/** The wasm backend with worker threads in Node: tfjs's own module in a shared memory, and results of the same bits. */
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, describe, expect, test } from 'vitest'
import { BackendError, disposeBackend, useBackend } from '../index'
import type { WasmBackend } from './heap'
import { kernelsOf } from './kernels'

afterEach(() => disposeBackend())

const backend = () => tf.backend() as unknown as WasmBackend & { numDataIds(): number }
const values = (size: number, seed = 0) =>
  Float32Array.from({ length: size }, (_, i) => Math.sin(i * 1.3 + seed))

/** Names of results that differ in a bit. */
const different = (found: Record<string, Float32Array>, expected: Record<string, Float32Array>) =>
  Object.keys(expected).filter((name) => {
    const [one, other] = [found[name]!, expected[name]!].map((values) => new Uint8Array(values.buffer))
    return Buffer.compare(one!, other!) !== 0
  })

/** One of each kind: products, kernels of our own, kernels of tfjs, and the way out of the heap. */
function compute(): Record<string, Float32Array> {
  const results = tf.tidy(() => {
    const x = tf.tensor(values(8 * 128 * 96), [8, 128, 96])
    const weights = tf.tensor(values(96 * 200, 1), [1, 96, 200])
    const hidden = tf.matMul(x, weights)
    return {
      hidden,
      batches: tf.matMul(hidden, hidden, false, true),
      broadcast: tf.matMul(tf.reshape(x, [2, 4, 1, 128, 96]), tf.reshape(weights, [1, 96, 200])),
      middle: tf.matMul(tf.reshape(x, [8, 1, 128, 96]), tf.tensor(values(3 * 96 * 8), [1, 3, 96, 8])),
      exp: tf.exp(hidden),
      erf: tf.erf(hidden),
      sum: tf.sum(hidden, -1),
      slice: tf.slice(hidden, [0, 3, 5], [8, 120, 190]),
      reverse: tf.reverse(hidden, [1, 2]),
      softmax: tf.softmax(hidden),
      transpose: tf.transpose(hidden, [0, 2, 1]),
    }
  })
  return Object.fromEntries(
    Object.entries(results).map(([name, tensor]) => {
      const read = tensor.dataSync() as Float32Array
      tensor.dispose()
      return [name, read]
    }),
  )
}

test('1, 2 and 3 threads give the same bits', async () => {
  const { device, ...one } = await useBackend('wasm', { threads: 1 })
  expect(one).toMatchObject({ threads: 1, singleThread: 'One was asked for.' })
  expect(device).toMatch(/^WebAssembly with (relaxed )?SIMD$/)
  expect(backend().wasm.HEAPU8.buffer).toBeInstanceOf(ArrayBuffer)
  const expected = compute()
  for (const threads of [2, 3]) {
    await disposeBackend()
    const info = await useBackend('wasm', { threads })
    expect(info.device).toBe(`${device}, ${threads} threads`)
    expect(info).toMatchObject({ threads })
    expect(info).not.toHaveProperty('singleThread')
    expect(backend().wasm.HEAPU8.buffer).toBeInstanceOf(SharedArrayBuffer)
    expect(kernelsOf(backend())!.threads).toBe(threads)
    expect(different(compute(), expected)).toEqual([])
  }
  await disposeBackend()
  expect((await useBackend('wasm', { threads: 1 })).device).toBe(device)
  expect(backend().wasm.HEAPU8.buffer).toBeInstanceOf(ArrayBuffer)
})

test('nothing is left behind, and disposing of the backend ends the threads', async () => {
  await useBackend('wasm', { threads: 3 })
  const kernels = kernelsOf(backend())!
  for (let i = 0; i < 5; i++) compute()
  const state = () => [tf.memory().numTensors, backend().numDataIds(), backend().wasm.HEAPU8.length]
  const before = state()
  for (let i = 0; i < 50; i++) compute()
  expect(state()).toEqual(before)
  await disposeBackend()
  expect(kernels.threads).toBe(1)
})

test('the heap grows while there are threads, beyond 2 GiB', async () => {
  await useBackend('wasm', { threads: 3 })
  const expected = compute()
  const held: tf.Tensor[] = []
  while (backend().wasm.HEAPU8.length < 2 ** 31) {
    // From 2 GiB on, all offsets have their first bit set.
    held.push(tf.zeros([2 ** 26]))
    expect(different(compute(), expected)).toEqual([])
  }
  const far = tf.zeros([2 ** 26])
  expect(backend().dataIdMap.get(far.dataId).memoryOffset).toBeGreaterThan(2 ** 31)
  expect(different(compute(), expected)).toEqual([])
  tf.dispose([far, ...held])
})

describe('options', () => {
  test.each([0, -2, 1.5, Number.NaN])('%s threads are refused', async (threads) => {
    const error = await useBackend('wasm', { threads }).catch((thrown) => thrown)
    expect(BackendError.isInstance(error)).toBe(true)
    expect(error).toMatchObject({
      reason: 'invalid-option',
      message: expect.stringContaining(String(threads)),
    })
  })

  test('without our own kernels there are no threads', async () => {
    for (const options of [{ kernels: false }, { patch: false }]) {
      const info = await useBackend('wasm', { threads: 2, ...options })
      expect(info.device).not.toContain('threads')
      expect(info).toMatchObject({ threads: 1, singleThread: expect.stringContaining('turned off') })
      expect(backend().wasm.HEAPU8.buffer).toBeInstanceOf(ArrayBuffer)
      await disposeBackend()
    }
  })

  test('wasm files that cannot be read are named', async () => {
    const error = await useBackend('wasm', { threads: 2, wasmPaths: '/nowhere/' }).catch((thrown) => thrown)
    expect(error).toMatchObject({ reason: 'failed', message: expect.stringContaining('/nowhere/') })
  })
})
