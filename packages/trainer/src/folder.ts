/**
 * Runs on disk:
 *
 *     RUN/config.json                    what the run was started with, and what changed when it was resumed
 *     RUN/metrics.jsonl                  a line per step and per evaluation
 *     RUN/process.json                   which process writes to it (lock.ts), while one does
 *     RUN/checkpoints/step-000500/       model.safetensors, optimizer.safetensors, memory.safetensors, state.json
 *
 * A checkpoint is written into `tmp-step-…` beside its place, brought to the disk file by file, and then renamed, so that a
 * folder called `step-…` is whole however the process ended. state.json has length and SHA-256 of every file, so that
 * later damage is noticed too. Leftovers called `tmp-step-…` are removed when the folder is opened.
 */
import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { FormatError } from '@lethe/core'
import type { Checkpoint, CheckpointFile, CheckpointState, CheckpointStore } from './checkpoint'
import { checkpointFiles, decodeCheckpoint, encodeCheckpoint } from './checkpoint'
import { CheckpointError } from './errors'
import { lockFolder } from './lock'
import { largestPiece, readInto, syncFolder, unwritable, writeAtomic, writeSynced } from './storage'
import type { TrainEvent } from './train'

const stepName = (step: number) => `step-${String(step).padStart(6, '0')}`
const stepPattern = /^step-(\d{6,})$/
/** Of what is not yet, or no longer, a checkpoint. */
const leftoverPattern = /^tmp-(old-)?step-\d{6,}-\d+$/

export interface CheckpointFolderOptions {
  /** How many of the last checkpoints are kept: default 3. */
  readonly keep?: number
  /** Awaited before a checkpoint gets its name, so that what belongs to it is on the disk first. */
  readonly before?: () => Promise<void>
}

/** A folder of checkpoints; only the last few are kept. */
export class CheckpointFolder implements CheckpointStore {
  private constructor(
    readonly path: string,
    private readonly options: CheckpointFolderOptions,
  ) {}

  /** Opens or makes the folder and removes what a killed process left half-written. */
  static async open(path: string, options: CheckpointFolderOptions = {}): Promise<CheckpointFolder> {
    const { keep = 3 } = options
    if (!(Number.isInteger(keep) && keep >= 1))
      throw new CheckpointError(`keep must be a whole number of at least 1, not ${keep}`, { keep })
    try {
      await mkdir(path, { recursive: true })
      for (const name of await readdir(path))
        if (leftoverPattern.test(name)) await rm(join(path, name), { recursive: true, force: true })
    } catch (error) {
      throw unwritable(path, error)
    }
    return new CheckpointFolder(path, options)
  }

  /** Steps of the checkpoints, newest first. */
  async steps(): Promise<number[]> {
    return stepsIn(this.path)
  }

  async save(checkpoint: Checkpoint): Promise<string> {
    const target = join(this.path, stepName(checkpoint.step))
    const temporary = join(this.path, `tmp-${stepName(checkpoint.step)}-${process.pid}`)
    try {
      await rm(temporary, { recursive: true, force: true })
      await mkdir(temporary)
      const contents = encodeCheckpoint(checkpoint)
      for (const name of checkpointFiles) await writeSynced(join(temporary, name), contents[name])
      const described = Object.fromEntries(checkpointFiles.map((name) => [name, fingerprint(contents[name])]))
      const state = { ...checkpoint.state, files: described }
      const sealed = { ...state, sha256: sha256(JSON.stringify(state)) }
      await writeSynced(join(temporary, 'state.json'), `${JSON.stringify(sealed, null, 2)}\n`)
      await syncFolder(temporary)
      await this.options.before?.()
      // Only a run that goes on from an older checkpoint can meet one of the same step.
      if (await exists(target)) await this.discard(target)
      await rename(temporary, target)
      await syncFolder(this.path)
      for (const step of (await this.steps()).slice(this.options.keep ?? 3))
        await this.discard(join(this.path, stepName(step)))
    } catch (error) {
      await rm(temporary, { recursive: true, force: true }).catch(() => {})
      const last = (await this.steps().catch(() => []))[0]
      const problem = unwritable(this.path, error)
      const hint =
        last === undefined ? '' : `; the last good checkpoint is ${join(this.path, stepName(last))}`
      throw new CheckpointError(problem.message + hint, problem.values, { cause: error })
    }
    return target
  }

