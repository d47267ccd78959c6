/**
 * The Compressive Transformer's memory (Rae, Potapenko, Jayakumar, Hillier, Lillicrap 2020, "Compressive Transformers
 * for Long-Range Sequence Modelling", arXiv 1911.05507): what falls out of the memory of recent steps is compressed and
 * stays, coarser, for `rate` times as long.
 */
import {
  agesOf,
  type Block,
  ConfigError,
  type DecodeRules,
  type ForgettingMethod,
  joinSlots,
  MemoryError,
  type NamedTensors,
  type Outcome,
  type Recall,
  type Settled,
  type SlotGroup,
  slotsFrom,
  stopGradient,
} from '@lethe/core'
import {
  add,
  cast,
  div,
  greaterEqual,
  maximum,
  ones,
  type Scalar,
  scalar,
  type Tensor2D,
  type Tensor3D,
  zeros,
} from '@tensorflow/tfjs-core'
import { compress, compressionSpecs, type Evicted, linearSpecs } from './compress'
import { type CompressiveOptions, type Settings, settingsOf } from './options'
import { recallOverlapping, settleOverlapping } from './overlap'
import { reconstructionError } from './reconstruction'
import { filledUp, firstMemory, newestOf, type Stores, slotsInUse } from './slots'

/**
 * Remembers the last `memory` steps as they are and, behind them, `compressed` slots of `rate` steps each. Rae et al.
 * 2020, Algorithm 1 (memories), section 3.1 (compression functions), section 3.2 and Algorithm 2 (losses).
 *
 * Deviations: any block length and rate, where the paper has blocks of n_s = n_m divisible by c: what exceeds `memory`
 * is compressed in whole groups, and the rest, fewer than `rate` steps, stays attended to. Errors are means of squares,
 * where the paper writes norms. "Dilated convolutions" are no more than named there; src/compress.ts says what we take
 * them for. Positional distance counts slots over [compressed, memory, block]. Groups are those of the batch: where rows
 * are reset at a step that is no multiple of `rate`, their first group holds empty places, which count as zeros.
 * @throws ConfigError for a wrong option
 */
export function compressive(options: CompressiveOptions): ForgettingMethod {
  const settings = settingsOf(options)
  const { memory, compressed, rate, compression, loss, overlap } = settings

  const settle = (block: Block, outcome: Outcome): Settled => {
    const { layer, parameters, step, starts, length, traced } = block
    const queue = queueOf(block, outcome.mass)
    const slots = queue.hidden!.shape[1]!
    const gone = Math.max(0, Math.floor((slots - memory) / rate)) * rate
    const { compressed: before, compressedValid: beforeValid } = block.memory.tensors
    let older: NamedTensors = { compressed: before!, compressedValid: beforeValid! }
    let penalty: Scalar | undefined
    if (gone > 0) {
      const evicted = evictedOf(slice(queue, 0, gone))
      const made = compress(compression, rate, evicted, parameters)
      older = {
        compressed: newestOf(joinSlots(before!, made.hidden), compressed),
        compressedValid: newestOf(joinSlots(beforeValid!, made.valid), compressed),
      }
      if (loss !== 'none') {
        const constant = { ...evicted, hidden: stopGradient(evicted.hidden) }
        const learning = compress(compression, rate, constant, parameters)
        penalty = reconstructionError(loss, constant, learning, outcome.attendWith, parameters)
      }
    }
    const [recent, condensed] = [slots - gone, older.compressed!.shape[1]!]
    return {
      memory: {
        tensors: { ...slice(queue, gone, recent), ...older },
        alive: starts.map((start) => slotsInUse(layer, settings, step + length - start, recent, condensed)),
      },
      ...(penalty && { penalty }),
      ...(traced && loss !== 'none' && { trace: { reconstruction: penalty ?? scalar(0) } }),
    }
  }

  const byUse = compression === 'most-used'
  return {
    specVersion: 1,
    name: 'compressive',
    options: settings,
    decides: overlap ? 'step' : 'block',
    reach: () => (overlap ? memory + compressed + 1 : Number.POSITIVE_INFINITY),
    capacity: () => memory + compressed + (overlap ? 0 : rate - 1),
    parameters: ({ width }) => ({
      ...compressionSpecs(compression, rate, width),
      ...(loss === 'auto-encoding' && linearSpecs('decode', width, rate * width)),
    }),
    initialMemory: (layer, batch) => firstMemory(layer, batch, settings),
    recall: (block) => (overlap ? recallOverlapping(block, settings) : recall(block, settings)),
    settle: (block, recalled, outcome) =>
      overlap ? settleOverlapping(block, recalled, settings) : settle(block, outcome),
    report: ({ layers }, _, { tensors }) => ({
      range: layers * (memory + rate * compressed),
      recent: tensors.hidden!.shape[1]!,
      compressed: tensors.compressed!.shape[1]!,
      ...(byUse && { usage: usageOf(tensors)! }),
    }),
    decode: {
      capacity: () => memory + rate,
      enter: (_, { tensors }) => {
        if (overlap)
          throw new ConfigError(
            'overlap: true is the form that the authors trained, in blocks, and cannot be decoded step by step: decode with decoder.withMethod(compressive({ ...options, overlap: false }))',
            { overlap },
          )
        const { hidden, valid } = tensors as Stores
        const [batch, slots] = valid.shape
        if (slots >= memory + rate)
          throw new MemoryError(
            `${slots} steps are remembered as they are, and memory: ${memory} with rate: ${rate} keeps fewer than ${memory + rate}: read a block with forward() first, which compresses the others`,
            { slots, memory, rate },
          )
        return { hidden, valid, age: slots > 0 ? agesOf(batch, slots, 0) : valid }
      },
      ...(byUse && usageInDecode),
      condensed: {
        capacity: compressed,
        rate,
        above: memory,
        enter: (_, { tensors }) => ({
          hidden: filledUp(tensors.compressed as Tensor3D, compressed),
          valid: filledUp(tensors.compressedValid as Tensor2D, compressed),
        }),
        condense: (hidden, { state, parameters }) => {
          const [batch, steps] = hidden.shape
          const evicted = evictedOf({ ...state, hidden, valid: ones([batch, steps]) })
          return compress(compression, rate, evicted, parameters).hidden
        },
      },
    },
  }
}

