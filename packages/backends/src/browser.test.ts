/** The browser for real: a page bundled by Vite without configuration, in headless Chromium, on wasm and WebGPU. */
import { fileURLToPath } from 'node:url'
import type { Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { chromiumPath, inPage, isolation, openSite, type Site } from '../../../tools/chromium.mjs'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
let site: Site | undefined
/** Of the same page: as it is, isolated across origins, and so that it may have no workers, or fetch no blobs. */
let addresses: { plain: string; isolated: string; withoutWorkers: string; withoutBlobs: string }

const page = `
  import * as tf from '@tensorflow/tfjs-core'
  import { BackendError, disposeBackend, useBackend } from '@lethe/backends'
  import { loadKernels } from '@lethe/kernels-wasm'

  const values = (size) => Float32Array.from({ length: size }, (_, i) => Math.sin(i))
  async function compute() {
    const results = tf.tidy(() => {
      const product = tf.matMul(tf.tensor(values(4 * 70 * 50), [4, 70, 50]), tf.tensor(values(60 * 50), [1, 60, 50]), false, true)
      const rows = tf.gather(tf.tensor(values(40 * 64), [40, 64]), tf.tensor1d([3, 39, 0, 3], 'int32'))
      const sums = tf.unsortedSegmentSum(rows, tf.tensor1d([1, 0, 1, 1], 'int32'), 3)
      // Enough of everything for several threads.
      const large = tf.matMul(tf.tensor(values(256 * 200), [256, 200]), tf.tensor(values(200 * 150), [200, 150]))
      return [product, rows, sums, large, tf.exp(tf.mul(large, 0.1)), tf.sum(large, 1)]
    })
    return Promise.all(results.map(async (tensor) => Array.from(await tensor.data())))
  }
  window.threadsIn = async (count) => {
    const memory = new WebAssembly.Memory({ initial: 400, maximum: 400, shared: true })
    let next = 16
    const allocate = (bytes) => (next += Math.ceil(bytes / 16) * 16) - Math.ceil(bytes / 16) * 16
    const kernels = loadKernels(memory, allocate)
    await kernels.startThreads(count)
    const { threads } = kernels
    kernels.stopThreads()
    return threads
  }
  window.run = async (name, options) => {
    try {
      const info = await useBackend(name, options)
      const results = await compute()
      info.throwIfFailed()
      return { info: { ...info, throwIfFailed: undefined }, results }
    } catch (error) {
      return { reason: BackendError.isInstance(error) ? error.reason : 'other', message: error.message }
    } finally {
      await disposeBackend()
    }
  }
`

beforeAll(async () => {
  if (!chromiumPath) return
  site = await openSite(here('../node_modules/.cache/browser-test'), page, {
    '@lethe/backends': here('./browser.ts'),
    '@lethe/kernels-wasm': here('../../kernels-wasm/src/index.ts'),
    '@lethe/kernels-webgpu': here('../../kernels-webgpu/src/index.ts'),
  })
  addresses = {
    plain: await site.serve(),
    isolated: await site.serve(isolation),
    withoutWorkers: await site.serve({ ...isolation, 'Content-Security-Policy': "worker-src 'none'" }),
    withoutBlobs: await site.serve({ ...isolation, 'Content-Security-Policy': "connect-src 'self'" }),
  }
})

afterAll(() => site?.close())

interface Run {
  info: {
    name: string
    device: string
    software: boolean
    patched: string[]
    threads?: number
    singleThread?: string
  }
  results: number[][]
  reason?: string
  message?: string
}

/** Opens a page in a browser of its own. */
const open = (
  address: string,
  use: (run: (name: string, options?: object) => Promise<Run>, tab: Page) => Promise<void>,
) =>
  inPage(address, 'run', (tab) =>
    use(
      (name, options = {}) => tab.evaluate(`run(${JSON.stringify(name)}, ${JSON.stringify(options)})`),
      tab,
    ),
  )

function expectAgreement(found: Run, expected: Run) {
  found.results.forEach((values, i) => {
    expect(values.length).toBe(expected.results[i]!.length)
    values.forEach((value, k) => {
      expect(Math.abs(value - expected.results[i]![k]!)).toBeLessThan(1e-4)
    })
  })
}

const inChromium = test.skipIf(!chromiumPath)

inChromium('patched wasm and WebGPU agree with cpu', async () => {
  await open(addresses.plain, async (run) => {
    const cpu = await run('cpu')
    const wasm = await run('wasm')
    const webgpu = await run('webgpu')
    const auto = await run('auto')
    const tensorflow = await run('tensorflow')
    expect(cpu.message).toBeUndefined()
    expect(wasm.message).toBeUndefined()
    expect(webgpu.message).toBeUndefined()
    expect(wasm.info.patched).toContain('BatchMatMul')
    expect(wasm.info.device).toBe('WebAssembly with relaxed SIMD')
    expect(webgpu.info).toMatchObject({ name: 'webgpu', software: true })
    expect(auto.info.name).toBe('wasm')
    expect(tensorflow.reason).toBe('unsupported')
    for (const found of [wasm, webgpu]) expectAgreement(found, cpu)
  })
})

inChromium('a page that is not isolated has one thread, also where more are asked for', async () => {
  await open(addresses.plain, async (run) => {
    const one = await run('wasm', { threads: 3 })
    expect(one.info?.device ?? one.message).toBe('WebAssembly with relaxed SIMD')
    expect(one.info).toMatchObject({ threads: 1, singleThread: expect.stringContaining('Cross-Origin-') })
  })
})

inChromium('an isolated page computes the same bits with 1, 2 and 3 threads', async () => {
  await open(addresses.isolated, async (run, tab) => {
    expect(await tab.evaluate('crossOriginIsolated')).toBe(true)
    const cpu = await run('cpu')
    const one = await run('wasm', { threads: 1 })
    expect(one.info?.device ?? one.message).toBe('WebAssembly with relaxed SIMD')
    expectAgreement(one, cpu)
    for (const threads of [2, 3]) {
      const more = await run('wasm', { threads })
      expect(more.info?.device ?? more.message).toBe(`WebAssembly with relaxed SIMD, ${threads} threads`)
      expect(more.info).toMatchObject({ threads })
      expect(more.info).not.toHaveProperty('singleThread')
      expect(more.results).toEqual(one.results)
    }
    const byDefault = await run('wasm')
    const processors = (await tab.evaluate('navigator.hardwareConcurrency')) as number
    if (processors > 1) expect(byDefault.info.device).toContain(`, ${Math.min(8, processors)} threads`)
  })
})

inChromium('where a page may have no workers, one thread computes', async () => {
  await open(addresses.isolated, async (_, tab) => {
    expect(await tab.evaluate('threadsIn(3)')).toBe(3)
  })
  await open(addresses.withoutWorkers, async (run, tab) => {
    expect(await tab.evaluate('threadsIn(3)')).toBe(1)
    const one = await run('wasm', { threads: 3 })
    expect(one.info?.device ?? one.message).toBe('WebAssembly with relaxed SIMD')
    expect(one.info).toMatchObject({ threads: 1, singleThread: expect.stringContaining('worker-src blob:') })
    expectAgreement(one, await run('cpu'))
  })
  await open(addresses.withoutBlobs, async (run) => {
    const one = await run('wasm', { threads: 3 })
    expect(one.info).toMatchObject({ threads: 1, singleThread: expect.stringContaining('connect-src blob:') })
  })
})
