/** lethe eval: bits per byte of a trained model on its validation text or on another text. */
import { evaluation } from '@lethe/trainer'
import { openText } from '@lethe/trainer/node'
import { startBackend } from '../backend'
import { openModel } from '../model'
import type { CommandLine } from '../options'
import { count, StatusLine } from '../output'

export async function evalCommand({ given, positionals }: CommandLine): Promise<number> {
  const model = await openModel('eval', positionals, () => startBackend(given))
  const { decoder, tokenizer, config } = model
  const other = given.data?.length ? given.data : undefined
  const data = await openText(other ?? config.data ?? [], { tokenizer, ...(other && { trainFraction: 0 }) })
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
  for (;;) {
    const next = await blocks.next()
    if (!next.done) {
      const { tokens, of } = next.value
      if (!json)
        status.update(() => `evaluating: ${Math.floor((100 * tokens) / of)} % of ${count(of)} tokens`)
      continue
    }
    const result = next.value
    const seconds = (performance.now() - began) / 1000
    if (json) console.log(JSON.stringify({ ...result, step: model.step, files: data.files, seconds }))
    else
      status.print(
        `${result.bitsPerByte.toFixed(4)} bits per byte, perplexity ${result.perplexity.toFixed(2)} per token, over ${count(result.tokens)} tokens ` +
          `(step ${model.step}, ${count(result.slots)} slots, ${count(result.tokens / seconds)} tokens/s)`,
      )
    decoder.dispose()
    return 0
  }
}
