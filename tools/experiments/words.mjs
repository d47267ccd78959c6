/** Which kind of word each token of an inspected text belongs to, where a token is a byte. */

const letter = /\p{L}/u
const titles = new Set(['Mr', 'Mrs', 'Dr', 'St'])

/** Occurrences in the training text up to which a word is rare, and from which it is frequent. */
export const rareUpTo = 20
export const frequentFrom = 1000

/** How often the words of `inspected`, in lower case, stand in `training`. */
export function countWords(training, inspected) {
  const wordsOf = (text) => text.toLowerCase().match(/\p{L}+/gu) ?? []
  const counts = new Map(wordsOf(inspected).map((word) => [word, 0]))
  for (const word of wordsOf(training)) if (counts.has(word)) counts.set(word, counts.get(word) + 1)
  return Object.fromEntries(counts)
}

/**
 * Of each token `{ place, word }`. place: 'letter', 'space', 'line end' or 'punctuation'; bytes inside a character are
 * letters. word: of a letter the kind of its word and which letter it is, from 0; of what follows a word directly the
 * kind of that word and 'after'. Kinds: 'name' (capital within a sentence), else 'rare', 'frequent' or 'other'
 * @param texts the text of each token
 * @param counts of `countWords`
 */
export function tokenKinds(texts, counts) {
  const kinds = texts.map((text) => ({
    place:
      text === ' '
        ? 'space'
        : text === '\n'
          ? 'line end'
          : text === '' || letter.test(text)
            ? 'letter'
            : 'punctuation',
  }))
  let sentenceBegins = true
  let last = ''
  for (let at = 0; at < texts.length; ) {
    if (kinds[at].place !== 'letter') {
      const text = texts[at]
      const paragraph = text === '\n' && texts[at - 1] === '\n'
      if (paragraph || /[!?]/.test(text) || (text === '.' && !titles.has(last))) sentenceBegins = true
      at++
      continue
    }
    let end = at
    while (end < texts.length && kinds[end].place === 'letter') end++
    const word = texts.slice(at, end).join('')
    // Bytes within a mark of punctuation, such as a quotation mark.
    if (word === '') {
      while (at < end) kinds[at++].place = 'punctuation'
      continue
    }
    const kind = kindOf(word, sentenceBegins, counts)
    for (let token = at; token < end; token++) kinds[token].word = { kind, letter: token - at }
    if (end < texts.length) kinds[end].word = { kind, letter: 'after' }
    sentenceBegins = false
    last = word
    at = end
  }
  return kinds
}

function kindOf(word, sentenceBegins, counts) {
  const capital = word[0] !== word[0].toLowerCase()
  if (capital && !sentenceBegins && word.length > 1 && !titles.has(word)) return 'name'
  const count = counts[word.toLowerCase()] ?? 0
  return count <= rareUpTo ? 'rare' : count >= frequentFrom ? 'frequent' : 'other'
}
