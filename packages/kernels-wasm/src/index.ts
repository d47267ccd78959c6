/**
 * Kernels in WebAssembly that work in the memory of another wasm module: no values are copied in or out. Two builds of
 * the same source are part of this file's package; the one with relaxed SIMD (fused multiply-add) is taken where the
 * engine has it. Where that memory is shared, worker threads take a part of the work.
 */
import { type AttentionRequest, writeRequest } from './attention'
import { plain, relaxed } from './generated/modules'
import { shareMemory } from './share'
import { type RangeKernel, Threads } from './threads'

export type { AttentionBias, AttentionGroup, AttentionRamp, AttentionRequest } from './attention'
export { shareMemory } from './share'

/** A matrix in memory. A transpose is a swap of `rowStep` and `columnStep`. */
export interface Matrix {
  /** Where its first value is, in bytes. */
  readonly at: number
  /** From one row to the next, in values. */
  readonly rowStep: number
  /** From one column to the next, in values. One of the two steps must be 1. */
  readonly columnStep: number
  /** From one matrix of a batch to the next, in values; default 0, the same for all. */
  readonly matrixStep?: number
}

/** Kernels bound to one memory. Values are float32 where nothing else is said; addresses are in bytes. */
export interface Kernels {
  /** Whether multiplications and additions are fused, and so rounded once. */
  readonly relaxed: boolean
  /** How many threads compute, the caller's among them. Results are the same bits for any number. */
  readonly threads: number
  /**
   * Starts workers, until `count` threads compute, and ends those there were. In unshared memory, and where the
   * environment refuses workers, fewer do: see `threads`. In Node, workers do not keep the process alive.
   */
  startThreads(count: number): Promise<void>
  /** Ends the workers. Do so before the memory is given up. */
  stopThreads(): void
  /**
   * Writes left [batch, rows, inner] · right [batch, inner, columns] to `out`, row after row; `out` overlaps neither of
   * them. The default of `batch` is 1.
   */
  multiply(
    left: Matrix,
    right: Matrix,
    out: number,
    rows: number,
    columns: number,
    inner: number,
    batch?: number,
  ): void
  /** Copies `lines` lines of `bytes` bytes; from one to the next are `fromStep` and `toStep` bytes. No overlaps. */
  copyLines(from: number, fromStep: number, to: number, toStep: number, bytes: number, lines: number): void
  /** to[line, i] = from[line, length - 1 - i]; any values of four bytes. */
  reverseLines(from: number, to: number, length: number, lines: number): void
  /** to[line] = the sum of from[line, 0 .. length - 1]; 0 where there is nothing to add. */
  sumLines(from: number, to: number, length: number, lines: number): void
  /** to[i] = e^from[i], within two units in the last place. */
  exponentials(from: number, to: number, count: number): void
  /** to[i] = erf(from[i]), within 3e-7. */
  errorFunctions(from: number, to: number, count: number): void

  // What follows does a part of its work, [from, to) of rows, values or the like, and shares nothing with the other
  // parts, so that threads take some each. The addresses are those of the whole tensors.