  /**
   * The newest checkpoint; undefined when there is none.
   * @throws FormatError when it is damaged, naming the newest one that is not
   */
  async latest(): Promise<Checkpoint | undefined> {
    const [newest] = await this.steps()
    return newest === undefined ? undefined : readCheckpoint(join(this.path, stepName(newest)))
  }

  /** Renames checkpoints after a step, so that a run that goes on from an older one does not mix with them. */
  async setAside(after: number): Promise<void> {
    try {
      for (const step of await this.steps()) {
        if (step <= after) continue
        let name = `set-aside-${stepName(step)}`
        for (let copy = 2; await exists(join(this.path, name)); copy++)
          name = `set-aside-${stepName(step)}-${copy}`
        await rename(join(this.path, stepName(step)), join(this.path, name))
      }
      await syncFolder(this.path)
    } catch (error) {
      throw unwritable(this.path, error)
    }
  }

  /** Removes a checkpoint: first its name, so that a half-removed one is never taken for a whole one. */
  private async discard(path: string): Promise<void> {
    const doomed = join(this.path, `tmp-old-${basename(path)}-${process.pid}`)
    await rename(path, doomed)
    await rm(doomed, { recursive: true, force: true })
  }
}

/**
 * Reads and verifies one checkpoint.
 * @throws FormatError when a file is missing, cut off or changed, naming the newest earlier checkpoint that is good
 */
export async function readCheckpoint(path: string): Promise<Checkpoint> {
  try {
    return await readVerified(path)
  } catch (error) {
    if (!FormatError.isInstance(error)) throw error
    const previous = await lastGoodBefore(path)
    const hint = previous
      ? `the previous good checkpoint is ${previous}`
      : 'there is no earlier good checkpoint, so start the run again'
    throw new FormatError(`${error.message}: ${hint}`, { ...error.values, previous }, { cause: error })
  }
}

async function lastGoodBefore(path: string): Promise<string | undefined> {
  const own = Number(stepPattern.exec(basename(path))?.[1] ?? Number.POSITIVE_INFINITY)
  for (const step of await stepsIn(dirname(resolve(path))).catch(() => [])) {
    if (step >= own) continue
    const candidate = join(dirname(path), stepName(step))
    const good = await readVerified(candidate).then(
      () => true,
      () => false,
    )
    if (good) return candidate
  }
  return undefined
}

async function readVerified(path: string): Promise<Checkpoint> {
  const sealed = await readSealed(join(path, 'state.json'))
  const contents = {} as Record<CheckpointFile, Uint8Array>
  for (const name of checkpointFiles) {
    const bytes = await readBytes(join(path, name))
    const expected = sealed.files[name]
    if (!expected || bytes.length !== expected.bytes)
      throw new FormatError(
        `${join(path, name)} has ${bytes.length} bytes instead of ${expected?.bytes} (it was cut off or replaced)`,
        { path: join(path, name), bytes: bytes.length, expected: expected?.bytes },
      )
    if (sha256(bytes) !== expected.sha256)
      throw new FormatError(`${join(path, name)} was changed after it was saved: its checksum is wrong`, {
        path: join(path, name),
      })
    contents[name] = bytes
  }
  const { files: _, sha256: __, ...state } = sealed
  return decodeCheckpoint(contents, state, path)
}

type Sealed = CheckpointState & {
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>
  readonly sha256: string
}

async function readSealed(path: string): Promise<Sealed> {
  const text = new TextDecoder().decode(await readBytes(path))
  let sealed: Sealed
  try {
    sealed = JSON.parse(text)
    if (typeof sealed !== 'object' || sealed === null) throw new Error('not an object')
  } catch {
    throw new FormatError(`${path} is not whole: it is no JSON object`, { path })
  }
  if (sealed.format !== 'lethe-checkpoint-1')
    throw new FormatError(`${path} is not a checkpoint of this version: its format is "${sealed.format}"`, {
      path,
      format: sealed.format,
    })
  const { sha256: sum, ...rest } = sealed
  if (sum !== sha256(JSON.stringify(rest)))
    throw new FormatError(`${path} was changed after it was saved: its checksum is wrong`, { path })
  return sealed
}

