/** Worker threads that compute kernels in one shared memory, in Node and in pages that are isolated across origins. */
import { controlBytes, lookout, mostValues, type WorkerData, words, workerSource } from './worker'

/** An export of the form kernel(...values, first, last, scratch), which computes units first to last - 1. */
export type RangeKernel = (...values: number[]) => void

/** A running worker. */
interface Thread {
  stop(): void
}

/** Ranges that each thread gets on average: more of them even out threads that start late, fewer cost less. */
const rangesPerThread = 4

/** Nanoseconds of work for which sleeping workers are woken; those that are awake take part in less. */
const worthWaking = 150_000

/**
 * Where the caller waits so much longer for the others than it has worked, in milliseconds, the processors are busy with
 * something else, and it computes alone for some times as long as it has waited: so little is lost on a busy machine.
 */
const longWait = 1
const aloneAfter = 10

/** Seconds without a sign of life after which a thread with work in hand counts as lost. */
const patience = 60

export class Threads {
  readonly #kernels: Record<string, RangeKernel>
  readonly #names: string[]
  readonly #data: Omit<WorkerData, 'scratch'>
  readonly #words: Int32Array
  readonly #values: Float64Array
  readonly #mayWait: boolean
  #threads: Thread[] = []
  #failure: Error | undefined
  #stopped = false
  #aloneUntil = 0

  /**
   * @param module the compiled module of which `kernels` are the exports in this thread
   * @param allocate the memory's malloc
   * @throws RangeError where the memory has no room
   */
  constructor(
    module: WebAssembly.Module,
    kernels: Record<string, RangeKernel>,
    memory: WebAssembly.Memory,
    allocate: (bytes: number) => number,
  ) {
    const control = allocate(controlBytes)
    this.#kernels = kernels
    this.#names = Object.keys(kernels)
    this.#data = { module, memory, control }
    this.#words = new Int32Array(memory.buffer, control, words.values).fill(0)
    this.#values = new Float64Array(memory.buffer, control + 4 * words.values, mostValues)
    this.#mayWait = mayWait(this.#words)
  }

  /** Threads that compute, the caller's among them. */
  get count(): number {
    return this.#threads.length + 1
  }

