import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

const source = (path: string) => new URL(path, import.meta.url).pathname

export default defineConfig({
  resolve: {
    // Tests run on the sources; what is packed and published is checked by test/packages.
    alias: [
      { find: /^@lethe\/([a-z-]+)\/testing$/, replacement: source('packages/$1/src/testing/index.ts') },
      { find: /^@lethe\/([a-z-]+)\/([a-z]+)$/, replacement: source('packages/$1/src/$2.ts') },
      { find: /^@lethe\/([a-z-]+)$/, replacement: source('packages/$1/src/index.ts') },
    ],
  },
  test: {
    include: ['packages/*/src/**/*.test.ts', 'apps/*/src/**/*.test.ts', 'test/**/*.test.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: 'forks',
    // Vitest leaves a core to itself, of which there may be but two.
    maxWorkers: Math.max(2, availableParallelism() - 1),
  },
})
