/** The shaders in Chromium's own WebGPU: some laws of each kind, since compilers differ more than kernels do. */
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { chromiumPath, inPage, openSite, type Site } from '../../../tools/chromium.mjs'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
let site: Site | undefined

const laws = [
  'memory and block, causal',
  'compressed 1 : 3 beside a window, block of 7',
  'scattered, one query, learned',
  'gradients: first > span, learned, window 1..span',
  'gradients: sinusoidal with u and v',
  'gradients: scattered, one query, beyond the table clamped',
  'gradients: slot life',
  'gradients: span per head and query',
  'gradients: selection',
  'gradients: persistent beside spans',
  'large: survivors with a life beside the block',
  'large: one query, many slots',
]

const page = `
  import { disposeBackend, useBackend } from '@lethe/backends'
  import { attend, registerGradients } from '@lethe/core'
  import { attentionLaws } from '@lethe/core/testing'
  import { attentionKernel, matMulVariants } from '@lethe/kernels-webgpu'
  import { abs, matMul, max, randomUniform, sub, tidy } from '@tensorflow/tfjs-core'

  let calls = 0
  const { forward } = attentionKernel
  attentionKernel.forward = (request) => (calls++, forward(request))

  window.run = async (names) => {
    const info = await useBackend('webgpu')
    registerGradients()
    const laws = attentionLaws({ compute: attend })
    const outcomes = {}
    for (const name of names) {
      try {
        await laws.find((law) => law.name === name).check()
        info.throwIfFailed()
        outcomes[name] = calls > 0 ? 'holds' : 'was computed by others'
        calls = 0
      } catch (error) {
        outcomes[name] = error.message
      }
    }
    await disposeBackend()
    return outcomes
  }

  window.multiply = async () => {
    const info = await useBackend('webgpu')
    const [a, b] = [randomUniform([600, 40], -1, 1), randomUniform([600, 68], -1, 1)]
    const { name, multiply } = matMulVariants(a, b, true, false).find(({ chosen }) => chosen)
    const [largest] = await tidy(() => max(abs(sub(multiply(), matMul(a, b, true, false))))).data()
    info.throwIfFailed()
    await disposeBackend()
    return { name, difference: largest }
  }
`

beforeAll(async () => {
  if (!chromiumPath) return
  site = await openSite(here('../node_modules/.cache/chromium-test'), page, {
    '@lethe/backends': here('../../backends/src/browser.ts'),
    '@lethe/core/testing': here('../../core/src/testing/index.ts'),
    '@lethe/core': here('../../core/src/index.ts'),
    '@lethe/kernels-wasm': here('../../kernels-wasm/src/index.ts'),
    '@lethe/kernels-webgpu': here('./index.ts'),
  })
})

afterAll(() => site?.close())

test('attention on WebGPU in Chromium obeys the laws, and the product is tfjs’s', {
  timeout: 600_000,
}, async (context) => {
  if (!site) return context.skip('no Chromium')
  const { outcomes, product } = await inPage(await site.serve(), 'run', async (tab) => ({
    outcomes: await tab.evaluate(`run(${JSON.stringify(laws)})`),
    product: (await tab.evaluate('multiply()')) as { name: string; difference: number },
  }))
  expect(outcomes).toEqual(Object.fromEntries(laws.map((name) => [name, 'holds'])))
  // Its workgroups share the inner axis: both shaders run.
  expect(product.name).toMatch(/\/\d+$/)
  expect(product.difference).toBeLessThan(1e-4)
  expect(product.difference).toBeGreaterThan(0)
})
