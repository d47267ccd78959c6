/**
 * A program that uses the published packages must hold tfjs-core once, however it loads them: a second copy doubles
 * its size, registers every kernel again with a warning each, and can split tensors between two engines.
 *
 * Checked on the built packages, laid out as npm would lay them out for a program that installs them: each package's
 * `dist` beside one tfjs-core. tfjs keeps its engine on `globalThis`, so that two copies share it and the engine's
 * identity alone proves little; hence loaded files are counted, and modules in bundles.
 */
import { execFile } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { chromium } from 'playwright-core'
import { build, type Rollup } from 'vite'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const browser = '/usr/bin/chromium'

interface Manifest {
  readonly name: string
  readonly private?: boolean
  readonly exports: Record<string, unknown>
  readonly dependencies?: Record<string, string>
  readonly peerDependencies?: Record<string, string>
}
const packages = readdirSync(join(root, 'packages'))
  .map((name) => join(root, 'packages', name))
  .filter((folder) => existsSync(join(folder, 'package.json')))
  .map((folder) => ({
    folder,
    manifest: JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest,
  }))
  .filter(({ manifest }) => !manifest.private)

/** A sentence of tfjs-core's engine that survives minification: how often it occurs is how often the engine does. */
const engineText = 'Cannot compute gradient: gradient function not found '

/** What the program does with the packages: everything that it makes must be the engine's that it sees itself. */
const checkSource = `
export async function check(tf, cores) {
  await tf.setBackend('cpu')
  const before = tf.memory().numTensors
  const result = { engine: tf.engine() === globalThis._tfengine, decoders: [] }
  for (const core of cores) {
    core.registerGradients()
    const decoder = new core.Decoder({ vocabulary: 5, layers: 1, width: 4, heads: 1, method: core.fixedSpan({ span: 2 }) })
    const [parameter] = decoder.parameters.values()
    const inputs = tf.tensor2d([[1, 2, 3]], [1, 3], 'int32')
    const { loss, penalty, gradients, memory } = decoder.gradients(inputs, inputs, decoder.initialMemory(1))
    result.decoders.push({
      counted: tf.memory().numTensors - before > decoder.parameters.size,
      variable: parameter.constructor === tf.Variable,
      gradient: Object.values(gradients)[0].constructor === tf.Tensor,
      loss: Number.isFinite((await loss.data())[0]),
    })
    tf.dispose([inputs, loss, penalty, gradients])
    memory.dispose()
    decoder.dispose()
  }
  result.left = tf.memory().numTensors - before
  return result
}
`
const right = { counted: true, variable: true, gradient: true, loss: true }
const passed = (decoders: number) => ({ engine: true, decoders: new Array(decoders).fill(right), left: 0 })

/** Prints which files of tfjs-core a Node process has loaded. */
const loadedSource = `
const files = Object.keys(require('node:module')._cache).filter((file) => /[\\\\/]tfjs-core[\\\\/]/.test(file))
`

let program: string

beforeAll(() => {
  program = realpathSync(mkdtempSync(join(tmpdir(), 'lethe-one-engine-')))
  writeFileSync(join(program, 'package.json'), '{ "private": true, "type": "module" }')
  writeFileSync(join(program, 'check.js'), checkSource)
  const dependencies = new Map<string, string>()
  for (const { folder, manifest } of packages) {
    if (!existsSync(join(folder, 'dist')))
      throw new Error(
        `${manifest.name} is not built: run \`npm test\`, which builds first, or \`pnpm build\`.`,
      )
    const installed = join(program, 'node_modules', manifest.name)
    cpSync(join(folder, 'dist'), join(installed, 'dist'), { recursive: true })
    cpSync(join(folder, 'package.json'), join(installed, 'package.json'))
    for (const name of Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })) {
      const source = join(folder, 'node_modules', name)
      if (name.startsWith('@lethe/') || !existsSync(source)) continue
      const real = realpathSync(source)
      const other = dependencies.get(name)
      if (other !== undefined && other !== real)
        throw new Error(`${name} is there twice: ${other} and ${real}`)
      dependencies.set(name, real)
    }
  }
  for (const [name, real] of dependencies) {
    mkdirSync(dirname(join(program, 'node_modules', name)), { recursive: true })
    symlinkSync(real, join(program, 'node_modules', name), 'dir')
  }
})
afterAll(() => rmSync(program, { recursive: true, force: true }))

