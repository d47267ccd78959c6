import { library } from '../../tsup.base'

// These are installed by who wants them; never bundled.
const external = ['@tensorflow/tfjs-node', '@tensorflow/tfjs-node-gpu']

export default [
  library({ external, clean: false }),
  // Bundlers read import statements: ESM alone.
  library({ entry: ['src/browser.ts'], format: ['esm'], platform: 'browser', clean: false, external }),
].flat()
