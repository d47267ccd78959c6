/** The logits of a tile's pairs. */
import type { Plan } from './plan'
import { blocksOf, four, queryOf, slotOf, slotQuad, times } from './tiles'
import type { Tile } from './tiling'

/** What is known of the slots of each of a thread's quads. */
export const slotQuadsCode = (tile: Tile) =>
  times(tile.columns, (c) => `let slots${c} = slotsOf(${slotQuad(tile, c)});`)

/** Factors of four weights, by dropout. */
export const droppedQuad = (g: number) => `
fn dropped${g}(stream: i32, head: i32, i: i32, j: i32) -> vec4<f32> {
  let origin = ((stream * uniforms.sizes.y + head) * uniforms.sizes.z + i) * uniforms.sizes.w + uniforms.group${g}.x + j;
  return vec4<f32>(dropout[origin], dropout[origin + 1], dropout[origin + 2], dropout[origin + 3]);
}`

/** Whether strengths may be other than 0 and 1. */
export const hasRamps = ({ life, span }: Plan): boolean => life !== undefined || span !== undefined

/** Which groups dropout and selection count for: all but the persistent slots. */
export const isPersistent = (plan: Plan, g: number) => plan.groups[g]!.index === undefined

/**
 * The logits of a tile's pairs, and these less what was voted away: `raw`, by productCode, and `logits` + a block's `at`.
 * What is known of the slots comes behind the products, which need the registers.
 */
export const logitsCode = (plan: Plan, tile: Tile, g: number) => `
    ${slotQuadsCode(tile)}
    ${blocksOf(tile)
      .map((block) => {
        const { at } = block
        const votes =
          plan.selection && !isPersistent(plan, g)
            ? four(
                (x) =>
                  `logits${at}[${x}] -= votedQuad${g}(stream, ${queryOf(tile, block)} + ${x}, ${slotOf(tile, block)});`,
              )
            : ''
        return `raw${at} *= uniforms.terms.x;\nvar logits${at} = raw${at};\n${votes}`
      })
      .join('\n')}`
