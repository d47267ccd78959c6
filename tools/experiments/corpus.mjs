/**
 * One text from a folder of whole books: a share of every book to train on, then a tenth of it from a book that is not
 * among them, so that `lethe train`, which validates on the last tenth of its text, validates on a book it never read.
 */
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** The book without Project Gutenberg's header and licence, lines ended by LF. */
function bookText(path) {
  const text = readFileSync(path, 'utf8')
    .replace(/^\uFEFF/, '')
    .replace(/\r\n/g, '\n')
  const begin = /^\*\*\* ?START OF TH.*$/m.exec(text)
  const end = /^\*\*\* ?END OF TH.*$/m.exec(text)
  return text.slice(begin ? begin.index + begin[0].length : 0, end?.index).trim()
}

/**
 * Writes the text to `path` and returns what it is made of. The shortest book is the one that is held out; of every
 * other one the beginning is taken, as much of each.
 * @param data a folder of books (.txt)
 * @param validationBytes bytes to validate on, at most; nine times as many are to train on
 * @throws Error where there are fewer than two books, or too little of them
 */
function writeCorpus(data, path, validationBytes) {
  const names = readdirSync(data).filter((name) => name.endsWith('.txt'))
  if (names.length < 2)
    throw new Error(
      `${data} holds ${names.length} books (.txt): one to validate on and others to train on are needed`,
    )
  const books = names.map((name) => ({ name, text: Buffer.from(bookText(join(data, name))) }))
  books.sort((a, b) => a.text.length - b.text.length || (a.name < b.name ? -1 : 1))
  const [heldOut, ...others] = books
  // As much as the shortest of the others allows, in whole shares.
  const share = Math.min(Math.floor((9 * validationBytes) / others.length), others[0].text.length)
  const held = Math.min(heldOut.text.length, Math.floor((share * others.length) / 9))
  const used = Math.floor((9 * held) / others.length)
  const parts = others.map(({ name, text }) => ({ name, bytes: text.subarray(0, used) }))
  writeFileSync(path, Buffer.concat([...parts.map(({ bytes }) => bytes), heldOut.text.subarray(0, held)]))
  return {
    training: parts.map(({ name, bytes }) => ({ name, bytes: bytes.length })),
    validation: { name: heldOut.name, bytes: held },
  }
}

/** The text of a run: `data` itself where it is a file, else one made of the books in it at `path`. */
export function corpusOf(data, path, validationBytes) {
  return statSync(data).isDirectory() ? { path, ...writeCorpus(data, path, validationBytes) } : { path: data }
}
