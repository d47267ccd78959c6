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
import { type Ending, type EndingOf, endingFor } from '../ending'
import { mostBindings, type Run, run, runAll, type Shader, sumOf } from '../program'
import { nameOf, type Variant, variantFor, variantsFor } from './choose'
import { type Product, productOf } from './product'
import { rowsGridOf, rowsShader } from './rows'
import { gridOf, perPartOf, tilesShader, uniformsOf } from './tiles'

/** How a product is computed, whatever the values. */
interface Way {
  /** Which of the two given is the left factor and which the right one. */
  readonly factors: readonly ['a' | 'b', 'a' | 'b']
  readonly shape: readonly number[]
  readonly shader: Shader
  readonly job: Pick<Run, 'uniforms' | 'workgroups'>
  /** Where the inner axis is divided: how its parts are added up. */
  readonly parts?: { readonly count: number; readonly size: number; readonly columns: number }
  readonly ending: Ending
}

export function wayOf(
  variant: Variant,
  product: Product,
  shape: readonly number[],
  ending = endingFor({}),
): Way {
  const way = { factors: [product.left.of, product.right.of], shape, ending } as const
  const jobOf = (perPart: number, grid: number[]) => ({
    uniforms: uniformsOf(product, perPart, grid),
    workgroups: util.sizeFromShape(grid),
  })
  if (variant.kind === 'rows')
    return {
      ...way,
      shader: rowsShader(variant, product, ending),
      job: jobOf(product.inner, rowsGridOf(variant, product)),
    }
  const perPart = perPartOf(variant, product, variant.parts)
  const count = Math.ceil(product.inner / perPart)
  const job = jobOf(perPart, gridOf(variant, product, count))
  if (count === 1) return { ...way, shader: tilesShader(variant, product, ending), job }
  const size = util.sizeFromShape([...shape])
  const parts = { count, size, columns: product.columns }
  return { ...way, shader: tilesShader(variant, product, endingFor({})), job, parts }
}

/** Computes a product. `beside`: what its ending binds. */
export function multiply(
  { factors, shape, shader, job, parts, ending }: Way,
  given: Readonly<Record<'a' | 'b', TensorInfo>>,
  beside: readonly TensorInfo[] = [],
): Tensor {
  const inputs = factors.map((of) => given[of])
  if (!parts) return run(shader, { ...job, inputs: [...inputs, ...beside], into: shape })
  const { count, size, columns } = parts
  const sums = run(shader, { ...job, inputs, into: [count, size] })
  const total = sumOf(sums, shape, { count, inner: size }, { ending, inputs: beside, columns })
  sums.dispose()
  return total
}

/** Ways by shapes, transposes and endings: steps repeat themselves, and working one out takes longer than to record it. */
const ways = new Map<string, Way>()
const waysKept = 1024

function knownWay(
  a: TensorInfo,
  b: TensorInfo,
  transposeA: boolean,
  transposeB: boolean,
  ending: EndingOf = {},
): Way {
  const key = `${a.shape}/${b.shape}/${transposeA}/${transposeB}/${!!ending.bias}/${!!ending.residual}/${!!ending.relu}`
  const known = ways.get(key)
  if (known) return known
  const { product, shape } = productOf(a, b, transposeA, transposeB)
  const way = wayOf(variantFor(product), product, shape, endingFor(ending))
  if (ways.size >= waysKept) ways.clear()
  ways.set(key, way)
  return way
}

interface WithEnding {
  readonly a: Tensor
  readonly b: Tensor
  readonly bias?: Tensor
  readonly residual?: Tensor
}

/** A product and what is done to its values; undefined for a result of one column, which is computed as a row. */
export function productWith(
  { a, b, bias, residual }: WithEnding,
  { transposeA, transposeB, relu }: { transposeA: boolean; transposeB: boolean; relu: boolean },
): Tensor | undefined {
  if (b.shape.at(transposeB ? -2 : -1) === 1) return undefined
  const ending = { ...(bias && { bias }), ...(residual && { residual }), relu }
  const beside = [bias, residual].filter((tensor) => tensor !== undefined)
  return multiply(knownWay(a, b, transposeA, transposeB, ending), { a, b }, beside)
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

const isEmpty = ({ shape }: TensorInfo) => shape.includes(0)

/** The kernel. Whatever is not float32 goes to tfjs's own. */
export const batchMatMul =
  (stock: KernelFunc): KernelFunc =>
  (args) => {
    const { a, b } = args.inputs as { a: TensorInfo; b: TensorInfo }
    const { transposeA, transposeB } = args.attrs as unknown as BatchMatMulAttrs
    if (a.dtype !== 'float32' || b.dtype !== 'float32') return stock(args)
    if (isEmpty(a) || isEmpty(b)) return zeros(productOf(a, b, transposeA, transposeB).shape)
    return multiply(knownWay(a, b, transposeA, transposeB), { a, b })
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
    multiply: () => multiply(wayOf(variant, product, shape), { a, b }),
  }))
}
