export type { ExpireSpanOptions } from './expire-span'
export { expireSpan } from './expire-span'
