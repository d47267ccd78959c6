/**
 * Installs TensorFlow for Node into a folder of its own (`tensorflowFolder`): no project's package.json or
 * node_modules is touched, and nothing needs root. Everything happens in a folder beside it, which takes its place only
 * after a child process has loaded it and multiplied matrices right.
 *
 * Two ways: tfjs-node's own download (TensorFlow 2.9.1 of 2022, CUDA 11.2), or, for GPUs and where that is
 * unreachable, its addon compiled against a PyPI wheel of TensorFlow, which has the C library inside.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join, resolve } from 'node:path'
import { tensorflowFolder } from '@lethe/backends'
import { diagnose } from '../doctor/advice'
import type { MachineFacts, ProbeFacts } from '../doctor/facts'
import { probe } from '../doctor/probes'
import { SetupError } from '../errors'
import { program, shellQuoted } from '../output'
import { unpack, type ZipEntry, zipEntries } from './zip'

export interface SetupOptions {
  /** With CUDA. */
  readonly gpu: boolean
  /** A wheel of tensorflow or tensorflow-cpu on disk, instead of a download. */
  readonly from?: string | undefined
  readonly machine: MachineFacts
  /** Called with a line per stage. */
  readonly print: (text: string) => void
  /** Whether npm, pip and the compiler may print. */
  readonly verbose: boolean
}

export interface SetupResult {
  readonly folder: string
  /** True where it worked already, and nothing was done. */
  readonly before: boolean
  readonly tensorflow: string
  readonly device: string
  readonly gflops: number
  readonly bytes: number
  readonly seconds: number
}

const verifySeconds = 180

/** @throws SetupError; what worked before still does */
export async function setUpTensorflow(options: SetupOptions): Promise<SetupResult> {
  const began = performance.now()
  const { gpu, machine, print } = options
  const from = options.from === undefined ? undefined : resolve(options.from)
  const folder = resolve(tensorflowFolder())
  const name = gpu ? '@tensorflow/tfjs-node-gpu' : '@tensorflow/tfjs-node'
  const wheel = from === undefined ? undefined : await openWheel(from, options)
  // Before gigabytes are downloaded that could not be used.
  if (gpu && machine.gpuSeen === false)
    throw new SetupError(
      '--gpu needs an NVIDIA GPU and its driver, and this machine shows none (nvidia-smi, /dev/nvidiactl): ' +
        'install the driver, or leave out --gpu',
    )
  const result = (facts: ProbeFacts, before: boolean, bytes: number): SetupResult => ({
    folder,
    before,
    tensorflow: facts.started!.tensorflow!.version,
    device: facts.started!.device,
    gflops: facts.speed!.gflops,
    bytes,
    seconds: (performance.now() - began) / 1000,
  })
  if (!wheel && existsSync(join(folder, 'node_modules', name))) {
    print(`checking what is in ${folder}`)
    const facts = await verify(folder)
    if (facts.speed && (!gpu || facts.started?.tensorflow?.usesGpu))
      return result(facts, true, await sizeOf(folder))
    print(
      facts.speed
        ? 'it works, but not on the GPU: setting it up anew'
        : 'it does not work: setting it up anew',
    )
  }

  await removeStale(folder)
  const staging = `${folder}.partial-${process.pid}`
  try {
    await mkdir(staging, { recursive: true }).catch((cause: Error) => {
      throw new SetupError(
        `cannot write to ${dirname(folder)}: ${cause.message}; name another folder in LETHE_TENSORFLOW`,
      )
    })
    await expectSpace(staging, gpu ? 10e9 : 2.5e9)
    const facts =
      wheel || gpu
        ? await fromWheel(staging, name, wheel, options)
        : await download(staging, name, options).catch((cause: Error) => {
            print(`that did not work: ${cause.message}`)
            return fromWheel(staging, name, undefined, options)
          })
    const bytes = await sizeOf(staging)
    const old = `${folder}.partial-old-${process.pid}`
    const before = existsSync(folder)
    if (before) await rename(folder, old)
    await rename(staging, folder).catch(async (cause: Error) => {
      if (before) await rename(old, folder)
      throw new SetupError(`${staging} cannot be renamed to ${folder}: ${cause.message}`)
    })
    await rm(old, { recursive: true, force: true })
    await rm(downloads(folder), { recursive: true, force: true })
    return result(facts, false, bytes)
  } finally {
    await rm(staging, { recursive: true, force: true })
  }
}

/** Wheels that were downloaded; kept until a set-up is complete, so that it can be started again. */
const downloads = (folder: string) => `${folder}.downloads`

