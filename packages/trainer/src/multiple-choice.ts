/**
 * Questions with endings to choose from, in HellaSwag's format (Zellers et al. 2019): the model's choice is the ending
 * that it finds most probable after the context.
 *
 * Each ending is read after the context from an empty memory, many side by side, block by block, so that a memory
 * method has the whole context, however long, in the form that it remembers it in.
 */
import { breathe, type Decoder, negativeLogLikelihood } from '@lethe/core'
import { dispose, tensor2d, tidy } from '@tensorflow/tfjs-core'
import { checkVocabulary, checkWhole } from './checks'
import { DataError } from './errors'
import type { Tokenizer } from './tokenizers'

export interface Question {
  readonly context: string
  readonly endings: readonly string[]
  /** Which ending is right, from 0. */
  readonly label: number
}

export interface MultipleChoiceOptions {
  readonly decoder: Decoder
  readonly tokenizer: Tokenizer
  readonly questions: readonly Question[]
  /** Endings read side by side: default 32. */
  readonly batch?: number
  /** Tokens read at a time: default 64. */
  readonly block?: number
  /** Stops by throwing the signal's reason. */
  readonly signal?: AbortSignal | undefined
}

export interface MultipleChoiceResult {
  readonly questions: number
  /** Part of the questions whose most probable ending is the right one. */
  readonly accuracy: number
  /** The same with the log-probability over the characters of the ending, so that short ones are not preferred. */
  readonly normalizedAccuracy: number
  /** What guessing gets right. */
  readonly chance: number
  /** One standard error of each accuracy. */
  readonly standardError: { readonly accuracy: number; readonly normalizedAccuracy: number }
}

/**
 * Questions from JSON lines: objects with "ctx", "endings" and "label" (a number or its digits).
 * @param path for messages
 * @throws DataError naming the line
 */
export function parseQuestions(text: string, path = 'the file'): Question[] {
  const questions: Question[] = []
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue
    const refuse = (what: string) =>
      new DataError(
        `line ${index + 1} of ${path} ${what}: each line must be like {"ctx": "…", "endings": ["…", "…"], "label": 0}`,
        { path, line: index + 1 },
      )
    let value: { ctx?: unknown; endings?: unknown; label?: unknown } | null
    try {
      value = JSON.parse(line)
    } catch {
      throw refuse('is no JSON')
    }
    const { ctx, endings, label } = value ?? {}
    if (typeof ctx !== 'string' || ctx.trim() === '') throw refuse('has no "ctx"')
    if (
      !Array.isArray(endings) ||
      endings.length < 2 ||
      !endings.every((ending) => typeof ending === 'string' && ending.trim() !== '')
    )
      throw refuse('has no two or more "endings"')
    if (label === undefined || label === null || label === '')
      throw refuse('has no "label" (is it a test set without answers?)')
    const right = typeof label === 'number' || typeof label === 'string' ? Number(label) : Number.NaN
    if (!(Number.isInteger(right) && right >= 0 && right < endings.length))
      throw refuse(`has the "label" ${JSON.stringify(label)} for ${endings.length} endings`)
    questions.push({ context: ctx, endings, label: right })
  }
  if (questions.length === 0) throw new DataError(`there are no questions in ${path}`, { path })
  return questions
}

/** An ending after its context, as tokens. */
interface Row {
  readonly question: number
  readonly ending: number
  readonly tokens: Int32Array
  /** Tokens of the context. */
  readonly from: number
}

