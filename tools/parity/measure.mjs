/**
 * What is measured on one backend, as an async iterator of plain events: the same code in Node and in a page. Golden
 * vectors, laws of attention and of methods, a short training of every method, and a step at the size of the benchmarks.
 * What throws is an event, too: the rest goes on.
 */
import { disposeBackend, useBackend } from '@lethe/backends'
import {
  attend,
  Decoder,
  decodeSafetensors,
  fixedSpan,
  presets,
  Random,
  registerGradients,
  setAttentionKernel,
} from '@lethe/core'
import { attentionLaws, conformanceLaws } from '@lethe/core/testing'
import { Optimizer, openString, train } from '@lethe/trainer'
import * as tf from '@tensorflow/tfjs-core'
import { notReplayed, optionsOf } from '../golden/config.mjs'
import { replay } from '../golden/replay.mjs'
import { methods } from './methods.mjs'
import { tolerance } from './rows.mjs'

/**
 * @param request { backend, options: what useBackend takes beside its name, expect: pattern of the device without which
 *   nothing is measured, parts, methods: names, golden: names of files, steps: of the training }
 * @param readGolden name → bytes of the file
 * @returns events: `started` { device, software, patched } or `refused` { reason, message }; then `golden`
 *   { case, maxAbsError }, `law` { kit, name }, `training` { method, losses, ms, tensors }, `speed` { ms, steps }, each
 *   with `error` where it threw, and `part` { name, seconds, attention: { calls, own } } when one is done
 */
export async function* measure(request, readGolden) {
  let info
  try {
    info = await useBackend(request.backend, request.options)
  } catch (error) {
    yield { type: 'refused', reason: error.reason ?? 'failed', message: messageOf(error) }
    return
  }
  const { device, software, patched } = info
  yield { type: 'started', device, software, patched: [...patched] }
  if (request.expect && !new RegExp(request.expect).test(device)) {
    await disposeBackend()
    return
  }
  registerGradients()
  const attention = countAttention(request.backend)
  const tasks = { golden, laws, training, speed }
  for (const name of request.parts) {
    const began = performance.now()
    attention.reset()
    for await (const event of tasks[name]({ ...request, info }, readGolden)) yield event
    yield { type: 'part', name, seconds: (performance.now() - began) / 1000, attention: attention.counts() }
  }
  attention.stop()
  await disposeBackend()
}

const messageOf = (thrown) => (thrown instanceof Error ? thrown.message : String(thrown?.message ?? thrown))

/** An event of work that may throw, or whose device may have failed meanwhile. */
async function attempt(event, info, work) {
  try {
    const result = await work()
    info.throwIfFailed()
    return { ...event, ...result }
  } catch (error) {
    return { ...event, error: messageOf(error) }
  }
}

/** Counts what the backend's own attention kernel computes, where it has one. */
function countAttention(backend) {
  const own = setAttentionKernel(backend, null)
  let calls = 0
  if (own)
    setAttentionKernel(backend, {
      covers: (given) => own.covers(given),
      forward(given) {
        calls++
        return own.forward(given)
      },
      backward: (...given) => own.backward(...given),
    })
  return {
    reset() {
      calls = 0
    },
    counts: () => ({ own: own !== null, calls }),
    stop: () => setAttentionKernel(backend, own),
  }
}

async function* golden({ golden: names, methods: chosen, info }, readGolden) {
  for (const name of names) {
    const file = decodeSafetensors(await readGolden(name), name)
    const skipped = notReplayed[file.metadata.family]
    if (skipped) {
      yield { type: 'golden', case: name, skipped }
      continue
    }
    // Methods may differ from layer to layer; in these files they do not.
    const method = optionsOf(file.metadata).decoder.method.name
    if (!chosen.includes(method)) continue
    yield await attempt({ type: 'golden', case: name, method }, info, async () => ({
      maxAbsError: await replay(file),
    }))
  }
}

async function* laws({ methods: chosen, info }) {
  const kits = {
    attention: attentionLaws({ compute: attend, tolerance: { values: tolerance, gradients: tolerance } }),
  }
  for (const name of chosen) kits[name] = conformanceLaws({ ...methods[name].laws, tolerance })
  for (const [kit, all] of Object.entries(kits))
    for (const { name, check } of all)
      yield await attempt({ type: 'law', kit, name }, info, async () => {
        await check()
        return {}
      })
}

