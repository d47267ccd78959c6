/**
 * Weights in float16 beside those in float32. A product of a few rows takes the time of reading its weights, which are then
 * half as many bytes; sums stay in float32. tfjs has no float16, so only a backend's own kernels can read them.
 */
import { abs, getBackend, max, reshape, stack, type Tensor, tidy } from '@tensorflow/tfjs-core'
import { ConfigError, MemoryError } from '../errors'
import { fused, hasFused } from './fused'
import { scope } from './scope'

/** The largest number that float16 has. */
const largest = 65504

/** Copies of a decoder's matrices in float16, for `decode`. Whoever asked for them disposes of them. */
export class Float16Weights {
  private constructor(
    private readonly packed: ReadonlyMap<Tensor, Tensor>,
    /** Which weights these are copies of, and after which update. @internal */
    readonly revision: string,
  ) {}

  /** @internal Use `decoder.float16Weights`. */
  static async of(matrices: ReadonlyMap<string, Tensor>, revision: string): Promise<Float16Weights> {
    if (!hasFused('LetheFloat16Product'))
      throw new ConfigError(
        `the backend ${getBackend()} has no products with float16 weights: call useBackend('webgpu') with its kernels, or decode without them`,
        { backend: getBackend() },
      )
    const sizes = tidy(() => stack([...matrices.values()].map((matrix) => max(abs(matrix)))))
    const found = await sizes.data()
    sizes.dispose()
    for (const [index, name] of [...matrices.keys()].entries())
      if (!(found[index]! <= largest))
        throw new ConfigError(
          `"${name}" has values up to ${found[index]}, and float16 ends at ${largest}: decode with float32 weights`,
          { name, largest: found[index] },
        )
    const packed = scope(() =>
      [...matrices.values()].map((x) => [x, fused('LetheToFloat16', { x }, {})![0]] as const),
    )
    return new Float16Weights(new Map(packed), revision)
  }

  /** Bytes allocated, besides those of the float32 weights. */
  get bytes(): number {
    let bytes = 0
    for (const { size } of this.packed.values()) bytes += 4 * size
    return bytes
  }

  get disposed(): boolean {
    return [...this.packed.values()].some(({ isDisposed }) => isDisposed)
  }

  dispose(): void {
    for (const packed of this.packed.values()) packed.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** @internal @throws MemoryError */
  check(revision: string): void {
    if (this.disposed) throw new MemoryError('cannot decode with float16 weights that were disposed of')
    if (this.revision !== revision)
      throw new MemoryError(
        'these float16 weights are copies of others: make them again with float16Weights() after an update',
      )
  }

  /**
   * x W, or x Wᵀ: [..., in] → [..., out]; undefined where there is no copy of W or the backend would rather read W itself,
   * as for many rows. @internal
   */
  times(x: Tensor, weight: Tensor, transpose = false): Tensor | undefined {
    const packed = this.packed.get(weight)
    if (!packed) return undefined
    const inner = x.shape.at(-1)!
    const columns = weight.shape[transpose ? 0 : 1]!
    const rows = reshape(x, [x.size / inner, inner])
    const y = fused('LetheFloat16Product', { x: rows, packed }, { columns, transpose })
    return y && reshape(y[0], [...x.shape.slice(0, -1), columns])
  }
}
