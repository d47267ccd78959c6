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
import { type EndingOf, endingFor } from '../ending'
import { mostBindings, run, runAll, sumOf } from '../program'
import { nameOf, type Variant, variantFor, variantsFor } from './choose'
import { type Product, productOf } from './product'
import { rowsGridOf, rowsShader } from './rows'
import { gridOf, perPartOf, tilesShader, uniformsOf } from './tiles'

/** Computes the product in a way that is given. */
export function multiplyBy(
  variant: Variant,
  product: Product,
  shape: readonly number[],
  given: EndingOf = {},
): Tensor {
  const ending = endingFor(given)
  const inputs = [
    product.left.tensor,
    product.right.tensor,
    ...[given.bias, given.residual].filter((tensor) => tensor !== undefined),
  ]
  if (variant.kind === 'rows') {
    const grid = rowsGridOf(variant, product)
    return run(rowsShader(variant, product, ending), {
      inputs,
      uniforms: uniformsOf(product, product.inner, grid),
      workgroups: util.sizeFromShape(grid),
      into: shape,
    })
  }
  const perPart = perPartOf(variant, product, variant.parts)
  const parts = Math.ceil(product.inner / perPart)
  const grid = gridOf(variant, product, parts)
  const job = { uniforms: uniformsOf(product, perPart, grid), workgroups: util.sizeFromShape(grid) }
  if (parts === 1) return run(tilesShader(variant, product, ending), { ...job, inputs, into: shape })
  const size = util.sizeFromShape(shape as number[])
  const sums = run(tilesShader(variant, product, endingFor({})), {
    ...job,
    inputs: inputs.slice(0, 2),
    into: [parts, size],
  })
  const total = sumOf(
    sums,
    shape,
    { count: parts, inner: size },
    {
      ending,
      inputs: inputs.slice(2),
      columns: product.columns,
    },
  )
  sums.dispose()
  return total
}

interface WithEnding {
  readonly a: Tensor
  readonly b: Tensor
  readonly bias?: Tensor
  readonly residual?: Tensor
}

/** A product and what is done to its values; undefined for a result of one column, which is computed as a row. */
export function productWith(
  { a, b, ...ending }: WithEnding,
  { transposeA, transposeB, relu }: { transposeA: boolean; transposeB: boolean; relu: boolean },
): Tensor | undefined {
  const { product, shape } = productOf(a, b, transposeA, transposeB)
  if (shape.at(-1) === 1) return undefined
  return multiplyBy(variantFor(product), product, shape, { ...ending, relu })
}

/** x [rows, inner] times each of several matrices of one shape, at once; undefined unless x has few rows. */
export function products(x: Tensor, matrices: readonly Tensor[]): Tensor[] | undefined {
  const count = matrices.length
  const { product, shape } = productOf(x, matrices[0]!, false, false)
  const variant = variantFor(product)
  if (variant.kind !== 'rows' || shape.at(-1) === 1 || 2 * count + 1 > mostBindings()) return undefined
  const all = { ...product, batch: [1, 1, 1, count] }
  const grid = rowsGridOf(variant, all)
  return runAll(rowsShader(variant, all, endingFor({}), count), {
    inputs: [x, ...matrices],
    uniforms: uniformsOf(all, product.inner, grid),
    workgroups: util.sizeFromShape(grid),
    into: matrices.map(() => shape),
  })
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
