/**
 * lethe setup tensorflow and what lethe doctor says of it, by the built command line. For real where a wheel is at hand
 * (LETHE_TEST_WHEEL=tensorflow_cpu-….whl, npm and a C++ compiler; about two minutes); the rest with imitated packages.
 */
import { execFile } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { temporaryFolder } from '../temporary-folder'
import { cudaRequirements } from './tensorflow'

const main = fileURLToPath(new URL('../../dist/main.js', import.meta.url))
const folder = temporaryFolder('setup')
const wheel = process.env.LETHE_TEST_WHEEL

beforeAll(() => {
  if (!existsSync(main)) throw new Error('apps/cli is not built: npm test builds it')
})

interface Result {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** @param home what LETHE_TENSORFLOW names, below the test's folder */
function lethe(home: string, args: string, env: NodeJS.ProcessEnv = {}): Promise<Result> {
  const all = { ...process.env, NO_COLOR: '1', LETHE_TENSORFLOW: join(folder, home), ...env }
  return new Promise((done) => {
    execFile(
      process.execPath,
      [main, ...args.split(' ')],
      { cwd: folder, env: all },
      (error, stdout, stderr) => {
        done({ code: error ? ((error.code as unknown as number) ?? -1) : 0, stdout, stderr })
      },
    )
  })
}

/** tfjs-node as a file that does something else. */
function imitate(home: string, source: string): void {
  const file = join(folder, home, 'node_modules/@tensorflow/tfjs-node/index.js')
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, source)
}

async function doctor(home: string, more = '') {
  const { code, stdout, stderr } = await lethe(home, `doctor --backend tensorflow --json${more}`)
  expect(stderr).toBe('')
  const { backends } = JSON.parse(stdout)
  expect(backends).toHaveLength(1)
  return { code, ...backends[0] }
}

describe('doctor, in a child process', () => {
  test('not installed', async () => {
    expect(await doctor('nothing')).toMatchObject({
      code: 1,
      works: false,
      problem: 'not installed',
      advice: [{ command: expect.stringMatching(/main\.js setup tensorflow/) }],
    })
  })
  test('an addon that crashes the process', async () => {
    imitate('crash', 'console.error("about to crash"); process.kill(process.pid, "SIGSEGV"); for (;;);')
    const { works, problem } = await doctor('crash')
    expect(works).toBe(false)
    expect(problem).toBe('its process crashed (SIGSEGV) while it started: about to crash')
  })
  test('an addon that hangs', async () => {
    imitate('hang', 'for (;;);')
    const { works, problem } = await doctor('hang', ' --timeout 3')
    expect(works).toBe(false)
    expect(problem).toContain('no answer while it started')
  })
  test('a backend that multiplies wrong', async () => {
    imitate(
      'wrong',
      `const { createRequire } = require('node:module')
       const own = createRequire(${JSON.stringify(main)})
       const tf = own('@tensorflow/tfjs-core')
       const { MathBackendCPU } = createRequire(own.resolve('@lethe/backends'))('@tensorflow/tfjs-backend-cpu')
       class Wrong extends MathBackendCPU { binding = { TF_Version: '0' }; isUsingGpuDevice = false }
       for (const kernel of tf.getKernelsForBackend('cpu'))
         tf.registerKernel({ ...kernel, backendName: 'tensorflow', setupFunc: undefined, disposeFunc: undefined,
           ...(kernel.kernelName === 'BatchMatMul' && { kernelFunc: ({ inputs, backend }) =>
             backend.makeTensorInfo([1, inputs.a.shape[1], inputs.b.shape[2]], 'float32', new Float32Array(inputs.a.shape[1] * inputs.b.shape[2])) }) })
       tf.registerBackend('tensorflow', () => new Wrong())`,
    )
    const { works, problem } = await doctor('wrong')
    expect(problem).toMatch(/multiplies matrices wrong/)
    expect(works).toBe(false)
  })
  test('auto goes on to another backend after a broken set-up', async () => {
    imitate(
      'unbuilt',
      "throw new Error('The Node.js native addon module (tfjs_binding.node) can not be found at path: /x')",
    )
    const { stdout, code } = await lethe('unbuilt', 'doctor --json')
    const { auto, backends } = JSON.parse(stdout)
    expect(code).toBe(0)
    expect(auto).not.toBe('tensorflow')
    expect(backends[0]).toMatchObject({ backend: 'tensorflow', problem: 'its addon is not built' })
    const works = backends
      .filter((one: { works: boolean }) => one.works)
      .map((one: { backend: string }) => one.backend)
    expect(works).toEqual(expect.arrayContaining(['wasm', 'cpu']))
  })
})

