/**
 * A page in headless Chromium: a script bundled by Vite without configuration, served with the headers that isolate a page
 * across origins or without, opened in a browser of its own. For tests and for tools that measure in a browser.
 */
import { existsSync } from 'node:fs'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { chromium } from 'playwright-core'
import { build, preview } from 'vite'

/** The program: LETHE_CHROMIUM, or where the systems' packages put it; undefined where there is none. */
export const chromiumPath = [
  process.env.LETHE_CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
].find((path) => path && existsSync(path))

/** Headers of a page that may share memory between threads. */
export const isolation = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
}

/**
 * @typedef {object} Site
 * @property {(headers?: Readonly<Record<string, string>>) => Promise<string>} serve starts a server that sends these
 *   headers with every file, and returns its address
 * @property {() => Promise<void>} close ends all servers
 */

/**
 * Bundles a module as the script of a page.
 * @param {string} folder one of its own, where imports of packages can be resolved; removed by `close`
 * @param {string} script source of the module
 * @param {Readonly<Record<string, string>>} alias names of packages → files, where not the built packages are wanted
 * @returns {Promise<Site>}
 */
export async function openSite(folder, script, alias = {}) {
  await mkdir(folder, { recursive: true })
  await writeFile(
    join(folder, 'index.html'),
    '<!doctype html><script type="module" src="./page.js"></script>',
  )
  await writeFile(join(folder, 'page.js'), script)
  // Minifying tfjs takes long on a small machine.
  const quick = { minify: false, reportCompressedSize: false, target: 'es2022' }
  await build({ root: folder, configFile: false, logLevel: 'silent', resolve: { alias }, build: quick })
  const servers = []
  return {
    async serve(headers = {}) {
      const server = await preview({
        root: folder,
        configFile: false,
        preview: { host: '127.0.0.1', port: 0, headers },
      })
      servers.push(server)
      return server.resolvedUrls.local[0]
    },
    async close() {
      for (const server of servers) await server.close()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** Flags for WebGPU by the processor (right, but slow), and by the machine's GPU. */
const adapters = {
  software: ['--use-webgpu-adapter=swiftshader'],
  hardware: ['--enable-features=Vulkan', '--use-angle=vulkan', '--ignore-gpu-blocklist'],
}

/**
 * Opens an address in a browser of its own, which is closed when `use` is done.
 * @template T
 * @param {string} address
 * @param {string} ready name of a global function that the page's script defines
 * @param {(tab: import('playwright-core').Page, browser: import('playwright-core').Browser) => Promise<T>} use
 * @param {'software' | 'hardware'} gpu whose WebGPU it is
 * @returns {Promise<T>} what `use` returns
 * @throws what `use` throws, and Error for what the page threw beside it
 */
export async function inPage(address, ready, use, gpu = 'software') {
  const browser = await chromium.launch({
    executablePath: chromiumPath,
    args: [
      '--no-sandbox',
      '--headless=new',
      '--enable-unsafe-webgpu',
      '--disable-background-networking',
      ...adapters[gpu],
    ],
  })
  try {
    const tab = await browser.newPage()
    const trouble = []
    tab.on('pageerror', (error) => trouble.push(String(error)))
    await tab.goto(address)
    await tab.waitForFunction(`window.${ready}`)
    const result = await use(tab, browser)
    if (trouble.length > 0) throw new Error(`the page threw: ${trouble.join('; ')}`)
    return result
  } finally {
    await browser.close()
  }
}
