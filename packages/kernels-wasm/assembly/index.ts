/** What the module exports; src/index.ts is the other side. */
export { copyLines } from './copy'
export { multiply, scratchBytes } from './multiply'
