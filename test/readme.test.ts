/** Every JavaScript example in a README runs as it stands, on the built packages. */
import { execFile } from 'node:child_process'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'

const root = new URL('..', import.meta.url).pathname
const packages = (await readdir(join(root, 'packages'))).map((name) => `packages/${name}`)

describe.each(['.', ...packages])('%s/README.md', async (folder) => {
  const readme = await readFile(join(root, folder, 'README.md'), 'utf8').catch(() => '')
  const examples = [...readme.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code!)
  const numbered = examples.map((code, index) => [index + 1, code] as const)
  test.each(numbered)('example %i runs', async (index, code) => {
    // Beside the README's package, so that imports resolve as its users' would.
    const file = join(root, folder, `.example-${index}.mjs`)
    await writeFile(file, code)
    try {
      const { stdout, stderr } = await promisify(execFile)(process.execPath, [file], { timeout: 60_000 })
      // Vulkan and Dawn have remarks of their own; tfjs warns of kernels registered twice.
      expect(stderr).not.toMatch(/already registered/)
      expect(stdout).not.toBe('')
    } finally {
      await rm(file)
    }
  })
  test('has a text', () => {
    expect(readme.length).toBeGreaterThan(0)
  })
})