/** Text that repeats itself with changes: the same everywhere, and something to learn from. */
const sentence =
  'the river takes what was said and what was left unsaid, and forgets the names of both banks. '
const text = Array.from({ length: 60 }, (_, i) => `${i * 37} ${sentence.slice(i % 20)}`).join('\n')

/** The trainer's own loop on a small model in the modern style, with every fused operation in it. */
async function* training({ methods: chosen, steps, info }) {
  const { train: data, tokenizer } = await openString(text)
  for (const name of chosen)
    yield await attempt({ type: 'training', method: name }, info, async () => {
      const before = tf.memory().numTensors
      const decoder = new Decoder(
        {
          ...presets.modern.decoder,
          ...{ vocabulary: tokenizer.vocabulary, layers: 2, width: 32, heads: 2, feedForward: 64 },
          method: methods[name].train(),
        },
        { seed: 1 },
      )
      const losses = []
      const ms = []
      const tensors = []
      let began
      const options = { batch: 4, block: 16, optimizer: 'adamw', learningRate: 2e-3, warmup: 5, evalEvery: 0 }
      try {
        for await (const event of train({ ...options, decoder, train: data, steps })) {
          if (event.type !== 'step') continue
          const now = performance.now()
          if (began !== undefined) ms.push(now - began)
          losses.push(event.loss)
          tensors.push(tf.memory().numTensors)
          began = performance.now()
        }
      } finally {
        decoder.dispose()
      }
      const left = tf.memory().numTensors - before
      // Memories are full by the middle.
      const held = { middle: tensors[steps >> 1], end: tensors[steps - 1], left }
      return { losses, ms: median(ms.slice(ms.length >> 1)), tensors: held }
    })
}

const speedSizes = { layers: 4, width: 256, heads: 4, feedForward: 1024 }
const [speedBatch, speedBlock, speedSpan, vocabulary] = [8, 128, 512, 256]
/** Steps are taken until there are so many, or the time is over. */
const speedSteps = { warm: 2, least: 4, most: 20, seconds: 30 }

/** Whole steps of fixed span as docs/benchmarks.md section 1 has them: forward, backward, clipping, update, reading the loss. */
async function* speed({ backend, info }) {
  const reason = backend === 'cpu' ? 'plain JavaScript: minutes a step' : info.software && 'a GPU in software'
  if (reason) {
    yield { type: 'speed', skipped: reason }
    return
  }
  yield await attempt({ type: 'speed' }, info, async () => {
    const decoder = new Decoder(
      { ...presets.fair.decoder, ...speedSizes, vocabulary, method: fixedSpan({ span: speedSpan }) },
      { seed: 1 },
    )
    const optimizer = new Optimizer(decoder.parameters, { optimizer: 'adam', clip: 0.3 })
    const random = new Random(1)
    const tokens = () =>
      tf.tensor2d(
        Int32Array.from({ length: speedBatch * speedBlock }, () => random.integer(vocabulary)),
        [speedBatch, speedBlock],
        'int32',
      )
    await decoder.afterUpdate()
    // FAIR's memory is full of zeros from the start: every step has all slots.
    let memory = decoder.initialMemory(speedBatch)
    const times = []
    const { warm, least, most, seconds } = speedSteps
    let spent = 0
    for (let step = 0; step < warm + most; step++) {
      const [inputs, targets] = [tokens(), tokens()]
      const began = performance.now()
      const result = decoder.gradients(inputs, targets, memory, { random })
      const norm = optimizer.update(result.gradients, 1e-8)
      await Promise.all([result.loss.data(), norm.data()])
      tf.dispose([inputs, targets, result.penalty, Object.values(result.gradients), result.loss, norm])
      await decoder.afterUpdate()
      memory = await decoder.compact(result.memory)
      const elapsed = performance.now() - began
      if (step >= warm) times.push(elapsed)
      spent += elapsed
      if (times.length >= least && spent > 1000 * seconds) break
    }
    const { slots } = memory
    memory.dispose()
    optimizer.dispose()
    decoder.dispose()
    return { ms: median(times), steps: times.length, slots }
  })
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted.length % 2
    ? sorted[sorted.length >> 1]
    : (sorted[sorted.length / 2 - 1] + sorted[sorted.length / 2]) / 2
}
