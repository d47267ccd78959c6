/** Training for Lethe's decoders, in Node and the browser. Files and folders are in '@lethe/trainer/node'. */
export * from './blocks'
export * from './checkpoint'
export * from './errors'
export {
  type EvaluatedBlock,
  type EvaluateOptions,
  type Evaluation,
  type EvaluationProgress,
  evaluate,
  evaluation,
  type Scores,
} from './evaluate'
export * from './generate'
export * from './multiple-choice'
export * from './optimizers'
export {
  isRolloutSource,
  type Learner,
  type Played,
  type PlayedFigures,
  type Rollout,
  type RolloutEvaluation,
  type RolloutSource,
  type RolloutStream,
  type TrainingSource,
} from './rollouts'
export * from './sampling'
export * from './schedules'
export { blockSource, type Source } from './streams'
export {
  type ByteSource,
  countWords,
  measureText,
  openBlob,
  openBytes,
  openString,
  type TextData,
  type TextOptions,
  type TextPart,
  type TextPiece,
  type TextSource,
  type TokenSource,
  textSource,
} from './text'
export * from './tokenizers'
export * from './train'
export * from './word-scores'
export { unknownWord, type WordCounts, type WordsOptions, wordsTokenizer } from './words'
