/** Node: shared libraries and the dynamic linker. */
import { messageOf } from './errors'

/** Loads a library for the rest of the process. It is no addon, and Node says so; that means it was found. */
export function canLink(library: string): boolean {
  const lazyAndKept = 0x1 | 0x1000 // RTLD_LAZY | RTLD_NODELETE
  try {
    process.dlopen({ exports: {} }, library, lazyAndKept)
    return true
  } catch (thrown) {
    return messageOf(thrown).includes('did not self-register')
  }
}
