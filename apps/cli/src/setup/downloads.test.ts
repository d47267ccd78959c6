/**
 * lethe setup tensorflow to its end, by the built command line, with the network imitated: npm asks a registry on this
 * machine, whose tfjs-node downloads its library from there when it is installed; `python3 -m pip` is a script that puts
 * wheels where it is told. The wheels hold libraries compiled here, so that addon, headers and linking are real.
 */
import { execFile, execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { temporaryFolder } from '../temporary-folder'

const main = fileURLToPath(new URL('../../dist/main.js', import.meta.url))
const processor = { x64: 'x86_64', arm64: 'aarch64' }[process.arch as string]
const hasTools =
  process.platform === 'linux' &&
  processor !== undefined &&
  [
    ['c++', '--version'],
    ['python3', '--version'],
    ['tar', '--version'],
  ].every(([command, flag]) => {
    try {
      execFileSync(command!, [flag!], { stdio: 'ignore' })
      return true
    } catch {
      return false
    }
  })
const enough = (bytes: number) => {
  const { bavail, bsize } = statfsSync(tmpdir())
  return bavail * bsize > bytes
}

const showsGpu = ['/dev/dri', '/dev/nvidiactl', '/dev/dxg'].some((file) => existsSync(file))

const folder = temporaryFolder('downloads')
const version = '4.22.0'
let server: Server
let registry: string
/** What the server has, by path. */
const files = new Map<string, Buffer>()

function write(path: string, text: string): string {
  const file = join(folder, path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
  return file
}

const tarball = (inside: string) =>
  execFileSync('tar', ['-czf', '-', '-C', join(folder, inside), ...readdirSync(join(folder, inside))])

/** Puts a package into the registry: what is in `inside`/package. */
function publish(inside: string): void {
  const manifest = JSON.parse(readFileSync(join(folder, inside, 'package/package.json'), 'utf8'))
  const archive = tarball(inside)
  const path = `/${manifest.name}/-/package-${manifest.version}.tgz`
  const dist = {
    tarball: registry + path.slice(1),
    integrity: `sha512-${createHash('sha512').update(archive).digest('base64')}`,
  }
  files.set(path, archive)
  files.set(
    `/${manifest.name.replace('/', '%2f')}`,
    Buffer.from(
      JSON.stringify({
        name: manifest.name,
        'dist-tags': { latest: manifest.version },
        versions: {
          [manifest.version]: { ...manifest, hasInstallScript: manifest.scripts !== undefined, dist },
        },
      }),
    ),
  )
}

/**
 * tfjs-node as far as the set-up sees it: with an addon that was compiled, or with what its install script downloaded.
 * Large products are not computed, so that measuring takes no time; it uses a GPU if CUDA's library is found by name.
 */
const imitation = `
  const { createRequire } = require('node:module')
  const { existsSync } = require('node:fs')
  const own = createRequire(${JSON.stringify(main)})
  const tf = own('@tensorflow/tfjs-core')
  const { MathBackendCPU } = createRequire(own.resolve('@lethe/backends'))('@tensorflow/tfjs-backend-cpu')
  const [compiled, downloaded] = [__dirname + '/lib/napi-v8/tfjs_binding.node', __dirname + '/deps/version.json']
  if (!existsSync(compiled) && !existsSync(downloaded))
    throw new Error('The Node.js native addon module (tfjs_binding.node) can not be found at path: ' + compiled)
  const binding = require(existsSync(compiled) ? compiled : downloaded)
  let isUsingGpuDevice = false
  try { process.dlopen({ exports: {} }, 'libcublas.so.12') } catch (error) {
    isUsingGpuDevice = error.message.includes('did not self-register')
  }
  class Imitation extends MathBackendCPU { binding = binding; isUsingGpuDevice = isUsingGpuDevice }
  for (const kernel of tf.getKernelsForBackend('cpu')) {
    const multiply = ({ inputs, backend }) => {
      const { a, b } = inputs
      if (a.shape.at(-1) < 100) return kernel.kernelFunc({ inputs, backend, attrs: {} })
      const shape = [...a.shape.slice(0, -1), b.shape.at(-1)]
      return backend.makeTensorInfo(shape, 'float32', new Float32Array(shape.reduce((x, y) => x * y)))
    }
    tf.registerKernel({ ...kernel, backendName: 'tensorflow', setupFunc: undefined, disposeFunc: undefined,
      ...(kernel.kernelName === 'BatchMatMul' && { kernelFunc: multiply }) })
  }
  tf.registerBackend('tensorflow', () => new Imitation())
`

/** Its install script downloads the library, as tfjs-node's own does. */
function publishTfjsNode(name: string): void {
  const inside = `npm/${name}`
  const install =
    "fetch(process.env.npm_config_registry + 'libtensorflow.tar.gz').then(async (response) => {" +
    "if (!response.ok) throw new Error('libtensorflow: ' + response.status + ' ' + response.url);" +
    "require('node:fs').mkdirSync('deps');" +
    "require('node:child_process').execFileSync('tar', ['-xzf', '-', '-C', 'deps'], { input: Buffer.from(await response.arrayBuffer()) }) })"
  write(
    `${inside}/package/package.json`,
    JSON.stringify({ name, version, scripts: { install: 'node install.js' } }),
  )
  write(`${inside}/package/install.js`, install)
  write(`${inside}/package/index.js`, imitation)
  write(
    `${inside}/package/binding/tfjs_backend.cc`,
    '#include "tensorflow/c/c_api.h"\nconst char* version() { return TF_Version(); }',
  )
  write(
    `${inside}/package/binding/tfjs_binding.cc`,
    `#include <node_api.h>
     const char* version();
     extern "C" napi_value napi_register_module_v1(napi_env env, napi_value exports) {
       napi_value text;
       napi_create_string_utf8(env, version(), ~0ul, &text);
       napi_set_named_property(env, exports, "TF_Version", text);
       return exports;
     }`,
  )
  publish(inside)
}

const compile = (source: string, ...flags: string[]) =>
  execFileSync('c++', ['-shared', '-fPIC', source, ...flags], { stdio: 'ignore' })

/** A wheel as PyPI has it: the C library, its header, what it requires. */
function makeWheel(distribution: string, requires: string): void {
  const inside = `wheels/${distribution}`
  const path = (file: string) => join(folder, inside, file)
  write(`${inside}/${distribution}-2.99.0.dist-info/METADATA`, `Name: ${distribution}\n${requires}`)
  write(`${inside}/tensorflow/include/tensorflow/c/c_api.h`, 'extern "C" const char* TF_Version(void);')
  write(`${inside}/tensorflow/include/unused/header.h`, '#error not to be used')
  const source = write('tensorflow.cc', 'extern "C" const char* TF_Version(void) { return "2.99.0"; }')
  const other = write('framework.cc', 'extern "C" int framework(void) { return 0; }')
  for (const [code, library] of [
    [source, 'libtensorflow_cc.so.2'],
    [other, 'libtensorflow_framework.so.2'],
  ])
    compile(code!, `-Wl,-soname,${library}`, '-o', path(`tensorflow/${library}`))
  zip(inside, `${distribution}-2.99.0-cp312-cp312-manylinux_2_27_${processor}.whl`)
}

function makeCudaWheel(): void {
  mkdirSync(join(folder, 'wheels/nvidia_cublas_cu12/nvidia/cublas/lib'), { recursive: true })
  const source = write('cublas.cc', 'extern "C" int cublas(void) { return 12; }')
  const library = 'wheels/nvidia_cublas_cu12/nvidia/cublas/lib/libcublas.so.12'
  compile(source, '-Wl,-soname,libcublas.so.12', '-o', join(folder, library))
  zip('wheels/nvidia_cublas_cu12', `nvidia_cublas_cu12-12.5.3.2-py3-none-manylinux2014_${processor}.whl`)
}

function zip(inside: string, name: string): void {
  const cwd = join(folder, inside)
  execFileSync('python3', ['-m', 'zipfile', '-c', join(folder, 'wheels', name), ...readdirSync(cwd)], { cwd })
}

/** `python3 -m pip download … --dest FOLDER REQUIREMENT`, from `wheels`; notes what it was asked for. */
const pip = `#!${process.execPath}
  const { appendFileSync, copyFileSync, readdirSync } = require('node:fs')
  const args = process.argv.slice(2)
  const [requirement, dest] = [args.at(-1), args[args.indexOf('--dest') + 1]]
  appendFileSync(${JSON.stringify(join(folder, 'pip.log'))}, requirement + '\\n')
  const start = /^[\\w.-]+/.exec(requirement)[0].replaceAll('-', '_') + '-'
  const wheel = readdirSync(${JSON.stringify(join(folder, 'wheels'))}).find((file) => file.startsWith(start) && file.endsWith('.whl'))
  if (args.slice(0, 3).join(' ') !== '-m pip download' || !wheel) {
    console.error('ERROR: No matching distribution found for ' + requirement)
    process.exit(1)
  }
  copyFileSync(${JSON.stringify(join(folder, 'wheels'))} + '/' + wheel, dest + '/' + wheel)
`

const setUp = (home: string, ...args: string[]) => lethe(home, 'setup', 'tensorflow', ...args)

/** @param home what LETHE_TENSORFLOW names, below the test's folder */
function lethe(home: string, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const env = {
    ...process.env,
    NO_COLOR: '1',
    LETHE_TENSORFLOW: join(folder, home),
    PATH: `${join(folder, 'bin')}:${process.env.PATH}`,
    npm_config_registry: registry,
    npm_config_cache: join(folder, 'npm-cache'),
    npm_config_fetch_retries: '0',
    npm_config_update_notifier: 'false',
    // npm 12 runs no package's scripts but those that a project allows; with this, 11.16 and later do the same.
    npm_config_strict_allow_scripts: 'true',
  }
  return new Promise((done) => {
    execFile(process.execPath, [main, ...args], { cwd: folder, env }, (error, stdout, stderr) => {
      done({ code: error ? ((error.code as unknown as number) ?? -1) : 0, stdout, stderr })
    })
  })
}

const asked = () => {
  const log = join(folder, 'pip.log')
  const lines = existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n') : []
  rmSync(log, { force: true })
  return lines
}

describe.skipIf(!hasTools)('with an imitated network (skipped without c++, python3 and tar)', () => {
  beforeAll(async () => {
    if (!existsSync(main)) throw new Error('apps/cli is not built: npm test builds it')
    server = createServer((request, response) => {
      const file = files.get(request.url!.toLowerCase())
      response.writeHead(file ? 200 : 404).end(file)
    })
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    registry = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
    write('headers/package/package.json', JSON.stringify({ name: 'node-api-headers', version: '1.9.0' }))
    write(
      'headers/package/include/node_api.h',
      `typedef struct napi_env__* napi_env;
       typedef struct napi_value__* napi_value;
       extern "C" {
         int napi_create_string_utf8(napi_env, const char*, unsigned long, napi_value*);
         int napi_set_named_property(napi_env, napi_value, const char*, napi_value);
       }`,
    )
    publish('headers')
    publishTfjsNode('@tensorflow/tfjs-node')
    publishTfjsNode('@tensorflow/tfjs-node-gpu')
    write('library/version.json', JSON.stringify({ TF_Version: '2.9.1' }))
    mkdirSync(join(folder, 'wheels'))
    chmodSync(write('bin/python3', pip), 0o755)
  })
  afterAll(() => {
    server?.close()
  })

  test('no download and no wheel: what to bring', async () => {
    const { code, stdout, stderr } = await setUp('refused/tensorflow')
    expect(stdout).toMatch(/that did not work: npm install .*libtensorflow: 404/s)
    expect(stderr).toMatch(
      /No matching distribution found for tensorflow-cpu.*pip download --no-deps tensorflow-cpu.* setup tensorflow --from FILE\.whl/,
    )
    expect(code).toBe(1)
    expect(readdirSync(join(folder, 'refused')).filter((name) => name !== 'tensorflow.downloads')).toEqual([])
    expect(asked()).toEqual(['tensorflow-cpu'])
  })

  test('without the download: a wheel by pip, the addon compiled against it and loaded', async () => {
    makeWheel('tensorflow_cpu', '')
    const { code, stdout, stderr } = await setUp('wheel/tensorflow')
    expect(stderr).toBe('')
    expect(stdout).toMatch(/that did not work: .*downloading tensorflow-cpu from PyPI \(pip\).*compiling/s)
    expect(stdout).toMatch(/TensorFlow 2\.99\.0 on the processor \(@tensorflow\/tfjs-node\): \d+ GFLOPS/)
    expect(code).toBe(0)
    expect(asked()).toEqual(['tensorflow-cpu'])
    expect(readdirSync(join(folder, 'wheel'))).toEqual(['tensorflow'])
  })

  test('tfjs-node’s own download, by its install script', async () => {
    files.set('/libtensorflow.tar.gz', tarball('library'))
    const { code, stdout, stderr } = await setUp('own/tensorflow', '--json')
    expect(stderr).toBe('')
    expect(JSON.parse(stdout)).toMatchObject({
      before: false,
      tensorflow: '2.9.1',
      device: 'TensorFlow 2.9.1 on the processor (@tensorflow/tfjs-node)',
    })
    expect(code).toBe(0)
    expect(asked()).toEqual([])
    expect(readdirSync(join(folder, 'own'))).toEqual(['tensorflow'])
  })

  test.skipIf(showsGpu)('--gpu without a GPU is refused before anything is downloaded', async () => {
    const { code, stderr } = await setUp('none/tensorflow', '--gpu')
    expect(stderr).toMatch(/--gpu needs an NVIDIA GPU.*\/dev\/nvidiactl.*leave out --gpu/)
    expect(code).toBe(1)
    expect(asked()).toEqual([])
    expect(existsSync(join(folder, 'none'))).toBe(false)
  })

  test.skipIf(!enough(12e9))(
    '--gpu: tfjs-node-gpu, a wheel with CUDA, its libraries found by name',
    async () => {
      const answer = 'echo "NVIDIA H100 80GB HBM3, 570.86.10, 9.0, 81559"'
      chmodSync(write('bin/nvidia-smi', `#!/bin/sh\n${answer}\n`), 0o755)
      // A wheel that names no CUDA libraries gives a TensorFlow without a GPU, which is not what was asked for.
      makeWheel('tensorflow', '')
      const without = await setUp('gpu/tensorflow', '--gpu')
      expect(without.stderr).toMatch(/TensorFlow 2\.99\.0 works, but finds no GPU/)
      expect(without.code).toBe(1)
      expect(asked()).toEqual(['tensorflow'])
      rmSync(join(folder, 'gpu'), { recursive: true })

      makeWheel('tensorflow', `Requires-Dist: nvidia-cublas-cu12<13.0,>=12.5.3.2; extra == "and-cuda"\n`)
      makeCudaWheel()
      const { code, stdout, stderr } = await setUp('gpu/tensorflow', '--gpu', '--json')
      expect(stderr).toBe('')
      expect(JSON.parse(stdout)).toMatchObject({
        device: 'TensorFlow 2.99.0 on a GPU (@tensorflow/tfjs-node-gpu)',
      })
      expect(code).toBe(0)
      expect(asked()).toEqual(['tensorflow', 'nvidia-cublas-cu12<13.0,>=12.5.3.2'])
      const seen = JSON.parse(
        (await lethe('gpu/tensorflow', 'doctor', '--backend', 'tensorflow', '--json')).stdout,
      )
      expect(seen.backends[0].started.tensorflow).toEqual({
        version: '2.99.0',
        usesGpu: true,
        cuda: ['libcublas.so.12'],
      })
    },
  )
})
