/** What both entry points export besides the two functions bound to their platform. */
export { BackendError, type BackendErrorReason } from './errors'
export {
  type BackendInfo,
  type BackendName,
  type BackendOptions,
  type BackendRequest,
  backendRequests,
  type WasmFile,
  type WasmPaths,
} from './types'
export { type PatchOptions, patchWasmBackend } from './wasm/patch'
