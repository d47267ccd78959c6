#!/usr/bin/env node
/**
 * node tools/experiments/run.mjs --data FOLDER|FILE --folder OUT [--backend webgpu] [--jobs N] [--minutes 5] [--seeds 0,1]
 *                                [--size full] [--steps N] [--only TEXT,…] [--work DIR] [--reserve 40] [--dry-run]
 * node tools/experiments/run.mjs --report OUT
 *
 * The papers' experiments on text, in a given time: bits per byte at equal memory (Expire-Span, Adaptive-Span, fixed
 * span), how far Selective Attention can be pruned at the loss of a plain transformer, and what learned memories keep
 * (plan.mjs has the runs). Runs train side by side, --jobs at a time, as many steps as the time allows, or --steps; what is
 * reported is read at the last step that all runs of an experiment were evaluated at.
 *
 * OUT gets few and small files: plan.json, results.jsonl and traces.jsonl (written as results come: a kill loses what
 * is not finished), the two models to prune further (prune.mjs --greedy), results.json and summary.md. Checkpoints and the text
 * are in --work, by default a folder of the system's temporary one. A second call with the same folders trains what was
 * not trained, as far as the rest of its decoder.
 *
 * --data: a folder of books (corpus.mjs), or a file whose last tenth is for validation. --reserve: seconds at the
 * end for what is measured of the trained models. --size: `full` for a GPU, `small` for two processors, `tiny` to try the paths.
 * --only: runs whose names contain a TEXT.
 */
import { appendFileSync, copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { corpusOf } from './corpus.mjs'
import { planRuns, sizes, wavesOf } from './plan.mjs'
import { checkpointOf, readJson, savedSteps, start, trainAtOnePace } from './pool.mjs'
import { commonStep, readResults, reportOf } from './report.mjs'
import { countWords } from './words.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const main = join(here, '../../apps/cli/dist/main.js')
const { values: given } = parseArgs({
  options: {
    data: { type: 'string' },
    folder: { type: 'string' },
    backend: { type: 'string', default: 'webgpu' },
    jobs: { type: 'string', default: String(availableParallelism()) },
    minutes: { type: 'string', default: '5' },
    seeds: { type: 'string', default: '0,1' },
    only: { type: 'string' },
    work: { type: 'string', default: join(tmpdir(), 'lethe-experiments') },
    reserve: { type: 'string', default: '40' },
    size: { type: 'string', default: 'full' },
    steps: { type: 'string' },
    'dry-run': { type: 'boolean', default: false },
    report: { type: 'string' },
  },
})

const [jobs, minutes, reserve] = ['jobs', 'minutes', 'reserve'].map((name) => {
  const value = Number(given[name])
  if (!(value > 0)) throw new Error(`--${name} must be more than 0, not ${given[name]}`)
  return value
})

const steps = given.steps === undefined ? undefined : Number(given.steps)
if (steps !== undefined && !(steps > 0 && Number.isInteger(steps)))
  throw new Error(`--steps must be a whole number above 0, not ${given.steps}`)

async function experiment() {
  const began = Date.now()
  const size = sizes[given.size]
  if (!size) throw new Error(`--size must be one of ${Object.keys(sizes).join(', ')}, not ${given.size}`)
  const texts = given.only?.split(',')
  const runs = planRuns({ size, seeds: given.seeds.split(',').map(Number) }).filter(
    ({ name }) => !texts || texts.some((text) => name.includes(text)),
  )
  if (runs.length === 0) throw new Error(`no run's name contains ${given.only}`)
  const waves = wavesOf(runs, jobs)
  const secondsPerWave = (60 * minutes - reserve) / waves.length
  if (given['dry-run']) return print(waves, secondsPerWave)
  if (secondsPerWave <= 0)
    throw new Error(`${minutes} minutes are no more than the ${reserve} s reserved: give more --minutes`)
  mkdirSync(given.folder, { recursive: true })
  mkdirSync(given.work, { recursive: true })
  const { path: data, ...parts } = corpusOf(given.data, join(given.work, 'text.txt'), size.validationBytes)
  const out = (name) => join(given.folder, name)
  const text = readFileSync(data, 'utf8')
  const cut = Math.floor(text.length * 0.9)
  const inspected = text.slice(cut, cut + 2 * size.tokens)
  const plan = {
    ...{
      date: new Date().toISOString(),
      node: process.version,
      cores: availableParallelism(),
      minutes,
      jobs,
    },
    ...{ backend: given.backend, size, text: { bytes: Buffer.byteLength(text), ...parts }, runs },
    words: countWords(text.slice(0, cut), inspected),
  }
  writeFileSync(out('plan.json'), JSON.stringify(plan))
  const record = (line, file = 'results.jsonl') => appendFileSync(out(file), `${JSON.stringify(line)}\n`)
  const tell = (text) => console.log(`${((Date.now() - began) / 1000).toFixed(0).padStart(4)} s  ${text}`)
  // What an earlier call left is part of it.
  const progress = new Map(runs.map(({ name }) => [name, { evaluations: [], failed: false }]))
  for (const { run, type, step } of readResults(given.folder).events)
    if (type === 'eval') progress.get(run)?.evaluations.push({ step })
  const onFailure = (run, message, stage = 'train') => {
    if (stage === 'train') progress.get(run.name).failed = true
    tell(`${run.name} FAILED to ${stage}: ${message.split('\n').at(-1)}`)
    record({ run: run.name, type: 'failed', stage, message })
  }

  const over = began + 60_000 * minutes
  if (steps) {
    // Each run by itself, and measured at once: whoever is free takes the next.
    const queue = [...runs]
    const work = async () => {
      for (let run = queue.shift(); run; run = queue.shift()) {
        await train([{ ...run, steps }], over - 1000 * reserve)
        if (run.after) await measure(run, [run])
      }
    }
    await Promise.all(Array.from({ length: jobs }, work))
  } else {
    for (const [index, wave] of waves.entries()) {
      tell(`wave ${index + 1} of ${waves.length}: ${wave.map(({ name }) => name).join(', ')}`)
      // Those of the decoder that were trained before say how far it is worth going.
      const withSteps = wave.map((run) => ({ ...run, steps: reachedBy(runs, run) ?? 1_000_000 }))
      await train(withSteps, began + 1000 * secondsPerWave * (index + 1))
    }
    await Promise.all(
      waves.flatMap((wave) => wave.filter(({ after }) => after).map((run) => measure(run, wave))),
    )
  }
  report(given.folder)

  /** Trains those of these runs that have not their `steps` yet. */
  function train(list, deadline) {
    return trainAtOnePace({
      runs: list.filter(({ name, steps }) => (savedSteps(join(given.work, name)).at(-1) ?? 0) < steps),
      ...{ every: size.every, main, folder: given.work, backend: given.backend, data, deadline, onFailure },
      onEvent: (run, event) => {
        const { type, step, bitsPerByte, slots, seconds, parameters } = event
        if (type === 'eval') {
          progress.get(run.name).evaluations.push({ step })
          tell(
            `${run.name}, step ${step}: ${bitsPerByte.toFixed(4)} bits per byte, ${slots.toFixed(1)} slots`,
          )
        }
        record({ run: run.name, type, step, bitsPerByte, slots, seconds, parameters })
      },
    })
  }

  /** What is measured of a trained run, at a step that all of its decoder and wave have. */
  async function measure(run, wave) {
    const step = reachedBy(wave, run)
    if (step === undefined) return
    const checkpoint = checkpointOf(join(given.work, run.name), step)
    if (!existsSync(checkpoint)) return
    if (run.after === 'prune' && run.options.method === 'selective')
      copyFileSync(join(checkpoint, 'model.safetensors'), out(`${run.name}.safetensors`))
    const backend = ['--backend', given.backend]
    const { context: _, ...pruning } = size.pruning
    const args =
      run.after === 'prune'
        ? [join(here, 'prune.mjs'), checkpoint, '--data', data, ...optionsOf(pruning)]
        : [main, 'inspect', checkpoint, '--json', '--tokens', String(size.tokens)]
    const { child, exit } = start([...args, ...backend], (line) => {
      const result = readJson(line)
      if (!result) return
      if (run.after === 'prune') record({ run: run.name, type: 'prune', ...result })
      else record({ run: run.name, step, trace: trimmed(result) }, 'traces.jsonl')
    })
    const timer = setTimeout(() => child.kill('SIGKILL'), Math.max(0, over - Date.now()))
    const { code, signal, errors } = await exit
    clearTimeout(timer)
    if (code !== 0) onFailure(run, errors || `ended by ${signal ?? `exit code ${code}`}`, run.after)
    else tell(`${run.name}, step ${step}: ${run.after} done`)
  }

  /** The last step at which all of these with a run's decoder that were trained at all were evaluated. */
  function reachedBy(list, { decoder }) {
    const same = list.filter((run) => run.decoder === decoder).map(({ name }) => progress.get(name))
    return commonStep(same.filter(({ evaluations }) => evaluations.length > 0))
  }
}

const optionsOf = (options) =>
  Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])