async function readBytes(path: string): Promise<Uint8Array> {
  try {
    const bytes = new Uint8Array((await stat(path)).size)
    return bytes.subarray(0, await readInto(path, 0, bytes))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      throw new FormatError(`${path} is missing`, { path }, { cause: error })
    throw new CheckpointError(`cannot read ${path}: ${(error as Error).message}`, { path }, { cause: error })
  }
}

/** The lines of a run: one per step and per evaluation, in order. */
export class MetricsFile {
  private constructor(
    readonly path: string,
    private readonly file: FileHandle,
  ) {}

  /**
   * Opens or makes the file, cut back to the lines up to a step: what came after it is done again.
   * @param evaluated whether the evaluation of that step itself was done: true (default) keeps its line
   */
  static async open(path: string, upTo: number, evaluated = true): Promise<MetricsFile> {
    try {
      const file = await open(path, 'a+')
      const text = await file.readFile()
      const length = lengthUpTo(text, upTo, evaluated)
      if (length < text.length) await file.truncate(length)
      return new MetricsFile(path, file)
    } catch (error) {
      throw unwritable(path, error)
    }
  }

  /** Writes a line for `step` and `eval` events and ignores all others. */
  async append(event: TrainEvent): Promise<void> {
    if (event.type !== 'step' && event.type !== 'eval') return
    await this.file.write(`${JSON.stringify(event)}\n`).catch((error) => {
      throw unwritable(this.path, error)
    })
  }

  async sync(): Promise<void> {
    await this.file.sync()
  }

  async close(): Promise<void> {
    await this.file.close()
  }
}

/** Bytes of the whole lines at the start whose step is not above `upTo`; without its evaluation unless that was done. */
function lengthUpTo(text: Uint8Array, upTo: number, evaluated: boolean): number {
  let length = 0
  for (;;) {
    const end = text.indexOf(10, length)
    if (end < 0) return length
    try {
      const line = JSON.parse(new TextDecoder().decode(text.subarray(length, end)))
      if (!(line.step <= upTo)) return length
      if (line.step === upTo && line.type === 'eval' && !evaluated) return length
    } catch {
      return length
    }
    length = end + 1
  }
}

/** A run's folder: its configuration, metrics and checkpoints. */
export class RunFolder {
  private constructor(
    readonly path: string,
    /** What the run was started with, or resumed. */
    readonly config: unknown,
    readonly checkpoints: CheckpointFolder,
    private readonly metrics: MetricsFile,
    private readonly unlock: () => Promise<void>,
  ) {}

  get metricsPath(): string {
    return this.metrics.path
  }

  /**
   * Starts a run in a new or empty folder, which belongs to this process until the run is closed.
   * @throws CheckpointError when there is something in the folder, or it cannot be written
   */
  static async create(path: string, config: unknown, options: { keep?: number } = {}): Promise<RunFolder> {
    try {
      await mkdir(path, { recursive: true })
      const present = (await readdir(path)).filter((name) => name !== 'config.json.tmp')
      if (present.length > 0)
        throw new CheckpointError(
          `${path} is not empty (it has ${present.slice(0, 3).join(', ')}${present.length > 3 ? ', …' : ''}): ` +
            (present.includes('config.json')
              ? 'resume the run in it or choose another folder'
              : 'choose another folder'),
          { path, present, run: present.includes('config.json') },
        )
      await writeConfig(path, config)
    } catch (error) {
      if (CheckpointError.isInstance(error)) throw error
      throw unwritable(path, error)
    }
    return RunFolder.start(path, config, undefined, options)
  }

