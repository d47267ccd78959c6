/**
 * tfjs's BatchMatMul in WGSL of our own: larger tiles, shares of a long inner axis by several workgroups, single rows by
 * all of them; all transposes as they are, and batches that broadcast along any axis.
 */
import {
  type BatchMatMulAttrs,
  type KernelFunc,
  type Tensor,
  type TensorInfo,
  util,
  zeros,
} from '@tensorflow/tfjs-core'
import { run, sumOf } from '../program'
import { nameOf, type Variant, variantFor, variantsFor } from './choose'
import { type Product, productOf } from './product'
import { rowsGridOf, rowsShader } from './rows'
import { gridOf, perPartOf, tilesShader, uniformsOf } from './tiles'

/** Computes the product in a way that is given. */
export function multiplyBy(variant: Variant, product: Product, shape: readonly number[]): Tensor {
  const inputs = [product.left.tensor, product.right.tensor]
  if (variant.kind === 'rows') {
    const grid = rowsGridOf(variant, product)
    return run(rowsShader(variant, product), {
      inputs,
      uniforms: uniformsOf(product, product.inner, grid),
      workgroups: util.sizeFromShape(grid),
      into: shape,
    })
  }
  const perPart = perPartOf(variant, product, variant.parts)
  const parts = Math.ceil(product.inner / perPart)
  const grid = gridOf(variant, product, parts)
  const size = util.sizeFromShape(shape as number[])
  const sums = run(tilesShader(variant, product), {
    inputs,
    uniforms: uniformsOf(product, perPart, grid),
    workgroups: util.sizeFromShape(grid),
    into: parts === 1 ? shape : [parts, size],
  })
  if (parts === 1) return sums
  const total = sumOf(sums, shape, { count: parts, inner: size })
  sums.dispose()
  return total
}

/** The kernel. Whatever is not float32 goes to tfjs's own. */
export const batchMatMul =
  (stock: KernelFunc): KernelFunc =>
  (args) => {
    const { a, b } = args.inputs as { a: TensorInfo; b: TensorInfo }
    const { transposeA, transposeB } = args.attrs as unknown as BatchMatMulAttrs
    if (a.dtype !== 'float32' || b.dtype !== 'float32') return stock(args)
    const { product, shape } = productOf(a, b, transposeA, transposeB)
    if (product.inner === 0 || util.sizeFromShape(shape) === 0) return zeros(shape)
    return multiplyBy(variantFor(product), product, shape)
  }

export interface MeasurableVariant {
  readonly name: string
  /** It is the one that the kernel takes. */
  readonly chosen: boolean
  readonly multiply: () => Tensor
}

/** Every way to compute a × b on the WebGPU backend that may be worth measuring, for benchmarks. float32, not empty. */
export function matMulVariants(
  a: Tensor,
  b: Tensor,
  transposeA = false,
  transposeB = false,
): MeasurableVariant[] {
  const { product, shape } = productOf(a, b, transposeA, transposeB)
  const chosen = nameOf(variantFor(product))
  const variants = new Map([...variantsFor(product), variantFor(product)].map((one) => [nameOf(one), one]))
  return [...variants].map(([name, variant]) => ({
    name,
    chosen: name === chosen,
    multiply: () => multiplyBy(variant, product, shape),
  }))
}
