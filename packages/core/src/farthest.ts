/** How far a step of streaming decode looks back. */
import type { ForgettingMethod, LayerInfo } from './method'

/**
 * The farthest distance attended to in an arena of so many places: the method's reach, or less where nothing but age
 * decides what stays in a smaller arena.
 */
export function farthestIn({ decode, reach }: ForgettingMethod, layer: LayerInfo, places: number): number {
  const { farthest, worth, alive } = decode
  const most = farthest?.(layer, places) ?? reach(layer)
  return worth || alive ? most : Math.min(most, places - 1)
}