/** Attended to: all compressed slots and all of the memory by every step of the block, the block causally. */
function recall(block: Block, { compression, ...sizes }: Settings): Recall {
  const { memory, layer, starts, step, batch, length } = block
  const { hidden, valid, compressed, compressedValid } = memory.tensors as Stores
  const [recent, condensed] = [hidden.shape[1], compressed.shape[1]]
  const gaps = starts.some(
    (start) => slotsInUse(layer, sizes, step - start, recent, condensed) < recent + condensed,
  )
  const older = (): SlotGroup => ({
    pieces: [block.remembered(compressed)],
    distance: { kind: 'contiguous', first: condensed + recent },
    condensed: true,
    ...(gaps && { valid: compressedValid }),
  })
  const newer: SlotGroup = {
    pieces: [...(recent > 0 ? [block.remembered(hidden)] : []), { hidden: block.attended, constant: false }],
    distance: { kind: 'contiguous', first: recent },
    ...(gaps && { valid: joinSlots(valid, ones([batch, length])) as Tensor2D }),
  }
  return {
    groups: condensed > 0 ? [older(), newer] : [newer],
    ...(compression === 'most-used' && { wants: { mass: true } }),
  }
}

/** The memory's steps and the block's by name, each [batch, slots, ...], with the attention they received. */
function queueOf({ memory, input, layer, batch, length }: Block, received?: Tensor2D): NamedTensors {
  const { hidden, valid, compressed, mass, queries } = memory.tensors as Stores
  const queue = {
    hidden: joinSlots(hidden, input),
    valid: joinSlots(valid, ones([batch, length])),
  }
  if (!received) return queue
  const now = slotsFrom(stopGradient(received), compressed.shape[1], queue.hidden.shape[1]!)
  return {
    ...queue,
    mass: add(joinSlots(mass!, zeros([batch, length])), now),
    // The block's step j was seen by the queries from j on, or from j + 1.
    queries: joinSlots(add(queries!, length), agesOf(batch, length, layer.attendSelf ? 1 : 0)),
  }
}

/** The steps that a queue (or the streaming decoder) gives up. */
function evictedOf({ hidden, valid, ...use }: NamedTensors): Evicted {
  const usage = usageOf(use)
  return { hidden: hidden as Tensor3D, valid: valid as Tensor2D, ...(usage && { usage }) }
}

/** Attention received, per query that could attend. */
const usageOf = ({ mass, queries }: NamedTensors): Tensor2D | undefined =>
  mass && (div(mass, maximum(queries!, 1)) as Tensor2D)

/** `count` slots of every tensor from `start` on. */
const slice = (queue: NamedTensors, start: number, count: number): NamedTensors =>
  Object.fromEntries(Object.entries(queue).map(([name, value]) => [name, slotsFrom(value, start, count)]))

/** How most-used keeps count in the streaming decoder. */
const usageInDecode: Pick<DecodeRules, 'describe' | 'recall' | 'settle'> = {
  describe: (hidden, { memory }) => {
    const { mass, queries } = (memory?.tensors ?? {}) as NamedTensors
    const none = () => zeros(hidden.shape.slice(0, 2))
    return { mass: mass ?? none(), queries: queries ?? none() }
  },
  recall: () => ({ wants: { mass: true } }),
  settle: ({ age, layer, state }, { mass }) => ({
    mass: add(state.mass!, mass!),
    queries: add(state.queries!, cast(greaterEqual(age, layer.attendSelf ? 0 : 1), 'float32')),
  }),
}