/** Every entry point that is code, as a program writes it. */
function entryPoints(browserOnly = false): string[] {
  return packages.flatMap(({ manifest }) =>
    Object.entries(manifest.exports)
      .filter(([entry, target]) => typeof target === 'object' && !(browserOnly && entry !== '.'))
      .map(([entry]) => manifest.name + entry.slice(1)),
  )
}

async function runNode(file: string, source: string): Promise<{ result: unknown; tfjs: string[] }> {
  writeFileSync(join(program, file), source)
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [file], {
    cwd: program,
    env: { ...process.env, NODE_OPTIONS: '' },
  })
  expect(stderr).not.toMatch(/already registered|overriding/i)
  return JSON.parse(stdout.trim().split('\n').at(-1)!)
}

const importAll = () =>
  `${entryPoints()
    .map((name) => `import '${name}'`)
    .join('\n')}
import * as core from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-cpu'
import { check } from './check.js'
import { createRequire } from 'node:module'
const require = createRequire(import.meta.url)
`
const requireAll = () =>
  entryPoints()
    .map((name) => `require('${name}')`)
    .join('\n')

describe('one tfjs engine', () => {
  test('no package carries tfjs-core or reaches into its files', () => {
    for (const { folder, manifest } of packages)
      for (const file of readdirSync(join(folder, 'dist'), { recursive: true, encoding: 'utf8' })) {
        if (!/\.c?js$/.test(file)) continue
        const source = readFileSync(join(folder, 'dist', file), 'utf8')
        expect(source.includes(engineText), `${manifest.name}/dist/${file} bundles tfjs-core`).toBe(false)
        expect(source, `${manifest.name}/dist/${file}`).not.toMatch(/tfjs-core\/(dist|src)/)
      }
  })

  test('for a program of ES modules', async () => {
    const { result, tfjs } = await runNode(
      'esm.mjs',
      `${importAll()}${loadedSource}
console.log(JSON.stringify({ result: await check(tf, [core]), tfjs: files }))`,
    )
    expect(result).toEqual(passed(1))
    expect(tfjs).toHaveLength(1)
  })

  test('for a program of CommonJS modules', async () => {
    const { result, tfjs } = await runNode(
      'commonjs.cjs',
      `${requireAll()}
const core = require('@lethe/core')
const tf = require('@tensorflow/tfjs-core')
require('@tensorflow/tfjs-backend-cpu')
${loadedSource}
import('./check.js').then(async ({ check }) => console.log(JSON.stringify({ result: await check(tf, [core]), tfjs: files })))`,
    )
    expect(result).toEqual(passed(1))
    expect(tfjs).toHaveLength(1)
  })

  test('for a program that mixes both, with two builds of each package', async () => {
    const { result, tfjs } = await runNode(
      'mixed.mjs',
      `${importAll()}${requireAll()}
const required = require('@lethe/core')
if (required.Decoder === core.Decoder) throw new Error('expected two builds')
const same = require('@tensorflow/tfjs-core').engine() === tf.engine()
${loadedSource}
const result = await check(tf, [core, required])
console.log(JSON.stringify({ result: { ...result, engine: result.engine && same }, tfjs: files }))`,
    )
    expect(result).toEqual(passed(2))
    expect(tfjs).toHaveLength(1)
  })

  test("in Vite's bundle for Node", async () => {
    const bundleFile = await bundle('node')
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [bundleFile], { cwd: program })
    expect(stderr).not.toMatch(/already registered|overriding/i)
    expect(JSON.parse(stdout.trim().split('\n').at(-1)!)).toEqual(passed(1))
  })

  test.skipIf(!existsSync(browser))(`in Vite's bundle in Chromium (skipped without ${browser})`, async () => {
    const folder = dirname(await bundle('browser'))
    const server = createServer((request, response) => {
      const file = join(folder, new URL(request.url!, 'http://localhost').pathname)
      const types: Record<string, string> = { '.js': 'text/javascript', '.wasm': 'application/wasm' }
      if (existsSync(file) && extname(file) in types)
        response.setHeader('content-type', types[extname(file)]!).end(readFileSync(file))
      else response.setHeader('content-type', 'text/html').end('<!doctype html><title>Lethe</title>')
    }).listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    const instance = await chromium.launch({ executablePath: browser, args: ['--no-sandbox'] })
    try {
      const page = await instance.newPage()
      const printed: string[] = []
      page.on('console', (message) => printed.push(message.text()))
      page.on('pageerror', (error) => printed.push(`${error}`))
      await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
      await page.addScriptTag({ url: '/main.js', type: 'module' })
      await page
        .waitForFunction('globalThis.result !== undefined', undefined, { timeout: 60_000 })
        .catch(() => {
          throw new Error(`The bundle gave no result. The page printed:\n${printed.join('\n')}`)
        })
      expect(await page.evaluate('globalThis.result')).toEqual(passed(1))
      expect(printed.join('\n')).not.toMatch(/already registered|overriding/i)
    } finally {
      await instance.close()
      server.close()
    }
  })
})

