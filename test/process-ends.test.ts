/** A program with worker threads ends by itself, whether or not it disposes of its backend. Run on the built packages. */
import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const folder = join(dirname(dirname(fileURLToPath(import.meta.url))), 'packages', 'backends')
const tfjs = createRequire(join(folder, 'package.json')).resolve('@tensorflow/tfjs-core')

const loads = {
  require: `
    const tf = require(${JSON.stringify(tfjs)})
    const { disposeBackend, useBackend } = require(${JSON.stringify(join(folder, 'dist/index.cjs'))})`,
  import: `
    const { createRequire } = process.getBuiltinModule('node:module')
    const tf = createRequire(${JSON.stringify(folder)})(${JSON.stringify(tfjs)})
    const { disposeBackend, useBackend } = await import(${JSON.stringify(join(folder, 'dist/index.js'))})`,
}

test.each([
  ['require', 'disposeBackend()', 0],
  ['require', '0', 0],
  ['import', 'disposeBackend()', 0],
  ['import', '0', 0],
  ['import', 'process.exit(3)', 3],
] as const)('%s, then %s at the end', async (how, end, code) => {
  const program = `(async () => {${loads[how]}
    const { device } = await useBackend('wasm', { threads: 3 })
    const x = tf.ones([500, 500])
    console.log(device, tf.matMul(x, x).dataSync()[0])
    await ${end}
  })()`
  const run = promisify(execFile)(process.execPath, ['-e', program], { timeout: 60_000 })
  const { stdout, stderr, exit } = await run.then(
    (done) => ({ ...done, exit: 0 }),
    (error) => ({ stdout: error.stdout, stderr: error.stderr, exit: error.code }),
  )
  expect(stderr).toBe('')
  expect(stdout).toMatch(/, 3 threads 500\n$/)
  expect(exit).toBe(code)
})
