/** A real text that every installation has, for first steps without one of your own. */
import { readdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

/** The declaration files of tfjs-core, which comes with every installation: real text of some 600 kB. */
export async function installedText(): Promise<string[]> {
  const require = createRequire(import.meta.url)
  const folder = join(dirname(require.resolve('@tensorflow/tfjs-core/package.json')), 'dist')
  const names = await readdir(folder, { recursive: true })
  const texts = names.filter((name) => name.endsWith('.d.ts') && !/(_test|test_util\w*)\.d\.ts$/.test(name))
  return texts.sort().map((name) => join(folder, name))
}
