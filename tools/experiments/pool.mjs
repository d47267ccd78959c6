/**
 * Runs of `lethe train` side by side at one pace until time is up: after each evaluation a run waits, stopped, for the
 * others of its decoder, so that a device that they share works for those that are behind, and all end with
 * evaluations at the same steps. What they say is passed on as it comes.
 */
import { spawn } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

/** Lines of a child's stdout, one call each, until it ends. Returns the child and a promise of its exit. */
export function start(args, onLine) {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let errors = ''
  child.stderr.on('data', (data) => {
    errors = `${errors}${data}`.slice(-4000)
  })
  const lines = createInterface({ input: child.stdout }).on('line', onLine)
  const read = new Promise((done) => lines.on('close', done))
  const ended = new Promise((done) => child.on('close', (code, signal) => done({ code, signal })))
  const exit = Promise.all([ended, read]).then(([end]) => ({ ...end, errors: errors.trim() }))
  return { child, exit }
}

/** Seconds that a run has to end after it was asked to. */
const grace = 10

/**
 * Trains until `deadline` (as Date.now()) or until each run has `steps`.
 * @param options.runs as `planRuns` made them, `steps` added
 * @param options.every steps between evaluations, where runs wait for each other
 * @param options.onEvent (run, event of the trainer): 'start', 'eval', and every `every`-th tenth 'step'
 * @param options.onFailure (run, message)
 */
export async function trainAtOnePace(options) {
  const { runs, every, main, folder, backend, data, deadline, onEvent, onFailure } = options
  const thinned = Math.max(1, Math.floor(every / 10))
  const members = runs.map((run) => ({ run, at: 0, alive: true, stopped: false }))
  const groupOf = ({ run }) => members.filter((other) => other.run.decoder === run.decoder)
  /** Lets those go on that are not ahead of the slowest of their decoder, and stops the others. */
  const pace = (member) => {
    const alive = groupOf(member).filter((other) => other.alive)
    const slowest = Math.min(...alive.map(({ at }) => at))
    for (const other of alive) {
      const ahead = other.at > slowest
      if (ahead !== other.stopped) other.child.kill(ahead ? 'SIGSTOP' : 'SIGCONT')
      other.stopped = ahead
    }
  }
  const end = () => {
    for (const { alive, child } of members) {
      if (!alive) continue
      child.kill('SIGCONT')
      child.kill('SIGINT')
    }
    const kill = () => {
      for (const { alive, child } of members) if (alive) child.kill('SIGKILL')
    }
    setTimeout(kill, 1000 * grace).unref()
  }

  const exits = members.map(async (member) => {
    const { run } = member
    const out = join(folder, run.name)
    const begun = savedSteps(out).length > 0
    const where = begun ? ['--resume', out] : ['--out', out, '--data', data, ...optionsOf(run.options)]
    const args = ['train', ...where, '--steps', run.steps, '--backend', backend, '--json']
    if (backend === 'wasm') args.push('--threads', 1)
    const { child, exit } = start([main, ...args.map(String)], (line) => {
      const step = /^\{"type":"step","step":(\d+)/.exec(line)
      if (step && Number(step[1]) % thinned !== 0) return
      const event = readJson(line)
      if (!event) return
      if (event.type === 'start') member.at = event.step - (event.step % every)
      if (['start', 'eval', 'step'].includes(event.type)) onEvent(run, event)
      // The checkpoint comes after the evaluation of its step.
      if (event.type === 'checkpoint' && event.step % every === 0) {
        member.at = event.step
        pace(member)
      }
    })
    member.child = child
    const { code, signal, errors } = await exit
    member.alive = false
    if (code !== 0 && code !== 130) onFailure(run, errors || `ended by ${signal ?? `exit code ${code}`}`)
    if (groupOf(member).some(({ alive }) => alive)) pace(member)
  })
  const timer = setTimeout(end, Math.max(0, deadline - Date.now()))
  await Promise.all(exits)
  clearTimeout(timer)
}

const optionsOf = (options) =>
  Object.entries(options).flatMap(([name, value]) => (value === true ? [`--${name}`] : [`--${name}`, value]))

export function readJson(line) {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

/** Steps of a run's checkpoints, ascending. */
export function savedSteps(out) {
  const checkpoints = join(out, 'checkpoints')
  if (!existsSync(checkpoints)) return []
  return readdirSync(checkpoints)
    .flatMap((name) => /^step-(\d+)$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b)
}

/** The folder of a run's checkpoint of a step. */
export const checkpointOf = (out, step) => join(out, 'checkpoints', `step-${String(step).padStart(6, '0')}`)
