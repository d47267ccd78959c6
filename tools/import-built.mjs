/**
 * Imports every built entry point of every published library, as ESM and as CommonJS, on the Node that runs this.
 * That the Node is a supported one shows in CI, where this runs on the oldest and on a newer one.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const require = createRequire(import.meta.url)
let count = 0
for (const name of readdirSync('packages')) {
  const folder = join(process.cwd(), 'packages', name)
  if (!existsSync(join(folder, 'package.json'))) continue
  const { exports, private: isPrivate } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  if (isPrivate) continue
  for (const [entry, target] of Object.entries(exports ?? {})) {
    if (typeof target !== 'object' || !target.import) continue
    const imported = await import(pathToFileURL(join(folder, target.import.default)).href)
    const required = require(join(folder, target.require.default))
    const names = (module) =>
      Object.keys(module).filter((key) => key !== 'default' && key !== 'module.exports')
    if (names(imported).sort().join() !== names(required).sort().join())
      throw new Error(`@lethe/${name} ${entry}: ESM exports ${names(imported)}, CommonJS ${names(required)}.`)
    count++
  }
}
console.log(`Node ${process.versions.node}: ${count} entry points import and require.`)
