/** lethe compare: methods × budgets × seeds on one text or several tasks, trained side by side, measured one by one, in one table. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { availableParallelism, cpus } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { CheckpointError, checkTraining } from '@lethe/trainer'
import { replaceFile } from '@lethe/trainer/node'
import { startBackend } from '../backend'
import { type CommandLine, parseConfig } from '../command-line'
import type { Figures } from '../compare/figures'
import { type PlannedRun, planRuns } from '../compare/plan'
import {
  type Comparison,
  type CurvePoint,
  doubts,
  equalQuality,
  memorySaved,
  qualityIn,
  type RunResult,
  rowsOf,
  tableOf,
  withinOf,
} from '../compare/results'
import { inOrder, nextRuns } from '../compare/search'
import { absolute, openData, type RunData } from '../data'
import { UsageError } from '../errors'
import { installedText } from '../installed-text'
import { interruptible } from '../interruption'
import type { Given } from '../options'
import { count, duration, program, relativePath, StatusLine, shellQuoted, written } from '../output'
import { reportPage } from '../pages/report'
import { trainOptions } from '../session'
import { decoderOf, type Settings } from '../settings'

/** Options that may differ when a comparison goes on. */
const free = ['jobs', 'json', 'resume', 'within', 'equal-quality', 'backend', 'threads', 'help']

export async function compareCommand(line: CommandLine): Promise<number> {
  const given = absolute(line.given)
  const folder = given.resume ?? given.out ?? newFolder()
  const options = given.resume === undefined ? given : await resumed(given.resume, given)
  const plan = planRuns(options)
  const files = options.task ? undefined : (options.data ?? (await installedText()))
  if (!options.data && !options.task && !given.json)
    console.log(
      `text: TypeScript declaration files of the installed @tensorflow/tfjs-core (your own: --data FILE)`,
    )
  const whole: Given = { ...options, ...(files && { data: files }) }
  await checkPlan(plan, whole)
  if (given.resume === undefined) await begin(folder, whole)
  return new CompareSession(folder, plan, whole).run()
}

/** Throws what the first step of any run would throw, before anything is written. */
async function checkPlan(plan: readonly PlannedRun[], { data: files }: Given): Promise<void> {
  await startBackend({ backend: 'cpu' })
  const opened = new Map<string | undefined, RunData>()
  for (const { settings, task, error } of plan) {
    if (error !== undefined) continue
    const data = opened.get(task) ?? (await openData(givenOf(settings, files)))
    opened.set(task, data)
    const decoder = decoderOf(settings, data.vocabulary)
    checkTraining(trainOptions(settings, decoder, data))
    decoder.dispose()
  }
}

/** A run's options as its command line would have them. */
const givenOf = (settings: Settings, data: Given['data']): Given =>
  parseConfig({ ...settings, ...(data && { data }) }, 'train', 'the settings of a run')

/** runs/compare-1, or the first number that is free. */
function newFolder(): string {
  for (let number = 1; ; number++) {
    const path = join('runs', `compare-${number}`)
    if (!existsSync(path)) return path
  }
}

async function begin(folder: string, { json: _, ...options }: Given): Promise<void> {
  if (existsSync(join(folder, 'compare.json')))
    throw new UsageError(
      `${folder} already holds a comparison: go on with it (${program()} compare --resume ${shellQuoted(folder)}) or choose another --out`,
    )
  await replaceFile(join(folder, 'compare.json'), `${JSON.stringify(options, null, 2)}\n`)
}

/** @throws UsageError where the command line contradicts the comparison */
async function resumed(folder: string, given: Given): Promise<Given> {
  if (given.out !== undefined)
    throw new UsageError('--resume goes on in the folder of the comparison: leave out --out')
  const path = join(folder, 'compare.json')
  let saved: Given
  try {
    saved = parseConfig(JSON.parse(await readFile(path, 'utf8')), 'compare', path)
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(`there is no comparison in ${folder}: ${(error as Error).message}`)
  }
  for (const [name, value] of Object.entries(given)) {
    const before = saved[name as keyof Given]
    if (!free.includes(name) && JSON.stringify(value) !== JSON.stringify(before))
      throw new UsageError(
        `the comparison in ${folder} has --${name} ${written(before)}, not ${written(value)}: leave the option out, or start another one with --out`,
      )
  }
  return { ...saved, ...given }
}