  /**
   * Starts a worker for each of these working spaces; a worker that the environment refuses is left out.
   * @param scratches addresses of working spaces
   */
  async start(scratches: readonly number[]): Promise<void> {
    const fail = (error: unknown) => {
      this.#failure ??= new Error(
        'A worker thread of the wasm kernels has ended by itself. Start the backend anew, or with one thread.',
        { cause: error },
      )
    }
    const started = await Promise.all(
      scratches.map((scratch) => startWorker({ ...this.#data, scratch }, fail).catch(() => undefined)),
    )
    this.#threads.push(...started.filter((thread) => thread !== undefined))
    if (this.#stopped) this.stop()
  }

  /** Ends all workers, for good: one that has not noticed yet must not see another's jobs. */
  stop(): void {
    this.#stopped = true
    for (const thread of this.#threads) thread.stop()
    this.#threads = []
  }

  /**
   * Computes so many units of a kernel from the first one on, in every thread that is awake some of them, and waits until
   * they are done.
   * @param grain the units that are worth a thread's while
   * @param cost about how long a unit takes, in nanoseconds
   * @throws Error where a worker has failed: what the kernel writes is then undefined
   */
  run(
    name: string,
    values: readonly number[],
    first: number,
    units: number,
    grain: number,
    cost: number,
    scratch: number,
  ): void {
    if (this.#failure !== undefined) throw this.#failure
    const shared = this.#words
    const kernel = this.#kernels[name]!
    const end = first + units
    const began = performance.now()
    const sleepers = Atomics.load(shared, words.sleepers)
    const wake = sleepers > 0 && units * cost >= worthWaking
    if (began < this.#aloneUntil || (sleepers === this.#threads.length && !wake)) {
      kernel(...values, first, end, scratch)
      return
    }
    const chunk = Math.max(grain, Math.ceil(units / (rangesPerThread * this.count)))
    shared[words.kernel] = this.#names.indexOf(name)
    shared[words.end] = end
    shared[words.chunk] = chunk
    shared[words.count] = values.length
    this.#values.set(values)
    Atomics.store(shared, words.next, first)
    Atomics.add(shared, words.job, 1) // open
    // One that falls asleep just now may miss this job, which is done without it then.
    if (wake) Atomics.notify(shared, words.job, Math.ceil(units / chunk) - 1)
    try {
      const take = () => Atomics.add(shared, words.next, chunk)
      for (let unit = take(); unit < end; unit = take())
        kernel(...values, unit, Math.min(unit + chunk, end), scratch)
    } finally {
      Atomics.add(shared, words.job, 1) // closed
      const worked = performance.now()
      this.#waitForOthers(name)
      const ended = performance.now()
      const waited = ended - worked
      if (waited > worked - began + longWait) this.#aloneUntil = ended + aloneAfter * waited
    }
    if (Atomics.exchange(shared, words.failed, 0) !== 0)
      throw new Error(`The wasm kernel ${name} has failed in a worker thread.`)
  }

  #waitForOthers(name: string): void {
    const shared = this.#words
    const start = performance.now()
    let end = start + lookout
    if (!this.#mayWait) end = start + 1000 * patience
    do {
      for (let i = 0; i < 100; i++) if (Atomics.load(shared, words.inside) === 0) return
    } while (performance.now() < end)
    if (this.#mayWait) {
      Atomics.store(shared, words.waiting, 1)
      // Counted in naps, since the clock also runs on while the machine sleeps.
      for (let nap = 0; nap < patience; nap++) {
        const inside = Atomics.load(shared, words.inside)
        if (inside === 0) break
        if (Atomics.wait(shared, words.inside, inside, 1000) !== 'timed-out') nap = 0
      }
      Atomics.store(shared, words.waiting, 0)
      if (Atomics.load(shared, words.inside) === 0) return
    }
    this.#failure = new Error(
      `A worker thread has not come back from the wasm kernel ${name} within ${patience} s. Start the backend anew, or with one thread.`,
    )
    throw this.#failure
  }
}

/** Whether this thread may sleep; the one that draws a page may not. */
function mayWait(shared: Int32Array): boolean {
  try {
    Atomics.wait(shared, words.waiting, 1, 0)
    return true
  } catch {
    return false
  }
}

/**
 * Starts one worker, which is of use once this resolves.
 * @param fail called when it ends later without being told to
 */
function startWorker(data: WorkerData, fail: (cause: unknown) => void): Promise<Thread> {
  const node = globalThis.process?.getBuiltinModule?.('node:worker_threads')
  return node === undefined ? startWebWorker(data, fail) : startNodeWorker(node, data, fail)
}

function startNodeWorker(
  { Worker }: typeof import('node:worker_threads'),
  data: WorkerData,
  fail: (cause: unknown) => void,
): Promise<Thread> {
  const source = `${workerSource}
    const { parentPort, workerData } = process.getBuiltinModule('node:worker_threads')
    run(workerData, () => parentPort.postMessage('ready'))`
  // With the program's own execArgv, whatever it loads first (--import, --require) would be loaded here too.
  const worker = new Worker(source, { eval: true, workerData: data, execArgv: [] })
  return new Promise((resolve, reject) => {
    worker.once('error', reject).once('exit', reject)
    worker.once('message', () => {
      worker.removeAllListeners().once('error', fail).once('exit', fail)
      worker.unref() // it shall not keep the process alive
      resolve({
        stop() {
          worker.removeAllListeners()
          void worker.terminate()
        },
      })
    })
  })
}

function startWebWorker(data: WorkerData, fail: (cause: unknown) => void): Promise<Thread> {
  const source = `${workerSource}
    onmessage = ({ data }) => run(data, () => postMessage('ready'))`
  const address = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }))
  return new Promise<Thread>((resolve, reject) => {
    const worker = new Worker(address) // throws, or reports an error, where the page's policy forbids it
    const stop = () => worker.terminate()
    worker.onerror = reject
    worker.onmessage = () => {
      worker.onerror = fail
      resolve({ stop })
    }
    worker.postMessage(data)
  }).finally(() => URL.revokeObjectURL(address))
}
