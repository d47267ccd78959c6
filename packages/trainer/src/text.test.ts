import { expect, test } from 'vitest'
import { DataError } from './errors'
import { blockSource } from './streams'
import type { ByteSource } from './text'
import { countWords, measureText, openBlob, openBytes, openString, textSource } from './text'
import { bytesTokenizer } from './tokenizers'

const all = async (source: { length: number; read(a: number, b: number): Promise<Int32Array> }) =>
  source.read(0, source.length)

/** A source that notes the longest piece it was asked for. */
function watched(bytes: Uint8Array): ByteSource & { longest: number } {
  return {
    length: bytes.length,
    longest: 0,
    async read(start, end) {
      this.longest = Math.max(this.longest, end - start)
      return bytes.slice(start, end)
    },
  }
}

test('the first 90 % are for training, the last 10 % for validation', async () => {
  const { train, validation, bytes } = await openString('0123456789'.repeat(10))
  expect([train.length, validation.length, bytes]).toEqual([90, 10, 100])
  expect(bytesTokenizer().decode(await all(validation))).toBe('0123456789')
})

test.each(['bytes', 'characters'] as const)(
  '%s: no character is cut at the split, none is lost',
  async (tokenizer) => {
    for (let length = 20; length < 32; length++) {
      const text = `${'x'.repeat(length)}🪲虫é🪲虫é`
      const data = await openString(text, { tokenizer, trainFraction: 0.8 })
      const parts = [await all(data.train), await all(data.validation)].map((part) =>
        data.tokenizer.decode(part),
      )
      expect(parts.join('')).toBe(
        data.tokenizer.decode(data.tokenizer.encode(text)).slice(0, parts.join('').length),
      )
      if (tokenizer === 'bytes') expect(parts.join('')).toBe(text)
      expect(data.train.bytes + data.validation.bytes).toBe(data.bytes)
    }
  },
)

test('characters are the same at every chunk edge, and read in pieces of a chunk', async () => {
  // 7 bytes per repetition, so that 64 KiB chunks end inside characters.
  const text = 'é虫ab'.repeat(50_000)
  const source = watched(new TextEncoder().encode(text))
  const { train, validation, tokenizer } = await openBytes(source, { tokenizer: 'characters' })
  expect(source.longest).toBeLessThanOrEqual(2 ** 20)
  expect(train.length + validation.length).toBe(200_000)
  expect(tokenizer.decode(await all(train)) + tokenizer.decode(await all(validation))).toBe(text)
  source.longest = 0
  const points = [...text]
  for (const start of [0, 28_080, 28_086, 56_170, 100_003])
    expect(tokenizer.decode(await train.read(start, start + 9))).toBe(points.slice(start, start + 9).join(''))
  expect(source.longest).toBeLessThanOrEqual(2 ** 16)
})

test('no word is cut in two where tokens are words', async () => {
  const { train, validation, tokenizer } = await openString(
    `one two threefourfive six ${'seven '.repeat(2)}`,
    {
      tokenizer: 'words',
      trainFraction: 0.5,
    },
  )
  expect(tokenizer.decode(await all(train))).toBe('one two')
  expect(validation.length).toBe(4)
})

test('nor where words stand on lines of their own', async () => {
  const text = 'forgetting\r\n'.repeat(10_000)
  const { train, validation } = await openString(text, { tokenizer: 'words' })
  expect(train.length + validation.length).toBe(20_000)
  expect(train.vocabulary).toBe(3)
})

test('the vocabulary is that of the training part; others are unknown', async () => {
  const { tokenizer, validation } = await openString(`${'ab'.repeat(50)}zzzzzzzzzz`, {
    tokenizer: 'characters',
  })
  expect(tokenizer.vocabulary).toBe(3)
  expect([...(await all(validation))]).toEqual([2, ...new Array(10).fill(0)])
})

