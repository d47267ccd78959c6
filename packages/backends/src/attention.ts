/**
 * Hands a backend's fused attention to @lethe/core without importing it: core looks under a symbol that all its copies
 * share (docs/interface.md).
 */
import type { BackendName } from './types'

/** The number is that of core's interface `AttentionKernel`. */
const seam = Symbol.for('lethe.attention-kernels.1')

/** @param kernel an `AttentionKernel`; undefined takes away what is there */
export function offerAttention(backend: BackendName, kernel: object | undefined): void {
  const realm = globalThis as unknown as Record<symbol, Map<string, object> | undefined>
  realm[seam] ??= new Map()
  if (kernel) realm[seam].set(backend, kernel)
  else realm[seam].delete(backend)
}
