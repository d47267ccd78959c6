/** lethe inspect: what a trained model kept of a text, on a page, in the terminal or as JSON. */
import { join, resolve } from 'node:path'
import { readRun, replaceFile } from '@lethe/trainer/node'
import { startBackend } from '../backend'
import type { CommandLine } from '../command-line'
import { openTexts } from '../data'
import { UsageError } from '../errors'
import { leftOf } from '../inspect/strength'
import { type Trace, traceText } from '../inspect/trace'
import { openTextModel } from '../model'
import { count, relativePath } from '../output'
import { inspectPage } from '../pages/inspect'

export async function inspectCommand({ given, positionals }: CommandLine): Promise<number> {
  const { decoder, tokenizer, config } = await openTextModel('inspect', positionals, () =>
    startBackend(given),
  )
  const { layers } = decoder.config
  const layer = given.layer ?? layers - 1
  if (layer >= layers)
    throw new UsageError(`--layer ${layer} is too many: the model has layers 0 to ${layers - 1}`)
  const other = given.data?.length ? given.data : undefined
  const data = await openTexts(other ?? config.data ?? [], {
    tokenizer,
    only: ['validation'],
    ...(other && { trainFraction: 0 }),
  })
  const { validation } = data.text!
  const from = given.start ?? 0
  if (from >= validation.length)
    throw new UsageError(`--start ${from} is beyond the text, which has ${count(validation.length)} tokens`)
  const tokens = await validation.read(from, Math.min(validation.length, from + (given.tokens ?? 512)))
  const trace = await traceText(decoder, tokenizer, tokens, config.block ?? 64)
  decoder.dispose()
  if (given.json) {
    console.log(JSON.stringify(trace))
    return 0
  }
  const { root } = await readRun(positionals[0]!)
  const out = given.out ?? join(root, 'inspect.html')
  await replaceFile(out, inspectPage(trace, relativePath(resolve(positionals[0]!))))
  console.log(inTerminal(trace, layer))
  console.log(`\nlayer ${layer} at the last token; the page: ${relativePath(resolve(out))}`)
  return 0
}

/** The text as the last token sees it: bold to dim on a terminal, else what is gone as dots. */
function inTerminal(trace: Trace, layer: number): string {
  const last = trace.texts.length - 1
  const colours = Boolean(process.stdout.isTTY) && !process.env.NO_COLOR
  return trace.texts
    .map((text, token) => {
      const { strength } = leftOf(trace, trace.layers[layer]!, 'mean', last, token)
      if (colours)
        return `\u001b[38;5;${strength === 0 ? 238 : 243 + Math.round(12 * strength)}m${text}\u001b[0m`
      return strength > 0 || /\s/.test(text) ? text : text && '·'
    })
    .join('')
}