  /** y[i] = the sum over all rows of x[row, i], for the columns [from, to) of [rows, width]; at least one row. */
  sumRows(x: number, y: number, rows: number, width: number, from: number, to: number): void
  /** Cumulates x along the middle axis of [blocks, length, width], for the blocks [from, to). */
  cumulate(
    x: number,
    y: number,
    length: number,
    width: number,
    exclusive: boolean,
    backwards: boolean,
    from: number,
    to: number,
  ): void
  /**
   * y = (x - mean) · inverse · scale + bias, inverse = 1 / √(mean of (x - mean)² + epsilon), for the rows [from, to) of
   * [rows, width]; means and inverses get those of each row. Without means and bias (both 0) the mean is 0: RMS norm.
   */
  normalize(
    x: number,
    scale: number,
    bias: number,
    y: number,
    means: number,
    inverses: number,
    width: number,
    epsilon: number,
    from: number,
    to: number,
  ): void
  /** How many parts `normalizeGradient` has for so many rows. */
  normalizeParts(rows: number): number
  /**
   * The gradients of `normalize`, for the parts [from, to): dx, and for each part a row of sums over its rows in
   * scaleParts and biasParts [parts, width], whose sums over the parts are the gradients of scale and bias. Without
   * means (0) biasParts stay as they are.
   */
  normalizeGradient(
    dy: number,
    x: number,
    scale: number,
    means: number,
    inverses: number,
    dx: number,
    scaleParts: number,
    biasParts: number,
    rows: number,
    width: number,
    from: number,
    to: number,
  ): void
  /** y = x Φ(x), for the values [from, to). */
  gelu(x: number, y: number, from: number, to: number): void
  /** dx = dy · (Φ(x) + x φ(x)), for the values [from, to). */
  geluGradient(dy: number, x: number, dx: number, from: number, to: number): void
  /** y = gate · sigmoid(gate) · x, for the values [from, to). */
  swiglu(gate: number, x: number, y: number, from: number, to: number): void
  /** dgate = dy · x · s (1 + gate (1 - s)) and dx = dy · gate · s with s = sigmoid(gate), for the values [from, to). */
  swigluGradient(
    dy: number,
    gate: number,
    x: number,
    dgate: number,
    dx: number,
    from: number,
    to: number,
  ): void
  /** dx = 0 where y <= 0, else dy, for the values [from, to). */
  reluGradient(dy: number, y: number, dx: number, from: number, to: number): void
  /**
   * For the rows [from, to) of logits [rows, classes] with targets int32 [rows]: `largest` logit, `logTotal` =
   * log Σ e^(logit - largest), and loss = largest + logTotal - logit[target]; a target outside the classes has logit 0.
   */
  crossEntropy(
    logits: number,
    targets: number,
    loss: number,
    largest: number,
    logTotal: number,
    classes: number,
    from: number,
    to: number,
  ): void
  /** dlogits = scale[row] · (e^(logit - largest - logTotal) - 1 at the target), for the rows [from, to). */
  crossEntropyGradient(
    logits: number,
    targets: number,
    largest: number,
    logTotal: number,
    scale: number,
    dlogits: number,
    classes: number,
    from: number,
    to: number,
  ): void
  /**
   * Turns the pairs (n, n + half) of features of the matrices [from, to) of [matrices, 2 · half, steps] by the angles of
   * cosine and sine [tables, half, steps], times sign (1 or -1); `matricesPerTable` neighbouring matrices share a table.
   */
  rotate(
    x: number,
    cosine: number,
    sine: number,
    y: number,
    half: number,
    steps: number,
    matricesPerTable: number,
    sign: number,
    from: number,
    to: number,
  ): void
  /** cosine, sine [rows, half, slots] of the angles -age · ratio^n, for the rows [from, to) of ages int32 [rows, slots]. */
  rotaryAngles(
    age: number,
    cosine: number,
    sine: number,
    half: number,
    slots: number,
    ratio: number,
    from: number,
    to: number,
  ): void
  /**
   * For the rows [from, to) of [rows, count]: newAges = ages + 1, newValid = valid, and the place that is worth least of
   * the first `among`, its number in places int32 [rows], gets age 0 and is valid. An empty place (valid 0) is worth
   * `empty` less. Without worths (0) the oldest is worth least.
   */
  takePlaces(
    ages: number,
    valid: number,
    worths: number,
    newAges: number,
    newValid: number,
    places: number,
    count: number,
    among: number,
    empty: number,
    from: number,
    to: number,
  ): void
  /** x[line, places[⌊line / lines⌋]] = column[line], for the lines [from, to) of [..., count]. */
  writePlaces(
    x: number,
    column: number,
    places: number,
    count: number,
    lines: number,
    from: number,
    to: number,
  ): void
  /** How many parts `sumSquares` has for so many values. */
  sumSquaresParts(count: number): number
  /** out[part] = the sum of x² over a part of `count` values, for the parts [from, to). */
  sumSquares(x: number, out: number, count: number, from: number, to: number): void
  /**
   * Adam for the values [from, to): with g = factor · gradient + decay · values, newMean = beta1 · mean + g,
   * newSquare = beta2 · square + g², newValues = shrink · values - rate · newMean / (√newSquare + epsilon).
   * `factor` is the address of one number; 0 for 1. New values may take the place of the old ones.
   */
  adam(
    values: number,
    gradient: number,
    mean: number,
    square: number,
    factor: number,
    newValues: number,
    newMean: number,
    newSquare: number,
    beta1: number,
    beta2: number,
    rate: number,
    epsilon: number,
    decay: number,
    shrink: number,
    from: number,
    to: number,
  ): void
  /** Adagrad in the same way: newSquare = square + g², newValues = values - rate · g / (√newSquare + epsilon). */
  adagrad(
    values: number,
    gradient: number,
    square: number,
    factor: number,
    newValues: number,
    newSquare: number,
    rate: number,
    epsilon: number,
    decay: number,
    from: number,
    to: number,
  ): void
  /**
   * weight(t, i) ∝ m(t, i) · exp((query_t · key_i + position(t, i)) · scale + b(t, i)) over slots and persistent slots,
   * and the values summed with these weights.
   * @param borrow lends memory for the time of the call
   */
  attend(request: AttentionRequest, borrow: Borrow): void
  /** Its gradients. */
  attendBackward(request: AttentionRequest, borrow: Borrow): void
}

