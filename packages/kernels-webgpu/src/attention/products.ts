/** Products over features of a tile's queries and slots. */
import type { Plan } from './plan'
import { inChunks, type Staged, stageOf } from './stage'
import { blocksOf, four, queryOf, queryQuad, slotQuad, times } from './tiles'
import { memoryOf, type Tile } from './tiling'

/** The distance of which a tile of group g has keys from there down: pair (i, j) has number queries + j - i of them. */
export const firstDistance = (tile: Tile, g: number) => `uniforms.group${g}.w - j0 + i0 + ${tile.queries}`

/**
 * Sums over features of queries × keys or values, keys' positions included: `name` + a block's `at` is a matrix with a
 * column for each of four queries.
 */
export function productCode(
  plan: Plan,
  tile: Tile,
  g: number,
  source: 'key' | 'value',
  name: string,
): Staged {
  const group = plan.groups[g]!
  const { rows } = plan
  const blocks = blocksOf(tile)
  const { right, turned, positions } = memoryOf(plan, tile)
  const [queries, slots, chunk] = [tile.queries / 4, tile.slots / 4, tile.productChunk]
  const row = group.index === undefined ? rows.persistent : rows.content
  const placed = source === 'key' && group.positions !== undefined
  const apart = placed && rows.position !== rows.content
  const turnedOf = (r: number) => (apart ? `turned${r}` : `left${r}`)
  const even = placed && group.even
  const columns = placed && !group.even
  const rowsFrom = (begin: string | number) => (row: string, quad: string) =>
    `rowQuad(stream, head, ${begin}, ${row}, i0 + 4 * ${quad})`
  const stages = [
    stageOf(
      tile,
      `${name}Left`,
      [chunk, queries],
      rowsFrom(source === 'key' ? row : 'gradientRow'),
      (number) => number,
    ),
    ...(apart
      ? [
          stageOf(
            tile,
            `${name}Turned`,
            [chunk, queries],
            rowsFrom(rows.position),
            (number) => `${turned} + ${number}`,
          ),
        ]
      : []),
    stageOf(
      tile,
      `${name}Right`,
      [chunk, slots],
      (row, quad) => `${source}Quad${g}(stream, head, ${row}, j0 + 4 * ${quad})`,
      (number) => `${right} + ${number}`,
    ),
    ...(even
      ? [
          stageOf(
            tile,
            `${name}Distances`,
            [chunk, queries + slots],
            (row, quad) => `distanceQuad${g}(head, ${row}, ${firstDistance(tile, g)} - 4 * ${quad})`,
            (number) => `${positions} + ${number}`,
          ),
        ]
      : []),
  ]
  const steps = inChunks(
    stages,
    { size: plan.size, chunk },
    `
    for (var f = 0; f < ${chunk}; f++) {
      ${times(tile.rows, (r) => `let left${r} = tileMemory[f * ${queries} + ${queryQuad(tile, r)}];`)}
      ${times(tile.columns, (c) => `let right${c} = tileMemory[${right} + f * ${slots} + ${slotQuad(tile, c)}];`)}
      ${blocks.map(({ row: r, column: c, at }) => `${name}${at} += outer(left${r}, right${c});`).join('\n')}
      ${apart ? times(tile.rows, (r) => `let turned${r} = tileMemory[${turned} + f * ${queries} + ${queryQuad(tile, r)}];`) : ''}
      ${
        even
          ? times(
              tile.columns,
              (
                c,
              ) => `let place${c} = ${positions} + f * ${queries + slots} + ${slotQuad(tile, c)} + tyBack * ${tile.rows};
      ${times(tile.rows + 1, (k) => `let key${c}_${k} = tileMemory[place${c} + ${tile.rows - k}];`)}`,
            )
          : ''
      }
      ${
        even
          ? blocks
              .map(({ row: r, column: c, at }) => {
                const [q, high, low] = [turnedOf(r), `key${c}_${r}`, `key${c}_${r + 1}`]
                return `${name}${at} += mat4x4<f32>(${q}.x * ${high}, ${q}.y * vec4<f32>(${low}.w, ${high}.xyz),
          ${q}.z * vec4<f32>(${low}.zw, ${high}.xy), ${q}.w * vec4<f32>(${low}.yzw, ${high}.x));`
              })
              .join('\n')
          : ''
      }
      ${
        columns
          ? `if (begin + f < D) {
        ${blocks
          .map(({ row: r, at }) =>
            four(
              (x, letter) =>
                `${name}${at}[${x}] += ${turnedOf(r)}.${letter} * positionQuad${g}(head, begin + f, columns${at}${x});`,
            ),
          )
          .join('\n')}
      }`
          : ''
      }
    }`,
  )
  const placesOfColumns = columns
    ? blocks
        .map((block) =>
          four(
            (x) =>
              `let columns${block.at}${x} = columnsOf${g}(slotsOf(${slotQuad(tile, block.column)}).base, ${queryOf(tile, block)} + ${x});`,
          ),
        )
        .join('\n')
    : ''
  return {
    fetch: steps.fetch,
    code: `
  ${blocks.map(({ at }) => `var ${name}${at} = mat4x4<f32>();`).join(' ')}
  {
    ${placesOfColumns}
    ${steps.code}
  }`,
  }
}
