/**
 * What a module may contain that lives in another module's memory: code, and the import of that memory. A data segment,
 * a start function or a global (a stack or heap pointer) would write over what lies there, silently.
 */

/** By number, as in the specification of WebAssembly's binary format. */
const sectionNames = [
  'custom',
  'type',
  'import',
  'function',
  'table',
  'memory',
  'global',
  'export',
  'start',
  'element',
  'code',
  'data',
  'data count',
]
const kinds = ['function', 'table', 'memory', 'global', 'tag']
const allowed = ['type', 'import', 'function', 'export', 'code']

/**
 * Throws unless the module has none but the allowed sections, imports `env.memory` alone, and exports functions alone.
 * Reads the bytes itself, since not every engine accepts every module.
 * @param {Uint8Array} bytes a wasm module
 * @returns {string[]} the names of its sections
 */
export function inspect(bytes) {
  /** @type {string[]} */
  const sections = []
  /** @type {string[]} */
  const wrong = []
  let at = 8 // behind the magic number and the version
  const number = () => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++] ?? 0
      value |= (byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
  }
  const name = () => {
    const length = number()
    at += length
    return new TextDecoder().decode(bytes.subarray(at - length, at))
  }
  while (at < bytes.length) {
    const section = sectionNames[number()] ?? 'unknown'
    const end = number() + at
    sections.push(section)
    if (!allowed.includes(section)) wrong.push(`a section "${section}"`)
    if (section === 'import') {
      const [count, module, field, kind] = [number(), name(), name(), kinds[number()]]
      if (count !== 1 || `${kind} ${module}.${field}` !== 'memory env.memory')
        wrong.push(`${count} imports, first the ${kind} "${module}.${field}"`)
    }
    if (section === 'export') {
      for (let left = number(); left > 0; left--) {
        const [field, kind] = [name(), kinds[number()]]
        number() // its index
        if (kind !== 'function') wrong.push(`the exported ${kind} "${field}"`)
      }
    }
    at = end
  }
  if (wrong.length > 0)
    throw new Error(`The module has ${wrong.join(', ')}: it cannot live in another module's memory.`)
  return sections
}
