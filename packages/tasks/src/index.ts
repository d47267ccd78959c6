/** Tasks of the papers that need memory: streams of tokens with answers, worlds to act in, and an agent that learns. */
export {
  type ActorCriticOptions,
  agentVocabulary,
  evaluatePolicy,
  type GradientOptimizer,
  type PolicyEvaluation,
  type PolicyEvaluationOptions,
  trainActorCritic,
  type UpdateEvent,
} from './actor-critic'
export { type AssignmentOptions, assignment } from './assignment'
export { type CollisionOptions, collision } from './collision'
export { type CopyOptions, copy } from './copy'
export { type CorridorOptions, corridor } from './corridor'
export { type InstructionOptions, instruction } from './instruction'
export { type NeedleOptions, needle } from './needle'
export { type ParityOptions, parity } from './parity'
export { type PortalOptions, portal } from './portal'
export { createEnvironment, createTask, environments, tasks } from './registry'
export {
  type TaskBlock,
  type TaskSource,
  type TaskSourceOptions,
  TaskStreams,
  type TaskStreamsOptions,
  taskSource,
} from './streams'
export type * from './task'
