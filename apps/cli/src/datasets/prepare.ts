/**
 * Makes a data set's folder: gets it, checks it, cuts it into its parts. Everything happens in a folder beside it
 * (`….partial`), which takes its place when all is there; what has come stays for the next try.
 */
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { SetupError } from '../errors'
import { bytes as readable } from '../output'
import { unpack, zipEntries } from '../setup/zip'
import { ChecksumError, digestOf, download, UnreachableError } from './download'
import { type ArchiveSet, type BucketSet, type DataSet, type Part, parts } from './sets'

export interface PrepareOptions {
  readonly name: string
  readonly set: DataSet
  /** Where data sets are kept; it gets a folder of the set's name. */
  readonly cache: string
  /** The archive, or the file in it, where somebody has it already. */
  readonly from?: string | undefined
  /** Of a bucket: the parts that are wanted. Default all. */
  readonly parts?: readonly Part[] | undefined
  /** Told what is going on, now and then. */
  readonly onProgress?: ((text: string) => void) | undefined
}

/** Written into a folder that was made here. */
interface Receipt {
  readonly name: string
  readonly parts: readonly Part[]
  /** What was compared with what was published. */
  readonly checked: string
  readonly date: string
}

export interface Prepared {
  readonly folder: string
  readonly parts: readonly Part[]
  /** Of a folder that was made here. */
  readonly checked?: string
  /** Whether there was nothing to do. */
  readonly before: boolean
}

/** What is there of a data set: undefined where nothing is. A folder put there by hand counts. */
export async function preparedSet(name: string, cache: string): Promise<Prepared | undefined> {
  const folder = join(cache, name)
  const entries = await readdir(folder).catch(() => undefined)
  if (!entries) return undefined
  try {
    const { parts, checked } = JSON.parse(await readFile(join(folder, receiptName), 'utf8')) as Receipt
    return { folder, parts, checked, before: true }
  } catch {
    const there = parts.filter((part) => entries.some((entry) => entry.includes(part.slice(0, 5))))
    return { folder, parts: there, before: true }
  }
}

const receiptName = 'data.json'

/** @throws SetupError that says what to put where, if it cannot be had */
export async function prepareSet(options: PrepareOptions): Promise<Prepared> {
  const { name, set, cache } = options
  const wanted = set.kind === 'bucket' ? (options.parts ?? parts) : parts
  const folder = join(cache, name)
  const there = await preparedSet(name, cache)
  if (there && wanted.every((part) => there.parts.includes(part))) return there
  if (there && there.checked === undefined)
    throw new SetupError(
      `${folder} was not made by lethe data and lacks a part (it has ${there.parts.join(', ') || 'none'}): complete or remove it`,
    )
  const staging = `${folder}.partial`
  try {
    // Parts that are there are part of the whole.
    if (there) await rename(folder, staging)
    await mkdir(staging, { recursive: true })
    await expectSpace(cache, set)
    const all = parts.filter((part) => wanted.includes(part) || there?.parts.includes(part))
    const checked =
      set.kind === 'archive'
        ? await prepareArchive(set, staging, options)
        : await prepareBucket(set, staging, wanted, options)
    const receipt: Receipt = { name, parts: all, checked, date: new Date().toISOString() }
    await writeFile(join(staging, receiptName), `${JSON.stringify(receipt, null, 2)}\n`)
    await rename(staging, folder)
    return { folder, parts: all, checked, before: false }
  } catch (error) {
    if (error instanceof UnreachableError) throw new SetupError(`${error.message}; ${byHand(options)}`)
    if (error instanceof SetupError) throw error
    const { code, message } = error as NodeJS.ErrnoException
    if (code === undefined) throw error
    throw new SetupError(
      `cannot prepare ${name} in ${cache}: ${code === 'ENOSPC' ? 'the disk is full' : message}; free some space, or choose another folder with LETHE_DATA or --folder`,
    )
  }
}

/** What somebody without this network can do. */
function byHand({ name, set, cache }: PrepareOptions): string {
  if (set.kind === 'bucket')
    return (
      `elsewhere, get the folders train, validation and test of ${set.objects} ` +
      `(gsutil -m cp -r gs://${basename(set.objects)}/test …) and put them into ${join(cache, name)}`
    )
  const size = set.archiveBytes.toLocaleString('en-US')
  return `get ${basename(set.url)} (${size} bytes) elsewhere, and run: lethe data ${name} --from ${basename(set.url)}`
}

async function expectSpace(cache: string, set: DataSet): Promise<void> {
  // An archive, what is in it, and its parts: the first two go at the end.
  const needed = set.kind === 'archive' ? set.archiveBytes + 2 * set.bytes : 0
  const { bavail, bsize } = await statfs(cache)
  if (bavail * bsize < needed)
    throw new SetupError(
      `${cache} has ${readable(bavail * bsize)} free, and ${readable(needed)} are needed: free some, or choose another folder with LETHE_DATA or --folder`,
    )
}

