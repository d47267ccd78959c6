/** Both modules can live in another module's memory; what could not is refused. */
import { describe, expect, test } from 'vitest'
import { inspect } from '../tools/inspect.mjs'
import { plain, relaxed } from './generated/modules'

const bytesOf = (base64: string) => Uint8Array.from(Buffer.from(base64, 'base64'))

describe.each([
  ['plain', plain],
  ['relaxed', relaxed],
])('the %s build', (_, base64) => {
  test('has code, and imports the memory alone', () => {
    expect(inspect(bytesOf(base64))).toEqual(['type', 'import', 'function', 'export', 'code'])
  })

  test.each([
    ['a data section', [11, 6, 1, 0, 0x41, 0, 0x0b, 0], 'section "data"'],
    ['a global', [6, 6, 1, 0x7f, 1, 0x41, 0, 0x0b], 'section "global"'],
    ['a start function', [8, 1, 0], 'section "start"'],
    ['its own memory', [5, 3, 1, 0, 1], 'section "memory"'],
    ['another import', [2, 7, 1, 1, 0x65, 1, 0x66, 0, 0], 'function "e.f"'],
    ['an exported memory', [7, 5, 1, 1, 0x6d, 2, 0], 'memory "m"'],
  ])('%s would be found', (_, section, message) => {
    expect(() => inspect(new Uint8Array([...bytesOf(base64), ...section]))).toThrow(message)
  })
})
