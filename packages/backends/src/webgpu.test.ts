/**
 * WebGPU in Node for real, on Chromium's software driver: right results, failures that are noticed, and a process
 * that ends. In a child process, since Dawn reads its environment once and its threads live as long as it does.
 */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { getKernel } from '@tensorflow/tfjs-core'
import { build } from 'vite'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { useKernels } from './webgpu'

const driver = '/usr/lib/chromium/vk_swiftshader_icd.json'
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
// Below the package, so that imports resolve; ignored by git.
const folder = here('../node_modules/.cache/webgpu-test')

beforeAll(async () => {
  await mkdir(folder, { recursive: true })
  await build({
    configFile: false,
    logLevel: 'silent',
    build: {
      ssr: here('./index.ts'),
      outDir: folder,
      rollupOptions: { output: { entryFileNames: 'index.js' } },
    },
  })
})

afterAll(() => rm(folder, { recursive: true, force: true }))

const run = async (script: string) => {
  await writeFile(`${folder}/script.mjs`, script)
  const { stdout } = await promisify(execFile)(process.execPath, [`${folder}/script.mjs`], {
    timeout: 60_000,
  })
  return JSON.parse(stdout.trim().split('\n').at(-1)!) // Dawn itself prints what it refuses
}

const opening = `
  import * as tf from '@tensorflow/tfjs-core'
  import { disposeBackend, useBackend } from './index.js'
  const softwareVulkan = ${JSON.stringify(driver)}
`

test('computes on a software adapter asked for by name, twice, and the process ends', async (context) => {
  if (!existsSync(driver)) context.skip(`no software Vulkan driver at ${driver}`)
  const result = await run(`${opening}
    const info = await useBackend('webgpu', { softwareVulkan })
    const product = tf.matMul(tf.tensor2d([1, 2, 3, 4], [2, 2]), tf.tensor2d([5, 6, 7, 8], [2, 2]))
    const values = [...await product.data()]
    info.throwIfFailed()
    await disposeBackend()
    const again = await useBackend('webgpu')
    const sum = [...await tf.addN(Array.from({ length: 9 }, () => tf.ones([2]))).data()]
    await disposeBackend()
    console.log(JSON.stringify({ info, values, again, sum, gpu: globalThis.navigator?.gpu !== undefined }))
  `)
  expect(result.info).toMatchObject({
    name: 'webgpu',
    software: true,
    device: expect.stringMatching(/swiftshader/i),
  })
  expect(result.values).toEqual([19, 22, 43, 50])
  expect(result.again.name).toBe('webgpu')
  expect(result.sum).toEqual([9, 9])
  expect(result.gpu).toBe(false)
})

test('settings that cannot be are named, and leave nothing behind', async (context) => {
  if (!existsSync(driver)) context.skip(`no software Vulkan driver at ${driver}`)
  const result = await run(`${opening}
    import { BackendError } from './index.js'
    const before = typeof globalThis.navigator
    const refused = []
    for (const options of [{ softwareVulkan: '/absent.json' }, { dawn: ['nonsense'] }, { dawn: ['adapter=absent'] }])
      await useBackend('webgpu', { softwareVulkan, ...options }).catch((error) =>
        refused.push(BackendError.isInstance(error) ? [error.reason, error.message] : String(error)))
    console.log(JSON.stringify({ refused, same: typeof globalThis.navigator === before }))
  `)
  expect(result.refused).toEqual([
    [
      'invalid-option',
      expect.stringMatching(/no software Vulkan driver at \/absent\.json.*vk_swiftshader_icd/),
    ],
    ['invalid-option', expect.stringMatching(/\["nonsense"\].*'key=value'/)],
    ['no-adapter', expect.stringMatching(/no adapter: .*Available adapters:.*SwiftShader/)],
  ])
  expect(result.same).toBe(true)
})

test('products are ours on a GPU alone, and tfjs’s own come back', async () => {
  await import('@tensorflow/tfjs-backend-webgpu')
  const kernels = await import('@lethe/kernels-webgpu')
  const product = () => getKernel('BatchMatMul', 'webgpu')
  const stock = product()
  expect(useKernels(kernels, true)).not.toContain('BatchMatMul')
  expect(product()).toBe(stock)
  expect(useKernels(kernels, false)).toContain('BatchMatMul')
  expect(product().kernelFunc).not.toBe(stock.kernelFunc)
  expect(useKernels(kernels, false)).toContain('BatchMatMul')
  expect(useKernels(undefined, false)).toEqual([])
  expect(product()).toBe(stock)
})

