/**
 * The safetensors file format: 8 bytes of header length, a JSON header, raw little-endian data without holes.
 * Small and safe to read (no code in it), and every other framework reads it too.
 * Source: https://github.com/huggingface/safetensors
 */
import { FormatError } from './errors'

/** A tensor on the host: row-major values and their shape. */
export interface HostTensor {
  readonly dtype: 'float32' | 'int32'
  readonly shape: readonly number[]
  readonly data: Float32Array | Int32Array
}

/** Named tensors and string metadata, as a file holds them. */
export interface TensorFile {
  readonly tensors: ReadonlyMap<string, HostTensor>
  readonly metadata: Readonly<Record<string, string>>
}

const formatNames = { float32: 'F32', int32: 'I32' } as const

/** Writes tensors (in the given order) and metadata as safetensors bytes. */
export function encodeSafetensors(file: TensorFile): Uint8Array<ArrayBuffer> {
  // Without a prototype, so that any name is only a name.
  const header: Record<string, unknown> = Object.create(null)
  if (Object.keys(file.metadata).length > 0) header.__metadata__ = file.metadata
  let offset = 0
  for (const [name, tensor] of file.tensors) {
    header[name] = {
      dtype: formatNames[tensor.dtype],
      shape: tensor.shape,
      data_offsets: [offset, offset + tensor.data.byteLength],
    }
    offset += tensor.data.byteLength
  }
  const json = new TextEncoder().encode(JSON.stringify(header))
  const padded = Math.ceil(json.length / 8) * 8
  const bytes = new Uint8Array(8 + padded + offset)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true)
  bytes.fill(0x20, 8, 8 + padded)
  bytes.set(json, 8)
  let position = 8 + padded
  for (const { data } of file.tensors.values()) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), position)
    position += data.byteLength
  }
  return bytes
}

/**
 * Reads safetensors bytes; the tensors are copies.
 * @throws FormatError when the bytes are truncated, not safetensors, or hold a type other than F32 and I32.
 */
export function decodeSafetensors(bytes: Uint8Array, name = 'the file'): TensorFile {
  const refuse = (why: string): never => {
    throw new FormatError(`${name} is not a whole safetensors file: ${why}`, { name, bytes: bytes.length })
  }
  if (bytes.length < 8) refuse(`it has ${bytes.length} bytes`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const headerLength = Number(view.getBigUint64(0, true))
  if (headerLength > bytes.length - 8)
    refuse(`its header needs ${headerLength} bytes, ${bytes.length - 8} are there`)
  let header: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(8, 8 + headerLength)))
  } catch {
    return refuse('its header is not JSON')
  }
  if (!isRecord(header)) refuse('its header is not a JSON object')
  const { __metadata__: metadata = {} } = header as { __metadata__?: Record<string, string> }
  if (!isRecord(metadata) || Object.values(metadata).some((value) => typeof value !== 'string'))
    refuse('its metadata is not all strings')
  const start = 8 + headerLength
  const ranges: [from: number, to: number, key: string][] = []
  const tensors = new Map<string, HostTensor>()
  for (const [key, entry] of Object.entries(header)) {
    if (key === '__metadata__') continue
    if (!isRecord(entry) || !isCounts(entry.shape) || !isCounts(entry.data_offsets))
      refuse(`the entry "${key}" has no shape or offsets`)
    const { dtype, shape, data_offsets: offsets } = entry
    const [from, to] = offsets
    const size = shape.reduce((product, dimension) => product * dimension, 1)
    if (dtype !== 'F32' && dtype !== 'I32') refuse(`"${key}" has type ${dtype}; only F32 and I32 are read`)
    if (to - from !== size * 4) refuse(`"${key}" has ${to - from} bytes for shape [${shape}]`)
    if (start + to > bytes.length) refuse(`the data of "${key}" is missing (the file was cut off)`)
    ranges.push([from, to, key])
    // A copy of its own, also where `bytes` is a Node Buffer, whose slice() shares memory.
    const copy = new Uint8Array(bytes.subarray(start + from, start + to)).buffer
    tensors.set(key, {
      dtype: dtype === 'F32' ? 'float32' : 'int32',
      shape,
      data: dtype === 'F32' ? new Float32Array(copy) : new Int32Array(copy),
    })
  }
  // The format knows neither holes nor shared bytes: tensors lie side by side up to the end.
  ranges.sort(([a, endOfA], [b, endOfB]) => a - b || endOfA - endOfB)
  let end = 0
  for (const [from, to, key] of ranges) {
    if (from !== end) refuse(`the data of "${key}" ${from < end ? 'overlaps other data' : 'follows a hole'}`)
    end = to
  }
  if (start + end !== bytes.length) refuse(`${bytes.length - start - end} bytes follow its data`)
  return { tensors, metadata }
}

const isRecord = (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Whole numbers from 0 up. */
const isCounts = (value: unknown) =>
  Array.isArray(value) && value.every((count) => Number.isSafeInteger(count) && count >= 0)
