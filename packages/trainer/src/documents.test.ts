import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openText } from './files'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lethe-documents-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** Documents of many lengths, with what JSON escapes and what UTF-8 has several bytes for. */
const documents = Array.from(
  { length: 3000 },
  (_, index) => `${index} "é\n虫\t🪲" ${'forgetting is a river '.repeat((index * 37) % 97)}`,
)
const lines = (texts: readonly string[]) => texts.map((text) => JSON.stringify({ text, url: 'x' })).join('\n')
const whole = (texts: readonly string[]) => Buffer.from(texts.map((text) => `${text}\n\n`).join(''))

describe.each(['plain.jsonl', 'packed.json.gz', 'first-line.json'])('%s', (name) => {
  const packed = name.endsWith('.gz')
  const expected = whole(documents)

  beforeAll(() =>
    writeFile(join(folder, name), packed ? gzipSync(lines(documents)) : `${lines(documents)}\n\n`),
  )

  test('is the text of its documents, with an empty line after each', async () => {
    const { train, validation, bytes } = await openText(join(folder, name))
    expect(bytes).toBe(expected.length)
    const parts = [await train.read(0, train.length), await validation.read(0, validation.length)]
    expect(Buffer.concat(parts.map((part) => Uint8Array.from(part))).equals(expected)).toBe(true)
  })

  test('many streams side by side, and one that begins anywhere, read the same bytes', async () => {
    const { train } = await openText(join(folder, name))
    const rows = 7
    const length = Math.floor(train.length / rows)
    for (let position = 0; position + 9000 < length; position += 8999)
      for (let row = 0; row < rows; row++) {
        const at = row * length + position
        const read = Buffer.from(Uint8Array.from(await train.read(at, at + 9000)))
        expect(read.equals(expected.subarray(at, at + 9000))).toBe(true)
      }
    // As after a resume: nothing was read before.
    const again = await openText(join(folder, name))
    for (const at of [train.length - 5000, 1, train.length / 2, 300_000]) {
      const from = Math.floor(at)
      const read = Buffer.from(Uint8Array.from(await again.train.read(from, from + 5000)))
      expect(read.equals(expected.subarray(from, from + 5000))).toBe(true)
    }
  })
})

test.each(['long.jsonl', 'long.jsonl.gz'])('%s: documents longer than what a reader keeps', async (name) => {
  const texts = Array.from(
    { length: 6 },
    (_, index) => `${index}${String.fromCharCode(97 + index).repeat(400_000)}`,
  )
  const content = lines(texts)
  await writeFile(join(folder, name), name.endsWith('.gz') ? gzipSync(content, { level: 1 }) : content)
  const expected = whole(texts)
  const { train } = await openText(join(folder, name))
  for (const at of [1_870_000, 500_000, 1_199_990, 2_000_000]) {
    const read = Buffer.from(Uint8Array.from(await train.read(at, at + 50)))
    expect(read.toString()).toBe(expected.subarray(at, at + 50).toString())
  }
})

test('characters and words too', async () => {
  await writeFile(join(folder, 'small.jsonl'), lines(['a b', 'b c', 'c d e f g h']))
  const { train, validation, tokenizer } = await openText(join(folder, 'small.jsonl'), {
    tokenizer: 'words',
    trainFraction: 0.46,
  })
  expect(tokenizer.decode(await train.read(0, train.length))).toBe('a b\n\nb')
  expect(tokenizer.decode(await validation.read(0, 3))).toBe('<unk>\n\n')
  expect(validation.length).toBe(11)
})

test('a folder of shards with parts of their own', async () => {
  const path = join(folder, 'c4')
  await mkdir(path)
  const write = (name: string, text: string) => writeFile(join(path, name), gzipSync(lines([text])))
  await write('c4-train.00001-of-00002.json.gz', 'second')
  await write('c4-train.00000-of-00002.json.gz', 'first')
  await write('c4-validation.00000-of-00001.json.gz', 'third')
  await writeFile(join(path, 'README.md'), 'not a part')
  const data = await openText(path)
  const text = async (part: typeof data.train) => data.tokenizer.decode(await part.read(0, part.length))
  expect(await text(data.train)).toBe('first\n\nsecond\n\n')
  expect(await text(data.validation)).toBe('third\n\n')
  expect(data.test!.length).toBe(0)
  expect(data.skipped).toEqual([{ path: join(path, 'README.md'), reason: 'no part of the data' }])
})

describe('is refused with file and line', () => {
  test.each([
    ['no-json.jsonl', '{"text": "a"}\n\nhello\n', /line 3 of .*no-json\.jsonl is no JSON/],
    ['no-text.jsonl', '{"text": "a"}\n{"body": "b"}\n', /line 2 of .*no-text\.jsonl has no "text"/],
    ['null.jsonl', 'null', /line 1 of .*has no "text"/],
    ['cut.jsonl.gz', gzipSync(lines(documents)).subarray(0, 5000), /cut\.jsonl\.gz is no whole gzip file/],
    ['none.jsonl.gz', 'not packed', /none\.jsonl\.gz is no whole gzip file/],
    ['nothing.jsonl', '\n\n', /there is no text in/],
  ] as [string, string | Buffer, RegExp][])('%s', async (name, content, message) => {
    await writeFile(join(folder, name), content)
    await expect(openText(join(folder, name))).rejects.toThrow(message)
  })

  test('one that shrinks while it is read', async () => {
    const path = join(folder, 'shrinks.jsonl')
    await writeFile(path, lines(documents))
    const { train } = await openText(path)
    await truncate(path, lines(documents.slice(0, 100)).length + 1)
    await expect(train.read(2_200_000, 2_200_010)).rejects.toThrow(/became shorter/)
  })
})

test('a .json that is one object stays what it is', async () => {
  await writeFile(join(folder, 'package.json'), '{\n  "name": "x"\n}\n')
  expect((await openText(join(folder, 'package.json'))).bytes).toBe(18)
})
