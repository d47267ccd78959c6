export { expireSpan } from './expire-span'
export type { ExpireSpanOptions } from './options'
