/** A module declared anew for shared memory: against what the compiler makes, and written by hand. */
import { describe, expect, test } from 'vitest'
import { compileAssembly } from '../tools/assembly.mjs'
import { plain, relaxed } from './generated/modules'
import { shareMemory } from './share'

const bytesOf = (base64: string) => Uint8Array.from(Buffer.from(base64, 'base64'))

test.each([
  ['plain', plain, []],
  ['relaxed', relaxed, ['--enable', 'relaxed-simd']],
])('the %s build comes to what the compiler makes for shared memory', async (_, base64, more) => {
  const shared = ['--enable', 'threads', '--sharedMemory', '--maximumMemory', '65536']
  const compiled = await compileAssembly([...more, ...shared])
  expect(Buffer.compare(shareMemory(bytesOf(base64)), compiled)).toBe(0)
})

/** A module of these sections: [number, ...content]. */
const moduleOf = (...sections: number[][]) =>
  new Uint8Array([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...sections.flatMap(([number, ...content]) => [number!, content.length, ...content]),
  ])
const exported = [7, 1, 1, 0x6d, 2, 0] // the memory, as "m"

describe('memory of its own', () => {
  test.each([
    ['without an end', [5, 1, 0, 1], 65536],
    ['of at most 300 pages', [5, 1, 1, 1, 0xac, 2], 300],
    ['that is shared already', [5, 1, 3, 1, 0xac, 2], 300],
  ])('%s', (_, section, most) => {
    const module = new WebAssembly.Module(shareMemory(moduleOf(section, exported)))
    const { m: memory } = new WebAssembly.Instance(module).exports as { m: WebAssembly.Memory }
    expect(memory.buffer).toBeInstanceOf(SharedArrayBuffer)
    expect(memory.buffer.byteLength).toBe(65536)
    expect(() => memory.grow(most)).toThrow(RangeError)
    expect(memory.grow(299)).toBe(1)
  })
})

test('an imported memory, behind imports of every other kind', () => {
  const name = (kind: number, ...type: number[]) => [1, 0x65, 1, 0x61 + kind, kind, ...type]
  const others = [...name(0, 0), ...name(1, 0x70, 1, 1, 9), ...name(3, 0x7f, 0)]
  const module = moduleOf([1, 1, 0x60, 0, 0], [2, 4, ...others, ...name(2, 0, 1)])
  const start = (bytes: Uint8Array<ArrayBuffer>, shared: boolean) =>
    new WebAssembly.Instance(new WebAssembly.Module(bytes), {
      e: {
        a() {},
        b: new WebAssembly.Table({ element: 'anyfunc', initial: 1, maximum: 9 }),
        c: new WebAssembly.Memory({ initial: 1, maximum: 65536, shared }),
        d: 0,
      },
    })
  start(module, false)
  expect(() => start(module, true)).toThrow(WebAssembly.LinkError)
  start(shareMemory(module), true)
  expect(() => start(shareMemory(module), false)).toThrow(WebAssembly.LinkError)
})

test('a module without a memory, and what is no module', () => {
  expect(() => shareMemory(moduleOf([1, 1, 0x60, 0, 0]))).toThrow(/no memory/)
  expect(() => shareMemory(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 5]))).toThrow(/no wasm module/)
})
