/**
 * One process at a time writes to a run's folder: a file in it names that process. What a killed one left counts no
 * more, and neither does what another machine wrote, whose processes cannot be asked for.
 */
import { readFile, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { CheckpointError } from './errors'

const lockName = 'process.json'

/**
 * @returns what gives the folder free again
 * @throws CheckpointError where another process that is running writes to it
 */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const path = join(folder, lockName)
  const own = { process: process.pid, host: hostname() }
  for (;;) {
    try {
      await writeFile(path, `${JSON.stringify(own)}\n`, { flag: 'wx' })
      return () => rm(path, { force: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const holder = await holderOf(path)
    if (holder?.host === own.host && holder.process !== own.process && isRunning(holder.process))
      throw new CheckpointError(
        `process ${holder.process} is writing to ${folder}: stop it or wait for its end; ` +
          `if it is no run of Lethe's, remove ${path}`,
        { folder, process: holder.process },
      )
    await rm(path, { force: true })
  }
}

async function holderOf(path: string): Promise<{ process: number; host: string } | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch {
    // Gone by now, or cut off by a crash.
    return undefined
  }
}

function isRunning(id: number): boolean {
  try {
    process.kill(id, 0)
    return true
  } catch (error) {
    // Some other user's process may not be asked, but is there.
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
