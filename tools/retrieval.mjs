#!/usr/bin/env node
/**
 * node tools/retrieval.mjs [--steps 2500] [--seeds 0,1] [--backend wasm] [--out FILE.jsonl]
 *
 * Do spans learn where a task needs them? A stream of episodes: a token that holds a tag and a value, 4 to 100 steps of
 * noise, a question for the tag, the value as the answer (chance 25 %). Adaptive-Span and Expire-Span start too short
 * to answer most questions; each is trained as it is and with its spans frozen at the start, beside a fixed span.
 */
import { open } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { adaptiveSpan } from '@lethe/adaptive-span'
import { disposeBackend, useBackend } from '@lethe/backends'
import { Decoder, fixedSpan, presets, Random, registerGradients } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { learningRateAt, Optimizer } from '@lethe/trainer'
import * as tf from '@tensorflow/tfjs-core'

const tags = 4
const values = 4
const noise = 8
const holds = tags * values
const asks = holds + noise
const answers = asks + tags
const vocabulary = answers + values
const distances = { least: 4, most: 100 }
/** Farther than two layers with the spans that they start with can pass anything on. */
const beyond = 64
const [batch, block, maxSpan] = [16, 64, 128]

/** Endless episodes; `gap` is the distance of the question from what it asks for, at the question, else 0. */
class Episodes {
  tag = 0
  queue = []

  constructor(random) {
    this.random = random
  }

  next() {
    if (this.queue.length === 0) {
      const value = this.random.integer(values)
      const gap = distances.least + this.random.integer(distances.most - distances.least + 1)
      const fillers = Array.from({ length: gap - 1 }, () => ({
        token: holds + this.random.integer(noise),
        gap: 0,
      }))
      this.queue = [
        { token: this.tag * values + value, gap: 0 },
        ...fillers,
        { token: asks + this.tag, gap },
        { token: answers + value, gap: 0 },
      ]
      this.tag = (this.tag + 1) % tags
    }
    return this.queue.shift()
  }
}

/** Blocks [batch, block] of a batch of streams, carried on. */
class Streams {
  constructor(seed) {
    this.rows = Array.from({ length: batch }, (_, row) => new Episodes(new Random(seed * 1000 + row)))
    this.last = this.rows.map((row) => row.next())
  }

  next() {
    const rows = this.rows.map((row, index) => {
      const steps = [this.last[index], ...Array.from({ length: block }, () => row.next())]
      this.last[index] = steps[block]
      return steps
    })
    const flat = (pick) => rows.flatMap((steps) => pick(steps))
    return {
      inputs: Int32Array.from(flat((steps) => steps.slice(0, -1).map(({ token }) => token))),
      targets: Int32Array.from(flat((steps) => steps.slice(1).map(({ token }) => token))),
      gaps: flat((steps) => steps.slice(0, -1).map(({ gap }) => gap)),
    }
  }
}

/** The method with its parameters pinned to where they start. */
const frozen = (method) => ({
  ...method,
  parameters: (layer) =>
    Object.fromEntries(
      Object.entries(method.parameters(layer)).map(([name, spec]) => [
        name,
        { ...spec, clamp: [spec.initializer.value, spec.initializer.value] },
      ]),
    ),
})

const adaptive = adaptiveSpan({ maxSpan, ramp: 16, penalty: 1e-5 })
const expire = expireSpan({ maxSpan, ramp: 16, penalty: 1e-5, loss: 'ramp', initialPercentage: 0.1 })
const setups = {
  'fixed span 128': { method: fixedSpan({ span: maxSpan }) },
  'Adaptive-Span': { method: adaptive },
  'Adaptive-Span, frozen': { method: frozen(adaptive) },
  'Expire-Span': { method: expire, learnedDistances: block },
  'Expire-Span, frozen': { method: frozen(expire), learnedDistances: block },
}

