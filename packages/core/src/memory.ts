/**
 * Memories as values: named tensors and a little metadata. They can be cloned, disposed of, saved, restored and moved
 * between machines; nothing about them is hidden in a method or a decoder.
 *
 * Two kinds: `Memory` holds hidden states and may be used with any weights of the same shape; `DecodeMemory` holds
 * keys and values and belongs to the weights that made it.
 */
import {
  add,
  clone,
  mul,
  pad,
  reshape,
  sub,
  type Tensor,
  tensor,
  tensor1d,
  zeros,
} from '@tensorflow/tfjs-core'
import { FormatError, MemoryError, ShapeError } from './errors'
import type { ForgettingMethod, LayerInfo, LayerMemory, NamedTensors } from './method'
import { scope } from './ops/scope'
import { decodeSafetensors, encodeSafetensors, type HostTensor } from './safetensors'

/** What a memory needs to know of the decoder it belongs to. */
export interface LayerRules {
  readonly info: LayerInfo
  readonly method: ForgettingMethod
}

/** What both kinds share: ownership of named tensors. */
export abstract class TensorValue {
  private alive = true

  abstract readonly kind: 'hidden' | 'projected'
  /** Every tensor with its unique name. */
  protected abstract named(): Iterable<[string, Tensor]>
  protected abstract metadata(): Record<string, unknown> | Promise<Record<string, unknown>>

  get disposed(): boolean {
    return !this.alive
  }

  /** Bytes allocated for the tensors, dead and empty places included. */
  get bytes(): number {
    this.check('measure')
    let bytes = 0
    for (const [, tensor] of this.named()) bytes += tensor.size * 4
    return bytes
  }

  /** Frees the tensors. A disposed memory cannot be used again; disposing twice does nothing. */
  dispose(): void {
    if (!this.alive) return
    this.alive = false
    for (const [, tensor] of this.named()) tensor.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** Takes the tensors out for the next pass: from here on this memory is used up. */
  protected take(): void {
    this.check('use')
    this.alive = false
  }

  /** Throws unless the tensors are still there. */
  protected check(what: string): void {
    if (!this.alive)
      throw new MemoryError(
        `cannot ${what} a memory that was disposed of or already used: forward() consumes its memory, so keep the one it returns, or clone() it first`,
      )
  }

  /** The whole memory as safetensors bytes, metadata included. */
  async serialize(): Promise<Uint8Array<ArrayBuffer>> {
    this.check('serialise')
    const tensors = new Map<string, HostTensor>()
    for (const [name, value] of this.named()) {
      const dtype = value.dtype === 'int32' ? 'int32' : 'float32'
      tensors.set(name, {
        dtype,
        shape: value.shape,
        data: (await value.data()) as Float32Array | Int32Array,
      })
    }
    const description = JSON.stringify({ kind: this.kind, ...(await this.metadata()) })
    return encodeSafetensors({ tensors, metadata: { format: 'lethe-memory-1', memory: description } })
  }
}

/** A copy that owns its data (`clone` of tfjs shares it, which is as good, since tensors never change). */
const cloneTensors = (tensors: NamedTensors): NamedTensors =>
  Object.fromEntries(Object.entries(tensors).map(([name, value]) => [name, clone(value)]))

/** Everything a decoder remembers between blocks: per layer, what its method keeps of the stream. */
export class Memory extends TensorValue {
  readonly kind = 'hidden'

  constructor(
    /** @internal */
    readonly rules: readonly LayerRules[],
    readonly layers: readonly LayerMemory[],
    readonly batch: number,
    /** Tokens read so far: the absolute time step of the next one. */
    readonly step: number,
    /** The time step at which each row's stream began: 0, or where it was last reset. */
    readonly starts: readonly number[] = new Array<number>(batch).fill(0),
  ) {
    super()
  }

  protected *named(): Iterable<[string, Tensor]> {
    for (const [index, layer] of this.layers.entries())
      for (const [name, value] of Object.entries(layer.tensors)) yield [`layers.${index}.${name}`, value]
  }

