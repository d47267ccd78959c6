/** The doctor's conclusions from recorded facts: messages are those of the real packages, drivers and TensorFlow. */
import { describe, expect, test } from 'vitest'
import { diagnose, missingLibraries } from './advice'
import type { MachineFacts, NvidiaGpu, ProbeFacts } from './facts'
import { parseNvidiaSmi } from './probes'
import { report } from './report'

const machine: MachineFacts = {
  node: '20.20.2',
  platform: 'linux',
  arch: 'x64',
  glibc: '2.36',
  processor: 'AMD EPYC',
  cores: 2,
  memoryBytes: 25_276_510_208,
  freeMemoryBytes: 23_716_806_656,
  gpus: [],
  gpuSeen: false,
  wasm: { simd: true, relaxedSimd: true, threads: true },
}
const hopper: NvidiaGpu = {
  name: 'NVIDIA H100 80GB HBM3',
  driver: '570.86',
  computeCapability: '9.0',
  memoryBytes: 85e9,
}
const withGpu: MachineFacts = { ...machine, gpus: [hopper], gpuSeen: true }

const good = { code: 0, signal: null, timedOut: false }
const failed = (backend: ProbeFacts['backend'], reason: string, message: string, fix = ''): ProbeFacts => ({
  backend,
  error: { reason, message: fix ? `${message} ${fix}` : message, fix } as NonNullable<ProbeFacts['error']>,
  ended: good,
  output: '',
})
const working = (backend: ProbeFacts['backend'], more: object = {}, output = ''): ProbeFacts => ({
  backend,
  started: { name: backend as 'wasm', device: 'something', software: false, ...more },
  speed: { gflops: 21.24, size: 1024 },
  ended: good,
  output,
})
const see = (facts: ProbeFacts, on = machine) => diagnose(facts, on, 'npx lethe')

describe('tensorflow', () => {
  const missing = failed(
    'tensorflow',
    'missing-package',
    "The package @tensorflow/tfjs-node is not installed, and backend 'tensorflow' needs it.",
    'Run: npm install @tensorflow/tfjs-node',
  )
  const broken = (message: string) =>
    failed('tensorflow', 'missing-addon', message, 'Run: npx @lethe/cli setup tensorflow')

  test('not installed: the set-up for this machine', () => {
    expect(see(missing)).toMatchObject({
      works: false,
      problem: 'not installed',
      advice: [{ command: 'npx lethe setup tensorflow' }],
    })
    expect(see(missing, withGpu).advice[0]).toMatchObject({
      text: expect.stringContaining('H100'),
      command: 'npx lethe setup tensorflow --gpu',
    })
  })

  test.each([
    [
      'The addon of @tensorflow/tfjs-node is not built (tfjs_binding.node cannot be found).',
      'its addon is not built',
    ],
    [
      'The addon of @tensorflow/tfjs-node needs libtensorflow_cc.so.2, which cannot be loaded: libtensorflow_cc.so.2: cannot open shared object file: No such file or directory.',
      'a library is missing: libtensorflow_cc.so.2',
    ],
    [
      'The addon of @tensorflow/tfjs-node-gpu needs libcudart.so.11.0, which cannot be loaded: libcudart.so.11.0: cannot open shared object file: No such file or directory.',
      'CUDA’s library is missing: libcudart.so.11.0',
    ],
    [
      "The package @tensorflow/tfjs-node is installed, but does not load: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /app/tfjs_binding.node).",
      'it needs GLIBC_2.38, and this system has GLIBC 2.36',
    ],
    [
      'The package @tensorflow/tfjs-node is installed, but does not load: /app/tfjs_binding.node: invalid ELF header.',
      'The package @tensorflow/tfjs-node is installed, but does not load: /app/tfjs_binding.node: invalid ELF header.',
    ],
  ])('%s', (message, problem) => {
    const { works, problem: seen, advice } = see(broken(message))
    expect(works).toBe(false)
    expect(seen).toBe(problem)
    expect(advice[0]!.command).toMatch(/^npx lethe setup tensorflow( --from OLDER\.whl)?$/)
  })

  test('works, but not on the GPU that is there: CUDA’s missing libraries by name', () => {
    const output = [
      "W dso_loader.cc:64] Could not load dynamic library 'libcudnn.so.8'; dlerror: libcudnn.so.8: cannot open shared object file: No such file or directory",
      "W dso_loader.cc:64] Could not load dynamic library 'libcublas.so.11'; dlerror: libcublas.so.11: cannot open shared object file: No such file or directory",
      'W gpu_device.cc:1956] Cannot dlopen some GPU libraries.',
    ].join('\n')
    const onProcessor = { tensorflow: { version: '2.9.1', usesGpu: false } }
    const { works, advice } = see(working('tensorflow', onProcessor, output), withGpu)
    expect(works).toBe(true)
    expect(advice).toEqual([
      {
        text: expect.stringMatching(
          /H100.* is not used, since libcudnn\.so\.8, libcublas\.so\.11 cannot be loaded/,
        ),
        command: 'npx lethe setup tensorflow --gpu',
      },
    ])
    expect(see(working('tensorflow', onProcessor)).advice).toEqual([])
    expect(
      see(working('tensorflow', { tensorflow: { version: '2.21.0', usesGpu: true } }), withGpu).advice,
    ).toEqual([])
  })

  test.each([
    [{ code: null, signal: 'SIGSEGV', timedOut: false }, /crashed \(SIGSEGV\) while it started: last words/],
    [{ code: null, signal: 'SIGILL', timedOut: false }, /SIGILL.* another processor/],
    [
      { code: null, signal: 'SIGKILL', timedOut: true },
      /no answer while it started: stopped at the time limit/,
    ],
    [{ code: 7, signal: null, timedOut: false }, /ended with code 7/],
  ])('a process that ended by %j', (ended, problem) => {
    const facts: ProbeFacts = { backend: 'tensorflow', ended, output: 'much\nlast words\n' }
    expect(see(facts).problem).toMatch(problem)
    const commands = see(facts).advice.map(({ command }) => command)
    expect(commands.at(-1)).toBe('npx lethe setup tensorflow')
    const longer = 'npx lethe doctor --backend tensorflow --timeout 300'
    expect(commands.slice(0, -1)).toEqual(ended.timedOut ? [longer] : [])
  })
})

