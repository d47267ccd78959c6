/** What the module exports; src/index.ts is the other side. */
export { multiply, scratchBytes } from './multiply'
