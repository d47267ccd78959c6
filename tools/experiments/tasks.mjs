#!/usr/bin/env node
/**
 * node tools/experiments/tasks.mjs [--tasks copy,collision,corridor] [--models full,short,expire] [--seeds 0,1,2]
 *                                  [--sweep] [--jobs 2] [--backend wasm] [--threads 1] [--minutes M] [--out FOLDER]
 *
 * Does Expire-Span answer from beyond the reach of a fixed span that remembers as much? Each task is learned by three
 * decoders that differ in their memory alone: a fixed span over the whole distance (full), a fixed span of about an
 * eighth of the slots (short), and Expire-Span, which may ask for all of it and pays for what it keeps.
 *
 * Measured on streams (episodes) that were not trained on, read step by step: the answers that lie farther back than all
 * layers of the short span together reach, and the slots alive, mean over layers, rows and steps.
 *
 * Each run is a process of its own, --jobs at a time. After --minutes no run begins, and those under way stop learning
 * and are measured as they are. FOLDER gets tasks.jsonl, a line per run as it ends, and tasks.md. --sweep runs the
 * variants of each task too; --learned prints what a run learns as it goes.
 */
import { fork } from 'node:child_process'
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { join } from 'node:path'
import { cpuUsage } from 'node:process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { disposeBackend, useBackend } from '@lethe/backends'
import { Decoder, fixedSpan, presets, Random, registerGradients } from '@lethe/core'
import { expireSpan } from '@lethe/expire-span'
import { actorCriticSource, createEnvironment, createTask, taskSource } from '@lethe/tasks'
import { gradientsOf, learningRateAt, Optimizer } from '@lethe/trainer'
import * as tf from '@tensorflow/tfjs-core'

/**
 * Per task: what is learned and, if it differs, what is asked in the end; the two fixed spans; sizes; training, the same
 * for all three, in the first `free` steps of which spans cost nothing; Expire-Span's options. `variants` change some of it.
 */
const experiments = {
  copy: {
    learned: { length: 4, alphabet: 8, delay: 240 },
    spans: { full: 256, short: 32 },
    decoder: { layers: 1, width: 64, heads: 2, feedForward: 128 },
    training: { steps: 2000, learningRate: 2e-3, warmup: 50, free: 0, batch: 16, block: 64, clip: 1 },
    expire: { maxSpan: 320, ramp: 16, penalty: 3e-4, initialPercentage: 0.95, divider: 8 },
    variants: {
      'penalty 1e-3': { expire: { penalty: 1e-3 } },
      'penalty 1e-4': { expire: { penalty: 1e-4 } },
      'divider 16': { expire: { penalty: 1e-3, divider: 16 } },
    },
  },
  collision: {
    learned: { grid: 2, colours: 1, easyQuestions: 1, speed: 0.5 },
    spans: { full: 128, short: 16 },
    decoder: { layers: 2, width: 64, heads: 4, feedForward: 128, tiedOutput: false },
    training: { steps: 8000, learningRate: 2e-3, warmup: 100, free: 2000, batch: 8, block: 128, clip: 1 },
    expire: { maxSpan: 160, ramp: 8, penalty: 3e-4, initialPercentage: 0.9, divider: 8 },
    variants: {
      'penalty 1e-3, divider 16': { expire: { penalty: 1e-3, divider: 16 } },
      'penalty 5e-3': { expire: { penalty: 5e-3 } },
      'divider 4': { expire: { divider: 4 } },
      'ramp 4': { expire: { ramp: 4 } },
    },
  },
  corridor: {
    learned: { length: [3, 160], limit: 350 },
    asked: { length: 160, limit: 350 },
    spans: { full: 208, short: 20 },
    decoder: { layers: 1, width: 32, heads: 2, feedForward: 64 },
    training: {
      ...{ steps: 3000, learningRate: 2e-3, warmup: 20, free: 0, batch: 32, block: 32, clip: 1 },
      ...{ discount: 0.97, entropyCost: 0.003 },
    },
    expire: { maxSpan: 208, ramp: 8, penalty: 3e-5, initialPercentage: 0.9, divider: 8 },
    variants: {
      'penalty 1e-4': { expire: { penalty: 1e-4 } },
      'penalty 1e-5': { expire: { penalty: 1e-5 } },
      'ramp 6': { expire: { ramp: 6 } },
      'free 1000, penalty 1e-3': { training: { free: 1000 }, expire: { penalty: 1e-3, divider: 16 } },
      'length 240': {
        learned: { length: [3, 240], limit: 500 },
        asked: { length: 240, limit: 500 },
        spans: { full: 312, short: 30 },
        expire: { maxSpan: 312 },
      },
    },
  },
}

