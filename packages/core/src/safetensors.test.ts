import { expect, test } from 'vitest'
import { FormatError } from './errors'
import { decodeSafetensors, encodeSafetensors, type HostTensor } from './safetensors'

const tensors = new Map<string, HostTensor>([
  ['weights', { dtype: 'float32', shape: [2, 3], data: Float32Array.of(1, -2, 3.5, 0, 1e-30, -0) }],
  ['steps', { dtype: 'int32', shape: [2], data: Int32Array.of(-1, 2 ** 31 - 1) }],
  ['empty', { dtype: 'float32', shape: [2, 0, 4], data: new Float32Array(0) }],
  ['scalar', { dtype: 'float32', shape: [], data: Float32Array.of(7) }],
])
const metadata = { format: 'test', text: 'Λήθη {"a": 1}' }
const bytes = encodeSafetensors({ tensors, metadata })

test('what is written is read, also from a Node Buffer in the middle of a pool', () => {
  const pooled = Buffer.concat([Buffer.from('xyz'), bytes]).subarray(3)
  for (const source of [bytes, pooled]) {
    const file = decodeSafetensors(source)
    expect(file.metadata).toEqual(metadata)
    expect([...file.tensors]).toEqual([...tensors])
    for (const { data } of file.tensors.values()) expect(data.buffer.byteLength).toBe(data.byteLength)
  }
})

test('the header is padded to eight bytes, as the format asks', () => {
  expect(Number(new DataView(bytes.buffer).getBigUint64(0, true)) % 8).toBe(0)
})

test('cut off anywhere, it is refused', () => {
  for (let length = 0; length < bytes.length; length += 5)
    expect(() => decodeSafetensors(bytes.subarray(0, length), 'part'), `${length} bytes`).toThrow(FormatError)
})

const withHeader = (header: string) => {
  const json = new TextEncoder().encode(header)
  const file = new Uint8Array(8 + json.length)
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true)
  file.set(json, 8)
  return file
}

test.each([
  ['no JSON', '{"a": ', /header is not JSON/],
  ['no object', 'null', /not a JSON object/],
  [
    'another type',
    '{"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}',
    /type F16; only F32 and I32/,
  ],
  ['no shape', '{"a": {"dtype": "F32"}}', /no shape or offsets/],
  [
    'a wrong size',
    '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
    /4 bytes for shape \[2\]/,
  ],
  ['missing data', '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', /cut off/],
])('%s is refused', (_, header, message) => {
  expect(() => decodeSafetensors(withHeader(header), 'it')).toThrow(message)
})