/** What a process said; undefined for half a line, as one that is killed may leave. */
function parsed(line: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

class CompareSession {
  private readonly status = new StatusLine(process.stdout)
  /** Where each run's training is, and where it was when it was started here. */
  private readonly steps = new Map<string, number>()
  private readonly startedAt = new Map<string, number>()
  private readonly children = new Set<ReturnType<typeof spawn>>()
  private readonly errors = new Map<string, string>()
  private readonly began = performance.now()
  /** How much worse is still as good. */
  private readonly within: number
  private interrupted = false
  /** Something could not be kept, such as on a full disk. */
  private unwritten = false
  private backend = ''

  constructor(
    private readonly folder: string,
    private plan: readonly PlannedRun[],
    private readonly given: Given,
  ) {
    for (const { id, error } of plan) if (error !== undefined) this.errors.set(id, error)
    this.within = given['equal-quality'] ?? given.within ?? 0.02
  }

  async run(): Promise<number> {
    const work = () => this.makeAll()
    await interruptible(work, (reason) => {
      this.interrupted = true
      // On a terminal, Ctrl-C has reached them already; a second signal would end them at once.
      if (reason !== 'SIGINT' || !process.stdin.isTTY)
        for (const child of this.children) child.kill(reason === 'SIGINT' ? 'SIGINT' : 'SIGTERM')
      this.print('stopping after these steps; Ctrl-C again to end at once')
    })
    return this.interrupted ? this.stopped() : this.finish()
  }

  private async makeAll(): Promise<void> {
    try {
      const processors = availableParallelism()
      let runs = this.plan.filter(({ error }) => error === undefined)
      const jobs = Math.min(this.given.jobs ?? processors, runs.length)
      // Runs side by side share the processors; alone, one takes as many as useBackend's default.
      const threads = this.given.threads ?? Math.min(8, Math.max(1, Math.floor(processors / jobs)))
      this.print(
        `${runs.length} ${runs.length === 1 ? 'run' : 'runs'} of ${count(this.plan[0]!.settings.steps)} steps, ${jobs} at a time, in ${relativePath(resolve(this.folder))}`,
      )
      for (const [task, error] of new Map(this.plan.map(({ task, error }) => [task, error])))
        if (error !== undefined) this.print(`${task} is left out: ${error}`)
      while (runs.length > 0 && !this.interrupted) {
        await this.make(runs, jobs, threads)
        runs = this.interrupted || this.given['equal-quality'] === undefined ? [] : await this.search()
        this.plan = [...this.plan, ...runs]
      }
    } finally {
      this.status.print()
    }
  }

  /** Trains side by side, then measures. */
  private async make(runs: readonly PlannedRun[], jobs: number, threads: number): Promise<void> {
    const waiting = runs.filter(({ trainedBudget }) => trainedBudget === undefined)
    const worker = async () => {
      for (let run = waiting.shift(); run && !this.interrupted; run = waiting.shift())
        await this.train(run, threads)
    }
    await Promise.all(Array.from({ length: jobs }, worker))
    // One by one, so that each is timed alone.
    for (const run of runs) if (!this.interrupted) await this.measure(run)
  }

  /** The budgets to try next. */
  private async search(): Promise<PlannedRun[]> {
    const results = await Promise.all(this.plan.map((run) => this.resultOf(run)))
    const next = nextRuns(this.plan, rowsOf(results), this.within)
    if (next.length > 0) this.print(`to find equal quality: ${next.map(({ id }) => id).join(', ')}`)
    return next
  }

  private get resumeCommand(): string {
    return `${program()} compare --resume ${shellQuoted(relativePath(resolve(this.folder)))}`
  }

  private stopped(): number {
    const command = this.resumeCommand
    if (this.given.json) console.log(JSON.stringify({ type: 'interrupted', resume: command }))
    else console.log(`interrupted; go on with: ${command}`)
    return 130
  }

  private async train(run: PlannedRun, threads: number): Promise<void> {
    const path = this.runPath(run)
    const at = (step: number) => {
      if (!this.startedAt.has(run.id)) this.startedAt.set(run.id, step)
      this.steps.set(run.id, step)
    }
    if (!existsSync(this.figuresPath(run))) {
      const there = existsSync(join(path, 'config.json'))
      const config = join(this.folder, 'runs', `${run.id}.json`)
      const settings = `${JSON.stringify(givenOf(run.settings, this.given.data), null, 2)}\n`
      if (!there && !(await this.write(config, settings, (problem) => this.fail(run, problem)))) return
      const from = there ? ['--resume', path] : ['--config', config, '--out', path]
      await this.child(run, ['train', ...from, '--threads', String(threads)], (line) => {
        if (line.type !== 'start' && line.type !== 'step') return
        at(line.step as number)
        if (line.type === 'step') this.update(() => this.progress())
      })
    }
    // Whatever is missing, as after a failure, is not waited for.
    if (!this.interrupted) at(run.settings.steps)
  }

  private async measure(run: PlannedRun): Promise<void> {
    if (this.errors.has(run.id) || existsSync(this.figuresPath(run))) return
    this.update(() => `measuring ${run.id}`)
    const { threads } = this.given
    const own = threads === undefined ? [] : ['--threads', String(threads)]
    const budget = run.trainedBudget === undefined ? [] : ['--budget', String(run.budget)]
    await this.child(run, ['measure', this.runPath(run), ...budget, ...own], (line) => {
      const { backend, ...figures } = line
      this.measured.set(run.id, JSON.stringify({ backend, figures }))
    })
    const figures = this.measured.get(run.id)
    if (figures) await this.write(this.figuresPath(run), figures, (problem) => this.print(problem))
  }

  /** Whether the file was written; if not, `onProblem` hears why, and the comparison goes on without it. */
  private async write(path: string, text: string, onProblem: (problem: string) => void): Promise<boolean> {
    try {
      await replaceFile(path, text)
      return true
    } catch (error) {
      if (!CheckpointError.isInstance(error)) throw error
      this.unwritten = true
      onProblem(error.message)
      return false
    }
  }

  /** A run that cannot be made costs the others nothing. */
  private fail({ id }: PlannedRun, reason: string): void {
    this.errors.set(id, reason)
    this.print(`${id} failed: ${reason}`)
  }

  private readonly measured = new Map<string, string>()

  private progress(): string {
    const plan = this.plan.filter(({ error, model }) => error === undefined && model === undefined)
    const total = plan.reduce((sum, { settings }) => sum + settings.steps, 0)
    const sum = (steps: ReadonlyMap<string, number>) =>
      plan.reduce((all, { id }) => all + (steps.get(id) ?? 0), 0)
    const done = sum(this.steps)
    // What was there before took none of this time.
    const made = done - sum(this.startedAt)
    const seconds = (performance.now() - this.began) / 1000
    const now = this.plan.filter(({ id, settings }) => {
      const step = this.steps.get(id) ?? 0
      return step > 0 && step < settings.steps
    })
    return [
      `${Math.floor((100 * done) / total)} %`,
      `ETA ${duration((seconds / made) * (total - done))}`,
      ...now.map(({ id }) => `${id} ${this.steps.get(id)}`),
    ].join(' · ')
  }

  /** A command of ours in a process of its own; what goes wrong there is remembered beside the run. */
  private child(
    run: PlannedRun,
    args: readonly string[],
    onLine: (line: Record<string, unknown>) => void,
  ): Promise<void> {
    const { backend } = this.given
    const all = [process.argv[1]!, ...args, '--json', ...(backend ? ['--backend', backend] : [])]
    const child = spawn(process.execPath, [...process.execArgv, ...all], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.children.add(child)
    let errors = ''
    child.stderr.on('data', (chunk) => {
      errors = (errors + chunk).slice(-4000)
    })
    child.on('error', ({ message }) => {
      errors += message
    })
    createInterface({ input: child.stdout }).on('line', (text) => {
      const line = parsed(text)
      if (line) onLine(line)
    })
    return new Promise((done) => {
      child.on('close', (code, signal) => {
        this.children.delete(child)
        if (code !== 0 && !this.interrupted) {
          const lines = errors.trim().split('\n')
          // Of an unexpected failure the stack comes after it.
          const said = lines.findLast((line) => line.startsWith('lethe: ')) ?? lines.at(-1)
          const reason = said || `ended by ${signal ?? `exit code ${code}`}`
          this.fail(run, reason.replace(/^lethe: /, ''))
        }
        done()
      })
    })
  }

  private async finish(): Promise<number> {
    const searched = this.given['equal-quality'] !== undefined
    const plan = searched ? inOrder(this.plan) : this.plan
    const runs = await Promise.all(plan.map((run) => this.resultOf(run)))
    const { within } = this
    const { data, json, jobs: _, within: __, resume: ___, out: ____, ...options } = this.given
    const comparison: Comparison = {
      format: 'lethe-comparison-1',
      date: new Date().toISOString(),
      machine: {
        node: process.version,
        platform: `${process.platform} ${process.arch}`,
        processor: cpus()[0]?.model ?? 'unknown',
        cores: availableParallelism(),
      },
      backend: this.backend,
      data: data ?? [],
      options: { ...options, steps: this.plan[0]!.settings.steps },
      runs,
    }
    const rows = rowsOf(runs)
    const equal = equalQuality(rows, within)
    const results = join(this.folder, 'results.json')
    const report = join(this.folder, 'report.html')
    const problems: string[] = []
    const write = (path: string, text: string) =>
      this.write(path, text, (problem) => problems.push(`${problem}; then: ${this.resumeCommand}`))
    const written = {
      ...((await write(
        results,
        `${JSON.stringify({ ...comparison, rows, equalQuality: equal }, null, 1)}\n`,
      )) && { results }),
      ...((await write(report, reportPage(comparison, within))) && { report }),
    }
    if (json) console.log(JSON.stringify({ ...written, rows, equalQuality: equal }))
    else {
      for (const line of tableOf(rows)) console.log(line)
      for (const one of equal) {
        const { task, reference, methods } = one
        for (const warning of doubts(one))
          console.log(`${task === undefined ? '' : `${task}, `}careful: ${warning}`)
        for (const found of methods)
          if (found.row !== reference)
            console.log(
              `${task === undefined ? '' : `${task}, `}${found.method}: within ${withinOf(within, qualityIn(reference))} of fixed-span ${reference.budget} with ${memorySaved(found)}`,
            )
      }
      console.log('')
      if (written.report) console.log(`report: ${relativePath(resolve(report))}`)
      if (written.results) console.log(`results: ${relativePath(resolve(results))}`)
    }
    for (const problem of problems) process.stderr.write(`lethe: ${problem}\n`)
    return this.errors.size > 0 || this.unwritten ? 1 : 0
  }

  private async resultOf(run: PlannedRun): Promise<RunResult> {
    const { id, task, method, budget, trainedBudget, seed } = run
    const what = {
      ...{ id, method, budget, seed },
      ...(task !== undefined && { task }),
      ...(trainedBudget !== undefined && { trainedBudget }),
    }
    const curves = trainedBudget === undefined ? await this.curvesOf(run) : { training: [], validation: [] }
    const error = this.errors.get(id)
    if (error !== undefined) return { ...what, error, ...curves }
    const measured = this.measured.get(id) ?? (await readFile(this.figuresPath(run), 'utf8'))
    const { backend, figures } = JSON.parse(measured) as {
      backend: string
      figures: Figures
    }
    this.backend = backend
    return { ...what, figures, ...curves }
  }

  /** The run's metrics: of training (bits per byte, episodes solved) means of neighbouring steps, every evaluation. */
  private async curvesOf(run: PlannedRun): Promise<Pick<RunResult, 'training' | 'validation'>> {
    const text = await readFile(join(this.runPath(run), 'metrics.jsonl'), 'utf8').catch(() => '')
    // Seconds start anew where a run was resumed.
    let before = 0
    let last = 0
    const lines = text
      .split('\n')
      .filter((line) => line.endsWith('}'))
      .map((line) => {
        const event = JSON.parse(line) as { type: string; episodes?: number } & CurvePoint
        if (event.seconds < last) before += last
        last = event.seconds ?? last
        return { ...event, seconds: before + last }
      })
    const steps = lines.filter(({ type }) => type === 'step')
    // Of a world, so few that each has episodes enough.
    const most = steps[0]?.episodes === undefined ? 100 : 25
    const width = Math.max(1, Math.ceil(steps.length / most))
    const training: CurvePoint[] = []
    for (let from = 0; from < steps.length; from += width) {
      const part = steps.slice(from, from + width)
      const { step, seconds } = part.at(-1)!
      const mean = (name: 'bitsPerByte' | 'solved', weight: (point: (typeof part)[number]) => number) => {
        const having = part.filter((point) => point[name] !== undefined)
        const sum = having.reduce((total, point) => total + weight(point) * point[name]!, 0)
        const of = having.reduce((total, point) => total + weight(point), 0)
        return having.length === 0 ? {} : { [name]: sum / of }
      }
      const found = { ...mean('bitsPerByte', () => 1), ...mean('solved', ({ episodes }) => episodes!) }
      if (Object.keys(found).length > 0) training.push({ step, seconds, ...found })
    }
    const validation = lines
      .filter(({ type }) => type === 'eval')
      .map(({ step, seconds, bitsPerByte, accuracy, solved }) => ({
        ...{ step, seconds, bitsPerByte, accuracy, solved },
      }))
    return { training, validation }
  }

  private print(text: string): void {
    if (!this.given.json) this.status.print(text)
  }

  private update(text: () => string): void {
    if (!this.given.json) this.status.update(text)
  }

  private runPath({ id, model = id }: PlannedRun): string {
    return join(this.folder, 'runs', model)
  }

  private figuresPath({ id }: PlannedRun): string {
    return join(this.folder, 'runs', `${id}.figures.json`)
  }
}
