/** Files that lie: whatever is wrong, the error is a FormatError, and nothing half read comes out. */
import { describe, expect, test } from 'vitest'
import { FormatError } from './errors'
import { decodeSafetensors, encodeSafetensors } from './safetensors'

/** A file with this header and so many bytes of data. */
function fileOf(header: unknown, dataBytes: number, headerLength?: bigint): Uint8Array {
  const json = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header))
  const bytes = new Uint8Array(8 + json.length + dataBytes)
  new DataView(bytes.buffer).setBigUint64(0, headerLength ?? BigInt(json.length), true)
  bytes.set(json, 8)
  return bytes
}

const entry = (shape: unknown, from: unknown, to: unknown) => ({
  dtype: 'F32',
  shape,
  data_offsets: [from, to],
})

test.each<[string, Uint8Array, RegExp]>([
  ['a header of endless length', fileOf({}, 0, 2n ** 63n), /header needs/],
  ['a header that is a list', fileOf([], 0), /not a JSON object/],
  ['a header that is a number', fileOf(5, 0), /not a JSON object/],
  ['an entry that is null', fileOf({ a: null }, 0), /"a" has no shape/],
  ['an entry that is a string', fileOf({ a: 'F32' }, 0), /"a" has no shape/],
  ['a negative size', fileOf({ a: entry([-1], 4, 0) }, 4), /"a" has no shape/],
  ['a negative offset', fileOf({ a: entry([1], -4, 0) }, 4), /"a" has no shape/],
  ['a fractional size', fileOf({ a: entry([0.5], 0, 2) }, 2), /"a" has no shape/],
  ['sizes in quotes', fileOf({ a: entry(['1'], 0, 4) }, 4), /"a" has no shape/],
  ['no offsets', fileOf({ a: { dtype: 'F32', shape: [1] } }, 4), /"a" has no shape or offsets/],
  ['one offset', fileOf({ a: { dtype: 'F32', shape: [1], data_offsets: [0] } }, 4), /"a" has/],
  ['another element size', fileOf({ a: { dtype: 'F64', shape: [1], data_offsets: [0, 8] } }, 8), /type F64/],
  ['an endless shape', fileOf({ a: entry([2 ** 40, 2 ** 40], 0, 4) }, 4), /"a" has 4 bytes/],
  ['shared bytes', fileOf({ a: entry([2], 0, 8), b: entry([2], 4, 12) }, 12), /"b" overlaps other data/],
  ['the same bytes', fileOf({ a: entry([1], 0, 4), b: entry([1], 0, 4) }, 4), /"b" overlaps other data/],
  ['a hole', fileOf({ a: entry([1], 0, 4), b: entry([1], 8, 12) }, 12), /"b" follows a hole/],
  ['a hole before all', fileOf({ a: entry([1], 4, 8) }, 8), /"a" follows a hole/],
  ['bytes after the end', fileOf({ a: entry([1], 0, 4) }, 9), /5 bytes follow its data/],
  ['bytes in an empty file', fileOf({}, 1), /1 bytes follow its data/],
  ['metadata that is null', fileOf({ __metadata__: null }, 0), /metadata is not all strings/],
  ['metadata of numbers', fileOf({ __metadata__: { step: 5 } }, 0), /metadata is not all strings/],
  ['broken UTF-8', fileOf('{"a": "\ud800"}', 0).map((byte, i) => (i === 14 ? 0xff : byte)), /not JSON/],
])('%s', (_, bytes, message) => {
  expect(() => decodeSafetensors(bytes, 'it')).toThrow(FormatError)
  expect(() => decodeSafetensors(bytes, 'it')).toThrow(message)
})

describe('what the format allows', () => {
  test('data in another order than the header, empty tensors at a border', () => {
    const bytes = fileOf(
      { b: entry([2], 4, 12), empty: entry([3, 0], 4, 4), a: entry([1], 0, 4), last: entry([0], 12, 12) },
      12,
    )
    new DataView(bytes.buffer).setFloat32(bytes.length - 12, 7, true)
    const { tensors } = decodeSafetensors(bytes)
    expect([...tensors.keys()]).toEqual(['b', 'empty', 'a', 'last'])
    expect(tensors.get('a')!.data).toEqual(Float32Array.of(7))
    expect(tensors.get('empty')).toEqual({ dtype: 'float32', shape: [3, 0], data: new Float32Array(0) })
  })

  test('nothing at all', () => {
    const bytes = encodeSafetensors({ tensors: new Map(), metadata: {} })
    expect(decodeSafetensors(bytes)).toEqual({ tensors: new Map(), metadata: {} })
  })

  test('names with quotes, dots and any script', () => {
    const names = ['layers.0.weight', 'say "λήθη"', '', '__proto__', 'constructor', '🌊']
    const tensors = new Map(
      names.map((name, index) => [
        name,
        { dtype: 'float32' as const, shape: [1], data: Float32Array.of(index) },
      ]),
    )
    expect([...decodeSafetensors(encodeSafetensors({ tensors, metadata: {} })).tensors]).toEqual([...tensors])
  })
})

test('cut off at any byte, it is refused', () => {
  const bytes = encodeSafetensors({
    tensors: new Map([
      ['a', { dtype: 'float32', shape: [3], data: Float32Array.of(1, 2, 3) }],
      ['b', { dtype: 'int32', shape: [], data: Int32Array.of(4) }],
    ]),
    metadata: { format: 'test' },
  })
  for (let length = 0; length < bytes.length; length++)
    expect(() => decodeSafetensors(bytes.subarray(0, length)), `${length} bytes`).toThrow(FormatError)
})

test('views into larger buffers are written without their surroundings', () => {
  const data = Float32Array.of(0, 1, 2, 3).subarray(1, 3)
  const bytes = encodeSafetensors({
    tensors: new Map([['a', { dtype: 'float32', shape: [2], data }]]),
    metadata: {},
  })
  expect(decodeSafetensors(bytes).tensors.get('a')!.data).toEqual(Float32Array.of(1, 2))
})
