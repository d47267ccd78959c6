#!/usr/bin/env node
/**
 * node tools/standalone.mjs [METHOD…]
 *
 * Packages stand alone: for each method, packs it, core, trainer and backends as npm would publish them, installs them into an
 * empty project with npm, trains ten steps and decodes on wasm, from ESM and from CommonJS, and looks at what was
 * installed beside them: core and the method alone bring no other method and no backend. Needs built packages and the
 * npm registry.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const root = new URL('..', import.meta.url).pathname
const factories = {
  'expire-span': ['expireSpan', '{ maxSpan: 16, ramp: 4 }'],
  'adaptive-span': ['adaptiveSpan', '{ maxSpan: 16, ramp: 4 }'],
  compressive: ['compressive', '{ memory: 8, compressed: 4, rate: 2 }'],
  selective: ['selective', '{ budget: 8 }'],
}
const tfjs = '4.22.0'

const run = (command, args, cwd) =>
  execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], env: quiet })
const quiet = {
  ...process.env,
  npm_config_fund: 'false',
  npm_config_audit: 'false',
  npm_config_update_notifier: 'false',
}

/** The package as npm would publish it (pnpm writes the workspace's versions into the manifest). */
function pack(name, to) {
  const folder = join(root, 'packages', name)
  run(process.execPath, [join(root, 'scripts/pnpm.mjs'), 'pack', '--pack-destination', to], folder)
  return join(
    to,
    readdirSync(to).find((file) => new RegExp(`^lethe-${name}-\\d`).test(file)),
  )
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

/** Names of the packages in a node_modules folder, one inside another's included. */
function installed(folder) {
  const listed = JSON.parse(run('npm', ['ls', '--all', '--json'], folder))
  const names = new Set()
  const walk = (dependencies) => {
    for (const [name, { dependencies: inner }] of Object.entries(dependencies ?? {})) {
      names.add(name)
      walk(inner)
    }
  }
  walk(listed.dependencies)
  return names
}

function project(folder, packages) {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'standalone', private: true }))
  run('npm', ['install', '--ignore-scripts', '--no-package-lock', ...packages], folder)
}

const chosen = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(factories)
const work = mkdtempSync(join(tmpdir(), 'lethe-standalone-'))
try {
  const core = pack('core', work)
  for (const name of chosen) {
    if (!factories[name])
      throw new Error(`unknown method "${name}"; known are ${Object.keys(factories).join(', ')}`)
    const method = pack(name, work)
    const folder = join(work, name)
    project(folder, [core, method, `@tensorflow/tfjs-core@${tfjs}`])
    const stray = [...installed(folder)].filter(
      (other) =>
        (other.startsWith('@lethe/') && other !== '@lethe/core' && other !== `@lethe/${name}`) ||
        /tfjs-(backend|node|layers|converter|data)/.test(other) ||
        other === 'webgpu',
    )
    if (stray.length > 0) throw new Error(`${name} brought ${stray.join(', ')} with it`)
    const bytes = Number(run('du', ['-sk', 'node_modules'], folder).split('\t')[0]) * 1024

    // Only now the backend that the program asks for.
    run(
      'npm',
      ['install', '--ignore-scripts', '--no-package-lock', `@tensorflow/tfjs-backend-wasm@${tfjs}`],
      folder,
    )
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
      `@lethe/${name}: alone with core and tfjs-core ${(bytes / 1e6).toFixed(1)} MB installed; ESM loss ${losses[0]}, CommonJS ${losses[1]}`,
    )
  }
} finally {
  rmSync(work, { recursive: true, force: true })
}
