/**
 * Compiles assembly/ twice, with plain and with relaxed SIMD, and writes both modules into src/generated/modules.ts, so
 * that no bundler and no program has to find a .wasm file.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { DecoratorFlags } from 'assemblyscript'
import asc from 'assemblyscript/asc'
import { inspect } from './inspect.mjs'

const folder = fileURLToPath(new URL('..', import.meta.url))
const flags = ['--runtime', 'stub', '--importMemory', '--noExportMemory', '-O3', '--converge', '--noAssert']
// AS112: exported functions have vectors among their parameters; they are called inside the module alone.
flags.push('--disableWarning', '112', '--enable', 'simd')

/**
 * Inlines every function that returns a vector. A call costs more than most of them do, and only within one loop do their
 * many constants stay in registers. (The language has a decorator for it, which is no TypeScript.)
 */
class InlineVectorFunctions {
  /** @param {import('assemblyscript').Program} program */
  afterInitialize(program) {
    for (const [declaration, element] of program.elementsByDeclaration)
      if (declaration.signature?.returnType.name?.identifier.text === 'v128')
        element.decoratorFlags |= DecoratorFlags.Inline
  }
}

/** @param {string[]} more */
async function compile(more) {
  /** @type {Uint8Array | undefined} */
  let bytes
  const writeFile = (/** @type {string} */ _name, /** @type {string | Uint8Array} */ contents) => {
    bytes = /** @type {Uint8Array} */ (contents)
  }
  const { error, stderr } = await asc.main(
    ['assembly/index.ts', '--baseDir', folder, '--outFile', 'module.wasm', ...flags, ...more],
    { writeFile, transforms: [InlineVectorFunctions] },
  )
  const messages = stderr.toString()
  if (error || !bytes) throw new Error(messages || String(error))
  if (messages) process.stderr.write(messages)
  return bytes
}

const plain = await compile([])
inspect(plain)
const relaxed = await compile(['--enable', 'relaxed-simd'])
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
