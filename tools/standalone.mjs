#!/usr/bin/env node
/**
 * node tools/standalone.mjs [METHOD… | cli | page]
 *
 * Packages stand alone, packed as npm would publish them and installed into an empty project with npm:
 *
 * - each method with core: trains ten steps and decodes on wasm, from ESM and from CommonJS; they bring no other method and
 *   no backend
 * - cli, with nothing else on the machine but Node: `lethe doctor` says what works and how to mend the rest, and the
 *   command line trains and writes
 * - page: examples/browser, built for production by Vite and by webpack without an optional backend, trains in a worker and
 *   in the page (needs Chromium)
 *
 * Needs built packages and the npm registry.
 */
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { preview } from 'vite'
import { chromiumPath } from './chromium.mjs'
import { useExample } from './example-page.mjs'
import { inFolder, install, installed, installedBytes, pack, run, tfjs } from './packed.mjs'

const root = new URL('..', import.meta.url).pathname
const factories = {
  'expire-span': ['expireSpan', '{ maxSpan: 16, ramp: 4 }'],
  'adaptive-span': ['adaptiveSpan', '{ maxSpan: 16, ramp: 4 }'],
  compressive: ['compressive', '{ memory: 8, compressed: 4, rate: 2 }'],
  selective: ['selective', '{ budget: 8 }'],
}
const program = (factory, options, load) => `
${load('tf', '@tensorflow/tfjs-core')}
${load('wasm', '@tensorflow/tfjs-backend-wasm')}
${load('core', '@lethe/core')}
${load('method', '@lethe/METHOD')}
async function main() {
  wasm.setWasmPaths(PATHS)
  await tf.setBackend('wasm')
  core.registerGradients()
  const { Decoder, presets } = core
  const decoder = new Decoder({
    ...presets.modern.decoder, vocabulary: 20, layers: 2, width: 16, heads: 2, feedForward: 32,
    method: method.${factory}(${options}),
  })
  await decoder.afterUpdate()
  // Plain gradient descent on a text of numbers that count up.
  let memory = decoder.initialMemory(2)
  const losses = []
  for (let step = 0; step < 10; step++) {
    const at = (offset) => tf.tensor2d(Array.from({ length: 16 }, (_, i) => ((step * 8 + (i % 8) + offset) % 20)), [2, 8], 'int32')
    const [inputs, targets] = [at(0), at(1)]
    const result = decoder.gradients(inputs, targets, memory)
    memory = await decoder.compact(result.memory)
    for (const [name, gradient] of Object.entries(result.gradients))
      tf.tidy(() => decoder.parameters.get(name).assign(tf.sub(decoder.parameters.get(name), tf.mul(gradient, 0.3))))
    await decoder.afterUpdate()
    losses.push((await result.loss.data())[0])
  }
  if (!(losses[9] < losses[0])) throw new Error('the loss did not fall: ' + losses)
  let arena = decoder.startDecoding(memory)
  for (let step = 0; step < 20; step++) {
    const next = decoder.decode(tf.tensor1d([step, step], 'int32'), arena)
    arena = await decoder.compactDecoding(next.memory)
    const logits = await next.logits.data()
    if (!logits.every(Number.isFinite)) throw new Error('logits are not finite')
  }
  console.log(losses[0].toFixed(3) + ' -> ' + losses[9].toFixed(3))
}
main().catch((error) => { console.error(error); process.exit(1) })
`

function methodAlone(name, work, tarballs) {
  const folder = join(work, name)
  install(folder, [...pack([name], tarballs), `@tensorflow/tfjs-core@${tfjs}`])
  const stray = [...installed(folder)].filter(
    (other) =>
      (other.startsWith('@lethe/') && other !== '@lethe/core' && other !== `@lethe/${name}`) ||
      /tfjs-(backend|node|layers|converter|data)/.test(other) ||
      other === 'webgpu',
  )
  if (stray.length > 0) throw new Error(`${name} brought ${stray.join(', ')} with it`)
  const megabytes = (installedBytes(folder) / 1e6).toFixed(1)

  // Only now the backend that the program asks for.
  install(folder, [`@tensorflow/tfjs-backend-wasm@${tfjs}`])
  const paths = JSON.stringify(join(folder, 'node_modules/@tensorflow/tfjs-backend-wasm/dist/'))
  const [factory, options] = factories[name]
  const source = (load) => program(factory, options, load).replace('METHOD', name).replace('PATHS', paths)
  writeFileSync(
    join(folder, 'program.mjs'),
    source((as, from) => `import * as ${as} from '${from}'`),
  )
  writeFileSync(
    join(folder, 'program.cjs'),
    source((as, from) => `const ${as} = require('${from}')`),
  )
  const losses = ['program.mjs', 'program.cjs'].map((file) =>
    run(process.execPath, [file], folder).trim().split('\n').at(-1),
  )
  console.log(
    `@lethe/${name}: alone with core and tfjs-core ${megabytes} MB installed; ESM loss ${losses[0]}, CommonJS ${losses[1]}`,
  )
}

