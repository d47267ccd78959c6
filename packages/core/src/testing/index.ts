/** What authors of forgetting methods, and of attention kernels, test theirs with. */
export type { AttentionLawOptions } from './attention-laws'
export { attentionLaws } from './attention-laws'
export type { ConformanceOptions, Law } from './conformance'
export { conformanceLaws } from './conformance'
