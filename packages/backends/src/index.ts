/** Node's entry point; the package's conditional exports choose between the two. */
import { nodePlatform } from './platform-node'
import { createBackends } from './use-backend'

export * from './public'
export { tensorflowFolder } from './tensorflow'

const backends = createBackends(nodePlatform)

/**
 * Starts a tfjs backend and makes it the current one. 'auto', the default, takes the fastest that is there; it
 * never takes a software GPU. Calling it again switches.
 *
 * @throws BackendError with a stable `reason`, and in the message the command or setting that helps
 */
export const useBackend = backends.useBackend

/**
 * Shuts the current backend down and releases its device, so that the process can end. Tensors on it are gone.
 * useBackend starts it again.
 */
export const disposeBackend = backends.disposeBackend
