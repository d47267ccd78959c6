/** lethe demo: trains a small model on a text that every installation has, evaluates it and shows what it writes. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { checkTraining, generate } from '@lethe/trainer'
import { startBackend } from '../backend'
import type { CommandLine } from '../command-line'
import { absolute, openData } from '../data'
import { installedText } from '../installed-text'
import { bytes, colours, count, duration, program, relativePath, shellQuoted } from '../output'
import { createRun, runTraining, trainOptions } from '../session'
import { decoderOf, type Settings, settingsOf } from '../settings'
import { samplingOf } from './generate'

/** Sizes with which two cores are done in a few minutes. */
export const demoDefaults: Partial<Settings> = {
  layers: 2,
  width: 128,
  heads: 4,
  'feed-forward': 256,
  span: 128,
  steps: 500,
  batch: 8,
  block: 64,
  'learning-rate': 2e-3,
  warmup: 50,
  schedule: 'cosine',
  'eval-every': 250,
  'checkpoint-every': 250,
}

export async function demoCommand(line: CommandLine): Promise<number> {
  const given = absolute(line.given)
  const began = performance.now()
  const json = given.json ?? false
  const paint = colours(process.stdout)
  const print = (text: string) => {
    if (!json) console.log(text)
  }
  const settings = settingsOf(given, demoDefaults)
  const chosen = given.data?.length ? given.data : undefined
  const files = chosen ?? (await installedText())
  const data = await openData({ ...given, data: files })
  const { bytes: size } = data.text!
  const backend = await startBackend(given)
  print(
    chosen
      ? `text: ${data.files!.length === 1 ? relativePath(data.files![0]!) : `${data.files!.length} files`}, ${bytes(size)}`
      : `text: ${data.files!.length} TypeScript declaration files of the installed @tensorflow/tfjs-core, ${bytes(size)} (your own: --data FILE)`,
  )
  print(`backend: ${backend.name} (${backend.device})`)
  print(
    `model: ${settings.preset} decoder, ${settings.layers} layers of width ${settings.width}, ${settings.method} remembers ${count(settings.span)} steps`,
  )
  const decoder = decoderOf(settings, data.vocabulary)
  const options = trainOptions(settings, decoder, data)
  checkTraining(options)
  const out = given.out ?? newFolder()
  const run = await createRun(out, { ...settings, data: files }, settings.keep)
  const { finished, last } = await runTraining({ options, run, json, backend })
  if (!finished) return 130

  const tokens = given.tokens ?? 300
  const prompt = given.prompt ?? (chosen ? '\n' : '/**\n * ')
  print(`\na sample of ${tokens} tokens:`)
  if (!json) process.stdout.write(paint.dim(prompt))
  let text = ''
  const sample = generate({
    decoder,
    tokenizer: data.tokenizer!,
    prompt,
    ...samplingOf(given),
    tokens,
    block: settings.block,
    seed: settings.seed,
  })
  for await (const part of sample) {
    text += part.text
    if (!json) process.stdout.write(part.text)
  }
  const seconds = (performance.now() - began) / 1000
  const folder = shellQuoted(relativePath(resolve(out)))
  if (json) console.log(JSON.stringify({ type: 'demo', out, validation: last, prompt, text, seconds }))
  print(
    `\n\ndone in ${duration(seconds)}; more text: ${program()} generate ${folder} ${chosen ? '' : '--prompt "export " '}--temperature 0.5`,
  )
  decoder.dispose()
  return 0
}

/** runs/demo-1, or the first number that is free. */
function newFolder(): string {
  for (let number = 1; ; number++) {
    const path = join('runs', `demo-${number}`)
    if (!existsSync(path)) return path
  }
}
