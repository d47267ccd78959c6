/**
 * Text from files and folders, read piece by piece: no more than a few blocks are in memory. Several files are one
 * text, in the given order, a folder's in the order of their paths, with nothing put between them; files with a JSON
 * document per line are read as the text of their documents (documents.ts). In folders, binary files (with a NUL byte
 * in their first 64 KiB), names starting with a dot, and linked folders are skipped and reported; a file that is named
 * directly is read whatever is in it.
 *
 * A folder that has parts of its own keeps them: where the names of its files or folders have the words train and
 * valid, validation or val in them, and perhaps test (`wiki.train.tokens`, `test/`, `c4-train.00000-of-01024.json.gz`),
 * these are the parts, and anything else is left out.
 */
import type { Dirent } from 'node:fs'
import { open, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { DocumentFile, hasDocuments, isPacked, Readers } from './documents'
import { DataError } from './errors'
import { readInto } from './storage'
import type { TextData, TextOptions, TextPart } from './text'
import { byteOrderMark, openBytes } from './text'
import { unreadable } from './unreadable'

export interface FileTextData extends TextData {
  /** The files that make up the text, in order. */
  readonly files: readonly string[]
  /** What was found in folders and left out. */
  readonly skipped: readonly Skipped[]
}

interface Skipped {
  readonly path: string
  readonly reason: string
}

/** A file's text within the whole. */
interface Part {
  readonly path: string
  readonly start: number
  readonly length: number
  /** Fills the target with this file's text from a position on. */
  read(position: number, target: Uint8Array): Promise<void>
}

const sniffBytes = 2 ** 16

/** @throws DataError when a path is missing, unreadable or has no text */
export async function openText(
  paths: string | readonly string[],
  options: TextOptions = {},
): Promise<FileTextData> {
  const list = typeof paths === 'string' ? [paths] : paths
  const skipped: Skipped[] = []
  const parts: Part[] = []
  const readers = new Readers()
  let length = 0
  const addFile = async (path: string, inFolder: boolean) => {
    const { size, head } = await look(path)
    const documents = hasDocuments(path, head)
    if (inFolder && head.includes(0) && !(documents && isPacked(path))) {
      skipped.push({ path, reason: 'binary' })
      return
    }
    const part = documents ? await DocumentFile.open(path, readers) : plainFile(path, head, size)
    if (part.length === 0) {
      if (inFolder) skipped.push({ path, reason: 'empty' })
      return
    }
    parts.push({ path, start: length, length: part.length, read: (at, target) => part.read(at, target) })
    length += part.length
  }
  const add = async (path: string) => {
    const info = await stat(path).catch((error) => {
      throw unreadable(path, error)
    })
    if (info.isDirectory()) for (const file of await textFiles(path, skipped)) await addFile(file, true)
    else await addFile(path, false)
  }
  const own = list.length === 1 ? await partsOf(list[0]!, skipped) : undefined
  const ends: Partial<Record<TextPart, number>> = {}
  if (own)
    for (const part of ['train', 'validation', 'test'] as const) {
      for (const path of own[part]) await add(path)
      ends[part] = length
    }
  else for (const path of list) await add(path)
  if (length === 0) {
    const found = skipped.length > 0 ? ` (skipped ${skipped.length}: ${listed(skipped)})` : ''
    throw new DataError(
      `there is no text in ${list.join(', ')}${found}: give a text file or a folder with some`,
      {
        paths: list,
      },
    )
  }
  const source = {
    length,
    edges: parts.map(({ start }) => start),
    ...(own && { parts: { train: ends.train!, validation: ends.validation! } }),
    // One file is the same text as its content in a string or Blob: a run may move to a page.
    ...(parts.length > 1 && { label: parts.map((part) => part.length).join() }),
    read: (start: number, end: number) => read(parts, start, end),
  }
  return { ...(await openBytes(source, options)), files: parts.map(({ path }) => path), skipped }
}

const partNames: readonly (readonly [TextPart, RegExp])[] = [
  ['train', /(?<![a-z])train(?![a-z])/i],
  ['validation', /(?<![a-z])val(id(ation)?)?(?![a-z])/i],
  ['test', /(?<![a-z])test(?![a-z])/i],
]

/** The files and folders of each part, where a folder has parts of its own. */
async function partsOf(folder: string, skipped: Skipped[]): Promise<Record<TextPart, string[]> | undefined> {
  const entries = await readdir(folder).catch(() => [])
  const parts: Record<TextPart, string[]> = { train: [], validation: [], test: [] }
  const others: Skipped[] = []
  for (const name of entries.sort(byCodeUnits)) {
    const path = join(folder, name)
    const matching = partNames.filter(([, pattern]) => pattern.test(name))
    if (matching.length === 1 && !name.startsWith('.')) parts[matching[0]![0]].push(path)
    else others.push({ path, reason: 'no part of the data' })
  }
  if (parts.train.length === 0 || parts.validation.length === 0) return undefined
  skipped.push(...others)
  return parts
}

/** Not by locale: the same order everywhere. */
const byCodeUnits = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)

