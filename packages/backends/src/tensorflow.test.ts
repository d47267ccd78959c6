/** How TensorFlow's package is found and loaded, and what is said where it is broken; packages are imitated on disk. */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { homedir, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import util from 'node:util'
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { BackendError } from './errors'
import { loadTensorflow, tensorflowFolder } from './tensorflow'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lethe-tensorflow-'))
  vi.stubEnv('LETHE_TENSORFLOW', folder)
})
afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(folder, { recursive: true, force: true })
})

function write(path: string, text: string): string {
  const file = join(folder, 'node_modules', path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
  return file
}

async function failure(): Promise<BackendError> {
  const thrown = await loadTensorflow('@tensorflow/tfjs-node').then(
    () => undefined,
    (error: unknown) => error,
  )
  expect(BackendError.isInstance(thrown)).toBe(true)
  return thrown as BackendError
}

test('the folder: the variable, else the data folder of the user', () => {
  expect(tensorflowFolder()).toBe(folder)
  vi.stubEnv('LETHE_TENSORFLOW', '')
  vi.stubEnv('XDG_DATA_HOME', '/data')
  if (process.platform === 'linux') expect(tensorflowFolder()).toBe('/data/lethe/tensorflow')
  vi.stubEnv('XDG_DATA_HOME', '')
  expect(tensorflowFolder().startsWith(homedir())).toBe(true)
})

test('a package that is nowhere is a missing one', async () => {
  expect(await failure()).toMatchObject({
    reason: 'missing-package',
    fix: 'Run: npm install @tensorflow/tfjs-node',
  })
})

test('what was set up is loaded, with this program’s tfjs-core and the helper that Node 23 removed', async () => {
  const core = dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-core/package.json'))
  const copy = join(folder, 'node_modules/@tensorflow/tfjs-core')
  for (const file of ['package.json', 'dist/tf-core.node.js']) {
    mkdirSync(dirname(join(copy, file)), { recursive: true })
    cpSync(join(core, file), join(copy, file))
  }
  write('@tensorflow/tfjs/package.json', '{}')
  write('@tensorflow/tfjs/index.js', "exports.core = require('@tensorflow/tfjs-core')")
  write('@tensorflow/tfjs-node/index.js', "globalThis.loaded = require('@tensorflow/tfjs').core")
  vi.stubEnv('TF_CPP_MIN_LOG_LEVEL', undefined)
  await loadTensorflow('@tensorflow/tfjs-node')
  const { loaded } = globalThis as unknown as { loaded: typeof tf }
  expect(loaded.Tensor).toBe(tf.Tensor)
  expect((util as unknown as { isNullOrUndefined(value: unknown): boolean }).isNullOrUndefined(null)).toBe(
    true,
  )
  expect(process.env.TF_CPP_MIN_LOG_LEVEL).toBe('2')
})

test('an addon that is not built', async () => {
  // As tfjs-node 4.22 words it.
  const said =
    'The Node.js native addon module (tfjs_binding.node) can not be found at path: /app/lib/napi-v8/tfjs_binding.node. \\nPlease run command'
  write('@tensorflow/tfjs-node/index.js', `throw new Error('${said}')`)
  const error = await failure()
  expect(error).toMatchObject({ reason: 'missing-addon', fix: 'Run: npx @lethe/cli setup tensorflow' })
  expect(error.message).toContain('is not built')
})

test.for([
  ['tensorflow_cc', 'libtensorflow_cc.so', 'Run: npx @lethe/cli setup tensorflow'],
  ['cuda_absent', 'libcuda_absent.so', 'Run: npx @lethe/cli setup tensorflow --gpu'],
] as const)('a library that is not there: %s', async ([name, library, fix], { skip }) => {
  // A real addon, linked against a library that is taken away.
  const source = write('x.c', 'int answer(void); int ask(void) { return answer(); }')
  const gone = write('gone.c', 'int answer(void) { return 42; }')
  const here = dirname(source)
  const addon = join(here, 'addon.node')
  try {
    execFileSync('cc', ['-shared', '-fPIC', gone, '-o', join(here, library), `-Wl,-soname,${library}`], {
      stdio: 'ignore',
    })
    execFileSync(
      'cc',
      ['-shared', '-fPIC', source, '-o', addon, `-L${here}`, `-l${name}`, '-Wl,--no-as-needed'],
      { stdio: 'ignore' },
    )
  } catch {
    skip('no C compiler')
  }
  rmSync(join(here, library))
  write('@tensorflow/tfjs-node/index.js', `require(${JSON.stringify(addon)})`)
  const error = await failure()
  expect(error).toMatchObject({ reason: 'missing-addon', fix })
  expect(error.message).toContain(library)
})

test('any other failure keeps its first line', async () => {
  write('@tensorflow/tfjs-node/index.js', "throw new Error('invalid ELF header\\nmore')")
  const error = await failure()
  expect(error.message).toContain('invalid ELF header.')
  expect(error.reason).toBe('missing-addon')
})