  protected metadata() {
    return {
      batch: this.batch,
      step: this.step,
      starts: this.starts,
      methods: this.rules.map(({ method }) => method.name),
      alive: this.layers.map(({ alive }) => alive),
      gapless: this.layers.map(({ gapless }) => gapless ?? null),
      fresh: this.layers.map(({ fresh }) => fresh ?? null),
      beside: this.layers.map(({ beside }) => beside ?? null),
    }
  }

  /** Slots alive, mean over layers and rows (for methods that decide on the device: as last read back). */
  get slots(): number {
    const counts = this.layers.flatMap(({ alive, beside = 0 }) => alive.map((count) => count + beside))
    return counts.reduce((sum, count) => sum + count, 0) / Math.max(1, counts.length)
  }

  clone(): Memory {
    this.check('clone')
    const layers = this.layers.map(({ tensors, ...host }) => ({ tensors: cloneTensors(tensors), ...host }))
    return new Memory(this.rules, layers, this.batch, this.step, this.starts)
  }

  /** Hands the layers over to the next pass. @internal */
  consume(): readonly LayerMemory[] {
    this.take()
    return this.layers
  }

  /**
   * Forgets everything in some rows of the batch (a document or an episode ended there). Consumes this memory.
   * @param rows indices into the batch
   */
  reset(rows: readonly number[]): Memory {
    for (const row of rows)
      if (!Number.isInteger(row) || row < 0 || row >= this.batch)
        throw new ShapeError(
          `cannot reset row ${row} of a memory with ${this.batch} rows (0 to ${this.batch - 1})`,
          {
            row,
            batch: this.batch,
          },
        )
    const layers = this.consume().map((layer, index) => {
      const { info, method } = this.rules[index]!
      const next = scope(() => {
        const { tensors, ...host } =
          method.reset?.(info, layer, rows) ?? resetRows(layer, method.initialMemory(info, 1), rows)
        return { tensors: { ...tensors }, ...host }
      })
      const kept = new Set(Object.values(next.tensors))
      for (const value of Object.values(layer.tensors)) if (!kept.has(value)) value.dispose()
      return next
    })
    const starts = this.starts.map((start, row) => (rows.includes(row) ? this.step : start))
    return new Memory(this.rules, layers, this.batch, this.step, starts)
  }