/** Gives memory of so many bytes, aligned to 16 bytes, to `use`, and takes it back afterwards. */
export type Borrow = (bytes: number, use: (at: number) => void) => void

export interface KernelOptions {
  /** Take the build with relaxed SIMD; default: where the engine accepts it. */
  readonly relaxed?: boolean
}

/** Whether this engine runs the plain build, and the relaxed one. */
export function supportedBuilds(): { plain: boolean; relaxed: boolean } {
  return { plain: moduleOf(plain) !== undefined, relaxed: moduleOf(relaxed) !== undefined }
}

/**
 * The kernels whose last two arguments are a range, and about how long one of its units (a row, a value, a part) takes, in
 * nanoseconds, by the other arguments.
 */
const unitCosts = {
  sumRows: (_x, _y, rows) => 0.3 * rows,
  cumulate: (_x, _y, length, width) => 1 * length * width,
  normalize: (_x, _scale, _bias, _y, _means, _inverses, width) => 10 + 0.7 * width,
  normalizeGradient: (_dy, _x, _s, _m, _i, _dx, _sp, _bp, rows, width) => Math.min(rows, 32) * width,
  gelu: () => 4,
  geluGradient: () => 4,
  swiglu: () => 3,
  swigluGradient: () => 4,
  reluGradient: () => 0.5,
  crossEntropy: (_logits, _targets, _loss, _largest, _total, classes) => 20 + 2 * classes,
  crossEntropyGradient: (_logits, _targets, _largest, _total, _scale, _dlogits, classes) => 10 + 2 * classes,
  rotate: (_x, _cosine, _sine, _y, half, steps) => half * steps,
  rotaryAngles: (_age, _cosine, _sine, half, slots) => 10 * half * slots,
  takePlaces: (_ages, _valid, _worths, _newAges, _newValid, _places, count) => 3 * count,
  writePlaces: () => 4,
  sumSquares: (_x, _out, count) => 0.2 * Math.min(count, 4096),
  adam: () => 2,
  adagrad: () => 2,
} satisfies { [Name in keyof Kernels]?: (...values: number[]) => number }

/** What a unit must be part of, in nanoseconds, to be worth another thread's while: about the cost of waking it. */
const worthwhile = 10_000

/**
 * Binds the kernels to a memory, which may grow later. Takes about a megabyte of it per thread for good, as working space.
 * @param memory the other module's memory; shared, if threads are to be started
 * @param allocate that module's own malloc: bytes to an address aligned to 16 bytes, 0 if there is no room
 * @returns undefined where the engine has no SIMD, or not the build that was asked for
 * @throws RangeError where the memory has no room
 */
