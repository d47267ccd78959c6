#!/usr/bin/env node
/**
 * node tools/install-size.mjs
 *
 * What a project takes on with each package: for each, packs it and those of ours that it needs as npm would publish
 * them, and installs them into an empty project, once with npm's cache empty and once with it filled. Prints the table
 * of docs/install.md: packages, megabytes, seconds, and which backends came along. Needs built packages and the npm
 * registry.
 */
import { mkdirSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { join } from 'node:path'
import { inFolder, install, installed, installedBytes, pack, run, tfjs } from './packed.mjs'

const wasm = `@tensorflow/tfjs-backend-wasm@${tfjs}`
const webgpu = `@tensorflow/tfjs-backend-webgpu@${tfjs}`
const method = 'expire-span'
/** A project's packages: ours, and those of others. tfjs-core comes along as a peer. */
const projects = [
  [['core'], []],
  ...['expire-span', 'adaptive-span', 'compressive', 'selective'].map((name) => [[name], []]),
  [[method, 'trainer'], []],
  [['tasks'], []],
  [['backends'], []],
  [[method, 'trainer', 'backends'], [wasm]],
  [[method, 'trainer', 'backends'], [webgpu]],
  [
    [method, 'trainer', 'backends'],
    [webgpu, 'webgpu'],
  ],
  [['cli'], []],
]
const isBackend = (name) => /^(@tensorflow\/tfjs-(backend|node).*|webgpu)$/.test(name)

console.log('| `npm install …` | packages | MB | s, first time | s, again | backends that came along |')
console.log('|---|---:|---:|---:|---:|---|')
await inFolder((folder) => {
  const tarballs = join(folder, 'tarballs')
  mkdirSync(tarballs)
  for (const [index, [ours, others]] of projects.entries()) {
    const packages = [...pack(ours, tarballs), ...others]
    const project = (turn) => join(folder, `${index}-${turn}`)
    const seconds = ['first', 'again'].map((turn) => {
      const began = performance.now()
      install(project(turn), packages, '--cache', join(folder, `cache-${index}`))
      return ((performance.now() - began) / 1000).toFixed(1)
    })
    const names = [...installed(project('again'))]
    const asked = [
      ...ours.map((name) => `@lethe/${name}`),
      ...others.map((name) => name.replace(/@\d.*/, '')),
    ]
    const megabytes = (installedBytes(project('again')) / 1e6).toFixed(1)
    const backends = names.filter(isBackend).map((name) => name.replace('@tensorflow/', ''))
    const cells = [
      `\`${asked.join(' ')}\``,
      names.length,
      megabytes,
      ...seconds,
      backends.join(', ') || 'none',
    ]
    console.log(`| ${cells.join(' | ')} |`)
  }
})
const date = new Date().toISOString().slice(0, 10)
const npm = run('npm', ['--version'], '.').trim()
console.log(
  `\n${date}, \`node tools/install-size.mjs\`, ${availableParallelism()} x ${cpus()[0].model.trim()}, Node ${process.versions.node}, npm ${npm}.`,
)
