/** The built command line on data sets by name, words, BPE, and what eval says beside bits per byte. */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { beforeAll, expect, test } from 'vitest'
import { temporaryFolder } from './temporary-folder'

const main = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const folder = temporaryFolder('text-data')
const tiny =
  '--layers 1 --width 16 --heads 2 --feed-forward 16 --span 16 --block 8 --batch 2 --valid-batch 2 --backend cpu'

function lethe(line: string): Promise<{ code: number; stdout: string; stderr: string }> {
  const env = { ...process.env, NO_COLOR: '1', LETHE_DATA: 'sets' }
  return new Promise((done) => {
    execFile(process.execPath, [main, ...line.split(' ')], { cwd: folder, env }, (error, stdout, stderr) => {
      done({ code: error ? ((error.code as unknown as number) ?? -1) : 0, stdout, stderr })
    })
  })
}

async function json(line: string) {
  const { stdout, stderr, code } = await lethe(`${line} --json`)
  expect(stderr).toBe('')
  expect(code).toBe(0)
  return JSON.parse(stdout.trim().split('\n').at(-1)!)
}

beforeAll(async () => {
  if (!existsSync(main)) throw new Error('apps/cli is not built: npm test builds it')
  const line = 'Lethe is the river of forgetting , and whoever drinks of it forgets .\n'
  mkdirSync(join(folder, 'sets/enwik8'), { recursive: true })
  mkdirSync(join(folder, 'shards'))
  const documents = (times: number) => `${JSON.stringify({ text: line })}\n`.repeat(times)
  const files: Record<string, string | Uint8Array> = {
    'sets/enwik8/train.txt': line.repeat(40),
    'sets/enwik8/validation.txt': line.repeat(4),
    'sets/enwik8/test.txt': `${'Mnemosyne remembers . '.repeat(9)}\n`,
    'shards/c4-train.0.json.gz': gzipSync(documents(30)),
    'shards/c4-validation.0.json.gz': gzipSync(documents(5)),
    'questions.jsonl': `${JSON.stringify({ ctx: 'Lethe is', endings: ['the river', 'x', 'ab c', 'no'], label: '0' })}\n`,
    'lines.txt': line.repeat(5),
    'tokenizer.json': JSON.stringify(
      JSON.parse(
        readFileSync(new URL('../../../packages/trainer/src/bpe.fixture.json', import.meta.url), 'utf8'),
      ).tokenizer,
    ),
    'other.json': '{}',
  }
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content)
  const runs = await Promise.all([
    lethe(`train --data enwik8 --tokenizer words ${tiny} --steps 2 --out words`),
    lethe(`train --data shards --tokenizer tokenizer.json ${tiny} --steps 2 --out bpe`),
  ])
  for (const { code, stderr } of runs) expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
})

test('a data set by its name, in words: scores per word, by frequency, of the part for tests', async () => {
  const config = JSON.parse(readFileSync(join(folder, 'words/config.json'), 'utf8'))
  expect(config).toMatchObject({ data: ['enwik8'], tokenizer: 'words' })
  const [own, tests, resumed] = await Promise.all([
    json('eval words --backend cpu --buckets'),
    json('eval words --backend cpu --split test'),
    lethe('train --resume words --data enwik8 --steps 3'),
  ])
  expect(own).toMatchObject({ tokens: 4 * 15 - 1, words: 4 * 14, unknown: 0 })
  // Every word is a token, and so is every line break.
  expect(own.wordPerplexity).toBeCloseTo(Math.exp((own.loss * 59) / 56), 2)
  expect(own.buckets.map(({ words }: { words: number }) => words)).toEqual([0, 0, 0, 60])
  expect(own.buckets[3].loss * 60).toBeCloseTo(own.loss * 59, 1)
  expect(tests).toMatchObject({ words: 27, characters: 199, unknown: 18 / 28 })
  expect(resumed).toMatchObject({ code: 0, stderr: '' })
})

test('shards of documents, in BPE: evaluates, generates, chooses endings', async () => {
  const [own, other, sample, choice, measured] = await Promise.all([
    json('eval bpe --backend cpu --buckets'),
    json('eval bpe --backend cpu --data lines.txt'),
    json('generate bpe --backend cpu --tokens 5 --prompt Lethe'),
    json('eval bpe --backend cpu --multiple-choice questions.jsonl'),
    json('measure bpe --backend cpu'),
  ])
  expect(measured.text.wordPerplexity / own.wordPerplexity).toBeCloseTo(1, 4)
  expect(own).toMatchObject({ words: 5 * 14, characters: 5 * 72 })
  expect(own.bitsPerByte).toBeCloseTo(own.bitsPerCharacter, 1)
  expect(other.words).toBe(5 * 14)
  expect(sample.tokens).toBe(5)
  expect(choice).toMatchObject({ questions: 1, chance: 0.25 })
  expect([0, 1]).toContain(choice.accuracy)
})

test('lethe data says what there is', async () => {
  const { sets } = await json('data')
  const there = Object.fromEntries(
    sets.map(({ name, parts }: { name: string; parts: string[] }) => [name, parts]),
  )
  expect(there).toMatchObject({
    enwik8: ['train', 'validation', 'test'],
    text8: [],
    'wikitext-103': [],
    pg19: [],
  })
  expect((await lethe('data')).stdout).toContain('CC BY-SA 3.0')
})

test.each<[string, number, RegExp]>([
  ['train --data text8 --out x', 1, /the data set text8 is not in .*sets\/text8: get it with .* data text8/],
  [
    'train --data lines.txt --out x --tokenizer word',
    2,
    /path of a tokenizer\.json, not "word"; did you mean words\?/,
  ],
  ['train --data lines.txt --out x --tokenizer other.json', 1, /no tokenizer\.json of a BPE tokenizer/],
  ['train --data lines.txt --out x --vocabulary 99', 2, /--vocabulary is for --tokenizer words/],
  ['eval bpe --data lines.txt --split test --backend cpu', 2, /lines\.txt has no parts of its own/],
  [
    'eval bpe --multiple-choice none.jsonl',
    2,
    /cannot read --multiple-choice none\.jsonl: there is no such file/,
  ],
  ['eval bpe --multiple-choice lines.txt', 1, /line 1 of lines\.txt is no JSON/],
  ['eval bpe --multiple-choice questions.jsonl --buckets', 2, /leave out --buckets/],
  ['data enwik9', 2, /no data set "enwik9"; known are .*; did you mean enwik8\?/],
  ['data constructor', 2, /no data set "constructor"; known are enwik8,/],
  ['eval bpe --split test --backend cpu', 2, /the text has no part of its own for tests/],
  ['data text8 --from none.zip', 1, /cannot read none\.zip: there is no such file/],
  ['data text8 --only test', 2, /text8 comes in one piece: leave out --only/],
])('%s is refused', async (line, code, message) => {
  const result = await lethe(line)
  expect(result.stderr).toMatch(message)
  expect(result.stderr.trim().split('\n')).toHaveLength(1)
  expect(result.code).toBe(code)
  expect(existsSync(join(folder, 'x'))).toBe(false)
})