describe('setup that cannot work says why and leaves nothing', () => {
  test.each([
    ['setup', {}, 2, /what to set up/],
    ['setup torch', {}, 2, /lethe setup tensorflow, not "torch"/],
    ['setup tensorflow --from folder.whl', {}, 1, /cannot read .*folder\.whl: it is no file/],
    ['setup tensorflow --from absent.whl', {}, 1, /absent\.whl: there is no such file/],
    ['setup tensorflow --from text.txt', {}, 1, /--from takes a wheel/],
    ['setup tensorflow --from text.whl', {}, 1, /no whole zip archive/],
    ['setup tensorflow --gpu --from tensorflow_cpu-2.21.0.whl', {}, 1, /built without CUDA/],
  ])('%s', async (args, env, code, message) => {
    writeFileSync(join(folder, 'text.txt'), 'text')
    writeFileSync(join(folder, 'text.whl'), 'text')
    mkdirSync(join(folder, 'folder.whl'), { recursive: true })
    const result = await lethe('refused/tensorflow', args, env)
    expect(result.stderr).toMatch(message)
    expect(result.stderr.trim().split('\n')).toHaveLength(1)
    expect(result.code).toBe(code)
    expect(existsSync(join(folder, 'refused'))).toBe(false)
  })
})

test('CUDA’s packages are those of the wheel’s extra', () => {
  const metadata = `Name: tensorflow
Requires-Dist: numpy>=1.26.0
Requires-Dist: nvidia-cublas-cu12<13.0,>=12.5.3.2; extra == "and-cuda"
Requires-Dist: nvidia-cudnn-cu12 (<10.0,>=9.3.0.75) ; extra == 'and-cuda'
Requires-Dist: tensorflow-text; extra == "and-text"
`
  expect(cudaRequirements(metadata)).toEqual([
    'nvidia-cublas-cu12<13.0,>=12.5.3.2',
    'nvidia-cudnn-cu12<10.0,>=9.3.0.75',
  ])
  expect(cudaRequirements('Name: tensorflow_cpu\nRequires-Dist: numpy>=1.26.0\n')).toEqual([])
})

describe.skipIf(!wheel)('with a wheel (skipped without LETHE_TEST_WHEEL)', { timeout: 900_000 }, () => {
  const real = 'real/tensorflow'

  beforeAll(async () => {
    // Something broken is there, and the rest of a set-up that was killed.
    imitate(real, 'throw new Error("broken")')
    mkdirSync(join(folder, `${real}.partial-99999999`))
    const noCompiler = await lethe(real, `setup tensorflow --from ${wheel}`, { CXX: 'no-such-compiler' })
    expect(noCompiler.stderr).toMatch(/no C\+\+ compiler \(no-such-compiler\)/)
    const { code, stderr, stdout } = await lethe(real, `setup tensorflow --json --from ${wheel}`)
    expect(stderr).toBe('')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ before: false, folder: join(folder, real) })
  }, 900_000)

  test('it replaces what was broken, leaves nothing else, works, and is not done twice', async () => {
    expect(readdirSync(join(folder, 'real'))).toEqual(['tensorflow'])
    const result = await doctor(real)
    expect(result).toMatchObject({
      code: 0,
      works: true,
      device: expect.stringContaining('@tensorflow/tfjs-node'),
    })
    expect(result.speed.gflops).toBeGreaterThan(0)
    const again = await lethe(real, 'setup tensorflow --json')
    expect(JSON.parse(again.stdout)).toMatchObject({ before: true })
  })
  test('doctor names the library that was removed', async () => {
    const broken = join(folder, 'cut/node_modules')
    mkdirSync(join(broken, '@tensorflow'), { recursive: true })
    const modules = join(folder, real, 'node_modules')
    const link = (name: string) => symlinkSync(join(modules, name), join(broken, name))
    for (const name of readdirSync(modules)) if (!/^(\.|@tensorflow$)/.test(name)) link(name)
    for (const name of readdirSync(join(modules, '@tensorflow')))
      if (name !== 'tfjs-node') link(`@tensorflow/${name}`)
    const library = /libtensorflow_cc\.so\.2$/
    cpSync(join(modules, '@tensorflow/tfjs-node'), join(broken, '@tensorflow/tfjs-node'), {
      recursive: true,
      filter: (path) => !library.test(path),
    })
    expect(await doctor('cut')).toMatchObject({
      works: false,
      problem: 'a library is missing: libtensorflow_cc.so.2',
    })
    rmSync(join(broken, '@tensorflow/tfjs-node/lib/napi-v8/tfjs_binding.node'))
    expect(await doctor('cut')).toMatchObject({ works: false, problem: 'its addon is not built' })
  })
})
