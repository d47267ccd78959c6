import { library } from '../../tsup.base'

export default [
  library({ clean: false }),
  // Bundlers read import statements: ESM alone.
  library({ entry: ['src/browser.ts'], format: ['esm'], platform: 'browser', clean: false }),
].flat()
