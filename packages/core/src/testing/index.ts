/** What authors of forgetting methods test theirs with. */
export type { ConformanceOptions, Law } from './conformance'
export { conformanceLaws } from './conformance'
