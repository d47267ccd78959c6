export { compressive } from './compressive'
export type { CompressiveOptions } from './options'