  /**
   * Goes on with a run: from its newest checkpoint, or from the one whose folder is given (later ones are then
   * renamed, not removed). A run that was ended before its first checkpoint starts anew. Metrics are cut back to the
   * checkpoint. The folder belongs to this process until the run is closed.
   * @throws CheckpointError when another process writes to the folder
   * @param options.config what the run goes on with, where that is not what its config.json has: replaces it, so that
   *   the run is resumed like this the next time, too
   */
  static async resume(
    path: string,
    { config, ...options }: { keep?: number; config?: unknown } = {},
  ): Promise<{ run: RunFolder; checkpoint: Checkpoint | undefined }> {
    const { root, checkpoint, config: before } = await readRun(path)
    const run = await RunFolder.start(root, config ?? before, checkpoint, options)
    if (config === undefined) return { run, checkpoint }
    try {
      await writeConfig(root, config)
    } catch (error) {
      await run.close()
      throw unwritable(root, error)
    }
    return { run, checkpoint }
  }

  /** Adds an event to the metrics. */
  async record(event: TrainEvent): Promise<void> {
    await this.metrics.append(event)
  }

  /** Lets other processes write to the folder. */
  async close(): Promise<void> {
    await this.metrics.close()
    await this.unlock()
  }

  /** The metrics come last: they are only cut back when nothing else can fail, and no later checkpoint has its name. */
  private static async start(
    path: string,
    config: unknown,
    checkpoint: Checkpoint | undefined,
    { keep = 3 }: { keep?: number },
  ): Promise<RunFolder> {
    const unlock = await lockFolder(path).catch((error) => {
      throw CheckpointError.isInstance(error) ? error : unwritable(path, error)
    })
    try {
      const before = () => metrics.sync()
      const checkpoints = await CheckpointFolder.open(join(path, 'checkpoints'), { keep, before })
      const step = checkpoint?.step ?? 0
      await checkpoints.setAside(step)
      const evaluated = checkpoint?.state.validation.at(-1)?.step === step
      const metrics = await MetricsFile.open(join(path, 'metrics.jsonl'), step, evaluated)
      return new RunFolder(path, config, checkpoints, metrics, unlock)
    } catch (error) {
      await unlock()
      throw error
    }
  }
}

const writeConfig = (path: string, config: unknown) =>
  writeAtomic(join(path, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)

/** What is in a run's folder (newest checkpoint) or in a checkpoint's folder; changes nothing. */
export async function readRun(
  path: string,
): Promise<{ root: string; config: unknown; checkpoint: Checkpoint | undefined }> {
  const info = await stat(path).catch(() => undefined)
  if (!info?.isDirectory())
    throw new CheckpointError(
      `there is no run in ${path}: ${info ? 'it is a file' : 'there is no such folder'}; give the folder of a run or of a checkpoint`,
      { path },
    )
  const single = stepPattern.test(basename(resolve(path)))
  const root = single ? dirname(dirname(resolve(path))) : path
  const configPath = join(root, 'config.json')
  let config: unknown
  try {
    config = JSON.parse(await readFile(configPath, 'utf8'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      throw new CheckpointError(
        `there is no run in ${path}: ${configPath} is missing; give the folder of a run`,
        { path },
      )
    throw new FormatError(`${configPath} cannot be read: ${(error as Error).message}`, { path: configPath })
  }
  if (single) return { root, config, checkpoint: await readCheckpoint(path) }
  const folder = join(root, 'checkpoints')
  const [newest] = await stepsIn(folder).catch(() => [])
  const checkpoint = newest === undefined ? undefined : await readCheckpoint(join(folder, stepName(newest)))
  return { root, config, checkpoint }
}

async function stepsIn(path: string): Promise<number[]> {
  const steps: number[] = []
  for (const name of await readdir(path)) {
    const match = stepPattern.exec(name)
    if (match) steps.push(Number(match[1]))
  }
  return steps.sort((a, b) => b - a)
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

/** Of any length: one update takes less than 2 GiB. */
function sha256(content: string | Uint8Array): string {
  const hash = createHash('sha256')
  const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content
  for (let at = 0; at < bytes.length; at += largestPiece) hash.update(bytes.subarray(at, at + largestPiece))
  return hash.digest('hex')
}

const fingerprint = (bytes: Uint8Array) => ({ bytes: bytes.length, sha256: sha256(bytes) })
