/** For tests: a folder of a file's own. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

/** Makes an empty folder, which goes after the last test of the file, with what is in it. */
export function temporaryFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `lethe-${name}-`))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
