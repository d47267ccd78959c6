/** Which shader computes a product: the one place where that is decided. */
import { matricesOf, type Product } from './product'
import { type Rows, rowsGridOf, unitOf } from './rows'
import { gridOf, type Tiles } from './tiles'

export type Variant =
  | Rows
  | (Tiles & { /** Shares of the inner axis, which are added afterwards. */ readonly parts: number })

const tiles = (
  rows: number,
  columns: number,
  inner: number,
  perThread: readonly [number, number],
  ahead: Tiles['ahead'],
): Tiles => ({ kind: 'tiles', rows, columns, inner, perThread, ahead })

/** Under 16 KB of workgroup memory and 256 threads each, which every device has. */
const allTiles: readonly Tiles[] = [
  tiles(128, 128, 8, [8, 8], 'halves'),
  tiles(128, 128, 16, [8, 8], false),
  tiles(128, 64, 8, [8, 8], 'halves'),
  tiles(128, 64, 16, [8, 8], false),
  tiles(128, 64, 16, [8, 4], false),
  tiles(64, 128, 16, [8, 8], false),
  tiles(64, 64, 16, [8, 8], 'halves'),
  tiles(64, 64, 16, [8, 8], false),
  tiles(64, 64, 16, [8, 4], 'halves'),
  tiles(64, 64, 16, [8, 4], false),
  tiles(64, 64, 32, [8, 4], false),
  tiles(64, 64, 16, [4, 4], 'halves'),
  tiles(64, 64, 32, [4, 4], false),
  tiles(32, 64, 16, [4, 4], 'halves'),
  tiles(32, 64, 32, [4, 4], false),
  tiles(32, 32, 32, [4, 4], 'halves'),
  tiles(32, 32, 32, [4, 4], false),
  tiles(16, 64, 32, [4, 4], false),
  tiles(128, 128, 8, [8, 8], 'registers'),
  tiles(128, 128, 16, [8, 8], 'registers'),
  tiles(128, 64, 16, [8, 4], 'registers'),
  tiles(64, 64, 16, [8, 4], 'registers'),
  tiles(64, 64, 32, [8, 4], 'registers'),
  tiles(32, 32, 32, [4, 4], 'registers'),
]

/** Workgroups that keep a large GPU busy. */
const enough = 256
/** Steps of the inner axis below which a part is not worth the adding. */
const leastSteps = 4
/** Up to so many rows, reading the right factor takes the time. */
export const fewRows = 8

const workgroupsOf = (variant: Tiles, product: Product) => {
  const [down, across] = gridOf(variant, product, 1) as [number, number]
  return down * across * matricesOf(product)
}

/** As many parts as keep the GPU busy. */
function partsFor(variant: Tiles, product: Product): number {
  const steps = Math.ceil(product.inner / variant.inner)
  const wanted = Math.round(enough / workgroupsOf(variant, product))
  return Math.max(1, Math.min(wanted, Math.floor(steps / leastSteps)))
}

/** Few rows by as many workgroups as keep the GPU busy. */
export function rowsFor(product: Product): Rows {
  const rows = product.rows === 1 ? 1 : 4
  const [least, most] = unitOf(product) === 4 ? [2, 16] : [4, 32]
  let units = most
  const count = (units: number) => {
    const [down, across, matrices] = rowsGridOf({ kind: 'rows', rows, units }, product) as [
      number,
      number,
      number,
    ]
    return down * across * matrices
  }
  while (units > least && count(units) < enough / 2) units /= 2
  return { kind: 'rows', rows, units }
}

/** Workgroups with which a GPU is busy enough to share out no inner axis. */
const busy = 128
/** Inner axis up to which small tiles cost less than adding up parts. */
const shortInner = 1024
/** Inner axis from which large tiles are worth the adding up, and how many of them there must be. */
const [longInner, someLarge] = [2048, 16]

/** By what was fastest on an H100 and an H200 (bench/matmul.mjs). */
export function variantFor(product: Product): Variant {
  if (product.rows <= fewRows) return rowsFor(product)
  // Of two transposed factors others took 278 µs instead of 77 on an H200 (8 × 512 × 512 × 512), for no other product.
  const ahead = product.left.turned && product.right.turned && 'registers'
  const [large, medium, mediumInParts, small] = [
    tiles(128, 128, 16, [8, 8], ahead),
    tiles(64, 64, 16, [8, 4], ahead),
    tiles(64, 64, 32, [8, 4], ahead),
    tiles(32, 32, 32, [4, 4], ahead),
  ]
  const whole = (tile: Tiles) => ({ ...tile, parts: 1 })
  const inParts = (tile: Tiles) => ({ ...tile, parts: partsFor(tile, product) })
  if (workgroupsOf(large, product) >= 2 * busy) return whole(large)
  if (product.inner >= longInner && workgroupsOf(large, product) >= someLarge) return inParts(large)
  if (workgroupsOf(medium, product) >= busy) return whole(medium)
  if (workgroupsOf(small, product) >= 2 * busy && product.inner <= shortInner) return whole(small)
  return inParts(product.rows <= 32 || product.columns <= 32 ? small : mediumInParts)
}

/** What may be worth measuring for a product: every tile, each with one part and with as many as seem right. */
export function variantsFor(product: Product): Variant[] {
  return [
    ...(product.rows <= 2 * fewRows ? [rowsFor(product)] : []),
    ...allTiles.flatMap((one) =>
      [...new Set([1, partsFor(one, product)])].map((parts) => ({ ...one, parts })),
    ),
  ]
}

/** A variant in a few signs, for tables. */
export function nameOf(variant: Variant): string {
  if (variant.kind === 'rows') return `rows ${variant.rows}, ${variant.units} units`
  const { rows, columns, inner, perThread, ahead, parts } = variant
  return `${rows}x${columns}x${inner} ${perThread.join('x')}${ahead ? ` ahead in ${ahead}` : ''}${parts > 1 ? ` /${parts}` : ''}`
}
