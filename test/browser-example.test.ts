/**
 * The example of a page, examples/browser: bundled by webpack and served by Vite, opened in headless Chromium, and trained
 * in a worker and in the page. tools/standalone.mjs does the same with packed packages and builds for production.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createServer, preview } from 'vite'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { isolation } from '../examples/browser/headers.js'
import { chromiumPath } from '../tools/chromium.mjs'
import { useExample } from '../tools/example-page.mjs'

const root = new URL('../examples/browser', import.meta.url).pathname
const servers: { close(): Promise<void> }[] = []
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lethe-example-'))
})
afterAll(async () => {
  for (const server of servers) await server.close()
  await rm(folder, { recursive: true, force: true })
})

/** With webpack's own command, but for the time that minifying takes. */
async function servedByWebpack(): Promise<string> {
  const webpack = createRequire(`${root}/`).resolve('webpack/bin/webpack.js')
  const quick = ['--mode', 'development', '--devtool', 'false']
  await promisify(execFile)(process.execPath, [webpack, ...quick, '--output-path', folder], { cwd: root })
  const server = await preview({
    root,
    configFile: false,
    logLevel: 'silent',
    build: { outDir: folder },
    preview: { host: '127.0.0.1', port: 0, headers: isolation },
  })
  servers.push(server)
  return server.resolvedUrls!.local[0]!
}

/** As `npm run dev` does. */
async function servedByVite(): Promise<string> {
  const server = await createServer({
    root,
    cacheDir: join(folder, 'vite'),
    logLevel: 'silent',
    server: { host: '127.0.0.1', port: 0, ws: false },
  })
  servers.push(server)
  await server.listen()
  return server.resolvedUrls!.local[0]!
}

test.skipIf(chromiumPath === undefined).each([
  ['webpack', servedByWebpack],
  ['Vite', servedByVite],
])('%s: a model learns and writes, in a worker and in the page', async (_, served) => {
  const { inWorker, inPage } = await useExample(await served(), 'wasm')
  expect(inWorker.started).toMatch(/^wasm: WebAssembly with relaxed SIMD/)
  expect(inWorker.started).not.toContain('not isolated')
  expect(inWorker.progress).toMatch(/^step 80 of 80: 0\.\d\d bits per byte/)
  // A part of the text beyond the prompt.
  expect(inWorker.written).toContain('the shells she sells are sea shells')
  expect(inPage).toEqual(inWorker)
})
