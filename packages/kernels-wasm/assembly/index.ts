/** What the module exports; src/index.ts is the other side. */
export { copyLines } from './copy'
export { errorFunctions, exponentials } from './exponential'
export { reverseLines, sumLines } from './lines'
export { multiply, scratchBytes } from './multiply'