export function loadKernels(
  memory: WebAssembly.Memory,
  allocate: (bytes: number) => number,
  options: KernelOptions = {},
): Kernels | undefined {
  const fused = options.relaxed ?? moduleOf(relaxed) !== undefined
  const shared = !(memory.buffer instanceof ArrayBuffer)
  const module = moduleOf(fused ? relaxed : plain, shared)
  if (module === undefined) return undefined
  const exports = new WebAssembly.Instance(module, { env: { memory } }).exports as Record<
    string,
    RangeKernel
  > & {
    scratchBytes(): number
    normalizeParts(rows: number): number
    sumSquaresParts(count: number): number
    partsOf(rows: number, columns: number, wanted: number): number
    /** Bytes of working space for a request at this address; notes what it counts at `scratch`. */
    attentionBytes(request: number, backward: boolean, scratch: number): number
    unitsOf(request: number): number
  }
  const reserve = (bytes: number) => {
    const at = allocate(bytes)
    if (at === 0)
      throw new RangeError(`The memory has no ${bytes} bytes left for the kernels' working space.`)
    return at
  }
  const scratches = [reserve(exports.scratchBytes())]
  const scratch = scratches[0]!
  let threads: Threads | undefined

  /**
   * Runs the export kernel(...values, first, last, scratch) over so many units from the first one on, in all threads where
   * that pays. What it writes for a unit must not depend on the range in which the unit comes.
   * @param cost about how long a unit takes, in nanoseconds
   */
  const run = (kernel: string, values: readonly number[], units: number, cost: number, first = 0) => {
    const grain = Math.ceil(worthwhile / cost)
    if (threads === undefined || threads.count === 1 || units <= grain)
      exports[kernel]!(...values, first, first + units, scratch)
    else threads.run(kernel, values, first, units, grain, cost, scratch)
  }
  const ranged = Object.entries(unitCosts).map(([kernel, costOf]) => [
    kernel,
    (...given: number[]) => {
      const [first, end] = given.splice(-2) as [number, number]
      run(kernel, given, end - first, (costOf as (...values: number[]) => number)(...given), first)
    },
  ])

  /** @param cost about how long a multiplication takes, in nanoseconds */
  const attention =
    (kernel: 'attend' | 'attendBackward', cost: number): Kernels['attend'] =>
    (request, borrow) => {
      // The kernels' own working space is free meanwhile: the request goes there, behind the address of the borrowed one,
      // which every thread finds at the start of its own.
      const at = scratch + 64
      const end = writeRequest(memory, at, request)
      const whole = (bytes: number) => 64 * Math.ceil(bytes / 64)
      const bytes = whole(exports.attentionBytes(at, kernel === 'attendBackward', whole(end)))
      // One for each working space: which of the threads have started does not say which of the spaces are theirs.
      const spaces = threads ? scratches : [scratch]
      borrow(bytes * spaces.length, (borrowed) => {
        const words = new Uint32Array(memory.buffer)
        spaces.forEach((space, thread) => {
          words[space / 4] = borrowed + thread * bytes
        })
        const { batch, heads, headSize, block, slots } = request
        const units = exports.unitsOf(at)
        run(kernel, [at], units, (cost * batch * heads * headSize * block * slots) / units)
      })
    }

  return {
    ...(Object.fromEntries(ranged) as Pick<Kernels, keyof typeof unitCosts>),
    normalizeParts: exports.normalizeParts,
    sumSquaresParts: exports.sumSquaresParts,
    attend: attention('attend', 0.15),
    attendBackward: attention('attendBackward', 0.4),
    relaxed: fused,
    get threads() {
      return threads?.count ?? 1
    },
    async startThreads(count) {
      if (!Number.isInteger(count) || count < 1)
        throw new RangeError(`The number of threads must be a whole number from 1 on, not ${count}.`)
      threads?.stop()
      threads = undefined
      if (!shared || count === 1) return
      while (scratches.length < count) scratches.push(reserve(exports.scratchBytes()))
      threads = new Threads(module, exports, memory, reserve)
      await threads.start(scratches.slice(1, count))
    },
    stopThreads() {
      threads?.stop()
    },
    multiply(left, right, out, rows, columns, inner, batch = 1) {
      const cost = 0.05 * rows * columns * inner
      const parts = exports.partsOf(rows, columns, Math.min(this.threads, Math.floor(cost / worthwhile)))
      const values = [left.at, left.rowStep, left.columnStep, left.matrixStep ?? 0]
      values.push(right.at, right.rowStep, right.columnStep, right.matrixStep ?? 0)
      run('multiply', [...values, out, rows, columns, inner, parts], batch * parts, cost / parts)
    },
    copyLines(from, fromStep, to, toStep, bytes, lines) {
      run('copyLines', [from, fromStep, to, toStep, bytes], lines, 3 + 0.15 * bytes)
    },
    reverseLines(from, to, length, lines) {
      run('reverseLines', [from, to, length], lines, 3 + 0.5 * length)
    },
    sumLines(from, to, length, lines) {
      run('sumLines', [from, to, length], lines, 5 + 0.3 * length)
    },
    exponentials(from, to, count) {
      run('exponentials', [from, to], count, 2)
    },
    errorFunctions(from, to, count) {
      run('errorFunctions', [from, to], count, 4)
    },
  }
}

const modules = new Map<string, WebAssembly.Module | undefined>()

/** Compiles a build once for each kind of memory; undefined where the engine does not know its instructions. */
function moduleOf(build: string, shared = false): WebAssembly.Module | undefined {
  const key = `${shared} ${build}`
  if (!modules.has(key)) {
    const unshared = Uint8Array.from(atob(build), (character) => character.charCodeAt(0))
    const bytes = shared ? shareMemory(unshared) : unshared
    modules.set(key, WebAssembly.validate(bytes) ? new WebAssembly.Module(bytes) : undefined)
  }
  return modules.get(key)
}
