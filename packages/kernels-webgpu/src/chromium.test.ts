/** The shaders in Chromium's own WebGPU: some laws of each kind, since compilers differ more than kernels do. */
import { existsSync } from 'node:fs'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { build, type PreviewServer, preview } from 'vite'
import { afterAll, beforeAll, expect, test } from 'vitest'

const executable = '/usr/bin/chromium'
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const folder = here('../node_modules/.cache/chromium-test')
let server: PreviewServer | undefined

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
  import { attentionKernel } from '@lethe/kernels-webgpu'

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
`

beforeAll(async () => {
  if (!existsSync(executable)) return
  await mkdir(folder, { recursive: true })
  await writeFile(`${folder}/index.html`, '<!doctype html><script type="module" src="./page.js"></script>')
  await writeFile(`${folder}/page.js`, page)
  const alias = {
    '@lethe/backends': here('../../backends/src/browser.ts'),
    '@lethe/core/testing': here('../../core/src/testing/index.ts'),
    '@lethe/core': here('../../core/src/index.ts'),
    '@lethe/kernels-wasm': here('../../kernels-wasm/src/index.ts'),
    '@lethe/kernels-webgpu': here('./index.ts'),
  }
  const quick = { minify: false, reportCompressedSize: false, target: 'es2022' }
  await build({ root: folder, configFile: false, logLevel: 'silent', resolve: { alias }, build: quick })
  server = await preview({ root: folder, configFile: false, preview: { host: '127.0.0.1', port: 0 } })
})

afterAll(async () => {
  await server?.close()
  await rm(folder, { recursive: true, force: true })
})

test('attention on WebGPU in Chromium obeys the laws', { timeout: 600_000 }, async (context) => {
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
    await tab.goto(server!.resolvedUrls!.local[0]!)
    await tab.waitForFunction('window.run')
    const outcomes = await tab.evaluate(`run(${JSON.stringify(laws)})`)
    expect(outcomes).toEqual(Object.fromEntries(laws.map((name) => [name, 'holds'])))
  } finally {
    await browser.close()
  }
})