const methods = {
  full: ({ spans }) => fixedSpan({ span: spans.full }),
  short: ({ spans }) => fixedSpan({ span: spans.short }),
  expire: ({ expire }) => expireSpan(expire),
}

const { values: given } = parseArgs({
  options: {
    tasks: { type: 'string', default: Object.keys(experiments).join() },
    models: { type: 'string', default: Object.keys(methods).join() },
    seeds: { type: 'string', default: '0,1,2' },
    jobs: { type: 'string', default: '2' },
    backend: { type: 'string', default: 'wasm' },
    threads: { type: 'string', default: '1' },
    minutes: { type: 'string' },
    sweep: { type: 'boolean', default: false },
    learned: { type: 'boolean', default: false },
    out: { type: 'string', default: 'task-runs' },
    run: { type: 'string' },
  },
})

const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length
const rateAt = (step, { learningRate, warmup, steps }) =>
  learningRateAt(step, { schedule: 'cosine', learningRate, warmup, steps })

/** Mean spans of the slots remembered, by layer. */
async function spansIn(decoder, memory) {
  const layers = await decoder.report(memory)
  const spans = layers.map(({ figures: { span }, slots }) => (span ? mean([...span.data]) : slots))
  return `spans ${spans.map((span) => span.toFixed(1)).join(' / ')}`
}

/** From update `from` on up to `to`; returns the last one that there was time for. */
async function learn({ training }, { decoder, optimizer, source, seed, from, to, deadline, tell }) {
  const { batch, block } = training
  const stream = source.stream({ batch, block })
  const random = new Random(seed)
  await decoder.afterUpdate()
  let memory = decoder.initialMemory(batch)
  let step = from
  let losses = []
  let [episodes, solved] = [0, 0]
  while (step < to && Date.now() < deadline) {
    step++
    const next = await (stream.play ? stream.play({ decoder, memory, random }) : stream.next())
    const result = gradientsOf(decoder, next, memory, { random })
    memory = await decoder.compact(result.memory)
    const norm = optimizer.update(result.gradients, rateAt(step, training))
    losses.push((await result.loss.data())[0])
    tf.dispose([norm, result.loss, result.penalty, result.gradients])
    await decoder.afterUpdate()
    episodes += next.played?.episodes ?? 0
    solved += next.played?.solved ?? 0
    if (step % 200 !== 0) continue
    const found = next.played ? `${solved} of ${episodes} solved` : `loss ${mean(losses).toFixed(4)}`
    tell(`step ${step}: ${found}, ${await spansIn(decoder, memory)}`)
    losses = []
    episodes = solved = 0
  }
  memory.dispose()
  return step
}

/** Streams of tokens. */
const sequences = {
  create: createTask,
  sourceOf: (task, seed) => taskSource(task, { seed }),

  async measure({ spans, decoder: { layers } }, { decoder, task, seed }) {
    const batch = 16
    const rows = Array.from({ length: batch }, (_, row) => ({
      stream: task.stream(seed, row),
      distanceAt: distances[task.name](task.options),
    }))
    const slots = []
    let [right, answers] = [0, 0]
    let memory = decoder.startDecoding(decoder.initialMemory(batch))
    for (let at = 0; at < 4 * spans.full; at++) {
      const steps = rows.map(({ stream, distanceAt }) => {
        const step = stream.next()
        return { ...step, distance: distanceAt(step.input) }
      })
      const tokens = tf.tensor1d(
        steps.map(({ input }) => input),
        'int32',
      )
      const { logits, memory: next } = decoder.decode(tokens, memory)
      memory = next
      const said = tf.tidy(() => tf.argMax(logits, -1))
      const values = await said.data()
      tf.dispose([tokens, logits, said])
      for (const [row, { target, scored, distance }] of steps.entries()) {
        if (!scored || distance <= layers * spans.short) continue
        answers++
        if (values[row] === target) right++
      }
      // Until then the longest memory still fills up.
      if (at >= spans.full) slots.push(await memory.countSlots())
      if (at % 64 === 63) memory = await decoder.compactDecoding(memory)
    }
    memory.dispose()
    return { reached: right / answers, answers, slots: mean(slots) }
  },
}