/** A trace without digits that nobody reads. */
const trimmed = (trace) => ({ ...trace, bits: trace.bits.map((bits) => bits && Number(bits.toFixed(2))) })

function print(waves, secondsPerWave) {
  const training = Math.max(0, secondsPerWave - 20)
  for (const [index, wave] of waves.entries()) {
    console.log(
      `wave ${index + 1}: ${wave.length} runs, ${secondsPerWave.toFixed(0)} s: about 20 s to start and stop, ${training.toFixed(0)} s of training`,
    )
    for (const { name, experiment, options, after = '' } of wave)
      console.log(`  ${name.padEnd(34)} ${experiment.padEnd(9)} ${after.padEnd(8)} ${describe(options)}`)
  }
  console.log(`then ${reserve} s to measure`)
  const steps = [20, 50, 100, 200].map((ms) => `${Math.floor((1000 * training) / ms)} at ${ms} ms`)
  console.log(`steps of each run, by ms per step with the others beside it: ${steps.join(', ')}`)
}

const describe = (options) =>
  [
    'preset',
    'batch',
    'block',
    'span',
    'initial-span',
    'span-penalty',
    'compressed',
    'compression',
    'memory-loss',
  ]
    .filter((name) => options[name] !== undefined)
    .map((name) => `${name} ${options[name]}`)
    .join(', ')

/** Reads what is in a folder, and writes what follows from it: results.json and summary.md. */
function report(folder) {
  const { results, summary } = reportOf(readResults(folder))
  writeFileSync(join(folder, 'results.json'), `${JSON.stringify(results, null, 1)}\n`)
  writeFileSync(join(folder, 'summary.md'), summary)
  console.log(`${join(folder, 'summary.md')} and results.json: written`)
}

if (given.report) report(given.report)
else if (!given.folder || !given.data) throw new Error('give --data FOLDER and --folder OUT, or --report OUT')
else await experiment()
