/** The one build configuration: every package is ESM + CommonJS + declarations. */
import type { Options } from 'tsup'
import { defineConfig } from 'tsup'

export function library(options: Options = {}) {
  return defineConfig({
    entry: ['src/index.ts'],
    format: ['esm', 'cjs'],
    dts: true,
    clean: true,
    target: 'es2022',
    treeshake: true,
    sourcemap: false,
    ...options,
  })
}
