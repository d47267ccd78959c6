/** Attention in WGSL beside core's float64 oracle, in Node on Chromium's software driver. */
import { existsSync } from 'node:fs'
import { type BackendInfo, disposeBackend, useBackend } from '@lethe/backends'
import { type AttentionRequest, attend, registerGradients } from '@lethe/core'
import { attentionLaws } from '@lethe/core/testing'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { attentionKernel } from '../index'
import { largeTiling, overrideTilings } from './tiling'

const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'
const missing = !existsSync(softwareVulkan)
if (missing) console.log(`attention on webgpu: skipped, ${softwareVulkan} is not there (install chromium)`)

let covered = false
const compute = (request: AttentionRequest) => {
  covered = attentionKernel.covers(request)
  expect(covered, 'only a bias is left to the plain operations').toBe(
    !request.terms.some(({ kind }) => kind === 'bias'),
  )
  return attend(request)
}

/** What every part of the shaders is in; a GPU in software takes minutes to compile those of all the laws. */
const chosen =
  /^(large|gradients: (first|sinusoidal|compressed|scattered beside|slot life|one span for all heads, per|selection|persistent)|what is all|a query that|without any)/
const laws = attentionLaws({ compute })
/** These take the tiles of larger requests, and gradients of one head at a time. */
const divided = /^large: (a window|a span|survivors|sinusoidal)/
const some = laws.filter(({ name }) => process.env.LETHE_TEST_EVERYTHING || chosen.test(name))
if (some.length < laws.length)
  console.log(`attention on webgpu: ${some.length} of ${laws.length} laws; LETHE_TEST_EVERYTHING=1 for all`)

describe.skipIf(missing)('attention on webgpu', () => {
  let info: BackendInfo
  beforeAll(async () => {
    info = await useBackend('webgpu', { softwareVulkan })
    registerGradients()
  })
  afterAll(() => {
    overrideTilings()
    return disposeBackend()
  })

  test.each(some)('$name', async ({ name, check }) => {
    const large = { forward: largeTiling, queries: largeTiling, slots: largeTiling, positions: largeTiling }
    if (divided.test(name)) overrideTilings(large, 1)
    else overrideTilings(/^large: selection/.test(name) ? { others: largeTiling } : {})
    const forward = vi.spyOn(attentionKernel, 'forward')
    covered = false
    await check()
    info.throwIfFailed()
    expect(forward.mock.calls.length > 0, 'useBackend has put the kernel in place').toBe(covered)
    forward.mockRestore()
  })
})
