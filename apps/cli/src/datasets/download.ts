/**
 * A file from the network: what has come is kept in a file beside its place (`….part`), and the next try, also that of
 * another process, asks for the rest (HTTP Range, RFC 9110). Only a file that is whole, and whose checksum is right
 * where there is one, gets its name.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { SetupError } from '../errors'
import type { Checksum } from './sets'

export interface DownloadOptions {
  readonly url: string
  readonly to: string
  readonly checksum?: Checksum | undefined
  /** Called with the bytes that are there and, where the server says so, the bytes of the whole. */
  readonly onProgress?: ((bytes: number, of: number | undefined) => void) | undefined
  /** Tries that may follow one another without anything new: default 3. */
  readonly tries?: number
  /** Waited before another try: default 1. */
  readonly retrySeconds?: number
  /** Without a byte for so long, the connection is given up: default 60. */
  readonly stallSeconds?: number
}

/** The server cannot be reached, or has no such file: others may. */
export class UnreachableError extends SetupError {}

/** What came was not what was asked for. */
export class ChecksumError extends SetupError {}

/** @throws SetupError; what has come stays, so that it can be tried again */
export async function download(options: DownloadOptions): Promise<void> {
  const { url, to, checksum, tries = 3, retrySeconds = 1 } = options
  const part = `${to}.part`
  await mkdir(dirname(to), { recursive: true }).catch((error) => {
    throw unwritable(dirname(to), error)
  })
  for (let left = tries; ; ) {
    const before = await sizeOf(part)
    try {
      await fetchRest(options, part, before)
      break
    } catch (error) {
      if (!(error instanceof Interrupted)) throw error
      const came = await sizeOf(part)
      // Who has no network shall hear of it at once.
      const offline = error.unreachable && came === 0
      left = came > before ? tries : offline ? 0 : left - 1
      if (left > 0) {
        await new Promise((done) => setTimeout(done, 1000 * retrySeconds))
        continue
      }
      const { message } = error
      if (came === 0) throw new UnreachableError(`cannot reach ${url}: ${message}`)
      throw new SetupError(
        `${url} was interrupted after ${came.toLocaleString('en-US')} bytes (${message}): try again, and it goes on there`,
      )
    }
  }
  if (checksum) {
    const digest = await digestOf(part, checksum.algorithm)
    if (digest !== checksum.digest) {
      await rm(part, { force: true })
      throw new ChecksumError(
        `what ${url} sent is not what was published: its ${checksum.algorithm} is ${digest}, not ${checksum.digest}. It was removed; try again, or get it elsewhere`,
      )
    }
  }
  await rename(part, to)
}

/** The connection failed or broke off: another try may help. */
class Interrupted extends Error {
  /** Whether there was no connection at all. */
  readonly unreachable: boolean

  constructor(message: string, cause?: unknown) {
    super(message, { cause })
    const { code } = ((cause as Error | undefined)?.cause ?? {}) as { code?: string }
    this.unreachable = ['ENOTFOUND', 'ECONNREFUSED', 'EAI_AGAIN', 'ENETUNREACH'].includes(code ?? '')
  }
}

async function fetchRest(options: DownloadOptions, part: string, have: number): Promise<void> {
  const { url, onProgress, stallSeconds = 60 } = options
  const stall = new AbortController()
  const watch = () => setTimeout(() => stall.abort(), stallSeconds * 1000)
  let timer = watch()
  try {
    const response = await fetch(url, {
      // Ranges are of what is sent, so nothing may be packed on the way.
      headers: { 'accept-encoding': 'identity', ...(have > 0 && { range: `bytes=${have}-` }) },
      signal: stall.signal,
    }).catch((error) => {
      throw new Interrupted(reasonOf(error, stallSeconds), error)
    })
    const goesOn = response.status === 206 && rangeStart(response) === have
    if (!goesOn && have > 0 && (response.status === 416 || response.status === 206)) {
      await response.body?.cancel()
      // All of it is there already, or it is of another file.
      if (rangeTotal(response) === have) return
      await rm(part, { force: true })
      throw new Interrupted('the server has another file now')
    }
    if (!response.ok || !response.body) {
      await response.body?.cancel()
      const { status, statusText } = response
      if (status >= 500 || status === 429)
        throw new Interrupted(`the server says ${status} ${statusText}`.trim())
      throw new UnreachableError(`the server has no ${url}: it says ${status} ${statusText}`.trim())
    }
    const start = goesOn ? have : 0
    const length = response.headers.get('content-length')
    const total = length === null ? undefined : start + Number(length)
    let bytes = start
    const file = await open(part, goesOn ? 'a' : 'w').catch((error) => {
      throw unwritable(part, error)
    })
    try {
      // Written chunk by chunk, so that nothing that came is lost when the connection breaks off.
      const chunks = response.body.getReader()
      for (;;) {
        const { done, value } = await chunks.read().catch((error) => {
          throw new Interrupted(reasonOf(error, stallSeconds))
        })
        if (done) break
        clearTimeout(timer)
        timer = watch()
        await file.writeFile(value).catch((error) => {
          throw unwritable(part, error)
        })
        bytes += value.length
        onProgress?.(bytes, total)
      }
    } finally {
      await file.close()
      // Where writing failed, the rest is not wanted.
      stall.abort()
    }
    if (total !== undefined && bytes < total) throw new Interrupted('the connection was closed')
  } finally {
    clearTimeout(timer)
  }
}

const contentRange = (response: Response) =>
  /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '')
const rangeStart = (response: Response) => Number(contentRange(response)?.[1] ?? Number.NaN)
const rangeTotal = (response: Response) => Number(contentRange(response)?.[2] ?? Number.NaN)

function reasonOf(error: unknown, stallSeconds: number): string {
  const { name, message, cause } = error as Error
  if (name === 'AbortError') return `nothing came for ${stallSeconds} seconds`
  return cause instanceof Error ? cause.message || cause.name : message
}

function unwritable(path: string, error: unknown): SetupError {
  const { code, message } = error as NodeJS.ErrnoException
  const why =
    code === 'ENOSPC'
      ? 'the disk is full: free some space, or choose another folder with LETHE_DATA or --folder'
      : `${message}: choose another folder with LETHE_DATA or --folder`
  return new SetupError(`cannot write ${path}: ${why}`)
}

const sizeOf = (path: string) =>
  stat(path).then(
    ({ size }) => size,
    () => 0,
  )

/** In hexadecimal. */
export async function digestOf(path: string, algorithm: Checksum['algorithm']): Promise<string> {
  const hash = createHash(algorithm)
  await pipeline(createReadStream(path, { highWaterMark: 2 ** 20 }), hash)
  return hash.digest('hex')
}