describe('webgpu', () => {
  const missing = failed(
    'webgpu',
    'missing-package',
    "The package webgpu is not installed, and backend 'webgpu' needs it.",
    'Run: npm install webgpu',
  )
  test('without a GPU nothing is to be installed', () => {
    expect(see(missing)).toMatchObject({
      works: false,
      problem: 'not installed, and no GPU is seen',
      advice: [],
    })
    expect(see(failed('webgpu', 'no-adapter', 'WebGPU found no adapter'))).toMatchObject({
      problem: 'no GPU is seen',
      advice: [],
    })
  })
  test('with one: packages, loader, driver', () => {
    expect(see(missing, withGpu).advice[0]!.command).toBe(
      'npm install webgpu @tensorflow/tfjs-backend-webgpu',
    )
    const loader = failed(
      'webgpu',
      'no-adapter',
      'WebGPU needs the Vulkan loader, and libvulkan.so.1 is not installed.',
    )
    expect(see(loader, withGpu)).toMatchObject({
      problem: 'the Vulkan loader is missing: libvulkan.so.1',
      advice: [{ command: 'sudo apt-get install libvulkan1' }],
    })
    const driver = failed('webgpu', 'no-adapter', 'WebGPU found no adapter: no GPU, or no driver for it.')
    expect(see(driver, withGpu).advice[0]!.text).toContain('driver')
  })
  test('a software adapter works, with a warning; a process that hangs at its end is told', () => {
    expect(see(working('webgpu', { software: true })).advice[0]!.text).toContain('auto never takes it')
    const hanging = { ...working('webgpu'), ended: { code: null, signal: 'SIGKILL', timedOut: true } }
    expect(see(hanging)).toMatchObject({
      works: true,
      advice: [{ text: expect.stringContaining('did not end by itself') }],
    })
  })
  test('lost while it computed', () => {
    const { speed: _, ...started } = working('webgpu')
    const lost = {
      ...started,
      error: {
        reason: 'failed' as const,
        message: 'The GPU device was lost (unknown): reset. Call x',
        fix: 'Call x',
      },
    }
    expect(see(lost, withGpu)).toMatchObject({
      works: false,
      problem: 'The GPU device was lost (unknown): reset.',
    })
  })
})

