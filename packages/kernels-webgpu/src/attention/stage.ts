/**
 * How a workgroup's threads carry quads into workgroup memory, some each: what comes next is fetched into registers while
 * the threads compute with what is there, since few workgroups fit a processor at a time to fill the wait.
 */
import type { Tile } from './tiling'

export interface Stage {
  readonly declare: string
  /** Reads the quads of rows from `begin` on. */
  readonly fetch: (begin: string) => string
  /** Puts what was fetched where all threads read it. */
  readonly store: string
}

/**
 * @param read a quad of a row → WGSL
 * @param place where it goes, from its number, row and quad
 */
export function stageOf(
  { threads }: Tile,
  name: string,
  [rows, quads]: readonly [rows: number, quads: number],
  read: (row: string, quad: string) => string,
  place: (number: string, row: string, quad: string) => string,
): Stage {
  const count = Math.ceil((rows * quads) / threads)
  const each = (code: (held: string) => string) =>
    Array.from({ length: count }, (_, n) => {
      const body = `let row = number / ${quads}; let quad = number % ${quads}; ${code(`${name}_${n}`)}`
      const inside = (n + 1) * threads <= rows * quads ? body : `if (number < ${rows * quads}) { ${body} }`
      return `{ let number = i32(localIndex) + ${n * threads}; ${inside} }`
    }).join('\n')
  return {
    declare: Array.from({ length: count }, (_, n) => `var ${name}_${n} = vec4<f32>();`).join(' '),
    fetch: (begin) => each((held) => `${held} = ${read(`${begin} + row`, 'quad')};`),
    store: each((held) => `tileMemory[${place('number', 'row', 'quad')}] = ${held};`),
  }
}

/** Code over chunks of rows, the first of which is fetched apart, before whatever comes between. */
export interface Staged {
  readonly fetch: string
  readonly code: string
}

/** `body` for one chunk of rows after the other, each of which the stages bring. */
export function inChunks(
  stages: readonly Stage[],
  { size, chunk }: { readonly size: number; readonly chunk: number },
  body: string,
): Staged {
  const all = (part: (stage: Stage) => string) => stages.map(part).join('\n')
  return {
    fetch: `${all(({ declare }) => declare)}\n${all(({ fetch }) => fetch('0'))}`,
    code: `
  for (var begin = 0; begin < ${size}; begin += ${chunk}) {
    workgroupBarrier();
    ${all(({ store }) => store)}
    workgroupBarrier();
    ${chunk < size ? `if (begin + ${chunk} < ${size}) { ${all(({ fetch }) => fetch(`begin + ${chunk}`))} }` : ''}
    ${body}
  }`,
  }
}
