/**
 * lethe eval: scores of a trained model on its validation data, on another text, or on questions with endings to
 * choose from.
 */
import { readFile } from 'node:fs/promises'
import {
  countWords,
  evaluation,
  type FrequencyBucket,
  frequencyBuckets,
  isRolloutSource,
  measureText,
  multipleChoice,
  parseQuestions,
  type RolloutSource,
  type TextPart,
  type TextScores,
  type TextSource,
  TokenLosses,
  textScores,
  unknownWord,
} from '@lethe/trainer'
import { startBackend } from '../backend'
import type { CommandLine } from '../command-line'
import { foreignOptions, openData, openTexts, type RunData, refuseForeign } from '../data'
import { UsageError } from '../errors'
import { openModel, openTextModel, type TrainedModel } from '../model'
import type { Given } from '../options'
import { count, duration, percent, StatusLine } from '../output'
import { evaluationText, perplexityText, wordsText } from '../session'

export async function evalCommand(line: CommandLine): Promise<number> {
  return line.given['multiple-choice'] === undefined ? evaluateData(line) : chooseEndings(line)
}

async function evaluateData(line: CommandLine): Promise<number> {
  const { given, positionals } = line
  const model = await openModel('eval', positionals, () => startBackend(given))
  const { decoder, config } = model
  const data = await openEvaluated(given, model, positionals[0]!)
  if (data.vocabulary !== decoder.config.vocabulary)
    throw new UsageError(
      `with these --task-options there are ${data.vocabulary} different tokens, and the model knows ${decoder.config.vocabulary}: evaluate on a task of the same tokens`,
    )
  if (isRolloutSource(data.validation)) return playEpisodes(line, model, data.validation)
  const text = data.text && partOf(data, given.split as TextPart | undefined)
  const status = new StatusLine(process.stdout)
  const json = given.json ?? false
  const began = performance.now()
  const batch = given['valid-batch'] ?? config['valid-batch'] ?? 8
  const losses = given.buckets && text ? new TokenLosses(text, batch) : undefined
  const blocks = evaluation({
    decoder,
    source: text ?? data.validation,
    batch,
    block: given.block ?? config.block ?? 64,
    ...(losses && { onBlock: losses.add, eachLoss: true }),
  })
  let read = 0
  const result = await resultOf(blocks, ({ tokens, of }) => {
    read = tokens
    if (!json) status.update(() => `evaluating: ${Math.floor((100 * tokens) / of)} % of ${count(of)} tokens`)
  })
  const seconds = (performance.now() - began) / 1000
  const scores = text && textScores(result, await measureText(text.text()))
  const words = model.tokenizer?.name === 'words'
  const unknown = text && words ? await unknownPart(text) : undefined
  const buckets =
    losses &&
    (await frequencyBuckets(text!, losses.losses, await trainingCounts(given, model, data, words), words))
  if (json)
    console.log(
      JSON.stringify({
        ...{ ...result, ...scores },
        ...(unknown !== undefined && { unknown }),
        ...(buckets && { buckets }),
        ...{ step: model.step, files: data.files, seconds },
      }),
    )
  else {
    status.print(
      `${evaluationText(result)}${result.accuracy === undefined ? `, over ${count(result.tokens)} tokens` : ''} ` +
        `(step ${model.step}, ${count(result.slots)} slots, ${count(read / seconds)} tokens/s)`,
    )
    if (scores) for (const line of describeWords(scores, unknown, buckets)) console.log(line)
  }
  decoder.dispose()
  return 0
}

/** How an agent does in its world. */
async function playEpisodes(
  { given }: CommandLine,
  { decoder, config, step }: TrainedModel,
  world: RolloutSource,
): Promise<number> {
  if (given.block !== undefined)
    throw new UsageError('--block is of no use here: an agent acts step by step, so leave it out')
  const episodes = given['valid-batch'] ?? config['valid-batch'] ?? 64
  const began = performance.now()
  const result = await world.evaluate({ decoder, episodes })
  const seconds = (performance.now() - began) / 1000
  decoder.dispose()
  if (given.json) console.log(JSON.stringify({ ...result, step, seconds }))
  else
    console.log(
      `${evaluationText(result)} (step ${step}, ${result.slots.toFixed(1)} slots, ${duration(seconds)})`,
    )
  return 0
}

/** What an iterator ends with; `see` gets all that it yields before. */
async function resultOf<Event, Result>(
  events: AsyncGenerator<Event, Result, undefined>,
  see: (event: Event) => void,
): Promise<Result> {
  for (;;) {
    const next = await events.next()
    if (next.done) return next.value
    see(next.value)
  }
}

