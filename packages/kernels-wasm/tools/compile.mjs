/**
 * Compiles assembly/ twice, with plain and with relaxed SIMD, and writes both modules into src/generated/modules.ts, so
 * that no bundler and no program has to find a .wasm file.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { compileAssembly, folder } from './assembly.mjs'
import { inspect } from './inspect.mjs'

const plain = await compileAssembly([])
inspect(plain)
const relaxed = await compileAssembly(['--enable', 'relaxed-simd'])
inspect(relaxed)

const text = (bytes) => `'${Buffer.from(bytes).toString('base64')}'`
mkdirSync(`${folder}/src/generated`, { recursive: true })
writeFileSync(
  `${folder}/src/generated/modules.ts`,
  [
    '/** Made by tools/compile.mjs from assembly/: wasm modules in base64. */',
    `export const plain = ${text(plain)}`,
    `export const relaxed = ${text(relaxed)}`,
    '',
  ].join('\n'),
)