test.each(['bytes', 'characters', 'words'] as const)(
  '%s: pieces are the text, and say where tokens end',
  async (tokenizer) => {
    const text = `${'one  two\nthree é虫🪲 '.repeat(9000)}${'x'.repeat(70_000)}`
    const { train, validation } = await openString(text, { tokenizer })
    let read = ''
    let tokens = 0
    for (const part of [train, validation]) {
      for await (const piece of part.pieces()) {
        const bytes = new TextEncoder().encode(piece.text).length
        expect(bytes).toBeLessThanOrEqual(2 ** 16)
        expect(piece.ends.at(-1)).toBeLessThanOrEqual(bytes)
        read += piece.text
        tokens += piece.ends.length
      }
    }
    expect(read).toBe(text)
    expect(tokens).toBe(train.length + validation.length)
  },
)

test('words and characters of a text are counted across pieces', async () => {
  const { train } = await openString('one two\nthree 🪲 '.repeat(20_000))
  const { words, characters } = await measureText(train.text())
  const bytes = new TextDecoder().decode(Uint8Array.from(await all(train)))
  expect(words).toBe(bytes.split(/\s+/).filter((word) => word !== '').length)
  expect(characters).toBe([...bytes].length)
  expect((await countWords(train.text())).get('three')).toBe(18_000)
})

test('a byte order mark is no text, in strings and blobs', async () => {
  const { bytes } = await openString('\ufeffhello')
  expect(bytes).toBe(5)
  const blob = await openBlob(new Blob(['\ufeffhello']))
  expect(blob.bytes).toBe(5)
  expect(bytesTokenizer().decode(await all(blob.train))).toBe('hell')
  expect(textSource('\ufeffab', bytesTokenizer())).toMatchObject({ length: 2, bytes: 2 })
})

test('identity tells texts and tokenizers apart', async () => {
  const identity = async (text: string, tokenizer: 'bytes' | 'characters' = 'bytes') =>
    (await openString(text, { tokenizer })).train.identity
  expect(await identity('abcabc')).toBe(await identity('abcabc'))
  expect(await identity('abcabc')).not.toBe(await identity('abcabd'))
  expect(await identity('abcabc')).not.toBe(await identity('abcabc', 'characters'))
})

test('an empty text is refused', async () => {
  await expect(openString('')).rejects.toThrow(/the text is empty/)
})

test('streams are contiguous, shifted by one, and start over at their end', async () => {
  const source = textSource(String.fromCharCode(...Array.from({ length: 52 }, (_, i) => i)), bytesTokenizer())
  const streams = blockSource(source).stream({ batch: 2, block: 4 })
  const first = await streams.next()
  expect([...first.inputs]).toEqual([0, 1, 2, 3, 26, 27, 28, 29])
  expect([...first.targets]).toEqual([1, 2, 3, 4, 27, 28, 29, 30])
  const seen: number[] = []
  for (let i = 0; i < 5; i++) seen.push((await streams.next()).inputs[0]!)
  expect(seen).toEqual([4, 8, 12, 16, 20])
  // 24 and its targets up to 28 would leave the stream.
  expect((await streams.next()).inputs[0]).toBe(0)
  expect(streams.position).toBe(4)
})

test('a stream goes on from a saved position, across window edges', async () => {
  const bytes = Uint8Array.from({ length: 5000 }, (_, i) => (i * 7) % 251)
  const source = {
    length: 5000,
    vocabulary: 256,
    bytes: 5000,
    identity: '',
    read: async (start: number, end: number) => Int32Array.from(bytes.subarray(start, end)),
  }
  const whole = blockSource(source).stream({ batch: 3, block: 8 })
  const blocks = []
  const positions = []
  for (let i = 0; i < 500; i++) {
    positions.push(whole.position)
    blocks.push(await whole.next())
  }
  for (const at of [0, 63, 64, 65, 207, 208, 400]) {
    const other = blockSource(source).stream({ batch: 3, block: 8 }, positions[at])
    expect(await other.next()).toEqual(blocks[at])
    expect(await other.next()).toEqual(blocks[at + 1])
  }
})

test('a text shorter than a block per row says how much is needed', () => {
  const source = textSource('a'.repeat(100), bytesTokenizer())
  const stream = (block: number, position?: unknown) =>
    blockSource(source).stream({ batch: 4, block }, position)
  expect(() => stream(25)).toThrow(DataError)
  expect(() => stream(25)).toThrow(/has 100 tokens, and 4 rows of one block need 104/)
  expect(() => stream(24)).not.toThrow()
  expect(() => stream(24, [3])).toThrow(/a whole number from 0 to 25, not \[3\]/)
})