/** A file as it is, without a byte order mark. */
function plainFile(path: string, head: Uint8Array, size: number) {
  const skip = byteOrderMark(head)
  return {
    length: size - skip,
    read: (position: number, target: Uint8Array) => readFilePart(path, skip + position, target),
  }
}

async function look(path: string) {
  try {
    const file = await open(path, 'r')
    try {
      const { size } = await file.stat()
      const head = new Uint8Array(Math.min(size, sniffBytes))
      const { bytesRead } = await file.read(head, 0, head.length, 0)
      return { size, head: head.subarray(0, bytesRead) }
    } finally {
      await file.close()
    }
  } catch (error) {
    throw unreadable(path, error)
  }
}

/** All files below a folder, ordered by path. */
async function textFiles(folder: string, skipped: Skipped[]): Promise<string[]> {
  const files: string[] = []
  let entries: Dirent[]
  try {
    entries = await readdir(folder, { withFileTypes: true })
  } catch (error) {
    throw unreadable(folder, error)
  }
  for (const entry of entries.sort((a, b) => byCodeUnits(a.name, b.name))) {
    const path = join(folder, entry.name)
    if (entry.name.startsWith('.')) skipped.push({ path, reason: 'hidden' })
    else if (entry.isDirectory()) files.push(...(await textFiles(path, skipped)))
    else if (entry.isFile()) files.push(path)
    else if (entry.isSymbolicLink() && (await stat(path).catch(() => undefined))?.isFile()) files.push(path)
    else skipped.push({ path, reason: entry.isSymbolicLink() ? 'link' : 'not a file' })
  }
  return files
}

async function read(parts: readonly Part[], start: number, end: number): Promise<Uint8Array> {
  const result = new Uint8Array(end - start)
  let low = 0
  let high = parts.length - 1
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if (parts[middle]!.start <= start) low = middle
    else high = middle - 1
  }
  for (let at = low; at < parts.length && parts[at]!.start < end; at++) {
    const part = parts[at]!
    const from = Math.max(start, part.start)
    const to = Math.min(end, part.start + part.length)
    await part.read(from - part.start, result.subarray(from - start, to - start))
  }
  return result
}

async function readFilePart(path: string, position: number, target: Uint8Array): Promise<void> {
  const done = await readInto(path, position, target).catch((error) => {
    throw unreadable(path, error)
  })
  if (done < target.length)
    throw new DataError(`${path} became shorter while it was read: leave the text unchanged during a run`, {
      path,
    })
}

function listed(skipped: readonly Skipped[]): string {
  const shown = skipped.slice(0, 3).map(({ path, reason }) => `${path} is ${reason}`)
  return shown.join(', ') + (skipped.length > 3 ? ', …' : '')
}
