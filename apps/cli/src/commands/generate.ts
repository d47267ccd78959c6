/** lethe generate: text from a trained model, as it comes. */
import { type GenerateOptions, generate } from '@lethe/trainer'
import { startBackend } from '../backend'
import type { CommandLine } from '../command-line'
import { openTextModel } from '../model'
import type { Given } from '../options'
import { colours } from '../output'

export async function generateCommand({ given, positionals }: CommandLine): Promise<number> {
  const { decoder, tokenizer, config, step } = await openTextModel('generate', positionals, () =>
    startBackend(given),
  )
  const prompt = given.prompt ?? '\n'
  const stop = new AbortController()
  const interrupt = () => stop.abort()
  process.once('SIGINT', interrupt)
  const began = performance.now()
  let text = ''
  let tokens = 0
  let memoryBytes = 0
  if (!given.json) process.stdout.write(colours(process.stdout).dim(prompt))
  const stream = generate({
    decoder,
    tokenizer,
    prompt,
    ...samplingOf(given),
    tokens: given.tokens ?? 400,
    block: given.block ?? config.block ?? 64,
    seed: given.seed ?? 0,
    weights: given.weights as GenerateOptions['weights'],
    signal: stop.signal,
  })
  for await (const part of stream) {
    text += part.text
    tokens++
    memoryBytes = part.memoryBytes
    if (!given.json) process.stdout.write(part.text)
  }
  const seconds = (performance.now() - began) / 1000
  if (given.json)
    console.log(
      JSON.stringify({ prompt, text, tokens, step, memoryBytes, seconds, tokensPerSecond: tokens / seconds }),
    )
  else process.stdout.write('\n')
  process.off('SIGINT', interrupt)
  decoder.dispose()
  return stop.signal.aborted ? 130 : 0
}

/** Sampling as given, with the command line's defaults. */
export const samplingOf = (given: Given) => ({
  temperature: given.temperature ?? 0.8,
  topK: given['top-k'] ?? 0,
  topP: given['top-p'] ?? 1,
})
