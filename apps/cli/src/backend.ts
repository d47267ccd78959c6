/** Starts the backend that was asked for. */
import { existsSync } from 'node:fs'
import { type BackendInfo, type BackendOptions, type BackendRequest, useBackend } from '@lethe/backends'

/** The software Vulkan driver of Debian's chromium: lets WebGPU run, slowly, where there is no GPU. */
const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'

/** @throws BackendError with the command that helps */
export function startBackend(
  { backend, threads }: { backend?: string | undefined; threads?: number | undefined },
  options: BackendOptions = {},
): Promise<BackendInfo> {
  const software = backend === 'webgpu' && existsSync(softwareVulkan) ? { softwareVulkan } : {}
  const wanted = threads === undefined ? {} : { threads }
  return useBackend((backend ?? 'auto') as BackendRequest, { ...software, ...wanted, ...options })
}
