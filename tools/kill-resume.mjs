#!/usr/bin/env node
/**
 * node tools/kill-resume.mjs --data FILE [--kills 10] [--backend wasm] [--seed 1]
 *
 * Trains a small model once without interruption, and once killed with SIGKILL at random moments and resumed; then
 * compares the metrics of both runs (all but the timing fields) and reads every checkpoint. Exits with 1 when they
 * differ or a checkpoint cannot be read.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Random } from '@lethe/core'
import { readRun } from '@lethe/trainer/node'

const { values } = parseArgs({
  options: {
    data: { type: 'string' },
    kills: { type: 'string', default: '10' },
    backend: { type: 'string', default: 'wasm' },
    seed: { type: 'string', default: '1' },
  },
})
if (!values.data) throw new Error('give --data FILE')
const random = new Random(Number(values.seed))
const folder = mkdtempSync(join(tmpdir(), 'lethe-kill-'))
const cli = new URL('../apps/cli/dist/main.js', import.meta.url).pathname
const model =
  '--preset fair --layers 2 --width 32 --heads 2 --feed-forward 64 --span 32 --block 32 --batch 4 --dropout 0.1'
const options = `${model} --steps 600 --eval-every 200 --checkpoint-every 20 --backend ${values.backend}`

/** Runs the command line; `killAfter` milliseconds: with SIGKILL after them. @returns the exit code, null if killed */
const lethe = (args, killAfter) =>
  new Promise((done) => {
    const child = spawn(process.execPath, [cli, ...args], { stdio: ['ignore', 'ignore', 'inherit'] })
    const timer = killAfter && setTimeout(() => child.kill('SIGKILL'), killAfter)
    child.on('exit', (code) => {
      clearTimeout(timer)
      done(code)
    })
  })

const metrics = (run) =>
  readFileSync(join(run, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => {
      const { seconds, tokensPerSecond, ...rest } = JSON.parse(line)
      return JSON.stringify(rest)
    })

/** Throws if the newest checkpoint, or any other, cannot be read. */
async function readAll(run) {
  const checkpoints = join(run, 'checkpoints')
  const names = existsSync(checkpoints)
    ? readdirSync(checkpoints).filter((name) => name.startsWith('step-'))
    : []
  for (const name of names) await readRun(join(checkpoints, name))
  return names.length
}

const whole = join(folder, 'whole')
const began = performance.now()
await lethe(['train', ...options.split(' '), '--data', values.data, '--out', whole])
const duration = performance.now() - began

const killed = join(folder, 'killed')
const goOn = (killAfter) => {
  const started = existsSync(join(killed, 'config.json'))
  const fresh = [...options.split(' '), '--data', values.data, '--out', killed]
  return lethe(['train', ...(started ? ['--resume', killed] : fresh)], killAfter)
}
let kills = 0
let read = 0
for (let round = 0; round < Number(values.kills); round++) {
  // Anywhere from the first moments of a process to a tenth of the whole run.
  const moment = Math.round(300 + random.uniform() * (1200 + duration / 10))
  if ((await goOn(moment)) === null) kills++
  const checkpoints = await readAll(killed)
  read += checkpoints
  console.log(`killed after ${moment} ms, ${checkpoints} checkpoints, all readable`)
}
const code = await goOn()
if (code !== 0) throw new Error(`the last part ended with ${code}`)
read += await readAll(killed)
const [a, b] = [metrics(whole), metrics(killed)]
const differing = a.filter((line, index) => line !== b[index]).length + Math.abs(a.length - b.length)
console.log(
  JSON.stringify({
    kills,
    lines: a.length,
    differing,
    checkpointsRead: read,
    backend: values.backend,
    seconds: Math.round(duration / 1000),
  }),
)
rmSync(folder, { recursive: true })
process.exitCode = differing === 0 && kills >= Number(values.kills) ? 0 : 1
