import { library } from '../../tsup.base'

export default [
  // Shims: import.meta.url in CommonJS.
  library({ clean: false, shims: true }),
  // Bundlers read import statements: ESM alone.
  library({ entry: ['src/browser.ts'], format: ['esm'], platform: 'browser', clean: false }),
].flat()
