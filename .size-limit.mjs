/** What a page pays for a package: minified, gzipped, without the peers that it has anyway. */
const library = (name, path, limit, names) => ({
  name,
  path,
  limit,
  ...(names && { import: names }),
  gzip: true,
  ignore: ['@tensorflow/*', '@lethe/*', 'webgpu', '@huggingface/tokenizers'],
  // The default, a classic script, has no import.meta.
  modifyEsbuildConfig: (config) => ({ ...config, format: 'esm' }),
})

export default [
  library('core, whole', 'packages/core/dist/index.js', '34.5 kB'),
  library('core, one decoder', 'packages/core/dist/index.js', '28.5 kB', '{ Decoder, fixedSpan }'),
  library('core, gradients alone', 'packages/core/dist/index.js', '4 kB', '{ registerGradients }'),
  ...['expire-span', 'adaptive-span', 'compressive', 'selective'].map((method) =>
    library(method, `packages/${method}/dist/index.js`, '6 kB'),
  ),
  library('backends, in a browser', 'packages/backends/dist/browser.js', '16.5 kB'),
  library('kernels-wasm', 'packages/kernels-wasm/dist/index.js', '38 kB'),
  library('kernels-webgpu', 'packages/kernels-webgpu/dist/index.js', '33 kB'),
  library('tasks, whole', 'packages/tasks/dist/index.js', '12 kB'),
  library('tasks, one task', 'packages/tasks/dist/index.js', '2 kB', '{ copy }'),
  library('trainer, in a browser', 'packages/trainer/dist/index.js', '16 kB'),
]
