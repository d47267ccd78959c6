#!/usr/bin/env node
/**
 * node tools/tasks-learn.mjs [--only NAME,…] [--seed 0] [--backend wasm] [--out FILE.jsonl]
 *
 * Is each task of @lethe/tasks learnable? Tiny decoders with a fixed span learn each in an easy setting; accuracy on
 * streams (episodes) that were not trained on stands beside the chance level. For tasks that need more than the last
 * few steps, the same decoder with a short span shows what can be had without remembering (Portal's chance
 * level says that already).
 */
import { open } from 'node:fs/promises'
import { cpuUsage } from 'node:process'
import { parseArgs } from 'node:util'
import { disposeBackend, useBackend } from '@lethe/backends'
import { Decoder, fixedSpan, presets } from '@lethe/core'
import { actorCriticSource, agentVocabulary, createEnvironment, createTask, taskSource } from '@lethe/tasks'
import { evaluate, train } from '@lethe/trainer'

const small = { layers: 2, width: 64, heads: 2, feedForward: 128, learningRate: 2e-3, batch: 16 }
const sequences = [
  { task: 'copy', options: { length: [1, 8], alphabet: 8 }, block: 32, span: 32, short: 1, steps: 800 },
  {
    task: 'assignment',
    options: { variables: 2, values: 4, assignments: [2, 6] },
    block: 64,
    span: 32,
    short: 1,
    steps: 6000,
  },
  { task: 'parity', options: {}, block: 32, span: 16, short: 1, steps: 300 },
  { task: 'needle', options: { haystack: [4, 40] }, block: 32, span: 64, short: 1, steps: 800 },
  { task: 'instruction', options: { distraction: [1, 4] }, block: 32, span: 64, short: 1, steps: 800 },
  {
    task: 'collision',
    options: { grid: 4, colours: 1, easyQuestions: 1, speed: 1 },
    ...{ block: 64, span: 128, short: 1, steps: 800 },
  },
]
const worlds = [
  {
    task: 'corridor',
    options: { length: [3, 6], limit: 50 },
    ...{ span: 32, short: 1, updates: 500, block: 16, discount: 0.95, entropyCost: 0.02 },
  },
  {
    task: 'portal',
    options: { rooms: 3, size: 3, limit: 50 },
    ...{ span: 64, updates: 1000, block: 16, discount: 0.98, entropyCost: 0.002 },
  },
]

const decoderOf = (vocabulary, span, seed) => {
  const { layers, width, heads, feedForward } = small
  const shape = { layers, width, heads, feedForward }
  return new Decoder(
    { ...presets.modern.decoder, vocabulary, ...shape, method: fixedSpan({ span }) },
    { seed },
  )
}

async function learnSequence({ task: name, options, block, steps }, span, seed, record) {
  const task = createTask(name, options)
  const decoder = decoderOf(task.vocabulary, span, seed)
  const { batch, learningRate } = small
  const settings = { steps, batch, block, learningRate, schedule: 'cosine', warmup: 50, clip: 1, seed }
  for await (const event of train({ decoder, train: taskSource(task, { seed }), ...settings }))
    if (event.type === 'step' && event.step % 50 === 0) record({ step: event.step, loss: event.loss })
  const source = taskSource(task, { seed: seed + 1000, tokens: 60 * block })
  const { accuracy, chance, tokens } = await evaluate({ decoder, source, batch, block })
  decoder.dispose()
  return { chance, reached: accuracy, of: `${tokens} answers`, steps }
}

async function learnWorld(
  { task: name, options, updates: steps, block, discount, entropyCost },
  span,
  seed,
  record,
) {
  const task = createEnvironment(name, options)
  const decoder = decoderOf(agentVocabulary(task), span, seed)
  const { batch, learningRate } = small
  const settings = {
    steps,
    batch: 2 * batch,
    block,
    learningRate,
    schedule: 'cosine',
    warmup: 20,
    clip: 1,
    seed,
  }
  const source = actorCriticSource(task, { seed, discount, entropyCost })
  let [episodes, solved] = [0, 0]
  for await (const event of train({ decoder, train: source, ...settings })) {
    if (event.type !== 'step') continue
    const { step, tokens, entropy, idle, meanReturn } = event
    episodes += event.episodes
    solved += event.episodes * (event.solved ?? 0)
    if (step % 25 !== 0) continue
    record({ step, tokens, solved: solved / episodes, entropy, idle, meanReturn })
    episodes = solved = 0
  }
  const score = await actorCriticSource(task, { seed: seed + 1000 }).evaluate({ decoder, episodes: 256 })
  decoder.dispose()
  return { reached: score.solved, of: '256 episodes', steps, ...score }
}

const { values: given } = parseArgs({
  options: {
    only: { type: 'string' },
    seed: { type: 'string', default: '0' },
    backend: { type: 'string', default: 'wasm' },
    out: { type: 'string' },
  },
})
await useBackend(given.backend)
const file = given.out && (await open(given.out, 'w'))
const seed = Number(given.seed)
const percent = (part) => `${(100 * part).toFixed(1)} %`
for (const [learn, list] of [
  [learnSequence, sequences],
  [learnWorld, worlds],
])
  for (const setting of list) {
    const { task, options, span, short } = setting
    if (given.only && !given.only.split(',').includes(task)) continue
    for (const reach of short ? [span, short] : [span]) {
      const record = (line) => file?.write(`${JSON.stringify({ task, span: reach, seed, ...line })}\n`)
      const before = cpuUsage()
      const result = await learn(setting, reach, seed, record)
      const { user, system } = cpuUsage(before)
      const minutes = (user + system) / 60e6
      console.log(
        `${task} ${JSON.stringify(options)}, span ${reach}: ${percent(result.reached)} of ${result.of} (chance ${percent(result.chance)}), ` +
          `${result.steps} updates, ${minutes.toFixed(1)} CPU minutes`,
      )
      await record({ type: 'end', options, ...result, cpuMinutes: minutes })
    }
  }
await file?.close()
await disposeBackend()
