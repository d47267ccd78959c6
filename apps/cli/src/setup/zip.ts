/**
 * Unpacks chosen files of a zip archive (a Python wheel is one) straight to disk: a wheel of TensorFlow holds most of
 * a gigabyte, of which few files are needed. Format: PKWARE's APPNOTE 6.3, without encryption and zip64.
 */
import { createReadStream, createWriteStream } from 'node:fs'
import { type FileHandle, mkdir, open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { crc32, createInflateRaw } from 'node:zlib'
import { SetupError } from '../errors'

export interface ZipEntry {
  readonly name: string
  readonly bytes: number
  readonly compressedBytes: number
  readonly crc: number
  /** 0 stored, 8 deflated. */
  readonly method: number
  /** Of the local header. */
  readonly offset: number
}

/** @throws SetupError when the file is no whole zip archive */
export async function zipEntries(path: string): Promise<ZipEntry[]> {
  const file = await open(path).catch((cause: NodeJS.ErrnoException) => {
    const why = cause.code === 'ENOENT' ? 'there is no such file' : cause.message
    throw new SetupError(`cannot read ${path}: ${why}`)
  })
  try {
    const found = await file.stat()
    if (!found.isFile()) throw new SetupError(`cannot read ${path}: it is no file`)
    const { size } = found
    const tail = await read(file, Math.max(0, size - 65_557), Math.min(size, 65_557))
    const end = tail.lastIndexOf('PK\u0005\u0006', undefined, 'latin1')
    if (end < 0) throw broken(path)
    const count = tail.readUInt16LE(end + 10)
    const length = tail.readUInt32LE(end + 12)
    const offset = tail.readUInt32LE(end + 16)
    if (count === 0xffff || offset === 0xffffffff)
      throw new SetupError(`${path} is a zip64 archive, which cannot be read here`)
    if (offset + length > size) throw broken(path)
    return centralDirectory(await read(file, offset, length), count, path)
  } finally {
    await file.close()
  }
}

function centralDirectory(directory: Buffer, count: number, path: string): ZipEntry[] {
  const entries: ZipEntry[] = []
  for (let at = 0; entries.length < count; ) {
    if (at + 46 > directory.length || directory.readUInt32LE(at) !== 0x02014b50) throw broken(path)
    const nameLength = directory.readUInt16LE(at + 28)
    entries.push({
      name: directory.toString('utf8', at + 46, at + 46 + nameLength),
      method: directory.readUInt16LE(at + 10),
      crc: directory.readUInt32LE(at + 16),
      compressedBytes: directory.readUInt32LE(at + 20),
      bytes: directory.readUInt32LE(at + 24),
      offset: directory.readUInt32LE(at + 42),
    })
    at += 46 + nameLength + directory.readUInt16LE(at + 30) + directory.readUInt16LE(at + 32)
  }
  return entries
}

/** Unpacks one file and checks its length and checksum. @throws SetupError */
export async function unpack(path: string, entry: ZipEntry, to: string): Promise<void> {
  if (entry.method !== 0 && entry.method !== 8)
    throw new SetupError(
      `${path}: ${entry.name} is packed by method ${entry.method}, which cannot be read here`,
    )
  const file = await open(path)
  let start: number
  try {
    const header = await read(file, entry.offset, 30)
    if (header.length < 30 || header.readUInt32LE(0) !== 0x04034b50) throw broken(path)
    start = entry.offset + 30 + header.readUInt16LE(26) + header.readUInt16LE(28)
  } finally {
    await file.close()
  }
  await mkdir(dirname(to), { recursive: true })
  let crc = 0
  let bytes = 0
  const check = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      crc = crc32(chunk, crc)
      bytes += chunk.length
      done(null, chunk)
    },
  })
  const packed =
    entry.compressedBytes === 0
      ? createReadStream(path, { start, end: start }).take(0)
      : createReadStream(path, { start, end: start + entry.compressedBytes - 1 })
  const steps = entry.method === 8 ? [packed, createInflateRaw(), check] : [packed, check]
  try {
    await pipeline([...steps, createWriteStream(to)])
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code?.startsWith('Z_')) throw broken(path, entry.name)
    throw cause
  }
  if (crc !== entry.crc || bytes !== entry.bytes) throw broken(path, entry.name)
}

async function read(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position)
  return buffer.subarray(0, bytesRead)
}

const broken = (path: string, name?: string) =>
  new SetupError(`${path} is no whole zip archive${name ? ` (${name} is damaged)` : ''}: download it again`)
