/** The rows of the matrix: what is started where, with which options, and how to tell that it is what was meant. */

/** Largest difference that counts as equal: of golden values and gradients, of what laws compare, of losses. */
export const tolerance = 1e-4

/** What is measured in each row, in this order. */
export const partNames = ['golden', 'laws', 'training', 'speed']

/** Started by `useBackend(backend, options)` in Node; `expect` says what its device must be. `kernels`: ours, or only what lies under them. */
const node = [
  { id: 'cpu', backend: 'cpu', title: 'cpu' },
  ...withAndWithout({ id: 'wasm', backend: 'wasm', title: 'wasm, one thread', options: { threads: 1 } }),
  {
    ...{ id: 'wasm-threads', backend: 'wasm', title: 'wasm, threads', kernels: true },
    ...{ expect: /threads/, otherwise: 'There is one thread only: this machine has one processor' },
  },
  ...withAndWithout({ id: 'webgpu', backend: 'webgpu', title: 'WebGPU' }),
  ...withAndWithout(
    {
      ...{ id: 'tensorflow', backend: 'tensorflow', title: 'TensorFlow' },
      // An addon with CUDA computes on the processor, too.
      ...{ environment: { CUDA_VISIBLE_DEVICES: '-1' }, expect: /on the processor/ },
      otherwise: 'It took a GPU all the same',
      remedy:
        'To have it: node apps/cli/dist/main.js setup tensorflow (--from WHEEL without a network), then pnpm parity --backends tensorflow',
    },
    { patch: false },
  ),
  ...withAndWithout(
    {
      ...{ id: 'tensorflow-gpu', backend: 'tensorflow', title: 'TensorFlow on a GPU', expect: /on a GPU/ },
      otherwise: 'There is no GPU that TensorFlow can use',
      remedy:
        'On Linux with an NVIDIA GPU: node apps/cli/dist/main.js setup tensorflow --gpu, then pnpm parity --backends tensorflow-gpu',
    },
    { patch: false },
  ),
].map((row) => ({ ...row, host: 'node' }))

const chromium = [
  ...[true, false].flatMap((isolated) =>
    withAndWithout({
      ...{ id: isolated ? 'wasm-isolated' : 'wasm', backend: 'wasm', isolated },
      title: isolated ? 'wasm, isolated page (threads)' : 'wasm, page not isolated (one thread)',
    }).map((row) =>
      isolated && row.kernels
        ? { ...row, expect: /threads/, otherwise: 'There is one thread only: this machine has one processor' }
        : row,
    ),
  ),
  ...withAndWithout({ id: 'webgpu', backend: 'webgpu', title: 'WebGPU', isolated: false }),
].map((row) => ({ ...row, host: 'chromium' }))

function withAndWithout(row, without = { kernels: false }) {
  return [
    { ...row, kernels: true },
    { ...row, id: `${row.id}-plain`, kernels: false, options: { ...row.options, ...without } },
  ]
}

/** What --backends takes. */
export const backendNames = ['cpu', 'wasm', 'webgpu', 'tensorflow', 'tensorflow-gpu']

/** Which of them a row belongs to. */
export const backendOf = ({ id, backend }) => (id.startsWith('tensorflow-gpu') ? 'tensorflow-gpu' : backend)

/**
 * @param hosts of 'node', 'chromium'; nodes: major versions, each of which runs all rows of Node; kernels: of 'with' and
 * 'without' ours, where there are any
 */
export function rowsOf(backends, hosts, nodes, kernels = ['with', 'without']) {
  const chosen = (row) =>
    backends.includes(backendOf(row)) &&
    hosts.includes(row.host) &&
    (row.kernels === undefined || kernels.includes(row.kernels ? 'with' : 'without'))
  return [
    ...nodes.flatMap((version) => node.filter(chosen).map((row) => ({ ...row, runtime: `Node ${version}` }))),
    ...chromium.filter(chosen).map((row) => ({ ...row, runtime: 'Chromium' })),
  ]
}
