/**
 * Kernels in WebAssembly that work in the memory of another wasm module: no values are copied in or out. Two builds of
 * the same source are part of this file's package; the one with relaxed SIMD (fused multiply-add) is taken where the
 * engine has it.
 */
import { type AttentionRequest, writeRequest } from './attention'
import { plain, relaxed } from './generated/modules'

export type { AttentionBias, AttentionGroup, AttentionRamp, AttentionRequest } from './attention'

/** A matrix in memory. A transpose is a swap of `rowStep` and `columnStep`. */
export interface Matrix {
  /** Where its first value is, in bytes. */
  readonly at: number
  /** From one row to the next, in values. */
  readonly rowStep: number
  /** From one column to the next, in values. One of the two steps must be 1. */
  readonly columnStep: number
}

/** Kernels bound to one memory. Values are float32 where nothing else is said; addresses are in bytes. */
export interface Kernels {
  /** Whether multiplications and additions are fused, and so rounded once. */
  readonly relaxed: boolean
  /** Writes left [rows, inner] · right [inner, columns] to `out`, row after row; `out` overlaps neither of them. */
  multiply(left: Matrix, right: Matrix, out: number, rows: number, columns: number, inner: number): void
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
  // parts, so that several threads may do one each. The addresses are those of the whole tensors.

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

/** The module's exports, as assembly/index.ts has them. */
interface Exports extends Omit<Kernels, 'relaxed' | 'multiply' | 'attend' | 'attendBackward'> {
  scratchBytes(): number
  /** Bytes of working space for a request at this address; notes what it counts at `scratch`. */
  attentionBytes(request: number, backward: boolean, scratch: number): number
  unitsOf(request: number): number
  /** At `scratch` is the address of the working space. */
  attend(request: number, from: number, end: number, scratch: number): void
  attendBackward(request: number, from: number, end: number, scratch: number): void
  multiply(
    left: number,
    leftRow: number,
    leftColumn: number,
    right: number,
    rightRow: number,
    rightColumn: number,
    out: number,
    rows: number,
    columns: number,
    inner: number,
    scratch: number,
  ): void
}

/** Whether this engine runs the plain build, and the relaxed one. */
export function supportedBuilds(): { plain: boolean; relaxed: boolean } {
  return { plain: moduleOf(plain) !== undefined, relaxed: moduleOf(relaxed) !== undefined }
}

/**
 * Binds the kernels to a memory, which may grow later. Takes about a megabyte of it for good, as working space.
 * @param memory the other module's memory, unshared
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
  const module = moduleOf(fused ? relaxed : plain)
  if (module === undefined) return undefined
  const exports = new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as Exports
  const { multiply, scratchBytes, attentionBytes, unitsOf, attend, attendBackward, ...others } = exports
  const scratch = allocate(scratchBytes())
  if (scratch === 0)
    throw new RangeError(`The memory has no ${scratchBytes()} bytes left for the kernels' working space.`)
  const attention =
    (compute: Exports['attend'], backward: boolean): Kernels['attend'] =>
    (request, borrow) => {
      // The kernels' own working space is free meanwhile: the request goes there, behind the address of the borrowed one.
      const at = scratch + 64
      const end = writeRequest(memory, at, request)
      borrow(attentionBytes(at, backward, (end + 63) & ~63), (space) => {
        new Uint32Array(memory.buffer)[scratch / 4] = space
        compute(at, 0, unitsOf(at), scratch)
      })
    }

  return {
    ...others,
    relaxed: fused,
    attend: attention(attend, false),
    attendBackward: attention(attendBackward, true),
    multiply(left, right, out, rows, columns, inner) {
      multiply(
        left.at,
        left.rowStep,
        left.columnStep,
        right.at,
        right.rowStep,
        right.columnStep,
        out,
        rows,
        columns,
        inner,
        scratch,
      )
    },
  }
}

const modules = new Map<string, WebAssembly.Module | undefined>()

/** Compiles a build once; undefined where the engine does not know its instructions. */
function moduleOf(build: string): WebAssembly.Module | undefined {
  if (!modules.has(build)) {
    const bytes = Uint8Array.from(atob(build), (character) => character.charCodeAt(0))
    modules.set(build, WebAssembly.validate(bytes) ? new WebAssembly.Module(bytes) : undefined)
  }
  return modules.get(build)
}
