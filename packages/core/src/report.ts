/** Figures of a layer for a reader: what it remembers, what a step attends to, and what that costs. */
import type { Tensor, Tensor3D } from '@tensorflow/tfjs-core'
import type { ResolvedConfig } from './config'
import { applyNorm, type LayerWeights } from './layer'
import type { LayerRules } from './memory'
import type { LayerInfo, LayerMemory } from './method'
import { scope } from './ops/scope'

/** What `report` says of one layer. */
export interface LayerReport {
  readonly method: string
  /** Slots alive, mean over rows. */
  readonly slots: number
  readonly bytes: number
  /** Slots that a step attends to, per head. */
  readonly attended: readonly number[]
  /** Multiplications and additions that one step costs in this layer (2 per product of a matrix entry). */
  readonly flopsPerStep: number
  /** The method's own figures, by the names of its paper. */
  readonly figures: Readonly<
    Record<string, number | { readonly shape: readonly number[]; readonly data: Float32Array }>
  >
}

/** One layer with what its report is made from. */
interface ReportedLayer extends LayerRules {
  readonly config: ResolvedConfig
  readonly weights: LayerWeights
  readonly memory: LayerMemory
}

/** Reads a layer's figures back; what it is given stays as it is. */
export async function reportLayer(layer: ReportedLayer): Promise<LayerReport> {
  const { config, info, method, weights, memory } = layer
  const parameters = weights.method
  const slots =
    memory.alive.reduce((sum, count) => sum + count, 0) / memory.alive.length + (memory.beside ?? 0)
  const normalise = (hidden: Tensor3D) =>
    config.normPosition === 'pre'
      ? (applyNorm(config, hidden, weights.own, 'attention.norm') as Tensor3D)
      : hidden
  const attended =
    (await method.attended?.(info, parameters, memory, normalise)) ??
    new Array<number>(info.heads).fill(slots)
  const values = scope(() => ({ ...method.report?.(info, parameters, memory, normalise) }))
  // Figures may be the memory's own tensors or parameters, which are not ours to free.
  const others = new Set<Tensor>([...Object.values(memory.tensors), ...Object.values(parameters)])
  const figures: Record<string, LayerReport['figures'][string]> = {}
  for (const [name, value] of Object.entries(values)) {
    if (typeof value === 'number') figures[name] = value
    else {
      figures[name] = { shape: value.shape, data: Float32Array.from(await value.data()) }
      if (!others.has(value)) value.dispose()
    }
  }
  return {
    method: method.name,
    slots,
    bytes: Object.values(memory.tensors).reduce((sum, { size }) => sum + 4 * size, 0),
    attended,
    flopsPerStep: flopsPerStep(config, info, attended),
    figures,
  }
}

/**
 * Operations of one step in one layer: two per entry of every matrix it is multiplied with, and two per feature of
 * every slot it attends to for logits, as many for positions and for values.
 */
function flopsPerStep(config: ResolvedConfig, info: LayerInfo, attended: readonly number[]): number {
  const projections = 4 * config.width * info.heads * info.headSize
  const inner = (config.activation === 'swiglu' ? 3 : 2) * config.width * config.feedForward
  const perSlot =
    (config.positions === 'learned' || config.positions === 'sinusoidal' ? 3 : 2) * info.headSize
  const slots = attended.reduce((sum, count) => sum + count + config.persistentSlots, 0)
  return 2 * (projections + inner + perSlot * slots)
}
