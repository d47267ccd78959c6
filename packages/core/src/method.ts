/**
 * The interface that every forgetting method implements: types only. Core owns one attention and one loop over
 * blocks; a method answers two questions in them: how strongly may a step attend to a slot (`recall`), and what is
 * remembered after the block (`settle`). docs/interface.md works every published case through it.
 */
import type { Scalar, Tensor, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core'
import type { Random } from './random'

export type NamedTensors = Readonly<Record<string, Tensor>>

/** How a parameter starts. `normal` and `uniform` draw from the decoder's seeded generator. */
export type Initializer =
  | { readonly kind: 'constant'; readonly value: number }
  | { readonly kind: 'normal'; readonly deviation: number }
  | { readonly kind: 'uniform'; readonly limit: number }

/** One trained tensor of a method: core creates, names, trains, clamps and saves it. */
export interface ParameterSpec {
  readonly shape: readonly number[]
  readonly initializer: Initializer
  /** Kept inside these bounds after every update (Adaptive-Span: z' in [0, 1]). */
  readonly clamp?: readonly [low: number, high: number]
}

/** What a method may know about the layer it serves, before any tensor exists. */
export interface LayerInfo {
  readonly index: number
  readonly layers: number
  readonly width: number
  readonly heads: number
  readonly headSize: number
  /** Whether a step attends to itself (positional distance 0) or only to earlier ones (from distance 1). */
  readonly attendSelf: boolean
  /** 'zeros': the first memory is full of zero hidden states that are attended to. 'empty': nothing to attend to. */
  readonly initialMemory: 'empty' | 'zeros'
  /** Persistent key-value slots beside those remembered. */
  readonly persistentSlots: number
}

/** What one layer remembers between blocks: a value, never changed in place. */
export interface LayerMemory {
  /** Named tensors, the batch first: `hidden` [batch, slots, width] and whatever the method adds. */
  readonly tensors: NamedTensors
  /** Slots alive in each row of the batch. They are the newest ones unless `tensors.valid` says otherwise. */
  readonly alive: readonly number[]
  /** How many of the newest slots follow each other without a gap, for methods whose older slots are scattered. */
  readonly gapless?: number
  /** How many of the newest slots the block read last has written, for methods that keep these as they are. */
  readonly fresh?: number
  /** Slots of each row that are kept beside those counted in `alive` (sinks). */
  readonly beside?: number
}

/** The block now being read, as a method sees it. */
export interface Block {
  readonly layer: LayerInfo
  readonly memory: LayerMemory
  /** The layer's input [batch, block, width]: what a memory of hidden states keeps. */
  readonly input: Tensor3D
  /** The same as attention reads it: normalised where norms come first, else `input` itself. */
  readonly attended: Tensor3D
  readonly batch: number
  readonly length: number
  /** [batch, block]: 0 for steps that are no slots of this method, since a wrapper keeps them. Default: all are. */
  readonly valid?: Tensor2D
  /** How many steps of each row `valid` leaves. */
  readonly validSteps?: readonly number[]
  /** Absolute time step of the block's first token. */
  readonly step: number
  /** The time step at which each row's stream began. */
  readonly starts: readonly number[]
  readonly training: boolean
  /** One uniform draw in [0, 1) for this forward pass, the same in all layers (Expire-Span's random shortening). */
  readonly draw: number
  /** The method's own parameters in this layer, by the names of `parameters()`. */
  readonly parameters: NamedTensors
  /** What `prepare` returned after the last update. */
  readonly plan: unknown
  /** Whether `settle` shall leave its `trace`. */
  readonly traced: boolean
  /** The layer's norm before attention, for remembered hidden states; the identity where norms come last. */
  normalise(hidden: Tensor3D): Tensor3D
  /**
   * Remembered hidden states as a piece to attend to: normalised, and declared constant unless a gradient reaches
   * them (through the norm, or from a later block of the same unrolled pass).
   */
  remembered(hidden: Tensor3D): SlotPiece
}

/**
 * Slots attended to side by side. Slots run from oldest to newest. The positional distance d of slot j from query i
 * decides its relative position and, through `window`, whether it may be attended to at all.
 */
export interface SlotGroup {
  /**
   * Hidden states as attention reads them (normalised), as one or more pieces along the slot axis. Pieces that are
   * remembered and those of the block stay apart so that a remembered one costs no gradient of its own.
   */
  readonly pieces: readonly SlotPiece[]
  readonly distance: SlotDistance
  /** Distances that may be attended to, inclusive. Default: from 0 or 1 (attendSelf) to infinity. */
  readonly window?: { readonly nearest?: number; readonly farthest?: number }
  /** What a distance beyond the table of learned positions gets: nothing, or the farthest entry. Default 'none'. */
  readonly beyond?: 'none' | 'clamp'
  /** [batch, slots] 1 for slots that exist, 0 for empty places. Default: all exist. */
  readonly valid?: Tensor2D
  /** [batch, slots] 1 for slots that are always attended to: neither terms nor `farthest` apply (sinks). Default: none. */
  readonly exempt?: Tensor2D
  /** Each slot stands for several steps: its distance counts slots, not time. */
  readonly condensed?: boolean
}

export interface SlotPiece {
  /** [batch, slots, width] */
  readonly hidden: Tensor3D
  /** True when no gradient can flow into `hidden` (a memory that is not normalised anew). */
  readonly constant: boolean
}

export type SlotDistance =
  /** d(i, j) = first - j + floor(i / queriesPerStep); Infinity for slots that keep their distance (sinks). */
  | { readonly kind: 'contiguous'; readonly first: number; readonly queriesPerStep?: number }
  /** d(b, i, j) = age[b, j] + i: survivors of different ages. age: int32 or float32 [batch, slots].
   *  `youngest`: no valid slot is nearer to the first query than this, which saves masks and positions. */
  | { readonly kind: 'scattered'; readonly age: Tensor2D; readonly youngest?: number }

/** What changes the strength of attention, declared so that one fused kernel can serve all methods. Slot axes run
 *  over all groups in order; `weight ∝ m · exp(logit - b)`. */
export type Term =
  /** m = clamp((life[b, j] - d) / ramp + 1, 0, 1), life [batch, slots] (Expire-Span). */
  | { readonly kind: 'slot-life'; readonly life: Tensor2D; readonly ramp: number }
  /** m = clamp((span - d + nearest) / ramp + 1, 0, 1), span [heads], [1], [batch, heads, block] or [batch, 1, block] (Adaptive-Span). */
  | { readonly kind: 'head-span'; readonly span: Tensor; readonly ramp: number }
  /**
   * b = F: what earlier queries voted away (Selective Attention). `carried` [batch, slots] is F from earlier blocks,
   * `exempt` [batch, slots] is 1 for slots that may not be voted out (BOS). Votes are ReLU of the logits of `head`.
   */
  | {
      readonly kind: 'selection'
      readonly head: number
      readonly carried: Tensor2D
      readonly exempt: Tensor2D
    }
  /** b = -bias, broadcast to [batch, heads, block, slots], made by the method (a forget gate such as FoX, a decay). */
  | { readonly kind: 'bias'; readonly bias: Tensor }

export interface Recall {
  readonly groups: readonly SlotGroup[]
  readonly terms?: readonly Term[]
  /** What attention shall leave behind for `settle`; nothing is made that is not asked for. */
  readonly wants?: { readonly mass?: boolean; readonly selection?: boolean }
  /** Private tensors for `settle` (Expire-Span: the unshortened life). */
  readonly carry?: NamedTensors
}

/** What attention leaves behind. */
export interface Outcome {
  /** [batch, slots]: attention received, summed over queries, mean over heads. Made when `wants.mass`. */
  readonly mass?: Tensor2D
  /** Selection F made when `wants.selection`: `during` [batch, block, slots] as each query saw it, `after`
   *  [batch, slots] as the next query will see it. */
  readonly selection?: { readonly during: Tensor3D; readonly after: Tensor2D }
  /**
   * The block's queries attending to other slots by content alone (no positions, no terms), with the layer's norm and
   * projections as constants: layer inputs [batch, slots, width] → [batch, heads, headSize, block]. For reconstruction
   * losses: gradients reach `hidden` only.
   */
  attendWith(hidden: Tensor3D): Tensor
}

export interface Settled {
  readonly memory: LayerMemory
  /** Added to the loss, weights included. */
  readonly penalty?: Scalar
  /** What a reader may want to see of this block (spans, masks, votes). Made when `block.traced`. */
  readonly trace?: NamedTensors
}

/** Slots of whichever method, as another method judges them that is combined with it. Slots run over all groups. */
export interface OverlaySlots {
  readonly layer: LayerInfo
  /** Hidden states as attention reads them [batch, slots, width]. */
  readonly hidden: Tensor3D
  /** Distance of each slot from the block's first query [batch, slots]; below 0 for later steps of the block. */
  readonly age: Tensor2D
  /** [batch, slots] 1 for slots that exist, 0 for empty places. Default: all exist. */
  readonly valid?: Tensor2D
  /** The queries' hidden states as attention reads them [batch, block, width]. */
  readonly queries: Tensor3D
  readonly training: boolean
  readonly draw: number
  readonly parameters: NamedTensors
}

/**
 * A forgetting method. Stateless: all that is remembered is in the memory it returns.
 * `specVersion` is the version of this interface, so that core can refuse a method made for another.
 */
export interface ForgettingMethod {
  readonly specVersion: 1
  /** The name in configurations and on the command line: 'fixed-span', 'expire-span', ... */
  readonly name: string
  /** The options as plain JSON, from which the method's factory makes the same method again. */
  readonly options: Readonly<Record<string, unknown>>
  /** 'step': the result does not depend on how the stream is cut into blocks. 'block': it may, since the method
   *  decides once per block; with blocks of one step it then equals streaming decode. */
  readonly decides: 'step' | 'block'
  /** Own parameters of one layer. */
  parameters?(layer: LayerInfo): Readonly<Record<string, ParameterSpec>>
  /** Where the authors' checkpoints keep those parameters: the same numbers in the same order, in another shape. */
  stateDict?(family: string, layer: LayerInfo): Readonly<Record<string, StateDictPlace>>
  initialMemory(layer: LayerInfo, batch: number, plan?: unknown): LayerMemory
  /** Host values that shapes depend on (Adaptive-Span's trimming), read once per update and never inside a pass. */
  prepare?(layer: LayerInfo, parameters: NamedTensors): Promise<unknown>
  /** What may be attended to and how strongly. Differentiable. */
  recall(block: Block): Recall
  /** The next memory and the penalty. Differentiable; detaching is the loop's business. */
  settle(block: Block, recall: Recall, outcome: Outcome): Settled
  /** Terms and penalty over slots that another method keeps, for `combine`. Absent: cannot be combined so. */
  overlay?(slots: OverlaySlots): { readonly terms: readonly Term[]; readonly penalty?: Scalar }
  /**
   * Gives up slots that are dead in every row, after the pass: may read counts back, so it is awaited outside it.
   * The memory is consumed. Methods whose survivors are known on the host need none.
   */
  compact?(layer: LayerInfo, memory: LayerMemory): Promise<LayerMemory>
  /** Forgets everything in some rows. Default: they get what `initialMemory` has, empty places beside it. */
  reset?(layer: LayerInfo, memory: LayerMemory, rows: readonly number[]): LayerMemory
  /** Figures for a reader, named as in the paper: spans per head, remaining life, range. Tensors or numbers. */
  report?(
    layer: LayerInfo,
    parameters: NamedTensors,
    memory: LayerMemory,
    normalise: Block['normalise'],
  ): Readonly<Record<string, Tensor | number>>
  /** Slots that a step attends to per head, for counting operations. Default: all that are remembered. */
  attended?(
    layer: LayerInfo,
    parameters: NamedTensors,
    memory: LayerMemory,
    normalise: Block['normalise'],
  ): Promise<readonly number[]>
  /** The farthest positional distance that a step may attend to; Infinity if only the memory's size bounds it. */
  reach(layer: LayerInfo): number
  /** Most slots a row can hold between blocks of this length, for allocation and the bytes bound; Infinity if none. */
  capacity(layer: LayerInfo, block: number): number
  /** How the method lives in the streaming decoder. */
  readonly decode: DecodeRules
}

/** The slots of one layer in the streaming decoder: any slot may die at any step. Condensed slots are the last ones. */
export interface DecodeSlots {
  readonly layer: LayerInfo
  /** Distance of each slot from the present step (0 for the step itself) [batch, capacity]; condensed ones count slots. */
  readonly age: Tensor2D
  /** [batch, capacity]: 1 where a slot is in use. */
  readonly valid: Tensor2D
  /** The method's own values per slot, each [batch, capacity]. */
  readonly state: NamedTensors
  readonly parameters: NamedTensors
  readonly plan: unknown
}

/** What `describe` may know of the slots it describes. */
export interface DescribeContext {
  readonly layer: LayerInfo
  readonly parameters: NamedTensors
  /** Time step of the newest of the slots. */
  readonly step: number
  /** The time step at which each row's stream began. */
  readonly starts: readonly number[]
  /** Given when a block memory moves in: the slots are those of `enter`. */
  readonly memory?: LayerMemory
  /** The slots are condensed ones. */
  readonly condensed?: true
}

/** All of it runs on the device: no count is read back to decide which slot dies. */
export interface DecodeRules {
  /** Most slots there can be, the present step included; places are allocated as they are needed. */
  capacity(layer: LayerInfo, plan: unknown): number
  /**
   * The slots of a block memory when it moves into an arena, oldest first: hidden states [batch, slots, width], age
   * (0 for the newest step read) and validity [batch, slots]. Default: `tensors.hidden`, contiguous, newest alive.
   */
  enter?(
    layer: LayerInfo,
    memory: LayerMemory,
    stream: { readonly step: number; readonly starts: readonly number[]; readonly plan: unknown },
  ): { readonly hidden: Tensor3D; readonly age: Tensor2D; readonly valid: Tensor2D }
  /** Values kept with each slot beside key and value, from the hidden states [batch, slots, width] as attention
   *  reads them: each [batch, slots]. */
  describe?(hidden: Tensor3D, context: DescribeContext): NamedTensors
  /** [batch, capacity]: what each slot is worth; where no place is empty, the one worth least gives its place to the
   *  present step, condensed ones apart. Default: the youngest are worth most. */
  worth?(slots: DecodeSlots): Tensor2D
  /** [batch, capacity]: 1 for slots that may still be attended to at the present step or later. Others leave their
   *  places. Default: all. */
  alive?(slots: DecodeSlots): Tensor2D
  /** The farthest distance attended to in an arena of so many places. Default: the method's reach, and no farther than
   *  the places hold steps where neither `worth` nor `alive` decides what they hold. */
  farthest?(layer: LayerInfo, places: number): number
  /** Terms over the arena, and slots that no term and no `farthest` applies to. `query` [batch, 1, width]. */
  recall?(
    slots: DecodeSlots,
    query: Tensor3D,
  ): {
    readonly terms?: readonly Term[]
    readonly wants?: Recall['wants']
    readonly exempt?: Tensor2D
  }
  /** New values per slot from what attention left behind (Selective: F). */
  settle?(slots: DecodeSlots, outcome: Pick<Outcome, 'mass' | 'selection'>): NamedTensors
  /** Older slots that stand for several steps each (Compressive Transformer). */
  readonly condensed?: CondensedRules
}

/**
 * Condensed slots, in places of their own: whenever there are `above + rate` other slots, the oldest `rate` of them become
 * one of these. Positional distance counts slots: the newest of these follows the oldest of the others.
 */
export interface CondensedRules {
  /** Condensed slots that are kept: the newest. */
  readonly capacity: number
  readonly rate: number
  /** Other slots that stay. */
  readonly above: number
  /** The condensed slots of a block memory: hidden states [batch, capacity, width], validity [batch, capacity]. */
  enter(layer: LayerInfo, memory: LayerMemory): { readonly hidden: Tensor3D; readonly valid: Tensor2D }
  /** The oldest slots' hidden states [batch, rate, width] and their state [batch, rate] → one [batch, 1, width]. */
  condense(
    hidden: Tensor3D,
    context: {
      readonly layer: LayerInfo
      readonly parameters: NamedTensors
      readonly state: NamedTensors
    },
  ): Tensor3D
}

/** A tensor of the authors' state-dict that holds a method's parameter. */
export interface StateDictPlace {
  /** Under each of these names (shared parameters have several). */
  readonly names: readonly string[]
  readonly shape: readonly number[]
}

/** What a forward pass may be told beside tokens and memory. */
export interface PassOptions {
  /** Dropout and the methods' own noise are on. Default false. */
  readonly training?: boolean
  /** Where dropout masks and the draw come from; needed when training with dropout or noise. */
  readonly random?: Random
  /** The uniform draw shared by all layers, injected instead of drawn from `random`. */
  readonly draw?: number
  /** Return what the methods leave for a reader (`trace`), one record of tensors per layer. */
  readonly trace?: boolean
}