async function run(name, setup, seed, steps) {
  const decoder = new Decoder(
    { ...presets.fair.decoder, vocabulary, layers: 2, width: 64, heads: 2, feedForward: 128, ...setup },
    { seed },
  )
  await decoder.afterUpdate()
  const optimizer = new Optimizer(decoder.parameters, { optimizer: 'adam', clip: 0.3 })
  const streams = new Streams(seed + 1)
  const random = new Random(seed)
  let memory = decoder.initialMemory(batch)
  const lines = []
  const right = { near: [0, 0], far: [0, 0] }
  for (let step = 1; step <= steps; step++) {
    const { inputs, targets, gaps } = streams.next()
    const scored = tf.tensor2d(
      Float32Array.from(gaps, (gap) => (gap > 0 ? 1 : 0)),
      [batch, block],
    )
    const [x, y] = [inputs, targets].map((tokens) => tf.tensor2d(tokens, [batch, block], 'int32'))
    if (step > steps - 200) {
      // The last 200 blocks are scored before they are trained on.
      const { logits, memory: next, penalty } = decoder.forward(x, memory.clone())
      const guesses = tf.tidy(() => tf.argMax(logits, -1))
      const found = await guesses.data()
      gaps.forEach((gap, at) => {
        if (gap === 0) return
        const bucket = gap > beyond ? right.far : right.near
        bucket[0] += found[at] === targets[at] ? 1 : 0
        bucket[1]++
      })
      tf.dispose([logits, penalty, guesses])
      next.dispose()
    }
    const result = decoder.gradients(x, y, memory, { random, weights: scored })
    memory = await decoder.compact(result.memory)
    const rate = learningRateAt(step, { schedule: 'cosine', learningRate: 2e-3, warmup: 100, steps })
    const norm = optimizer.update(result.gradients, rate)
    await decoder.afterUpdate()
    const [loss] = await result.loss.data()
    tf.dispose([x, y, scored, norm, result.loss, result.penalty, Object.values(result.gradients)])
    if (step % 100 === 0 || step === 1) {
      const report = await decoder.report(memory)
      const spans = report.map(({ figures }) => (figures.span ? Array.from(figures.span.data) : []))
      const mean = (list) => list.reduce((a, b) => a + b, 0) / Math.max(1, list.length)
      lines.push({
        name,
        seed,
        step,
        loss,
        slots: memory.slots,
        meanSpan: spans.map(mean),
        longestSpan: spans.map((list) => Math.max(0, ...list)),
      })
    }
  }
  const accuracy = Object.fromEntries(
    Object.entries(right).map(([bucket, [hits, of]]) => [bucket, hits / of]),
  )
  lines.push({ name, seed, step: steps, type: 'end', accuracy, slots: memory.slots, ...pick(lines.at(-1)) })
  memory.dispose()
  optimizer.dispose()
  decoder.dispose()
  return lines
}

const pick = ({ meanSpan, longestSpan }) => ({ meanSpan, longestSpan })

const { values: given } = parseArgs({
  options: {
    steps: { type: 'string', default: '2500' },
    seeds: { type: 'string', default: '0' },
    backend: { type: 'string', default: 'wasm' },
    out: { type: 'string' },
    only: { type: 'string' },
  },
})
await useBackend(given.backend)
registerGradients()
const file = given.out && (await open(given.out, 'w'))
for (const seed of given.seeds.split(',').map(Number))
  for (const [name, setup] of Object.entries(setups)) {
    if (given.only && !name.startsWith(given.only)) continue
    const began = performance.now()
    const lines = await run(name, setup, seed, Number(given.steps))
    const { accuracy, slots, meanSpan, longestSpan } = lines.at(-1)
    const round = (list) => list.map((x) => x.toFixed(1)).join(' / ')
    console.log(
      `${name}, seed ${seed}: answers at most ${beyond} steps away ${(100 * accuracy.near).toFixed(1)} %, farther ${(100 * accuracy.far).toFixed(1)} %; ` +
        `spans mean ${round(meanSpan)}, longest ${round(longestSpan)}; ${slots.toFixed(0)} slots; ${((performance.now() - began) / 1000).toFixed(0)} s`,
    )
    await file?.write(`${lines.map((line) => JSON.stringify(line)).join('\n')}\n`)
  }
await file?.close()
await disposeBackend()