/** Bundles a program that uses every package, checks that tfjs-core is in it once, and returns the bundle's entry. */
async function bundle(platform: 'node' | 'browser'): Promise<string> {
  const names = entryPoints(true)
  const show = platform === 'node' ? 'console.log(JSON.stringify(result))' : 'globalThis.result = result'
  writeFileSync(
    join(program, `${platform}.js`),
    `${names.map((name, index) => `import * as package${index} from '${name}'`).join('\n')}
import * as core from '@lethe/core'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-cpu'
import { check } from './check.js'
globalThis.packages = [${names.map((_, index) => `package${index}`).join(', ')}]
check(tf, [core]).then((result) => { ${show} })
`,
  )
  const result = (await build({
    root: program,
    configFile: false,
    logLevel: 'error',
    ...(platform === 'node' && { ssr: { noExternal: true } }),
    build: {
      outDir: `bundle-${platform}`,
      ssr: platform === 'node',
      minify: platform === 'browser',
      target: 'es2022',
      rollupOptions: {
        input: { main: join(program, `${platform}.js`) },
        // Native addons stay outside of a bundle.
        ...(platform === 'node' && {
          external: ['webgpu', '@tensorflow/tfjs-node', '@tensorflow/tfjs-node-gpu'],
        }),
        // tfjs-core calls `require` in Node, so that a bundle with it has to be CommonJS there.
        output:
          platform === 'node'
            ? { format: 'cjs', entryFileNames: '[name].cjs', chunkFileNames: '[name].cjs' }
            : { entryFileNames: '[name].js' },
      },
    },
  })) as Rollup.RollupOutput
  const chunks = result.output.filter((file) => file.type === 'chunk')
  const modules = chunks.flatMap((chunk) => Object.keys(chunk.modules))
  const engines = modules.filter((id) => /tfjs-core\/dist\/(engine|tf-core[^/]*)\.js/.test(id))
  expect(engines).toHaveLength(1)
  expect(chunks.map((chunk) => chunk.code.split(engineText).length - 1).reduce((a, b) => a + b)).toBe(1)
  return join(program, `bundle-${platform}`, platform === 'node' ? 'main.cjs' : 'main.js')
}
