/** Real texts whose numbers are known, where they lie beside the repository (shared/data); skipped elsewhere. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { openText } from './files'
import { measureText } from './text'

const folder = fileURLToPath(new URL('../../../../shared/data/', import.meta.url))
const there = existsSync(folder)
if (!there) console.log(`no texts in ${folder}: the tests with real text are skipped`)

describe.skipIf(!there)('real text', () => {
  test.each([
    ['wikitext2-valid.txt', 217_646],
    ['wikitext2-test.txt', 245_569],
  ])('%s has the tokens of Merity et al. 2016, Table 1', async (name, tokens) => {
    const { train, validation } = await openText(`${folder}${name}`, { tokenizer: 'words' })
    expect(train.length + validation.length).toBe(tokens)
  })

  test('tinyshakespeare has the words and characters that wc counts', async () => {
    const { train, validation } = await openText(`${folder}tinyshakespeare.txt`, { trainFraction: 0 })
    expect(train.length).toBe(0)
    expect(await measureText(validation.text())).toEqual({ words: 202_651, characters: 1_115_394 })
  })

  test('a folder of books is one text; byte order marks are no part of it, characters survive', async () => {
    const { train, validation, tokenizer, files } = await openText(`${folder}books`, {
      tokenizer: 'characters',
    })
    expect(files.length).toBe(9)
    let characters = 0
    for (const part of [train, validation]) characters += (await measureText(part.text())).characters
    expect(characters).toBe(train.length + validation.length)
    const middle = Math.floor(train.length / 2)
    const text = tokenizer.decode(await train.read(middle - 50_000, middle + 50_000))
    expect(text).not.toContain('\ufffd')
    expect(text).not.toContain('\ufeff')
  })
})
