import { useBackend } from '@lethe/backends'
import { Decoder, fixedSpan } from '@lethe/core'
import { memory, tensor2d } from '@tensorflow/tfjs-core'
import { beforeAll, expect, test } from 'vitest'
import { type MultipleChoiceOptions, multipleChoice, parseQuestions, type Question } from './multiple-choice'
import { bytesTokenizer, type Tokenizer } from './tokenizers'

const line = (ctx: unknown, endings: unknown, label: unknown) =>
  JSON.stringify({ ctx, endings, label, ind: 7 })

test('lines in HellaSwag’s format', () => {
  const text = `${line('A man sits.', ['he rises', 'it'], 1)}\n\n${line('b', ['c', 'd', 'e', 'f'], '3')}\n`
  expect(parseQuestions(text)).toEqual([
    { context: 'A man sits.', endings: ['he rises', 'it'], label: 1 },
    { context: 'b', endings: ['c', 'd', 'e', 'f'], label: 3 },
  ])
})

test.each([
  ['no', /line 2 of q\.jsonl is no JSON/],
  ['null', /has no "ctx"/],
  [line('', ['a', 'b'], 0), /has no "ctx"/],
  [line('x', ['a'], 0), /no two or more "endings"/],
  [line('x', ['a', ''], 0), /no two or more "endings"/],
  [line('x', ['a', 'b'], undefined), /has no "label" \(is it a test set/],
  [line('x', ['a', 'b'], null), /has no "label" \(is it a test set/],
  [line('x', ['a', 'b'], [1]), /has the "label" \[1\] for 2 endings/],
  [line('x', ['a', 'b'], 2), /has the "label" 2 for 2 endings/],
  [line('x', ['a', 'b'], 'a'), /has the "label" "a" for 2 endings/],
] as [string, RegExp][])('%s is refused', (text, message) => {
  expect(() => parseQuestions(`\n${text}`, 'q.jsonl')).toThrow(message)
})

test('no questions are refused', () => {
  expect(() => parseQuestions('\n', 'q.jsonl')).toThrow(/no questions in q\.jsonl/)
})

let decoder: Decoder
beforeAll(async () => {
  await useBackend('cpu')
  decoder = new Decoder(
    { vocabulary: 256, layers: 1, width: 16, heads: 2, feedForward: 16, method: fixedSpan({ span: 200 }) },
    { seed: 5 },
  )
  await decoder.afterUpdate()
})

const words = ['river', 'a', 'forgetting all', 'sea', 'of the dead, they drink', 'no']
const questions = Array.from({ length: 12 }, (_, index): Question => {
  const endings = Array.from(
    { length: 2 + (index % 3) },
    (_, ending) => words[(index * 5 + ending) % words.length]!,
  )
  return { context: `Lethe ${'is '.repeat(index)}`.trim(), endings, label: 0 }
})

/** Log-probability of an ending after its context, read at once. */
async function logProbability(context: string, ending: string): Promise<number> {
  const tokens = bytesTokenizer().encode(`${context} ${ending}`)
  const input = tensor2d(tokens.subarray(0, -1), [1, tokens.length - 1], 'int32')
  const { logits, penalty, memory } = decoder.forward(input, decoder.initialMemory(1))
  const rows = ((await logits.array()) as number[][][])[0]!
  for (const used of [input, logits, penalty, memory]) used.dispose()
  let sum = 0
  for (let at = context.length - 1; at < rows.length; at++) {
    const total = rows[at]!.reduce((sum, logit) => sum + Math.exp(logit), 0)
    sum += rows[at]![tokens[at + 1]!]! - Math.log(total)
  }
  return sum
}

async function result(options: Partial<MultipleChoiceOptions>) {
  const rows = multipleChoice({ decoder, tokenizer: bytesTokenizer(), questions, ...options })
  for (;;) {
    const next = await rows.next()
    if (next.done) return next.value
  }
}

test('the choice is the most probable ending, alone and per character, however many are read side by side', async () => {
  const best = (values: number[]) => values.indexOf(Math.max(...values))
  const chosen: number[] = []
  const perCharacter: number[] = []
  for (const { context, endings } of questions) {
    const values: number[] = []
    for (const ending of endings) values.push(await logProbability(context, ending))
    chosen.push(best(values))
    perCharacter.push(best(values.map((value, index) => value / endings[index]!.length)))
  }
  expect(chosen).not.toEqual(perCharacter)
  const before = memory().numTensors
  // Right are the first nine by probability, and whatever that makes of the others.
  const labelled = questions.map((question, index) => ({
    ...question,
    label: index < 9 ? chosen[index]! : (chosen[index]! + 1) % question.endings.length,
  }))
  const right = labelled.filter(({ label }, index) => label === perCharacter[index]).length
  const chance = questions.reduce((sum, { endings }) => sum + 1 / endings.length, 0) / 12
  for (const [batch, block] of [
    [1, 64],
    [5, 7],
    [64, 200],
  ] as const) {
    const found = await result({ questions: labelled, batch, block })
    expect(found).toMatchObject({ questions: 12, accuracy: 9 / 12 })
    expect(found.normalizedAccuracy).toBeCloseTo(right / 12, 10)
    expect(found.chance).toBeCloseTo(chance, 10)
    expect(found.standardError.accuracy).toBeCloseTo(Math.sqrt((0.75 * 0.25) / 12), 10)
  }
  expect(memory().numTensors).toBe(before)
})

test('white space after a context is part of the ending, also where tokens begin with a space', async () => {
  const tokenizer: Tokenizer = {
    ...bytesTokenizer(),
    encode: (text) =>
      Int32Array.from(text.match(/ ?\S+|\s/g) ?? [], (part) =>
        Array.from(part).reduce((sum, character) => (7 * sum + character.charCodeAt(0)) % 256, 0),
      ),
  }
  const spaced = questions.map((question) => ({ ...question, context: `${question.context} ` }))
  expect(await result({ tokenizer, questions: spaced })).toEqual(await result({ tokenizer, questions }))
})

test('a tokenizer that makes nothing of an ending is refused; an abort frees everything', async () => {
  const before = memory().numTensors
  const silent = { ...bytesTokenizer(), encode: () => new Int32Array(3) }
  await expect(result({ tokenizer: silent })).rejects.toThrow(
    /question 1: the tokenizer makes nothing of the ending/,
  )
  await expect(result({ signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough')
  expect(memory().numTensors).toBe(before)
})
