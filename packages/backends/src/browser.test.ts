/** The browser for real: a page bundled by Vite without configuration, in headless Chromium, on wasm and WebGPU. */
import { existsSync } from 'node:fs'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { build, type PreviewServer, preview } from 'vite'
import { afterAll, beforeAll, expect, test } from 'vitest'

const executable = '/usr/bin/chromium'
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const folder = here('../node_modules/.cache/browser-test')
let server: PreviewServer | undefined

const page = `
  import * as tf from '@tensorflow/tfjs-core'
  import { BackendError, disposeBackend, useBackend } from '@lethe/backends'

  const values = (size) => Float32Array.from({ length: size }, (_, i) => Math.sin(i))
  async function compute() {
    const results = tf.tidy(() => {
      const product = tf.matMul(tf.tensor(values(4 * 70 * 50), [4, 70, 50]), tf.tensor(values(60 * 50), [1, 60, 50]), false, true)
      const rows = tf.gather(tf.tensor(values(40 * 64), [40, 64]), tf.tensor1d([3, 39, 0, 3], 'int32'))
      const sums = tf.unsortedSegmentSum(rows, tf.tensor1d([1, 0, 1, 1], 'int32'), 3)
      return [product, rows, sums]
    })
    return Promise.all(results.map(async (tensor) => Array.from(await tensor.data())))
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
  if (!existsSync(executable)) return
  await mkdir(folder, { recursive: true })
  await writeFile(`${folder}/index.html`, '<!doctype html><script type="module" src="./page.js"></script>')
  await writeFile(`${folder}/page.js`, page)
  const alias = {
    '@lethe/backends': here('./browser.ts'),
    '@lethe/kernels-wasm': here('../../kernels-wasm/src/index.ts'),
  }
  // Vite's defaults, but for the time that minifying tfjs takes on a small machine.
  const quick = { minify: false, reportCompressedSize: false }
  await build({ root: folder, configFile: false, logLevel: 'silent', resolve: { alias }, build: quick })
  server = await preview({ root: folder, configFile: false, preview: { host: '127.0.0.1', port: 0 } })
})

afterAll(async () => {
  await server?.close()
  await rm(folder, { recursive: true, force: true })
})

test('patched wasm and WebGPU agree with cpu in Chromium', async (context) => {
  if (!existsSync(executable)) context.skip(`no Chromium at ${executable}`)
  const browser = await chromium.launch({
    executablePath: executable,
    args: [
      '--no-sandbox',
      '--headless=new',
      '--enable-unsafe-webgpu',
      '--use-webgpu-adapter=swiftshader',
      '--disable-background-networking',
    ],
  })
  try {
    const tab = await browser.newPage()
    const trouble: string[] = []
    tab.on('pageerror', (error) => trouble.push(String(error)))
    await tab.goto(server!.resolvedUrls!.local[0]!)
    await tab.waitForFunction('window.run')
    const run = (name: string, options = {}) =>
      tab.evaluate(`run(${JSON.stringify(name)}, ${JSON.stringify(options)})`) as Promise<{
        info: { name: string; device: string; software: boolean; patched: string[] }
        results: number[][]
        reason?: string
        message?: string
      }>
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
    for (const { results } of [wasm, webgpu]) {
      results.forEach((values, i) => {
        expect(values.length).toBe(cpu.results[i]!.length)
        values.forEach((value, k) => {
          expect(Math.abs(value - cpu.results[i]![k]!)).toBeLessThan(1e-4)
        })
      })
    }
    expect(trouble).toEqual([])
  } finally {
    await browser.close()
  }
})
