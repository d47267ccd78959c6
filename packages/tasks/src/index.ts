/** Tasks of the papers that need memory: streams of tokens with answers, worlds to act in, and an agent that learns. */
export {
  type ActorCriticOptions,
  type ActorCriticSource,
  type AgentRollout,
  type AgentStream,
  actorCriticSource,
  agentVocabulary,
  type EvaluatedStep,
  evaluatePolicy,
  type PolicyEvaluation,
  type PolicyEvaluationOptions,
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
