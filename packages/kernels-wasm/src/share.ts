/** Makes a module that works in a memory of its thread alone into one that works in a memory shared by threads. */

/** Numbers from the specification of WebAssembly's binary format. */
const sections = { import: 2, memory: 5 }
const kinds = { function: 0, table: 1, memory: 2, global: 3 }
const limits = { hasMaximum: 1, shared: 2 }

/** A shared memory must say how far it may grow: at most to what 32 bits can address, in pages of 64 kB. */
const mostPages = 65536

/**
 * The same module with its memory, imported or its own, declared as shared. Loads and stores are the same for both kinds,
 * so the declaration is all that changes. The code is as safe for threads as it was: it is for its callers to see to it
 * that no two threads write to one place.
 *
 * @param module a module in WebAssembly's binary format, with one memory
 * @throws TypeError where there is no such memory
 */
export function shareMemory(module: Uint8Array): Uint8Array<ArrayBuffer> {
  let at = 8 // behind the magic number and the version
  const number = () => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const byte = module[at++]
      if (byte === undefined) throw new TypeError('This is no wasm module, or not a whole one.')
      value |= (byte & 0x7f) << shift
      if (byte < 0x80) return value >>> 0
    }
  }
  const skipName = () => {
    const length = number()
    at += length
  }
  const readLimits = () => {
    const flags = number()
    const least = number()
    return { flags, least, most: flags & limits.hasMaximum ? number() : mostPages }
  }
  /** The same module, with other limits from `from` to here, in the section of which this is the start and the end. */
  const withLimits = (start: number, body: number, end: number) => {
    const from = at
    const { flags, least, most } = readLimits()
    const shared = [flags | limits.hasMaximum | limits.shared, ...encode(least), ...encode(most)]
    return Uint8Array.from([
      ...module.subarray(0, start),
      module[start]!,
      ...encode(end - body + shared.length - (at - from)),
      ...module.subarray(body, from),
      ...shared,
      ...module.subarray(at),
    ])
  }

  while (at < module.length) {
    const start = at
    const section = number()
    const length = number()
    const body = at
    const end = body + length
    if (section === sections.memory && number() > 0) return withLimits(start, body, end)
    for (let left = section === sections.import ? number() : 0; left > 0; left--) {
      skipName()
      skipName()
      const kind = number()
      if (kind === kinds.memory) return withLimits(start, body, end)
      number() // a function's type, or that of a table's or a global's values
      if (kind === kinds.table) readLimits()
      if (kind === kinds.global) number() // whether it changes
    }
    at = end
  }
  throw new TypeError('This module has no memory, and imports none.')
}

function encode(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...encode(value >>> 7)]
}
