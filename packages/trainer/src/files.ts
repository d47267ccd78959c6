/**
 * Text from files and folders, read piece by piece with positional reads: no more than a few blocks are in memory.
 * Several files are one text, in the given order, a folder's in the order of their paths, with nothing put between
 * them. In folders, binary files (with a NUL byte in their first 64 KiB), names starting with a dot, and linked
 * folders are skipped and reported; a file that is named directly is read whatever is in it.
 */
import type { Dirent } from 'node:fs'
import { open, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { DataError } from './errors'
import type { TextData, TextOptions } from './text'
import { byteOrderMark, openBytes } from './text'

export interface FileTextData extends TextData {
  /** The files that make up the text, in order. */
  readonly files: readonly string[]
  /** What was found in folders and left out. */
  readonly skipped: readonly { readonly path: string; readonly reason: string }[]
}

interface Part {
  readonly path: string
  /** Where its text starts in the file (after a byte order mark) and in the whole text. */
  readonly skip: number
  readonly start: number
  readonly length: number
}

const sniffBytes = 2 ** 16

/** @throws DataError when a path is missing, unreadable or has no text */
export async function openText(
  paths: string | readonly string[],
  options: TextOptions = {},
): Promise<FileTextData> {
  const list = typeof paths === 'string' ? [paths] : paths
  const skipped: { path: string; reason: string }[] = []
  const parts: Part[] = []
  let length = 0
  const add = async (path: string, inFolder: boolean) => {
    const { size, head } = await look(path)
    if (inFolder && head.includes(0)) {
      skipped.push({ path, reason: 'binary' })
      return
    }
    const skip = byteOrderMark(head)
    if (size === skip) {
      if (inFolder) skipped.push({ path, reason: 'empty' })
      return
    }
    parts.push({ path, skip, start: length, length: size - skip })
    length += size - skip
  }
  for (const path of list) {
    const info = await stat(path).catch((error) => {
      throw unreadable(path, error)
    })
    if (info.isDirectory()) for (const file of await textFiles(path, skipped)) await add(file, true)
    else await add(path, false)
  }
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
    // One file is the same text as its content in a string or Blob: a run may move to a page.
    ...(parts.length > 1 && { label: parts.map((part) => part.length).join() }),
    read: (start: number, end: number) => read(parts, start, end),
  }
  return { ...(await openBytes(source, options)), files: parts.map(({ path }) => path), skipped }
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
async function textFiles(folder: string, skipped: { path: string; reason: string }[]): Promise<string[]> {
  const files: string[] = []
  let entries: Dirent[]
  try {
    entries = await readdir(folder, { withFileTypes: true })
  } catch (error) {
    throw unreadable(folder, error)
  }
  // By code units, not by locale: the same order everywhere.
  entries.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
  for (const entry of entries) {
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
    await readFilePart(part, from - part.start, result.subarray(from - start, to - start))
  }
  return result
}

async function readFilePart({ path, skip }: Part, position: number, target: Uint8Array): Promise<void> {
  let done = 0
  try {
    const file = await open(path, 'r')
    try {
      while (done < target.length) {
        const { bytesRead } = await file.read(target, done, target.length - done, skip + position + done)
        if (bytesRead === 0) break
        done += bytesRead
      }
    } finally {
      await file.close()
    }
  } catch (error) {
    throw unreadable(path, error)
  }
  if (done < target.length)
    throw new DataError(`${path} became shorter while it was read: leave the text unchanged during a run`, {
      path,
    })
}

function unreadable(path: string, error: unknown): DataError {
  const code = (error as NodeJS.ErrnoException).code
  const why: Record<string, string> = {
    ENOENT: 'there is no such file or folder: check the path',
    ENOTDIR: 'a part of the path is a file, not a folder: check the path',
    EACCES: 'permission denied: make it readable',
    EPERM: 'permission denied: make it readable',
    EISDIR: 'it is a folder: give a file',
  }
  const reason = why[code ?? ''] ?? (error as Error).message
  return new DataError(`cannot read ${path}: ${reason}`, { path, code }, { cause: error })
}

function listed(skipped: readonly { path: string; reason: string }[]): string {
  const shown = skipped.slice(0, 3).map(({ path, reason }) => `${path} is ${reason}`)
  return shown.join(', ') + (skipped.length > 3 ? ', …' : '')
}
