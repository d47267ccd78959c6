/** Starts the backend that was asked for, and says whether it has failed since. */
import { existsSync } from 'node:fs'
import {
  BackendError,
  type BackendInfo,
  type BackendOptions,
  type BackendRequest,
  useBackend,
} from '@lethe/backends'

/** The software Vulkan driver of Debian's chromium: lets WebGPU run, slowly, where there is no GPU. */
const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'

let started: BackendInfo | undefined

/** @throws BackendError with the command that helps */
export async function startBackend(
  { backend, threads }: { backend?: string | undefined; threads?: number | undefined },
  options: BackendOptions = {},
): Promise<BackendInfo> {
  const software = backend === 'webgpu' && existsSync(softwareVulkan) ? { softwareVulkan } : {}
  const wanted = threads === undefined ? {} : { threads }
  started = await useBackend((backend ?? 'auto') as BackendRequest, { ...software, ...wanted, ...options })
  return started
}

/** @throws BackendError where the backend that was started last has failed: what it computed may be zeros */
export function expectSoundBackend(): void {
  started?.throwIfFailed()
}

/** The failure of that backend, for which another error may be the sign: a lost GPU rejects reads before it says so. */
export async function backendFailure(): Promise<BackendError | undefined> {
  if (started?.name === 'webgpu') await new Promise((done) => setTimeout(done, 100))
  try {
    expectSoundBackend()
  } catch (failure) {
    if (BackendError.isInstance(failure)) return failure
  }
  return undefined
}