async function prepareArchive(
  set: ArchiveSet,
  staging: string,
  { from, onProgress }: PrepareOptions,
): Promise<string> {
  const { members, checksum } = set
  const single = 'cut' in members ? members : undefined
  const archive = from ?? join(staging, 'archive.zip')
  let raw: string | undefined
  if (from === undefined) {
    if (!(await exists(archive)))
      await download({
        url: set.url,
        to: archive,
        checksum,
        onProgress: (bytes, of) => onProgress?.(`${basename(set.url)}: ${progress(bytes, of)}`),
      })
  } else if (await isZip(from)) await expectChecksum(from, checksum)
  else if (single) raw = from
  else throw new SetupError(`${from} is no zip archive: give ${basename(set.url)}`)

  const entries = raw === undefined ? await zipEntries(archive) : []
  const take = async (member: string, to: string) => {
    const entry = entries.find(({ name }) => name === member)
    if (!entry) throw new SetupError(`${archive} has no ${member}: give ${basename(set.url)}`)
    onProgress?.(`unpacking ${member}`)
    await unpack(archive, entry, to)
  }
  if (single) {
    const whole = raw ?? join(staging, 'whole')
    if (raw === undefined) await take(single.name, whole)
    await expectChecksum(whole, single.checksum)
    let start = 0
    for (const part of parts) {
      const end = start + single.cut[part]
      await pipeline(
        createReadStream(whole, { start, end: end - 1 }),
        createWriteStream(join(staging, `${part}.txt`)),
      )
      start = end
    }
    if (raw === undefined) await rm(whole)
  } else
    for (const part of parts)
      await take((members as Record<Part, string>)[part], join(staging, `${part}.txt`))
  if (from === undefined) await rm(archive)
  const what = raw === undefined ? basename(set.url) : basename(raw)
  const { algorithm } = raw === undefined ? checksum : single!.checksum
  return `${algorithm} of ${what}, as published`
}

async function prepareBucket(
  set: BucketSet,
  staging: string,
  wanted: readonly Part[],
  { from, onProgress, name }: PrepareOptions,
): Promise<string> {
  if (from !== undefined)
    throw new SetupError(`${name} is a folder of books: give yours to the other commands, as --data ${from}`)
  const books: Book[] = []
  // An empty folder stands for a part that is left out.
  for (const part of parts) await mkdir(join(staging, part), { recursive: true })
  for (const part of wanted) {
    onProgress?.(`listing ${part}`)
    const listed = await list(set, part)
    if (listed.length !== set.files[part])
      throw new SetupError(
        `${set.listing} lists ${listed.length} books in ${part} instead of ${set.files[part]}: it is not what was published`,
      )
    books.push(...listed)
  }
  const total = books.reduce((sum, { size }) => sum + size, 0)
  const { bavail, bsize } = await statfs(staging)
  let done = 0
  const waiting: Book[] = []
  for (const book of books) {
    const size = await stat(join(staging, book.name)).then(
      ({ size }) => size,
      () => -1,
    )
    if (size === book.size) done += size
    else waiting.push(book)
  }
  if (bavail * bsize < total - done)
    throw new SetupError(
      `${dirname(staging)} has ${readable(bavail * bsize)} free, and ${readable(total - done)} are needed: free some, or choose another folder with LETHE_DATA or --folder`,
    )
  const worker = async () => {
    for (let book = waiting.shift(); book; book = waiting.shift()) {
      const { name, size, md5 } = book
      const url = set.objects + name.split('/').map(encodeURIComponent).join('/')
      const checksum = { algorithm: 'md5', digest: md5 } as const
      await download({ url, to: join(staging, name), checksum })
      done += size
      onProgress?.(`${name}: ${progress(done, total)}`)
    }
  }
  try {
    await Promise.all(Array.from({ length: 8 }, worker))
  } catch (error) {
    // The others end with what they are at.
    waiting.length = 0
    throw error
  }
  return 'md5 of every book, as the bucket lists it'
}

interface Book {
  readonly name: string
  readonly size: number
  /** Hexadecimal. */
  readonly md5: string
}

/** The objects of a part, in pages of a thousand (storage.objects.list of the JSON API). */
async function list({ listing }: BucketSet, part: Part): Promise<Book[]> {
  const books: Book[] = []
  let page: string | undefined
  do {
    const url = new URL(listing)
    url.searchParams.set('prefix', `${part}/`)
    url.searchParams.set('fields', 'items(name,size,md5Hash),nextPageToken')
    if (page !== undefined) url.searchParams.set('pageToken', page)
    const response = await fetch(url).catch((error) => {
      const { message, cause } = error as Error
      throw new UnreachableError(
        `cannot reach ${listing}: ${cause instanceof Error ? cause.message : message}`,
      )
    })
    if (!response.ok)
      throw new UnreachableError(`cannot list ${listing}: it says ${response.status} ${response.statusText}`)
    const { items = [], nextPageToken } = (await response.json()) as {
      items?: readonly { name: string; size: string; md5Hash: string }[]
      nextPageToken?: string
    }
    for (const { name, size, md5Hash } of items) {
      // Names become paths.
      if (!new RegExp(`^${part}/[\\w-]+\\.txt$`).test(name)) continue
      books.push({ name, size: Number(size), md5: Buffer.from(md5Hash, 'base64').toString('hex') })
    }
    page = nextPageToken
  } while (page !== undefined)
  return books
}

async function expectChecksum(path: string, { algorithm, digest }: ArchiveSet['checksum']): Promise<void> {
  const found = await digestOf(path, algorithm)
  if (found !== digest)
    throw new ChecksumError(
      `${path} is not what was published: its ${algorithm} is ${found}, not ${digest}; get it again`,
    )
}

async function isZip(path: string): Promise<boolean> {
  const file = await open(path).catch((error: NodeJS.ErrnoException) => {
    throw new SetupError(
      `cannot read ${path}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`,
    )
  })
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0)
    return bytesRead === 4 && buffer.readUInt32LE(0) === 0x04034b50
  } finally {
    await file.close()
  }
}

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  )

const progress = (bytes: number, of: number | undefined) =>
  of === undefined
    ? readable(bytes)
    : `${readable(bytes)} of ${readable(of)}, ${Math.floor((100 * bytes) / of)} %`