/** Tells how many endings are read; its result is the accuracy. */
export async function* multipleChoice(
  options: MultipleChoiceOptions,
): AsyncGenerator<{ readonly done: number; readonly of: number }, MultipleChoiceResult, undefined> {
  const { decoder, tokenizer, questions, batch = 32, block = 64, signal } = options
  checkWhole('batch', batch)
  checkWhole('block', block)
  checkVocabulary(tokenizer, decoder)
  const rows = questions.flatMap(({ context, endings }, question) => {
    const start = /\s$/.test(context) ? context : `${context} `
    // White space between the two belongs to the ending, whose first token may have it in it.
    const from = tokenizer.encode(context.trimEnd()).length
    return endings.map((text, ending): Row => {
      const tokens = tokenizer.encode(start + text)
      if (from === 0 || tokens.length <= from)
        throw new DataError(
          `question ${question + 1}: the tokenizer makes ${from === 0 ? 'no token of the context' : `nothing of the ending "${text}"`}`,
          { question, ending },
        )
      return { question, ending, tokens, from }
    })
  })
  // Those that are read side by side are filled up to the longest.
  rows.sort((a, b) => b.tokens.length - a.tokens.length)
  const logProbabilities = questions.map(({ endings }) => new Float64Array(endings.length))
  for (let start = 0; start < rows.length; start += batch) {
    const group = rows.slice(start, start + batch)
    for await (const { row, loss } of endingLosses(decoder, group, block, signal))
      logProbabilities[row.question]![row.ending]! -= loss
    yield { done: start + group.length, of: rows.length }
  }
  return score(questions, logProbabilities)
}

/** The losses of the endings' tokens in nats, one after the other. */
async function* endingLosses(
  decoder: Decoder,
  rows: readonly Row[],
  block: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ row: Row; loss: number }> {
  const length = Math.max(...rows.map(({ tokens }) => tokens.length)) - 1
  let memory = decoder.initialMemory(rows.length)
  try {
    for (let position = 0; position < length; position += block) {
      signal?.throwIfAborted()
      const width = Math.min(block, length - position)
      const inputs = new Int32Array(rows.length * width)
      const targets = new Int32Array(rows.length * width)
      for (const [index, { tokens }] of rows.entries()) {
        // What comes after a row's end is token 0, and nothing before it can see that.
        inputs.set(tokens.subarray(position, position + width), index * width)
        targets.set(tokens.subarray(position + 1, position + 1 + width), index * width)
      }
      const shape: [number, number] = [rows.length, width]
      const tensors = [tensor2d(inputs, shape, 'int32'), tensor2d(targets, shape, 'int32')] as const
      const result = decoder.forward(tensors[0], memory)
      memory = result.memory
      const loss = tidy(() => negativeLogLikelihood(result.logits, tensors[1]))
      dispose([...tensors, result.logits, result.penalty])
      const losses = await loss.data()
      loss.dispose()
      memory = await decoder.compact(memory)
      for (const [index, row] of rows.entries()) {
        // The target at `at` is token `at + 1`.
        const end = Math.min(position + width, row.tokens.length - 1)
        for (let at = Math.max(position, row.from - 1); at < end; at++)
          yield { row, loss: losses[index * width + at - position]! }
      }
      await breathe()
    }
  } finally {
    memory.dispose()
  }
}

function score(
  questions: readonly Question[],
  logProbabilities: readonly Float64Array[],
): MultipleChoiceResult {
  const count = questions.length
  const accuracy =
    questions.filter(({ label }, index) => best(logProbabilities[index]!) === label).length / count
  const normalizedAccuracy =
    questions.filter(({ endings, label }, index) => {
      const lengths = endings.map((ending) => [...ending].length)
      return best(logProbabilities[index]!.map((value, ending) => value / lengths[ending]!)) === label
    }).length / count
  const standardError = (part: number) => Math.sqrt((part * (1 - part)) / count)
  return {
    questions: count,
    accuracy,
    normalizedAccuracy,
    chance: questions.reduce((sum, { endings }) => sum + 1 / endings.length, 0) / count,
    standardError: {
      accuracy: standardError(accuracy),
      normalizedAccuracy: standardError(normalizedAccuracy),
    },
  }
}

/** The first of the largest. */
const best = (values: Float64Array) => values.indexOf(Math.max(...values))
