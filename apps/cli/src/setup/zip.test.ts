/** Archives made by Python's own zipfile, which wheels are made with. */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import { temporaryFolder } from '../temporary-folder'
import { unpack, zipEntries } from './zip'

const folder = temporaryFolder('zip')
const archive = join(folder, 'a.zip')
const text = 'what is forgotten is not lost '.repeat(5000)
let python = true

beforeAll(() => {
  writeFileSync(join(folder, 'text'), text)
  const make =
    'import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED)\nz.write(sys.argv[2], "deep/text")\nz.writestr("empty", "")\n' +
    'z.writestr(zipfile.ZipInfo("stored"), b"as it is")\nz.comment = b"a comment"\nz.close()'
  try {
    execFileSync('python3', ['-c', make, archive, join(folder, 'text')])
  } catch {
    python = false
  }
})

test('lists and unpacks deflated, stored and empty files', async ({ skip }) => {
  if (!python) skip('no python3')
  const entries = await zipEntries(archive)
  expect(entries.map(({ name, bytes }) => [name, bytes])).toEqual([
    ['deep/text', text.length],
    ['empty', 0],
    ['stored', 8],
  ])
  for (const entry of entries) await unpack(archive, entry, join(folder, 'out', entry.name))
  expect(readFileSync(join(folder, 'out/deep/text'), 'utf8')).toBe(text)
  expect(readFileSync(join(folder, 'out/empty'), 'utf8')).toBe('')
  expect(readFileSync(join(folder, 'out/stored'), 'utf8')).toBe('as it is')
})

test('a download that was cut off, or changed, is refused', async ({ skip }) => {
  if (!python) skip('no python3')
  const whole = readFileSync(archive)
  const damaged = join(folder, 'damaged.zip')
  writeFileSync(damaged, whole.subarray(0, whole.length - 200))
  await expect(zipEntries(damaged)).rejects.toThrow(/damaged\.zip is no whole zip archive.*download it again/)
  const changed = Buffer.from(whole)
  changed[whole.indexOf('as it is')]! ^= 1
  changed[60]! ^= 0xff
  writeFileSync(damaged, changed)
  for (const entry of await zipEntries(damaged))
    if (entry.bytes > 0)
      await expect(unpack(damaged, entry, join(folder, 'x'))).rejects.toThrow(`(${entry.name} is damaged)`)
})

test('no file, or another one', async () => {
  await expect(zipEntries(join(folder, 'none'))).rejects.toThrow(/none: there is no such file/)
  await expect(zipEntries(join(folder, 'text'))).rejects.toThrow(/no whole zip archive/)
})
