/**
 * What a worker thread runs, and the block of shared memory through which it gets its work. The code is text: a worker
 * needs an address or a text, and no bundler has to find a file for this one.
 *
 * A job is open while the number `job` is odd. Whoever finds it open enters (`inside`), looks again, and if it is still
 * open takes ranges of units (`next`) until none is left. The caller, who takes ranges too, closes the job and waits until
 * nobody is inside: so it waits for those who have work in hand, and never for one who has not woken up yet.
 */

/** 32-bit words of the control block. Those that threads write to while others wait on them are 64 bytes apart. */
export const words = {
  job: 0,
  next: 16,
  inside: 32,
  /** How many workers sleep, and have to be woken. */
  sleepers: 48,
  /** Whether the caller sleeps until nobody is inside. */
  waiting: 49,
  failed: 50,
  /** The job: an export by its place, where its units end, how many to take at once, and how many arguments follow. */
  kernel: 51,
  end: 52,
  chunk: 53,
  count: 54,
  /** The arguments before the units, as 64-bit floats: addresses and real numbers alike. */
  values: 64,
}

export const mostValues = 48
export const controlBytes = 4 * words.values + 8 * mostValues

/** Milliseconds for which a thread looks out for the next job before it sleeps: waking costs more than a short kernel. */
export const lookout = 0.1

/** What a worker is started with. */
export interface WorkerData {
  readonly module: WebAssembly.Module
  readonly memory: WebAssembly.Memory
  readonly control: number
  readonly scratch: number
}

export const workerSource = `
function run({ module, memory, control, scratch }, ready) {
  const kernels = Object.values(new WebAssembly.Instance(module, { env: { memory } }).exports)
  const words = new Int32Array(memory.buffer, control, ${words.values})
  const values = new Float64Array(memory.buffer, control + ${4 * words.values}, ${mostValues})
  let seen = Atomics.load(words, ${words.job})
  const isNew = (job) => job & 1 && job !== seen
  const look = () => {
    const end = performance.now() + ${lookout}
    do {
      for (let i = 0; i < 100; i++) if (isNew(Atomics.load(words, ${words.job}))) return
    } while (performance.now() < end)
    Atomics.add(words, ${words.sleepers}, 1)
    for (;;) {
      const job = Atomics.load(words, ${words.job})
      if (isNew(job)) break
      Atomics.wait(words, ${words.job}, job)
    }
    Atomics.sub(words, ${words.sleepers}, 1)
  }
  const work = () => {
    const kernel = kernels[words[${words.kernel}]]
    const end = words[${words.end}]
    const chunk = words[${words.chunk}]
    const given = Array.from(values.subarray(0, words[${words.count}]))
    const take = () => Atomics.add(words, ${words.next}, chunk)
    for (let unit = take(); unit < end; unit = take())
      kernel(...given, unit, Math.min(unit + chunk, end), scratch)
  }
  ready()
  for (;;) {
    look()
    Atomics.add(words, ${words.inside}, 1)
    try {
      const job = Atomics.load(words, ${words.job})
      if (isNew(job)) {
        seen = job
        work()
      }
    } catch (error) {
      Atomics.store(words, ${words.failed}, 1)
      throw error
    } finally {
      if (Atomics.sub(words, ${words.inside}, 1) === 1 && Atomics.load(words, ${words.waiting}))
        Atomics.notify(words, ${words.inside})
    }
  }
}
`