function describeWords(
  scores: TextScores,
  unknown: number | undefined,
  buckets: readonly FrequencyBucket[] | undefined,
): string[] {
  const lines = [wordsText(scores)]
  if (unknown !== undefined)
    lines.push(
      `${percent(unknown)} of the tokens are <unk>: none of this compares with another vocabulary, nor with bytes`,
    )
  if (buckets) {
    lines.push('perplexity per word, by occurrences in the training text:')
    for (const { from, below, words, perplexity } of buckets) {
      const range =
        below === Number.POSITIVE_INFINITY ? `> ${count(from - 1)}` : `${count(from)}–${count(below - 1)}`
      const value = words === 0 ? 'no words' : `${perplexityText(perplexity)} over ${count(words)} words`
      lines.push(`  ${range.padEnd(12)}  ${value}`)
    }
  }
  return lines
}

/** The data to evaluate on. */
async function openEvaluated(given: Given, model: TrainedModel, path: string): Promise<RunData> {
  const { tokenizer, config } = model
  const stray = (['data', 'split', 'buckets'] as const).find((name) => given[name] !== undefined)
  if (!tokenizer && stray)
    throw new UsageError(
      `the model in ${path} was trained on the task ${config.task}, not on text: leave out --${stray}`,
    )
  const foreign = foreignOptions(config.task?.[0]).find((name) => given[name] !== undefined)
  if (foreign) refuseForeign(foreign)
  const only = [(given.split ?? 'validation') as TextPart]
  if (tokenizer && given.data?.length) {
    const data = await openTexts(given.data, { tokenizer, trainFraction: 0, only })
    if (given.split !== undefined && !data.text!.test)
      throw new UsageError(`${given.data.join(', ')} has no parts of its own: leave out --split`)
    return data
  }
  return openData(evaluated(config, given), tokenizer, only)
}

/** A run's data, with the options of its task that the command line has. */
const evaluated = (config: Given, given: Given): Given => ({
  ...config,
  ...(given['task-options'] && { 'task-options': { ...config['task-options'], ...given['task-options'] } }),
  ...(given['valid-tokens'] !== undefined && { 'valid-tokens': given['valid-tokens'] }),
  ...(given.greedy && { greedy: given.greedy }),
})

function partOf({ text }: RunData, split: TextPart = 'validation'): TextSource {
  const part = text![split]
  // A folder may have parts, and none for tests.
  if (!part || (split === 'test' && part.length === 0))
    throw new UsageError(
      'the text has no part of its own for tests: leave out --split, or give one with --data',
    )
  return part
}

/** The part of a text's tokens that stand for words outside the vocabulary. */
async function unknownPart(text: TextSource): Promise<number> {
  let unknown = 0
  for (let start = 0; start < text.length; start += 2 ** 16)
    for (const token of await text.read(start, Math.min(text.length, start + 2 ** 16)))
      if (token === unknownWord) unknown++
  return unknown / text.length
}

/** How often each word occurs in what the model was trained on. */
async function trainingCounts(given: Given, model: TrainedModel, data: RunData, lineEnds: boolean) {
  const own = given.data?.length ? await openData(model.config, model.tokenizer, []) : data
  return countWords(own.text!.train.text(), lineEnds)
}

async function chooseEndings({ given, positionals }: CommandLine): Promise<number> {
  const stray = (['data', 'split', 'buckets', 'task-options', 'valid-tokens', 'greedy'] as const).find(
    (name) => given[name] !== undefined,
  )
  if (stray) throw new UsageError(`--multiple-choice has a file of its own: leave out --${stray}`)
  const path = given['multiple-choice']!
  const file = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new UsageError(
      `cannot read --multiple-choice ${path}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`,
    )
  })
  const questions = parseQuestions(file, path)
  const { decoder, tokenizer, config, step } = await openTextModel('eval', positionals, () =>
    startBackend(given),
  )
  const status = new StatusLine(process.stdout)
  const rows = multipleChoice({
    ...{ decoder, tokenizer, questions },
    ...(given['valid-batch'] !== undefined && { batch: given['valid-batch'] }),
    block: given.block ?? config.block ?? 64,
  })
  const result = await resultOf(rows, ({ done, of }) => {
    if (!given.json) status.update(() => `reading: ${count(done)} of ${count(of)} endings`)
  })
  decoder.dispose()
  if (given.json) console.log(JSON.stringify({ ...result, step, file: path }))
  else {
    const shown = (part: number, error: number) => `${percent(part)} ± ${percent(error)}`
    const { accuracy, normalizedAccuracy, chance, standardError } = result
    status.print(
      `${shown(accuracy, standardError.accuracy)} right, ${shown(normalizedAccuracy, standardError.normalizedAccuracy)} by log-probability per character; ` +
        `chance ${percent(chance)} (${count(result.questions)} questions, step ${step})`,
    )
  }
  return 0
}