/** What a person without anything but Node gets. */
function commandLine(work, tarballs) {
  const folder = join(work, 'cli')
  install(folder, pack(['cli'], tarballs))
  // Nothing that was set up before, and no compiler, Python or GPU tools: Node's own folder, and what `env` is in.
  const bare = { LETHE_TENSORFLOW: join(work, 'nothing'), PATH: bareFolder(work) }
  const lethe = (...args) => run(process.execPath, ['node_modules/.bin/lethe', ...args], folder, bare)

  const { backends, auto } = JSON.parse(lethe('doctor', '--json'))
  const found = Object.fromEntries(
    backends.map(({ backend, works, problem, advice }) => [
      backend,
      works ? 'works' : [problem, ...advice.map(({ command }) => command)].filter(Boolean).join(': '),
    ]),
  )
  expect('tensorflow', found.tensorflow, /^not installed: .*lethe setup tensorflow$/)
  expect('webgpu', found.webgpu, /^not installed(, and no GPU is seen$|: npm install webgpu )/)
  expect('wasm', found.wasm, /^works$/)
  expect('cpu', found.cpu, /^works$/)
  expect('auto', auto, /^wasm$/)

  writeFileSync(join(folder, 'text.txt'), 'she sells sea shells by the sea shore. '.repeat(100))
  const size = ['--layers', '1', '--width', '16', '--heads', '2', '--feed-forward', '32', '--block', '16']
  lethe('train', '--data', 'text.txt', '--out', 'run', '--steps', '3', '--batch', '2', ...size)
  const written = lethe('generate', 'run', '--prompt', 'she ', '--tokens', '8')
  expect('generate', written, /^she ./)
  console.log(
    `@lethe/cli: ${(installedBytes(folder) / 1e6).toFixed(1)} MB, ${installed(folder).size} packages; ` +
      `doctor: ${Object.entries(found)
        .map(([name, state]) => `${name} ${state}`)
        .join('; ')}; auto takes ${auto}`,
  )
}

/** A folder with node alone, for PATH. */
function bareFolder(work) {
  const folder = join(work, 'bin')
  mkdirSync(folder)
  symlinkSync(process.execPath, join(folder, 'node'))
  return folder
}

function expect(what, found, pattern) {
  if (!pattern.test(found)) throw new Error(`${what}: ${JSON.stringify(found)} is not ${pattern}`)
}

/** The example as someone would copy it, with wasm as its only optional backend. */
async function page(work, tarballs) {
  if (chromiumPath === undefined) return console.log('page: skipped, there is no Chromium')
  const folder = join(work, 'page')
  const example = join(root, 'examples/browser')
  mkdirSync(folder)
  for (const file of readdirSync(example))
    if (/\.(js|html)$/.test(file)) cpSync(join(example, file), join(folder, file))
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(example, 'package.json'), 'utf8'))
  const ours = Object.keys(dependencies).filter((name) => name.startsWith('@lethe/'))
  const others = Object.entries({ ...dependencies, ...devDependencies }).filter(
    ([name]) => !ours.includes(name) && name !== '@tensorflow/tfjs-backend-webgpu',
  )
  install(folder, [
    ...pack(
      ours.map((name) => name.replace('@lethe/', '')),
      tarballs,
    ),
    ...others.map(([name, version]) => `${name}@${version}`),
  ])
  for (const [bundler, ...command] of [
    ['vite', 'build'],
    ['webpack', '--stats', 'errors-only'],
  ]) {
    run(process.execPath, [join('node_modules/.bin', bundler), ...command], folder)
    const { isolation } = await import(join(folder, 'headers.js'))
    const server = await preview({
      root: folder,
      configFile: false,
      logLevel: 'silent',
      build: { outDir: `dist/${bundler}` },
      preview: { host: '127.0.0.1', port: 0, headers: isolation },
    })
    try {
      const address = server.resolvedUrls.local[0]
      const { inWorker, inPage } = await useExample(address, 'wasm')
      for (const { started, progress, written } of [inWorker, inPage]) {
        expect(`${bundler}, backend`, started, /^wasm: WebAssembly with relaxed SIMD/)
        expect(`${bundler}, training`, progress, /^step 80 of 80: 0\.\d\d bits per byte/)
        expect(`${bundler}, text`, written, /the shells she sells are sea shells/)
      }
      // A backend whose package is not installed is no failure of the build, and says what to install.
      const missing = await useExample(address, 'webgpu')
      expect(`${bundler}, webgpu`, missing.inPage.progress, /npm install @tensorflow\/tfjs-backend-webgpu$/)
      console.log(`page by ${bundler}: ${inWorker.started}; ${inWorker.progress}, in a worker as in the page`)
    } finally {
      await server.close()
    }
  }
}

const parts = {
  ...Object.fromEntries(
    Object.keys(factories).map((name) => [name, (...folders) => methodAlone(name, ...folders)]),
  ),
  cli: commandLine,
  page,
}
const chosen = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(parts)
await inFolder(async (work) => {
  const tarballs = join(work, 'tarballs')
  mkdirSync(tarballs)
  for (const name of chosen) {
    if (!parts[name]) throw new Error(`unknown "${name}"; known are ${Object.keys(parts).join(', ')}`)
    await parts[name](work, tarballs)
  }
})
