/**
 * Vectors computed by the authors' code, replayed through the public packages: chained and from the stored memories
 * (golden/README.md). CI fails when one of these is skipped on cpu or wasm.
 */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { disposeBackend, useBackend } from '@lethe/backends'
import { decodeSafetensors } from '@lethe/core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { replay } from '../tools/golden/replay.mjs'

const tolerance = 1e-4
const cases = [
  ...['xl-fixed-span', 'transformer-xl', 'persistent-memory'],
  ...['adaptive-span', 'adaptive-span-layer', 'persistent-memory-adaptive-span'],
  ...['expire-span-eval', 'expire-span-train', 'expire-span-prenorm'],
  ...['compressive-mean', 'selective', 'selective-pruned'],
]

/**
 * A GPU in software spends minutes on compiling shaders: there one case of each method, all of them where
 * LETHE_TEST_EVERYTHING is set.
 */
const onSoftwareGpu = process.env.LETHE_TEST_EVERYTHING
  ? cases
  : ['xl-fixed-span', 'adaptive-span-layer', 'expire-span-train', 'compressive-mean', 'selective-pruned']

/** Vulkan in software, so that WebGPU runs without a GPU: part of Debian's chromium. */
const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'

describe.each(['cpu', 'wasm', 'webgpu'] as const)('golden on %s', (backend) => {
  const missing = backend === 'webgpu' && !existsSync(softwareVulkan)
  if (missing) console.log(`golden on webgpu: skipped, ${softwareVulkan} is not there (install chromium)`)

  beforeAll(async () => {
    if (!missing) await useBackend(backend, backend === 'webgpu' ? { softwareVulkan } : {})
  })
  afterAll(async () => {
    if (!missing) await disposeBackend()
  })

  test.skipIf(missing).each(backend === 'webgpu' ? onSoftwareGpu : cases)('%s', async (name) => {
    const path = new URL(`golden/${name}.safetensors`, import.meta.url)
    const errors = await replay(decodeSafetensors(await readFile(path), name))
    for (const [what, error] of Object.entries(errors)) expect(error, what).toBeLessThanOrEqual(tolerance)
  })
})

test('a golden file with one wrong value does not pass', async () => {
  await useBackend('cpu')
  const path = new URL('golden/xl-fixed-span.safetensors', import.meta.url)
  const file = decodeSafetensors(await readFile(path), 'xl-fixed-span')
  const gradient = file.tensors.get('block1/grad/layers.0.attn.proj_key.weight')!
  gradient.data[3]! += 1e-3
  const errors = await replay(file)
  expect(errors.grad).toBeGreaterThan(tolerance)
  expect(errors.logprobs).toBeLessThanOrEqual(tolerance)
})
