export type { AdaptiveSpanOptions } from './adaptive-span'
export { adaptiveSpan } from './adaptive-span'
