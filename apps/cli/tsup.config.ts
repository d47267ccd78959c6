import { defineConfig } from 'tsup'

export default defineConfig([
  { entry: ['src/main.ts'], format: ['esm'], target: 'es2022', clean: true },
  {
    // Scripts of the pages, which are put into them whole.
    entry: { 'report.page': 'src/pages/report.page.ts', 'inspect.page': 'src/pages/inspect.page.ts' },
    format: ['iife'],
    platform: 'browser',
    target: 'es2022',
    minify: true,
    outExtension: () => ({ js: '.js' }),
  },
])
