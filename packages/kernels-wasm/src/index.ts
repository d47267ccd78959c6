/**
 * Kernels in WebAssembly that work in the memory of another wasm module: no values are copied in or out. Two builds of
 * the same source are part of this file's package; the one with relaxed SIMD (fused multiply-add) is taken where the
 * engine has it.
 */
import { plain, relaxed } from './generated/modules'

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
}

export interface KernelOptions {
  /** Take the build with relaxed SIMD; default: where the engine accepts it. */
  readonly relaxed?: boolean
}

/** The module's exports, as assembly/index.ts has them. */
interface Exports extends Omit<Kernels, 'relaxed' | 'multiply'> {
  scratchBytes(): number
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
  const { multiply, scratchBytes, ...others } = exports
  const scratch = allocate(scratchBytes())
  if (scratch === 0)
    throw new RangeError(`The memory has no ${scratchBytes()} bytes left for the kernels' working space.`)
  return {
    ...others,
    relaxed: fused,
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
