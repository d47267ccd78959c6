/** Compiles assembly/. */
import { fileURLToPath } from 'node:url'
import { DecoratorFlags } from 'assemblyscript'
import asc from 'assemblyscript/asc'

/** The package's. */
export const folder = fileURLToPath(new URL('..', import.meta.url))

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

/**
 * @param {string[]} more flags beside those of the plain build
 * @returns {Promise<Uint8Array>} the module
 */
export async function compileAssembly(more) {
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
