/** What the file system says about a path that cannot be read, as an error that names the path and the fix. */
import { DataError } from './errors'

export function unreadable(path: string, error: unknown): DataError {
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
