/** Packages as npm would publish them, installed into projects of their own. Needs built packages and the npm registry. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const root = new URL('..', import.meta.url).pathname
export const tfjs = '4.22.0'

const quiet = {
  ...process.env,
  NO_COLOR: '1',
  npm_config_fund: 'false',
  npm_config_audit: 'false',
  npm_config_update_notifier: 'false',
}

/** @returns what the command printed @throws Error with its stderr, if it fails */
export const run = (command, args, cwd, env = {}) =>
  execFileSync(command, args, {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...quiet, ...env },
  })

/** A folder for the time of one call. */
export async function inFolder(use) {
  const folder = mkdtempSync(join(tmpdir(), 'lethe-packed-'))
  try {
    return await use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Every published package by its name without the scope: its folder and its manifest. */
export function publishedPackages() {
  const folders = ['packages', 'apps'].flatMap((parent) =>
    readdirSync(join(root, parent)).map((name) => join(root, parent, name)),
  )
  const packages = folders.map((folder) => ({
    folder,
    manifest: JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')),
  }))
  return new Map(
    packages
      .filter(({ manifest }) => !manifest.private)
      .map((one) => [one.manifest.name.replace('@lethe/', ''), one]),
  )
}

/**
 * Packs packages and those of ours that they need, each once (pnpm writes the workspace's versions into the manifests).
 * @param names without the scope
 * @param to an existing folder
 * @returns paths of the tarballs
 */
export function pack(names, to) {
  const published = publishedPackages()
  const needed = new Set()
  const need = (name) => {
    if (needed.has(name)) return
    const one = published.get(name)
    if (one === undefined)
      throw new Error(`There is no package "${name}"; there are ${[...published.keys()].join(', ')}.`)
    needed.add(name)
    const { dependencies, peerDependencies } = one.manifest
    for (const other of Object.keys({ ...dependencies, ...peerDependencies }))
      if (other.startsWith('@lethe/')) need(other.replace('@lethe/', ''))
  }
  for (const name of names) need(name)
  return [...needed].map((name) => {
    const find = () => readdirSync(to).find((file) => new RegExp(`^lethe-${name}-\\d`).test(file))
    if (find() === undefined)
      run(
        process.execPath,
        [join(root, 'scripts/pnpm.mjs'), 'pack', '--pack-destination', to],
        published.get(name).folder,
      )
    return join(to, find())
  })
}

/** Makes a project, or adds to one: `npm install` of these, without scripts. */
export function install(folder, packages, ...flags) {
  mkdirSync(folder, { recursive: true })
  const manifest = join(folder, 'package.json')
  try {
    statSync(manifest)
  } catch {
    writeFileSync(manifest, JSON.stringify({ name: 'project', private: true, type: 'module' }))
  }
  run('npm', ['install', '--ignore-scripts', '--no-package-lock', ...flags, ...packages], folder)
}

/** Names of the packages in a project, one inside another's included. */
export function installed(folder) {
  const { packages } = JSON.parse(readFileSync(join(folder, 'node_modules/.package-lock.json'), 'utf8'))
  return new Set(Object.keys(packages).map((path) => path.split('node_modules/').at(-1)))
}

/** Bytes of all files that were installed. */
export function installedBytes(folder) {
  let bytes = 0
  for (const entry of readdirSync(join(folder, 'node_modules'), { withFileTypes: true, recursive: true }))
    if (entry.isFile()) bytes += statSync(join(entry.parentPath, entry.name)).size
  return bytes
}