/** Worlds to act in. */
const worlds = {
  create: createEnvironment,
  sourceOf: (task, seed, { discount, entropyCost }) =>
    actorCriticSource(task, { seed, discount, entropyCost }),

  async measure(_, { decoder, task, seed }) {
    const played = await actorCriticSource(task, { seed }).evaluate({ decoder, episodes: 256 })
    const { solved, episodes, slots, meanSteps } = played
    return { reached: solved, answers: episodes, slots, meanSteps }
  },
}

/** How far back, in tokens, lies what an answer follows from? Reads a stream's tokens. */
const distances = {
  copy: ({ length: [symbols], delay: [blanks] }) => {
    const distance = symbols + blanks + 1
    return () => distance
  },
  collision: ({ colours }) => {
    const met = new Map()
    let step = []
    let at = 0
    return (token) => {
      at++
      step.push(token)
      const [row, column, colour, otherRow, otherColumn, otherColour, first, second] = step
      if (step.length === 6 && row === otherRow && column === otherColumn)
        met.set(`${colour} ${otherColour}`, at)
      if (step.length < 8) return undefined
      step = []
      return at - met.get(`${first - colours} ${second - colours}`)
    }
  },
}

/** Learns and is measured, in this process. */
async function run({ task: name, model, seed, setting, deadline = Number.POSITIVE_INFINITY }) {
  await useBackend(given.backend, { threads: Number(given.threads) })
  registerGradients()
  const began = performance.now()
  const { create, sourceOf, measure } = name === 'corridor' ? worlds : sequences
  const { learned, asked = learned, training } = setting
  const task = create(name, learned)
  const decoder = new Decoder(
    {
      ...presets.modern.decoder,
      ...setting.decoder,
      vocabulary: sourceOf(task, seed, training).vocabulary,
      method: methods[model](setting),
    },
    { seed },
  )
  const tell = given.learned ? (text) => console.error(`${name}, ${model}, seed ${seed}, ${text}`) : () => {}
  // Spans cost nothing in the first part. In the second Adam begins anew, for all models alike: it knows no gradients of
  // spans from before, and would take the first ones for large.
  let steps = 0
  for (const [to, penalty] of [
    [training.free, 0],
    [training.steps, setting.expire.penalty],
  ]) {
    if (steps === to || Date.now() >= deadline) continue
    const method = methods[model]({ ...setting, expire: { ...setting.expire, penalty } })
    const learner = decoder.withMethod(method)
    const optimizer = new Optimizer(decoder.parameters, { optimizer: 'adam', clip: training.clip })
    const source = sourceOf(task, seed + steps, training)
    const how = { decoder: learner, optimizer, source, seed: seed + steps, from: steps, to, deadline, tell }
    steps = await learn(setting, how)
    optimizer.dispose()
    learner.dispose()
  }
  const learning = cpuUsage()
  const measured = await measure(setting, { decoder, task: create(name, asked), seed: seed + 1000 })
  decoder.dispose()
  await disposeBackend()
  return {
    ...measured,
    chance: task.chance,
    steps,
    cpuSeconds: (learning.user + learning.system) / 1e6,
    seconds: (performance.now() - began) / 1000,
  }
}

/** The setting with what a variant changes. */
const changed = ({ variants, ...setting }, variant) =>
  Object.fromEntries(
    [...new Set([...Object.keys(setting), ...Object.keys(variant)])].map((name) => [
      name,
      { ...setting[name], ...variant[name] },
    ]),
  )

