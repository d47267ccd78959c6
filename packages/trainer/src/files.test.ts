import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openText } from './files'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lethe-files-'))
  await mkdir(join(folder, 'text/b'), { recursive: true })
  await mkdir(join(folder, 'text/.git'))
  await mkdir(join(folder, 'empty'))
  const files: Record<string, string | Uint8Array> = {
    'text/b/z.txt': 'third ',
    'text/B.txt': '\ufefffirst ',
    'text/c.txt': 'fourth é虫',
    'text/a.txt': 'second ',
    'text/.git/config': 'hidden',
    'text/image.png': Uint8Array.of(137, 80, 0, 1),
    'text/nothing.txt': '',
  }
  for (const [name, content] of Object.entries(files)) await writeFile(join(folder, name), content)
  await symlink(join(folder, 'text'), join(folder, 'text/loop'))
  await symlink(join(folder, 'text/a.txt'), join(folder, 'text/linked.txt'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const whole = async (data: Awaited<ReturnType<typeof openText>>) =>
  data.tokenizer.decode(await data.train.read(0, data.train.length)) +
  data.tokenizer.decode(await data.validation.read(0, data.validation.length))

test.each(['bytes', 'characters'] as const)(
  'a folder is one text in the order of paths: %s',
  async (tokenizer) => {
    const data = await openText(join(folder, 'text'), { tokenizer })
    expect(await whole(data)).toBe(
      tokenizer === 'bytes' ? 'first second third fourth é虫second ' : 'first second third fourth é虫second ',
    )
    expect(data.files.map((path) => relative(folder, path))).toEqual(
      ['B.txt', 'a.txt', 'b/z.txt', 'c.txt', 'linked.txt'].map((name) => join('text', name)),
    )
    expect(
      Object.fromEntries(data.skipped.map(({ path, reason }) => [relative(folder, path), reason])),
    ).toEqual({
      [join('text', '.git')]: 'hidden',
      [join('text', 'image.png')]: 'binary',
      [join('text', 'loop')]: 'link',
      [join('text', 'nothing.txt')]: 'empty',
    })
  },
)

test('pieces across file borders are those of the whole', async () => {
  const data = await openText(join(folder, 'text'))
  const all = await data.train.read(0, data.train.length)
  for (let start = 0; start < all.length - 9; start++)
    expect(await data.train.read(start, start + 9)).toEqual(all.slice(start, start + 9))
})

test('several files in the given order, and a file that is named is read whatever is in it', async () => {
  const data = await openText([join(folder, 'text/c.txt'), join(folder, 'text/image.png')])
  expect(data.bytes).toBe(12 + 4)
  expect([...(await data.validation.read(0, 2))]).toEqual([0, 1])
})

test.each([
  ['missing.txt', /cannot read .*missing.txt: there is no such file or folder/],
  ['empty', /there is no text in .*empty: give a text file/],
  ['text/nothing.txt', /there is no text in .*nothing.txt/],
  ['text/.git/config/x', /a part of the path is a file/],
] as [string, RegExp][])('%s is refused', async (name, message) => {
  await expect(openText(join(folder, name))).rejects.toThrow(message)
})

test('a folder that has parts of its own keeps them, whatever the fraction', async () => {
  const path = join(folder, 'wiki')
  await mkdir(join(path, 'test'), { recursive: true })
  const files = {
    'wiki.train.tokens': 'train é',
    'wiki.valid.tokens': 'valid',
    'test/b': 'two',
    'test/a': 'one ',
  }
  for (const [name, content] of Object.entries(files)) await writeFile(join(path, name), content)
  await writeFile(join(path, 'training-notes'), 'no part')
  for (const trainFraction of [0, 0.5]) {
    const data = await openText(path, { trainFraction })
    const text = async (part: typeof data.train) => data.tokenizer.decode(await part.read(0, part.length))
    expect(await Promise.all([data.train, data.validation, data.test!].map(text))).toEqual([
      'train é',
      'valid',
      'one two',
    ])
    expect(data.skipped).toEqual([{ path: join(path, 'training-notes'), reason: 'no part of the data' }])
  }
  // Where the parts are cut is part of what the text is.
  const moved = join(folder, 'moved')
  await mkdir(moved)
  await writeFile(join(moved, 'train'), 'train évalidone')
  await writeFile(join(moved, 'valid'), ' two')
  const identity = async (path: string) => (await openText(path)).train.identity
  expect(await identity(moved)).not.toBe(await identity(path))
})

test('only the parts that are wanted have tokens; all have their text', async () => {
  const data = await openText(join(folder, 'wiki'), { tokenizer: 'characters', only: ['validation'] })
  expect([data.train, data.validation, data.test!].map(({ length }) => length)).toEqual([0, 5, 0])
  let text = ''
  for await (const piece of data.train.text()) text += piece
  expect(text).toBe('train é')
})

test('a file that shrinks while it is read is noticed', async () => {
  const path = join(folder, 'shrinks.txt')
  await writeFile(path, 'x'.repeat(100))
  const data = await openText(path)
  await truncate(path, 10)
  await expect(data.train.read(0, 50)).rejects.toThrow(/became shorter while it was read/)
})