/** Removes what set-ups that were killed have left. */
async function removeStale(folder: string): Promise<void> {
  const pattern = new RegExp(`^${basename(folder).replace(/[^\w]/g, '\\$&')}\\.partial-(?:old-)?(\\d+)$`)
  for (const name of await readdir(dirname(folder)).catch(() => [])) {
    const process = pattern.exec(name)?.[1]
    if (process !== undefined && !isRunning(Number(process)))
      await rm(join(dirname(folder), name), { recursive: true, force: true })
  }
}

function isRunning(id: number): boolean {
  try {
    process.kill(id, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function expectSpace(folder: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder)
  if (bavail * bsize < bytes)
    throw new SetupError(
      `${dirname(folder)} has ${((bavail * bsize) / 1e9).toFixed(1)} GB free, and ${bytes / 1e9} GB are needed: ` +
        'free some, or name another folder in LETHE_TENSORFLOW',
    )
}

/** Loads what is in the folder in a child process, multiplies matrices and measures. */
const verify = (folder: string) => probe('tensorflow', verifySeconds * 1000, { LETHE_TENSORFLOW: folder })

async function expectWorking(folder: string, { machine, gpu, print }: SetupOptions): Promise<ProbeFacts> {
  print('loading it in a child process and multiplying matrices')
  const facts = await verify(folder)
  const { works, problem } = diagnose(facts, machine, program())
  if (!works) throw new SetupError(`what was built does not work: ${problem}`)
  if (gpu && !facts.started!.tensorflow!.usesGpu) {
    const hint = machine.gpus.length > 0 ? '' : ' (nvidia-smi shows none)'
    throw new SetupError(
      `TensorFlow ${facts.started!.tensorflow!.version} works, but finds no GPU${hint}: ${lastWarning(facts.output)}`,
    )
  }
  return facts
}

const lastWarning = (output: string) =>
  output
    .split('\n')
    .findLast((line) => /\b[WE] /.test(line))
    ?.trim() ?? 'leave out --gpu'

const manifest = { name: 'lethe-tensorflow', private: true, description: 'made by lethe setup tensorflow' }

/** tfjs-node as its own install script sets it up. */
async function download(staging: string, name: string, options: SetupOptions): Promise<ProbeFacts> {
  options.print(`installing ${name} with the TensorFlow that it downloads`)
  await npmInstall(staging, [`${name}@${tfjsVersion()}`], options, name)
  return expectWorking(staging, options)
}

/** The version that goes with this program's tfjs-core: they are released together. */
function tfjsVersion(): string {
  return createRequire(import.meta.url)('@tensorflow/tfjs-core/package.json').version
}

/** @param scriptsOf the one package whose install script shall run, if any: npm 12 runs none that is not allowed by name */
async function npmInstall(
  folder: string,
  packages: string[],
  options: SetupOptions,
  scriptsOf?: string,
): Promise<void> {
  await rm(join(folder, 'node_modules'), { recursive: true, force: true })
  const allowScripts = scriptsOf === undefined ? {} : { [scriptsOf]: true }
  await writeFile(join(folder, 'package.json'), JSON.stringify({ ...manifest, allowScripts }, null, 2))
  const flags = ['--no-audit', '--no-fund', '--no-package-lock', '--loglevel=error']
  if (scriptsOf === undefined) flags.push('--ignore-scripts')
  await run('npm', ['install', ...flags, ...packages], folder, options)
}

/** tfjs-node's addon, compiled against the library in a wheel. */
async function fromWheel(
  staging: string,
  name: string,
  given: Wheel | undefined,
  options: SetupOptions,
): Promise<ProbeFacts> {
  const { print, gpu, machine } = options
  if (machine.platform !== 'linux' || !(machine.arch in pipPlatforms))
    throw new SetupError(
      `wheels are used on Linux (x64, arm64) only, not on ${machine.platform} ${machine.arch}: use --backend webgpu or wasm`,
    )
  const compiler = await findCompiler()
  const wheel = given ?? (await pipWheel(gpu ? 'tensorflow' : 'tensorflow-cpu', options))
  print(`installing ${name} (npm, without its own download)`)
  await npmInstall(staging, [`${name}@${tfjsVersion()}`, `node-api-headers@${headersVersion}`], options)
  const root = join(staging, 'node_modules', name)
  const include = join(root, 'deps/include')
  const lib = join(root, 'deps/lib')

  print(`unpacking ${basename(wheel.path)}`)
  for (const entry of wheel.entries) {
    const header = headerPattern.exec(entry.name)?.[1]
    if (header) await unpack(wheel.path, entry, join(include, header))
    else if (libraries.includes(basename(entry.name)) && entry.name.startsWith('tensorflow/lib'))
      await unpack(wheel.path, entry, join(lib, basename(entry.name)))
  }
  if (gpu) await unpackCuda(wheel, lib, options)

  print('compiling the addon')
  const addon = join(root, 'lib/napi-v8/tfjs_binding.node')
  await mkdir(dirname(addon), { recursive: true })
  const headers = join(staging, 'node_modules/node-api-headers/include')
  const sources = ['binding/tfjs_backend.cc', 'binding/tfjs_binding.cc']
  const flags = [
    '-O2',
    '-shared',
    '-fPIC',
    '-std=c++17',
    '-w',
    '-DNAPI_VERSION=8',
    `-I${headers}`,
    `-I${include}`,
  ]
  const link = [
    `-L${lib}`,
    ...libraries.map((library) => `-l:${library}`),
    '-Wl,-rpath,$ORIGIN/../../deps/lib',
  ]
  await run(compiler, [...flags, ...sources, ...link, '-o', addon], root, options)
  await rm(include, { recursive: true })
  await rm(join(staging, 'node_modules/node-api-headers'), { recursive: true })
  return expectWorking(staging, options)
}

const headersVersion = '1.9.0'
const libraries = ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2']
/** What TensorFlow's C interface includes; older versions have tsl below tensorflow or at the top. */
const headerPattern = /^tensorflow\/include\/((?:tensorflow\/(?:c|tsl|core\/platform)|tsl|xla\/tsl)\/.*\.h)$/

interface Wheel {
  readonly path: string
  readonly entries: readonly ZipEntry[]
}

/** @throws SetupError where this is no wheel of TensorFlow for this machine */
async function openWheel(path: string, { machine, gpu }: SetupOptions): Promise<Wheel> {
  if (!path.endsWith('.whl'))
    throw new SetupError(
      `--from takes a wheel (tensorflow_cpu-….whl), not ${path}: ${howToGetOne('tensorflow-cpu')}`,
    )
  if (gpu && basename(path).startsWith('tensorflow_cpu'))
    throw new SetupError(
      `${basename(path)} is built without CUDA: leave out --gpu, or take a wheel of tensorflow`,
    )
  const entries = await zipEntries(path)
  for (const library of libraries)
    if (!entries.some(({ name }) => name === `tensorflow/${library}`))
      throw new SetupError(
        `${path} has no tensorflow/${library}, so it is no wheel of TensorFlow 2 for Linux: ${howToGetOne('tensorflow-cpu')}`,
      )
  const processor = { x64: 'x86_64', arm64: 'aarch64' }[machine.arch as string]
  if (processor && !basename(path).includes(processor))
    throw new SetupError(`${basename(path)} is for another processor than this machine's (${processor})`)
  return { path, entries }
}

const howToGetOne = (what: string) => `get one with: pip download --no-deps ${what}`

const pipPlatforms: Readonly<Record<string, string>> = { x64: 'x86_64', arm64: 'aarch64' }

/** Downloads a wheel; which Python it is for does not matter. */
async function pipWheel(what: string, options: SetupOptions): Promise<Wheel> {
  const [path] = await pipDownload([what], options)
  return openWheel(path!, options)
}

/** @param requirements as pip takes them @returns the wheels that match, one for each */
async function pipDownload(requirements: readonly string[], options: SetupOptions): Promise<string[]> {
  const { print, machine } = options
  const folder = downloads(resolve(tensorflowFolder()))
  await mkdir(folder, { recursive: true })
  const processor = pipPlatforms[machine.arch]!
  const platforms = [
    'manylinux_2_28',
    'manylinux_2_27',
    'manylinux_2_17',
    'manylinux2014',
    'manylinux_2_5',
    'manylinux1',
  ]
  const flags = [
    '--no-deps',
    '--only-binary=:all:',
    '--dest',
    folder,
    '--python-version',
    '3.12',
    '--implementation',
    'cp',
  ]
  for (const abi of ['cp312', 'abi3', 'none']) flags.push('--abi', abi)
  for (const platform of platforms) flags.push('--platform', `${platform}_${processor}`)
  const paths: string[] = []
  for (const requirement of requirements) {
    const distribution = /^[\w.-]+/.exec(requirement)![0]
    const find = async () => {
      const start = `${distribution.replaceAll(/[-.]/g, '_')}-`
      const file = (await readdir(folder)).find((name) => name.startsWith(start) && name.endsWith('.whl'))
      return file === undefined ? undefined : join(folder, file)
    }
    const before = await find()
    const whole =
      before !== undefined &&
      (await zipEntries(before).then(
        () => true,
        () => false,
      ))
    if (!whole) {
      if (before !== undefined) await rm(before)
      print(`downloading ${distribution} from PyPI (pip)`)
      await run(
        'python3',
        ['-m', 'pip', 'download', '--quiet', ...flags, requirement],
        folder,
        options,
      ).catch((cause: Error) => {
        throw new SetupError(
          `${cause.message}. Bring a wheel from another machine (${howToGetOne(distribution)}) and run: ` +
            `${program()} setup tensorflow${options.gpu ? ' --gpu' : ''} --from FILE.whl`,
        )
      })
    }
    paths.push((await find())!)
  }
  return paths
}

/**
 * CUDA's libraries, which the wheel names as its extra `and-cuda`; into the folder of TensorFlow's own, from where the
 * loader of @lethe/backends takes them.
 */
async function unpackCuda(wheel: Wheel, lib: string, options: SetupOptions): Promise<void> {
  const metadata = wheel.entries.find(({ name }) => /^[^/]+\.dist-info\/METADATA$/.test(name))
  const text = join(lib, 'METADATA')
  await unpack(wheel.path, metadata!, text)
  const requirements = cudaRequirements(await readFile(text, 'utf8'))
  await rm(text)
  for (const path of await pipDownload(requirements, options)) {
    options.print(`unpacking ${basename(path)}`)
    for (const entry of await zipEntries(path))
      if (/^nvidia\/.*\/lib\/[^/]+\.so[.\d]*$/.test(entry.name))
        await unpack(path, entry, join(lib, basename(entry.name)))
  }
}

/** @returns such as 'nvidia-cublas-cu12<13.0,>=12.5.3.2' */
export function cudaRequirements(metadata: string): string[] {
  const lines = metadata.matchAll(
    /^Requires-Dist:\s*([\w.-]+)\s*\(?([^;)\n]*)\)?\s*;[^\n]*extra == ["']and-cuda["']/gm,
  )
  return [...lines]
    .map(([, name, range]) => `${name}${range!.replaceAll(' ', '')}`)
    .filter((line) => line.startsWith('nvidia-'))
}

async function findCompiler(): Promise<string> {
  const candidates = process.env.CXX ? [process.env.CXX] : ['c++', 'g++', 'clang++']
  for (const candidate of candidates) {
    const found = await finished(candidate, ['--version'], process.cwd(), false).then(
      () => true,
      () => false,
    )
    if (found) return candidate
  }
  throw new SetupError(
    `no C++ compiler (${candidates.join(', ')}), and the addon is to be compiled: install one (Debian, Ubuntu: apt-get install g++; without root: conda install gxx), or name it in CXX`,
  )
}

/** Runs a command to its end. @throws SetupError with the last line that it printed */
async function run(
  command: string,
  args: string[],
  folder: string,
  { verbose }: SetupOptions,
): Promise<void> {
  try {
    await finished(command, args, folder, verbose)
  } catch (cause) {
    if (cause instanceof SetupError) throw cause
    throw new SetupError(`${command} cannot be started: ${(cause as Error).message}`)
  }
}

/** Of a failed command's lines, the one to show. */
const telling = /ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|ENOSPC|\b[45]\d\d\b.*https?:|error:/i

function finished(command: string, args: string[], folder: string, verbose: boolean): Promise<void> {
  return new Promise((done, reject) => {
    const child = spawn(command, args, {
      cwd: folder,
      shell: process.platform === 'win32',
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    const collect = (data: Buffer) => {
      if (verbose) process.stderr.write(data)
      output = (output + data).slice(-8000)
    }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    child.on('error', reject)
    child.on('close', (code, signal) => {
      if (code === 0) return done()
      const lines = output
        .trim()
        .split('\n')
        .filter((line) => !line.includes('complete log'))
      const reason = lines.find((line) => telling.test(line)) ?? lines.at(-1) ?? ''
      const line = [command, ...args.slice(0, 2)].map(shellQuoted).join(' ')
      reject(
        new SetupError(
          `${line} … ${signal ? `was ended by ${signal}` : `failed (${code})`}: ${reason.trim()}`,
        ),
      )
    })
  })
}

/** Bytes of all files below a folder. */
async function sizeOf(folder: string): Promise<number> {
  let bytes = 0
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true }))
    if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).size
  return bytes
}
