/** What is computed, in the page or in a worker: events that either can show. */
import { disposeBackend, useBackend } from '@lethe/backends'
import { Decoder, presets } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { generate, openString, train } from '@lethe/trainer'

/** Trains a small decoder on a text, then lets it write. Yields what started, each step, and the text as it comes. */
export async function* trainAndWrite({ text, backend }) {
  const { name, device, threads, singleThread } = await useBackend(backend)
  yield { type: 'backend', name, device, threads, singleThread }
  const data = await openString(`${text}\n`.repeat(Math.ceil(10_000 / text.length)))
  const { tokenizer } = data
  const decoder = new Decoder({
    ...presets.modern.decoder,
    vocabulary: tokenizer.vocabulary,
    layers: 2,
    width: 32,
    heads: 2,
    feedForward: 64,
    method: expireSpan({ maxSpan: 128, ramp: 16 }),
  })
  try {
    const options = { steps: 80, batch: 4, block: 32, learningRate: 3e-3, warmup: 10 }
    for await (const event of train({ decoder, train: data.train, ...options })) {
      if (event.type !== 'step') continue
      const { step, bitsPerByte, slots } = event
      yield { type: 'step', step, of: options.steps, bitsPerByte, slots }
    }
    const prompt = text.slice(0, 24)
    yield { type: 'text', text: prompt }
    for await (const part of generate({ decoder, tokenizer, prompt, tokens: 60, temperature: 0 }))
      yield { type: 'text', text: part.text }
    yield { type: 'end' }
  } finally {
    decoder.dispose()
    await disposeBackend()
  }
}