test('equal work is recorded with what was made before, other work anew', async (context) => {
  if (!existsSync(driver)) context.skip(`no software Vulkan driver at ${driver}`)
  const result = await run(`${opening}
    await useBackend('webgpu', { softwareVulkan })
    const { device } = tf.backend()
    const { createBindGroup, createBuffer } = device
    let made = 0
    device.createBindGroup = (given) => { made++; return createBindGroup.call(device, given) }
    device.createBuffer = (given) => { made++; return createBuffer.call(device, given) }
    const step = async (size, start) => {
      made = 0
      const x = tf.tensor1d(Float32Array.from({ length: size }, (_, index) => start + index))
      const sum = tf.tidy(() => tf.sum(tf.mul(tf.add(x, 1), x)))
      const value = (await sum.data())[0]
      tf.dispose([x, sum])
      return { made, value }
    }
    const same = []
    for (let start = 0; start < 8; start++) same.push(await step(4, start))
    const others = []
    for (let size = 1; size < 1100; size++) others.push(await step(size % 40 + 1, size))
    const { numTensors } = tf.memory()
    await disposeBackend()
    console.log(JSON.stringify({ same, others, numTensors }))
  `)
  const expected = (size: number, start: number) =>
    Array.from({ length: size }, (_, index) => (start + index) * (start + index + 1)).reduce((a, b) => a + b)
  for (const [start, { value }] of result.same.entries()) expect(value).toBe(expected(4, start))
  for (const [index, { value }] of result.others.entries())
    expect(value / expected(((index + 1) % 40) + 1, index + 1)).toBeCloseTo(1, 5)
  expect(result.same[0].made).toBeGreaterThan(0)
  for (const { made } of [...result.same.slice(4), ...result.others.slice(-40)]) expect(made).toBe(0)
  expect(result.numTensors).toBe(0)
})

test('work of ever new sizes does not fill the GPU with buffers that are free', async (context) => {
  if (!existsSync(driver)) context.skip(`no software Vulkan driver at ${driver}`)
  const result = await run(`${opening}
    await useBackend('webgpu', { softwareVulkan })
    const values = []
    let allocated = 0
    for (let step = 0; step < 8; step++) {
      const size = 2 ** 24 + 4 * step // 64 MB and a little more
      const x = tf.tensor1d(new Float32Array(size).fill(step))
      const last = tf.slice(x, [size - 1], [1])
      values.push(...(await last.data()))
      tf.dispose([x, last])
      allocated = Math.max(allocated, tf.memory().numBytesAllocatedInGPU)
    }
    const { numBytesInGPU } = tf.memory()
    await disposeBackend()
    console.log(JSON.stringify({ values, allocated, numBytesInGPU }))
  `)
  expect(result.values).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
  expect(result.allocated).toBeGreaterThan(2 ** 28)
  expect(result.allocated).toBeLessThan(2 ** 28 + 2 ** 27)
  expect(result.numBytesInGPU).toBeLessThan(2 ** 20)
})

test('auto leaves the software adapter alone', async (context) => {
  if (!existsSync(driver)) context.skip(`no software Vulkan driver at ${driver}`)
  const result = await run(`${opening}
    const info = await useBackend('auto', { softwareVulkan })
    console.log(JSON.stringify(info))
    await disposeBackend()
  `)
  expect(result.name).toBe('wasm')
})

test('an invalid pass, which gives zeros, is noticed', async (context) => {
  if (!existsSync(driver)) context.skip(`no software Vulkan driver at ${driver}`)
  const result = await run(`${opening}
    const seen = []
    const info = await useBackend('webgpu', { softwareVulkan, onError: (error) => seen.push(error.reason) })
    const sum = [...await tf.addN(Array.from({ length: 100 }, () => tf.ones([2]))).data()]
    let message = ''
    try { info.throwIfFailed() } catch (error) { message = error.message }
    await disposeBackend()
    console.log(JSON.stringify({ sum, seen, message }))
  `)
  expect(result.sum).toEqual([0, 0])
  expect(result.seen).toEqual(['failed'])
  expect(result.message).toMatch(/storage buffers/)
})
