/** Puts the faster and the corrected kernels in place of those of tfjs's wasm backend. */
import {
  getKernel,
  type KernelConfig,
  type KernelFunc,
  registerKernel,
  unregisterKernel,
} from '@tensorflow/tfjs-core'
import { offerAttention } from '../attention'
import { BackendError } from '../errors'
import { attention } from './attention'
import { cumsum } from './cumsum'
import { erf, exp } from './elementwise'
import { fusedKernels } from './fused'
import { gather } from './gather'
import { identity } from './identity'
import { registerKernelsFlag, setKernels } from './kernels'
import { batchMatMul } from './matmul'
import { reverse } from './reverse'
import { unsortedSegmentSum } from './segment'
import { slice, splitV } from './slice'
import { sum } from './sum'
import { transpose } from './transpose'

/** Each takes tfjs's kernel, for the cases it leaves to it. */
const patches: Record<string, (stock: KernelFunc) => KernelFunc> = {
  BatchMatMul: batchMatMul,
  Identity: identity,
  UnsortedSegmentSum: () => unsortedSegmentSum,
  Cumsum: cumsum,
  Erf: erf,
  Exp: exp,
  GatherV2: gather,
  Reverse: reverse,
  Slice: slice,
  SplitV: splitV,
  Sum: sum,
  Transpose: transpose,
  ...Object.fromEntries(Object.entries(fusedKernels).map(([name, kernel]) => [name, () => kernel])),
}

/** On a patched kernel, so that a second copy of this package sees it too. */
const mark = Symbol.for('lethe.patched')

export interface PatchOptions {
  /** Compute with our own kernels (@lethe/kernels-wasm) where the engine can. Default true, or as it was set before. */
  readonly kernels?: boolean | undefined
}

/**
 * Replaces kernels of tfjs's wasm backend: BatchMatMul (our own in all cases, or XNNPACK; right when data changes in
 * place or is used in two shapes), Identity (no copy), GatherV2 (right with batchDims, fast for rows),
 * UnsortedSegmentSum (missing there), and for speed Cumsum, Erf, Exp, Reverse, Slice, SplitV, Sum and Transpose; and
 * adds the fused operations that @lethe/core asks for (LetheLayerNorm and so on). Before or after the backend starts; a
 * second call changes nothing but what `options` say.
 *
 * @returns the names of the replaced and added kernels
 * @throws BackendError ('missing-package') where @tensorflow/tfjs-backend-wasm has not been imported
 */
export function patchWasmBackend({ kernels }: PatchOptions = {}): string[] {
  if (getKernel('BatchMatMul', 'wasm') === undefined) {
    throw new BackendError(
      'missing-package',
      'wasm',
      "There is nothing to patch: the kernels of tfjs's wasm backend are not registered.",
      "Import '@tensorflow/tfjs-backend-wasm' first, or call useBackend('wasm'), which does both.",
    )
  }
  registerKernelsFlag()
  if (kernels !== undefined) setKernels(kernels)
  for (const [kernelName, patch] of Object.entries(patches)) {
    const stock = getKernel(kernelName, 'wasm') as (KernelConfig & { [mark]?: true }) | undefined
    if (stock?.[mark]) continue
    if (stock !== undefined) unregisterKernel(kernelName, 'wasm')
    // The rest of the configuration stays: tfjs's kernel has to be set up for the cases left to it.
    const kernelFunc = patch(stock?.kernelFunc ?? missing)
    registerKernel({ ...stock, kernelName, backendName: 'wasm', kernelFunc, [mark]: true } as KernelConfig)
  }
  offerAttention('wasm', attention)
  return Object.keys(patches)
}

function missing(): never {
  throw new Error('tfjs has no such kernel')
}