/** All runs that were asked for, those of the settings themselves first. */
function planned() {
  const list = (text) => text.split(',')
  const chosen = list(given.tasks).flatMap((task) => {
    const experiment = experiments[task]
    if (!experiment) throw new Error(`no task ${task}: there are ${Object.keys(experiments)}`)
    const variants = { '': {}, ...(given.sweep && experiment.variants) }
    return Object.entries(variants).map(([variant, changes]) => ({
      ...{ task, variant, setting: changed(experiment, changes) },
    }))
  })
  const runs = chosen.flatMap((one) =>
    list(given.seeds).flatMap((seed) =>
      list(given.models).map((model) => ({ ...one, model, seed: Number(seed) })),
    ),
  )
  return [
    ...runs.filter(({ variant }) => variant === ''),
    ...runs.filter(({ variant }) => variant !== '').sort((a, b) => a.seed - b.seed),
  ]
}

/** What a run depends on: a fixed span's is the same in all variants that change Expire-Span alone. */
const keyOf = ({ task, model, seed, setting: { expire, ...shared } }) =>
  JSON.stringify([task, model, seed, shared, model === 'expire' && expire])

async function inProcess(job) {
  const child = fork(
    fileURLToPath(import.meta.url),
    ['--run', JSON.stringify(job), ...process.argv.slice(2)],
    { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
  )
  return new Promise((resolve, reject) => {
    let result
    child.once('message', (message) => {
      result = message
    })
    child.once('exit', (code) =>
      result ? resolve(result) : reject(new Error(`a run ended with ${code} and without a result`)),
    )
  })
}

/** In a Map, by key, in order. */
function grouped(list, keyOf) {
  const groups = new Map()
  for (const one of list) groups.set(keyOf(one), [...(groups.get(keyOf(one)) ?? []), one])
  return groups
}

const percent = (part) => `${(100 * part).toFixed(1)} %`

/** Markdown; groups stand in the order in which their runs were planned. */
function tableOf(results, planned) {
  const groupOf = ({ task, variant, model }) => JSON.stringify([task, variant, model])
  const groups = grouped(results, groupOf)
  const lines = [
    '| task | variant | memory | seeds | reached beyond the short span | mean | chance | slots | of the full span | steps | CPU s |',
    '|---|---|---|---|---|---:|---:|---:|---:|---:|---:|',
  ]
  for (const key of new Set(planned.map(groupOf))) {
    const runs = groups.get(key)
    if (!runs) continue
    const [task, variant, model] = JSON.parse(key)
    const of = (name) => mean(runs.map((one) => one[name]))
    const slots = of('slots')
    const cells = [
      ...[task, variant, model, runs.map(({ seed }) => seed).join(', ')],
      ...[runs.map(({ reached }) => percent(reached)).join(', '), percent(of('reached'))],
      ...[percent(runs[0].chance), slots.toFixed(1)],
      (slots / runs[0].setting.spans.full).toFixed(3),
      ...[of('steps').toFixed(0), of('cpuSeconds').toFixed(0)],
    ]
    lines.push(`| ${cells.join(' | ')} |`)
  }
  return `${lines.join('\n')}\n`
}

async function runAll() {
  const deadline = given.minutes && Date.now() + 60_000 * Number(given.minutes)
  const rows = planned()
  const waiting = [...grouped(rows, keyOf).values()]
  mkdirSync(given.out, { recursive: true })
  const results = []
  const worker = async () => {
    while (waiting.length > 0 && !(deadline && Date.now() >= deadline)) {
      const alike = waiting.shift()
      const { task, model, seed, setting } = alike[0]
      try {
        const result = await inProcess({ task, model, seed, setting, ...(deadline && { deadline }) })
        for (const row of alike) {
          results.push({ ...row, ...result })
          appendFileSync(join(given.out, 'tasks.jsonl'), `${JSON.stringify(results.at(-1))}\n`)
        }
      } catch (error) {
        console.error(`${task}, ${model}, seed ${seed}: ${error.message}`)
        process.exitCode = 1
      }
      writeFileSync(join(given.out, 'tasks.md'), tableOf(results, rows))
    }
  }
  await Promise.all(Array.from({ length: Number(given.jobs) }, worker))
  console.log(tableOf(results, rows))
  if (waiting.length > 0) console.log(`${waiting.length} runs were not begun: the time was up`)
  console.log(`Node ${process.versions.node}, ${availableParallelism()} × ${cpus()[0].model.trim()}`)
}

if (given.run) process.send(await run(JSON.parse(given.run)), () => process.disconnect())
else await runAll()
