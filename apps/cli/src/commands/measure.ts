/** lethe measure: what a trained model remembers and what it costs, for a reader or for `lethe compare`. */
import type { Decoder } from '@lethe/core'
import { startBackend } from '../backend'
import type { CommandLine } from '../command-line'
import { type Figures, measure } from '../compare/figures'
import { qualityOf } from '../compare/quality'
import { isWorld, openData, refuseForeign } from '../data'
import { UsageError } from '../errors'
import { methodOf, methods } from '../methods'
import { openModel } from '../model'
import type { Given } from '../options'
import { bytes, count } from '../output'
import { evaluationText, wordsText } from '../session'
import { settingsOf } from '../settings'

export async function measureCommand({ given, positionals }: CommandLine): Promise<number> {
  let backend = ''
  const { decoder, tokenizer, config } = await openModel('measure', positionals, async () => {
    backend = (await startBackend(given)).name
  })
  if (given.greedy && !isWorld(config.task?.[0])) refuseForeign('greedy')
  const data = await openData({ ...config, ...(given.greedy && { greedy: true }) }, tokenizer)
  const measured = given.budget === undefined ? decoder : withBudget(decoder, config, given.budget)
  const figures = await measure({
    decoder: measured,
    data,
    batch: config.batch ?? 16,
    block: config.block ?? 64,
    validBatch: given['valid-batch'] ?? config['valid-batch'] ?? 8,
  })
  for (const each of new Set([decoder, measured])) each.dispose()
  if (given.json) console.log(JSON.stringify({ backend, ...figures }))
  else for (const line of describe(figures, backend)) console.log(line)
  return 0
}

/** The same weights, with room for fewer or more slots. @throws UsageError where the method takes no budget */
function withBudget(decoder: Decoder, config: Given, budget: number): Decoder {
  const settings = settingsOf(config)
  if (!methods[settings.method]!.options.includes('budget'))
    throw new UsageError(`a trained model of ${settings.method} has no --budget to change: train another one`)
  return decoder.withMethod(methodOf(settings.method, { ...settings, budget }))
}

function describe(figures: Figures, backend: string): string[] {
  const last = figures.byPosition.at(-1)
  const { label, format, of } = qualityOf(figures)
  const targets = figures.tokens === undefined ? '' : `${count(figures.tokens)} targets, `
  return [
    `${evaluationText(figures)}; ${targets}${count(figures.parameters)} parameters`,
    ...(figures.text ? [wordsText(figures.text)] : []),
    `${figures.slots.toFixed(1)} slots, at most ${bytes(figures.memoryBytes)} of memory per stream`,
    `${backend}: ${figures.trainingMsPerBlock.toFixed(0)} ms forward and backward per block (${count(figures.trainingTokensPerSecond)} tokens/s), ` +
      `${figures.evaluationMsPerBlock.toFixed(0)} ms to ${figures.tokens === undefined ? 'act for' : 'evaluate'} one; peak ${bytes(figures.peakTensorBytes)} of tensors, ${bytes(figures.peakRssBytes)} resident`,
    '',
    `slots attended to, by layer and head${figures.solved === undefined ? '' : ' (in blocks of training, idle rows included)'}:`,
    ...figures.layers.map(
      ({ attended, slots }, layer) =>
        `  layer ${layer}: ${attended.map((value) => value.toFixed(1)).join('  ')}   (${slots.toFixed(1)} held)`,
    ),
    ...(last
      ? [
          '',
          `${label} after so many tokens of context:`,
          ...figures.byPosition.map(
            (bin) =>
              `  ${`${count(bin.from)}–${count(bin.to)}`.padEnd(2 * count(last.to).length + 1)}  ${format(of(bin)!)}`,
          ),
        ]
      : []),
  ]
}
