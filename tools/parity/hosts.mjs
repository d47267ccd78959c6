/** Where rows run: Node processes (this version or others) and pages in Chromium. Each takes a request and yields its events. */
import { execFile, fork } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))

/** Without a GPU, WebGPU runs on the software driver of Debian's chromium, if that is installed. */
const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'
/** Linux shows every GPU as one of these. */
const hasGpu = ['/dev/dri', '/dev/nvidiactl', '/dev/dxg'].some((path) => existsSync(path))

/**
 * The program of a major version of Node: the one that runs this, or what npm brings.
 * @throws Error that says how to get it
 */
export async function nodeOf(major) {
  if (process.versions.node.split('.')[0] === major) return process.execPath
  const args = [
    '--yes',
    '--fetch-retries=0',
    `--package=node@${major}`,
    '--',
    'node',
    '-p',
    'process.execPath',
  ]
  try {
    const { stdout } = await promisify(execFile)('npx', args, { timeout: 120_000 })
    return stdout.trim()
  } catch (cause) {
    const problem = String(cause.stderr || cause.message)
      .trim()
      .split('\n')[0]
    throw new Error(
      `Node ${major} cannot be had from npm (${problem}): with a network, npx -p node@${major} node fetches it; or run this tool with Node ${major}`,
      { cause },
    )
  }
}

/**
 * Runs a row in a Node process of its own, which may crash.
 * @param node the program; onEvent is called with each event, one `version` { version } before them
 * @throws Error where the process ended before it was done
 */
export async function inNode(node, row, request, { onEvent, minutes }) {
  const options = row.backend === 'webgpu' && existsSync(softwareVulkan) ? { softwareVulkan } : {}
  const asked = { ...request, options: { ...options, ...request.options } }
  const child = fork(here('cell.mjs'), [JSON.stringify(asked)], {
    execPath: node,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, ...row.environment },
  })
  let said = ''
  child.stderr.on('data', (text) => {
    said = (said + text).slice(-2000)
  })
  child.on('message', onEvent)
  let late = false
  const timer = setTimeout(() => {
    late = true
    child.kill('SIGKILL')
  }, minutes * 60_000)
  const [code, signal] = await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (...ended) => resolve(ended))
  })
  clearTimeout(timer)
  if (late) throw new Error(`not done after ${minutes} minutes (--minutes)`)
  if (code !== 0) {
    const words = said.trim().split('\n').at(-1)
    throw new Error(`its process ended with ${signal ?? `code ${code}`}${words && `: ${words}`}`)
  }
}

/** Builds the page once and opens it for each row. */
export class ChromiumHost {
  static #folder = here('../../node_modules/.cache/parity')

  /** @throws Error that says how to get what is missing */
  static async open() {
    let chromium
    try {
      chromium = await import('../chromium.mjs')
    } catch (cause) {
      throw new Error(
        `Vite and playwright-core are not installed: node scripts/pnpm.mjs install (${cause.message})`,
      )
    }
    if (!chromium.chromiumPath)
      throw new Error('no Chromium: apt-get install chromium, or name one in LETHE_CHROMIUM')
    const host = new ChromiumHost()
    host.chromium = chromium
    host.site = await chromium.openSite(ChromiumHost.#folder, `import ${JSON.stringify(here('page.mjs'))}`)
    host.addresses = {
      plain: await host.site.serve(),
      isolated: await host.site.serve(chromium.isolation),
    }
    return host
  }

  /** @throws Error where the page or the browser failed */
  async run(row, request, { onEvent, minutes }) {
    const address = row.isolated ? this.addresses.isolated : this.addresses.plain
    await this.chromium.inPage(
      address,
      'measureRow',
      async (tab, browser) => {
        onEvent({ type: 'version', version: `Chromium ${browser.version()}` })
        await tab.exposeFunction('report', onEvent)
        await tab.exposeFunction('readGolden', async (name) =>
          (await readFile(here(`../../test/golden/${name}.safetensors`))).toString('base64'),
        )
        const isolated = await tab.evaluate('crossOriginIsolated')
        if (isolated !== row.isolated) throw new Error(`the page is ${isolated ? '' : 'not '}isolated`)
        let timer
        const limit = new Promise((_, reject) => {
          const late = () => reject(new Error(`not done after ${minutes} minutes (--minutes)`))
          timer = setTimeout(late, minutes * 60_000)
        })
        const done = tab.evaluate(`measureRow(${JSON.stringify(request)})`)
        await Promise.race([done, limit]).finally(() => clearTimeout(timer))
      },
      hasGpu ? 'hardware' : 'software',
    )
  }

  close() {
    return this.site.close()
  }
}
