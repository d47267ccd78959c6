/**
 * Files of any size, and writing them so that a crash, even of the machine, leaves either the old state or the new one.
 */
import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { CheckpointError } from './errors'

/** Bytes that are read or hashed at once: Node refuses 2 GiB, which the optimiser's state of a large model exceeds. */
export const largestPiece = 2 ** 30

/** Reads from a place in a file on until the target is full or the file ends. @returns how many bytes there were */
export async function readInto(path: string, position: number, target: Uint8Array): Promise<number> {
  const file = await open(path, 'r')
  try {
    let done = 0
    while (done < target.length) {
      const length = Math.min(largestPiece, target.length - done)
      const { bytesRead } = await file.read(target, done, length, position + done)
      if (bytesRead === 0) break
      done += bytesRead
    }
    return done
  } finally {
    await file.close()
  }
}

/** Writes and waits until the bytes are on the disk. */
export async function writeSynced(path: string, bytes: Uint8Array | string): Promise<void> {
  const file = await open(path, 'w')
  try {
    await file.writeFile(bytes)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Makes the names in a folder durable. Windows cannot, and does not need to. */
export async function syncFolder(path: string): Promise<void> {
  if (process.platform === 'win32') return
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Replaces a file whole or not at all. */
export async function writeAtomic(path: string, bytes: Uint8Array | string): Promise<void> {
  const temporary = `${path}.tmp`
  try {
    await writeSynced(temporary, bytes)
    await rename(temporary, path)
    await syncFolder(dirname(path))
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {})
    throw error
  }
}

/**
 * Replaces a file whole or not at all; makes its folder.
 * @throws CheckpointError that names the path and the fix
 */
export async function replaceFile(path: string, bytes: Uint8Array | string): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true })
    await writeAtomic(path, bytes)
  } catch (error) {
    throw unwritable(path, error)
  }
}

/** Turns what the file system says into an error that names the folder and the fix. */
export function unwritable(path: string, error: unknown): CheckpointError {
  const code = (error as NodeJS.ErrnoException).code
  const why: Record<string, string> = {
    EACCES: 'permission denied: choose a folder you may write to',
    EPERM: 'permission denied: choose a folder you may write to',
    EROFS: 'the file system is read-only: choose another folder',
    ENOSPC: 'the disk is full: free some space or choose another folder',
    EDQUOT: 'the disk quota is used up: free some space or choose another folder',
    ENOTDIR: 'a part of the path is a file: choose another folder',
    EEXIST: 'there is a file of that name: choose another folder',
    ENOENT: 'the folder cannot be made or is gone: choose another folder',
  }
  const reason = why[code ?? ''] ?? (error as Error).message
  return new CheckpointError(`cannot write to ${path}: ${reason}`, { path, code }, { cause: error })
}