  /**
   * The memory that `serialize` wrote.
   * @throws FormatError when the bytes are not a whole memory; MemoryError when it is of another shape or kind.
   */
  static restore(rules: readonly LayerRules[], bytes: Uint8Array): Memory {
    const file = decodeSafetensors(bytes, 'the memory')
    const { kind, batch, step, starts, methods, alive, gapless, fresh, beside } = parseDescription(
      file.metadata,
    )
    if (kind !== 'hidden')
      throw new MemoryError(`a memory of ${kind} keys and values cannot stand in for one of hidden states`, {
        kind,
      })
    if (!Array.isArray(alive) || alive.length !== rules.length)
      throw new MemoryError(
        `the memory has ${alive?.length} layers, the decoder ${rules.length}: use the memory with the decoder that made it`,
        { layers: alive?.length },
      )
    if (!alive.every((counts) => isCounts(counts) && counts.length === batch))
      throw incomplete('alive', alive)
    for (const [index, { method }] of rules.entries()) checkMethod(index, methods?.[index], method.name)
    const template = scope(() =>
      rules.map(({ method, info }) =>
        Object.entries(method.initialMemory(info, 1).tensors).map(([name, { shape }]) => ({
          name,
          shape,
        })),
      ),
    )
    for (const [index, expected] of template.entries())
      for (const { name, shape } of expected) {
        const found = file.tensors.get(`layers.${index}.${name}`)?.shape
        const fits =
          found?.length === shape.length &&
          found.every((size, axis) => axis === 1 || size === (axis === 0 ? batch : shape[axis]))
        if (!fits)
          throw new MemoryError(
            `layer ${index} of the memory has "${name}" of shape [${found}], the decoder needs [${shape}] (any number of slots): it was made by another decoder`,
            { layer: index, name, shape: found },
          )
      }
    const layers = alive.map((counts: number[], index: number) => {
      const prefix = `layers.${index}.`
      const own = [...file.tensors].filter(([name]) => name.startsWith(prefix))
      return {
        tensors: Object.fromEntries(own.map(([name, value]) => [name.slice(prefix.length), toDevice(value)])),
        alive: counts,
        ...(gapless?.[index] != null && { gapless: gapless[index] }),
        ...(fresh?.[index] != null && { fresh: fresh[index] }),
        ...(beside?.[index] != null && { beside: beside[index] }),
      }
    })
    return new Memory(rules, layers, batch, step, starts)
  }
}

/** Whole numbers from 0 up. */
const isCounts = (values: unknown): values is number[] =>
  Array.isArray(values) && values.every((value) => Number.isSafeInteger(value) && value >= 0)

const incomplete = (field: string, value: unknown) =>
  new FormatError(`not a whole memory: its description has ${field} ${JSON.stringify(value)}`, {
    [field]: value,
  })

/**
 * The metadata of a serialised memory.
 * @throws FormatError when it is another's, or when batch, step and starts are not those of a stream
 */
export function parseDescription(metadata: Readonly<Record<string, string>>) {
  const description = () => {
    try {
      return JSON.parse(metadata.memory!) ?? {}
    } catch {
      return {}
    }
  }
  if (metadata.format !== 'lethe-memory-1')
    throw new FormatError(
      `not a memory: its format is "${metadata.format ?? 'missing'}", not "lethe-memory-1"`,
      { format: metadata.format },
    )
  const found = description()
  const { batch, step, starts } = found
  if (!isCounts([batch, step]) || batch === 0) throw incomplete('batch and step', [batch, step])
  if (!isCounts(starts) || starts.length !== batch || starts.some((start) => start > step))
    throw incomplete('starts', starts)
  return found
}

/** Refuses what another method keeps: its slots may mean something else. A memory of old may not say whose it is. */
export function checkMethod(layer: number, kept: string | undefined, method: string): void {
  if (kept !== undefined && kept !== method)
    throw new MemoryError(
      `layer ${layer} of the memory was kept by ${kept}, in the decoder it is ${method}'s: read the stream again, or use the decoder that made it`,
      { layer, kept, method },
    )
}

export const toDevice = ({ data, shape, dtype }: HostTensor) => tensor(data, shape as number[], dtype)

/**
 * Rows get what the method starts with (`first`, one row), as their newest slots; older places stay empty: zeros, also
 * in `valid`.
 */
export function resetRows(memory: LayerMemory, first: LayerMemory, rows: readonly number[]): LayerMemory {
  const batch = memory.alive.length
  const keep = tensor1d(Float32Array.from({ length: batch }, (_, row) => (rows.includes(row) ? 0 : 1)))
  const tensors = Object.fromEntries(
    Object.entries(memory.tensors).map(([name, value]) => {
      const initial = first.tensors[name]
      const slots = Math.max(value.shape[1] ?? 0, initial?.shape[1] ?? 0)
      const kept = reshape(keep, [batch, ...new Array(value.rank - 1).fill(1)])
      const rest = mul(padOldest(value, slots), kept)
      if (!initial || initial.size === 0) return [name, rest]
      return [name, add(rest, mul(padOldest(initial, slots), sub(1, kept)))]
    }),
  )
  const alive = memory.alive.map((count, row) => (rows.includes(row) ? first.alive[0]! : count))
  return { ...memory, tensors, alive }
}

/** [batch, slots, ...] with zeros put before the oldest slot, up to `slots`. */
function padOldest(x: Tensor, slots: number): Tensor {
  if (x.rank < 2 || x.shape[1] === slots) return x
  if (x.shape[1] === 0) return zeros([x.shape[0]!, slots, ...x.shape.slice(2)])
  return pad(
    x,
    x.shape.map((size, axis) => [axis === 1 ? slots - size : 0, 0] as [number, number]),
  )
}