test('wasm: missing package, and an engine without relaxed SIMD', () => {
  const fix = 'Run: npm install @tensorflow/tfjs-backend-wasm'
  expect(see(failed('wasm', 'missing-package', 'It is not installed.', fix)).advice[0]!.command).toBe(
    'npm install @tensorflow/tfjs-backend-wasm',
  )
  expect(see(working('wasm')).advice).toEqual([])
  const old = { ...machine, wasm: { ...machine.wasm, relaxedSimd: false } }
  expect(see(working('wasm'), old).advice[0]!.text).toContain('Node 22')
})

test('libraries that a linker or TensorFlow misses, each once', () => {
  expect(
    missingLibraries(
      'libfoo.so.2: cannot open shared object file: x\nlibfoo.so.2: cannot open shared object file',
    ),
  ).toEqual(['libfoo.so.2'])
  expect(missingLibraries('dlopen(x): Library not loaded: @rpath/libtensorflow.2.dylib')).toEqual([
    'libtensorflow.2.dylib',
  ])
  expect(missingLibraries('all is well')).toEqual([])
})

test('nvidia-smi', () => {
  expect(
    parseNvidiaSmi('NVIDIA H100 80GB HBM3, 570.86.10, 9.0, 81559\nOld card, 390.1, [Not Supported], 2000\n'),
  ).toEqual([
    {
      name: 'NVIDIA H100 80GB HBM3',
      driver: '570.86.10',
      computeCapability: '9.0',
      memoryBytes: 81559 * 2 ** 20,
    },
    { name: 'Old card', driver: '390.1', computeCapability: undefined, memoryBytes: 2000 * 2 ** 20 },
  ])
  expect(parseNvidiaSmi('NVIDIA-SMI has failed because it could not communicate with the driver')).toEqual([])
})

test('the report: what a device allows, and what is behind it, under its line', () => {
  const plain = (text: string) => text
  const adapter = {
    limits: {
      maxBufferSize: 2 ** 30,
      maxStorageBuffersPerShaderStage: 12,
      maxComputeInvocationsPerWorkgroup: 256,
      maxComputeWorkgroupStorageSize: 32768,
    },
    features: ['subgroups', 'timestamp-query'],
  }
  const tensorflow = { version: '2.21.0', usesGpu: true, cuda: ['libcublas.so.12', 'libcudnn.so.9'] }
  const diagnoses = [
    see(working('tensorflow', { tensorflow })),
    see(working('webgpu', { device: 'NVIDIA H100', adapter })),
  ]
  const lines = report({ ...machine, gpuSeen: true }, diagnoses, undefined, {
    bold: plain,
    red: plain,
    green: plain,
  })
  expect(lines[3]).toBe('GPU      one that nvidia-smi does not show')
  expect(lines.slice(6)).toEqual([
    '✓ tensorflow  something       21.2 GFLOPS',
    '              with libcublas.so.12, libcudnn.so.9',
    '✓ webgpu      NVIDIA H100     21.2 GFLOPS',
    '              buffers of up to 1.1 GB, 12 in a shader, workgroups of 256 with 32.8 kB, subgroups yes, shader-f16 no',
  ])
})

test('the report: a line per backend, columns under each other, commands below', () => {
  const plain = (text: string) => text
  const paint = { bold: plain, red: plain, green: plain }
  const slow = { ...working('cpu', { device: 'JavaScript' }), speed: { gflops: 0.44, size: 128 } }
  const imitated = { ...working('webgpu', { device: 'SwiftShader' }), speed: { gflops: 0.034, size: 128 } }
  const diagnoses = [
    see(failed('tensorflow', 'missing-package', 'x')),
    see(imitated),
    see(working('wasm', { device: 'WebAssembly with SIMD' })),
    see(slow),
  ]
  expect(report(machine, diagnoses, 'wasm', paint).slice(3)).toEqual([
    'GPU      none seen',
    'wasm     SIMD yes, relaxed SIMD yes, threads yes',
    '',
    '✗ tensorflow  not installed',
    '✓ webgpu      SwiftShader              0.034 GFLOPS (of 128³)',
    '✓ wasm        WebAssembly with SIMD     21.2 GFLOPS',
    '✓ cpu         JavaScript                 0.4 GFLOPS (of 128³)',
    '',
    '--backend auto takes wasm',
    '',
    'tensorflow  optional; the fastest on a processor:',
    '            npx lethe setup tensorflow',
  ])
})
