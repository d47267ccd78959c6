/** lethe eval: bits per byte of a trained model on its validation text or on another text. */
import { evaluation } from '@lethe/trainer'
import { openText } from '@lethe/trainer/node'
import { startBackend } from '../backend'
import { openData, type RunData } from '../data'
import { UsageError } from '../errors'
import { openModel, type TrainedModel } from '../model'
import type { CommandLine, Given } from '../options'
import { count, StatusLine } from '../output'
import { evaluationText } from '../session'

export async function evalCommand({ given, positionals }: CommandLine): Promise<number> {
  const model = await openModel('eval', positionals, () => startBackend(given))
  const { decoder, tokenizer, config } = model
  const other = given.data?.length ? given.data : undefined
  const data = other
    ? await openOther(other, model, positionals[0]!)
    : await openData(evaluated(config, given), tokenizer)
  if (data.vocabulary !== decoder.config.vocabulary)
    throw new UsageError(
      `with these --task-options there are ${data.vocabulary} different tokens, and the model knows ${decoder.config.vocabulary}: evaluate on a task of the same tokens`,
    )
  const status = new StatusLine(process.stdout)
  const json = given.json ?? false
  const began = performance.now()
  const batch = given['valid-batch'] ?? config['valid-batch'] ?? 8
  const blocks = evaluation({
    decoder,
    source: data.validation,
    batch,
    block: given.block ?? config.block ?? 64,
  })
  let read = 0
  for (;;) {
    const next = await blocks.next()
    if (!next.done) {
      const { tokens, of } = next.value
      read = tokens
      if (!json)
        status.update(() => `evaluating: ${Math.floor((100 * tokens) / of)} % of ${count(of)} tokens`)
      continue
    }
    const result = next.value
    const seconds = (performance.now() - began) / 1000
    if (json) console.log(JSON.stringify({ ...result, step: model.step, files: data.files, seconds }))
    else
      status.print(
        `${evaluationText(result)}${result.accuracy === undefined ? `, over ${count(result.tokens)} tokens` : ''} ` +
          `(step ${model.step}, ${count(result.slots)} slots, ${count(read / seconds)} tokens/s)`,
      )
    decoder.dispose()
    return 0
  }
}

/** A run's data, with the options of its task that the command line has. */
const evaluated = (config: Given, given: Given): Given => ({
  ...config,
  ...(given['task-options'] && { 'task-options': { ...config['task-options'], ...given['task-options'] } }),
  ...(given['valid-tokens'] !== undefined && { 'valid-tokens': given['valid-tokens'] }),
})

/** The whole of another text. */
async function openOther(
  paths: readonly string[],
  { tokenizer, config }: TrainedModel,
  path: string,
): Promise<RunData> {
  if (!tokenizer)
    throw new UsageError(
      `the model in ${path} was trained on the task ${config.task}, not on text: leave out --data`,
    )
  const data = await openText([...paths], { tokenizer, trainFraction: 0 })
  return { ...data, vocabulary: tokenizer.vocabulary }
}
