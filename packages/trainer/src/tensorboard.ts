/**
 * Event files that TensorBoard reads: records of the TFRecord format, each an Event protocol buffer
 * (tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto, framework/summary.proto).
 *
 * A run that goes on gets another file, which begins with a start of session: TensorBoard then leaves out what the
 * files before have of the same steps, so that a run that was killed and resumed shows each step once.
 */
import { type FileHandle, mkdir, open, readdir } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { unwritable } from './storage'
import type { TrainEvent } from './train'

const namePattern = /^events\.out\.tfevents\.(\d{10,})\./

/** The curves of one run. */
export class TensorBoardFile {
  private constructor(
    readonly path: string,
    private readonly file: FileHandle,
  ) {}

  /**
   * Begins a file in the folder.
   * @param step steps done before: what other files there have of later ones is no longer shown
   * @throws CheckpointError where the folder cannot be written
   */
  static async create(folder: string, step = 0): Promise<TensorBoardFile> {
    try {
      await mkdir(folder, { recursive: true })
      // TensorBoard reads files in the order of their names.
      const times = (await readdir(folder)).map((name) => Number(namePattern.exec(name)?.[1] ?? -1) + 1)
      const seconds = Math.max(Math.floor(Date.now() / 1000), ...times)
      const name = `events.out.tfevents.${String(seconds).padStart(10, '0')}.${hostname()}.${process.pid}`
      const file = new TensorBoardFile(join(folder, name), await open(join(folder, name), 'ax'))
      await file.write([text(3, 'brain.Event:2')])
      if (times.some((time) => time > 0)) await file.write([varint(2, step + 1), message(7, [varint(1, 1)])])
      return file
    } catch (error) {
      throw unwritable(folder, error)
    }
  }

  /** Adds what `step`, `eval` and `report` events tell; ignores all others. */
  async append(event: TrainEvent): Promise<void> {
    const values = valuesOf(event)
    if (values.length === 0 || !('step' in event)) return
    await this.write([varint(2, event.step), message(5, values)]).catch((error) => {
      throw unwritable(this.path, error)
    })
  }

  async close(): Promise<void> {
    await this.file.close()
  }

  private async write(fields: readonly Uint8Array[]): Promise<void> {
    await this.file.write(record(joined([double(1, Date.now() / 1000), ...fields])))
  }
}

/** Summary.Value messages, by tag. */
function valuesOf(event: TrainEvent): Uint8Array[] {
  if (event.type === 'step') {
    const { loss, perplexity, bitsPerByte, answers, solved, meanReturn, entropy } = event
    return [
      // Of a step without answers, 0 is no loss.
      ...(answers === 0 ? [] : scalars('train', { loss, perplexity, bits_per_byte: bitsPerByte })),
      ...scalars('train', {
        penalty: event.penalty,
        learning_rate: event.learningRate,
        gradient_norm: event.gradientNorm,
        tokens_per_second: event.tokensPerSecond,
        solved,
        mean_return: meanReturn,
        entropy,
      }),
      ...scalars('memory', { slots: event.slots, bytes: event.memoryBytes }),
    ]
  }
  if (event.type === 'eval') {
    if ('solved' in event) {
      const { solved, meanReturn, meanSteps, slots } = event
      return scalars('validation', { solved, mean_return: meanReturn, mean_steps: meanSteps, slots })
    }
    const { loss, perplexity, bitsPerByte, accuracy, slots } = event
    return scalars('validation', { loss, perplexity, bits_per_byte: bitsPerByte, accuracy, slots })
  }
  if (event.type !== 'report') return []
  return event.layers.flatMap(({ slots, attended, figures }, layer) => {
    const own = Object.entries(figures)
    return [
      ...scalars('slots', { [`layer_${layer}`]: slots }),
      ...scalars(
        `attended/layer_${layer}`,
        Object.fromEntries(attended.map((each, head) => [`head_${head}`, each])),
      ),
      ...own.flatMap(([name, figure]) =>
        typeof figure === 'number'
          ? scalars(name, { [`layer_${layer}`]: figure })
          : histogram(`${name}/layer_${layer}`, figure.data),
      ),
    ]
  })
}

const scalars = (group: string, values: Readonly<Record<string, number | undefined>>): Uint8Array[] =>
  Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [message(1, [text(1, `${group}/${name}`), float(2, value)])],
  )

const mostBuckets = 30

/** Equal buckets between the least and the most of the finite values; none of nothing. */
function histogram(tag: string, all: Float32Array): Uint8Array[] {
  const values = all.filter(Number.isFinite)
  if (values.length === 0) return []
  const [least, most] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))]
  const buckets = least === most ? 1 : mostBuckets
  const width = (most - least) / buckets
  const counts = new Array<number>(buckets).fill(0)
  for (const value of values) counts[Math.min(buckets - 1, Math.floor((value - least) / width || 0))]!++
  const limits = counts.map((_, bucket) => (bucket === buckets - 1 ? most : least + (bucket + 1) * width))
  const sum = (of: (value: number) => number) => values.reduce((total, value) => total + of(value), 0)
  const histo = [
    double(1, least),
    double(2, most),
    double(3, values.length),
    double(
      4,
      sum((value) => value),
    ),
    double(
      5,
      sum((value) => value * value),
    ),
    doubles(6, limits),
    doubles(7, counts),
  ]
  return [message(1, [text(1, tag), message(5, histo)])]
}

/** Length, its checksum, the data, their checksum. */
function record(data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(data.length + 16)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, BigInt(data.length), true)
  view.setUint32(8, maskedChecksum(bytes.subarray(0, 8)), true)
  bytes.set(data, 12)
  view.setUint32(12 + data.length, maskedChecksum(data), true)
  return bytes
}

/** CRC-32C (Castagnoli) of each byte, lowest bit first. */
const checksums = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1
  return value
})

/** CRC-32C, rotated and moved, since a checksum of data that hold checksums is no good one (crc32c.h). */
function maskedChecksum(data: Uint8Array): number {
  let value = 0xffffffff
  for (const byte of data) value = checksums[(value ^ byte) & 255]! ^ (value >>> 8)
  value = ~value
  return (((value >>> 15) | (value << 17)) + 0xa282ead8) >>> 0
}

// Protocol buffers: a field is its number and wire type, then its value. Numbers that are 0 are left out, as proto3 has it.

const nothing = new Uint8Array(0)

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/** Seven bits a byte, the lowest first. */
function base128(value: number): Uint8Array {
  const bytes: number[] = []
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) + 128)
  return Uint8Array.from([...bytes, value])
}

const key = (field: number, wireType: number) => base128(field * 8 + wireType)

const varint = (field: number, value: number) =>
  value === 0 ? nothing : joined([key(field, 0), base128(value)])

function double(field: number, value: number): Uint8Array {
  return value === 0 ? nothing : joined([key(field, 1), doubleBytes([value])])
}

function doubleBytes(values: readonly number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(8 * values.length))
  for (const [at, value] of values.entries()) view.setFloat64(8 * at, value, true)
  return new Uint8Array(view.buffer)
}

const bytes = (field: number, value: Uint8Array) => joined([key(field, 2), base128(value.length), value])
const doubles = (field: number, values: readonly number[]) => bytes(field, doubleBytes(values))
const message = (field: number, fields: readonly Uint8Array[]) => bytes(field, joined(fields))
const text = (field: number, value: string) => bytes(field, new TextEncoder().encode(value))

/** One of several, hence there even where it is 0. */
function float(field: number, value: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(4))
  view.setFloat32(0, value, true)
  return joined([key(field, 5), new Uint8Array(view.buffer)])
}
