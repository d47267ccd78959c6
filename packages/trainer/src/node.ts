/** What needs a file system: text from files and folders, runs with checkpoints and metrics on disk. */
export { type FileTextData, openText } from './files'
export {
  CheckpointFolder,
  type CheckpointFolderOptions,
  MetricsFile,
  RunFolder,
  readCheckpoint,
  readRun,
} from './folder'
export { replaceFile } from './storage'
export { TensorBoardFile } from './tensorboard'
