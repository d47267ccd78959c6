/** Downloads from a server in this process that breaks off, lies, refuses and lists as real ones do. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { crc32, deflateRawSync } from 'node:zlib'
import { openText } from '@lethe/trainer/node'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { temporaryFolder } from '../temporary-folder'
import { download } from './download'
import { preparedSet, prepareSet } from './prepare'
import { type ArchiveSet, type BucketSet, dataSets } from './sets'

const folder = temporaryFolder('data')
let handler: (request: IncomingMessage, response: ServerResponse) => void
let requests: string[] = []
const server = createServer((request, response) => {
  requests.push(`${request.url} ${request.headers.range ?? ''}`.trim())
  handler(request, response)
})
let origin: string
/** Where nobody listens. */
let nobody: string
beforeAll(async () => {
  const closed = createServer()
  await new Promise<void>((done) => closed.listen(0, '127.0.0.1', done))
  nobody = `http://127.0.0.1:${(closed.address() as AddressInfo).port}`
  await new Promise((done) => closed.close(done))
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterEach(() => {
  requests = []
})
afterAll(() => {
  server.closeAllConnections()
  server.close()
})

const hash = (algorithm: string, bytes: Uint8Array) => createHash(algorithm).update(bytes).digest('hex')
const sha256 = (bytes: Uint8Array) => ({ algorithm: 'sha256' as const, digest: hash('sha256', bytes) })
const content = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 7919) % 251))

/** The answer that is being sent, for a test to break off when something has come. */
let sending: ServerResponse

/** Sends a file, or the range that is asked for; no more than so much of it, without an end. */
function send(bytes: Buffer, most = Number.POSITIVE_INFINITY, ranges = true) {
  return (request: IncomingMessage, response: ServerResponse) => {
    sending = response
    const start = ranges ? Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0) : 0
    if (start >= bytes.length) {
      response.writeHead(416, { 'content-range': `bytes */${bytes.length}` }).end()
      return
    }
    const rest = bytes.subarray(start)
    const range = { 'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}` }
    response.writeHead(start > 0 ? 206 : 200, { 'content-length': rest.length, ...(start > 0 && range) })
    if (most >= rest.length) response.end(rest)
    else response.write(rest.subarray(0, most))
  }
}

describe('download', () => {
  const quick = { retrySeconds: 0, tries: 10 }

  test('an interrupted transfer goes on where it was, in one call and in the next', async () => {
    const to = join(folder, 'interrupted')
    handler = send(content, 90_000)
    const breaks: number[] = []
    await download({
      ...{ url: `${origin}/file`, to, checksum: sha256(content), ...quick },
      onProgress: (bytes) => {
        if (bytes < (breaks.at(-1) ?? 0) + 90_000 || bytes === content.length) return
        breaks.push(bytes)
        sending.destroy()
      },
    })
    expect(readFileSync(to).equals(content)).toBe(true)
    expect(breaks).toEqual([90_000, 180_000, 270_000])
    expect(requests).toEqual(['/file', ...breaks.map((bytes) => `/file bytes=${bytes}-`)])
    expect(existsSync(`${to}.part`)).toBe(false)

    const other = join(folder, 'later')
    let calls = 0
    handler = (request, response) =>
      ++calls === 1 ? send(content, 50_000)(request, response) : response.destroy()
    const broken = {
      url: `${origin}/file`,
      to: other,
      ...quick,
      tries: 2,
      onProgress: () => sending.destroy(),
    }
    await expect(download(broken)).rejects.toThrow(
      /interrupted after [\d,]+ bytes .*try again, and it goes on there/,
    )
    requests = []
    handler = send(content)
    const { size } = statSync(`${other}.part`)
    expect(size).toBeGreaterThan(0)
    await download({ url: `${origin}/file`, to: other, checksum: sha256(content) })
    expect(requests).toEqual([`/file bytes=${size}-`])
    expect(readFileSync(other).equals(content)).toBe(true)
  })

  test('what had come whole is not asked for again; without ranges it starts anew', async () => {
    const to = join(folder, 'whole')
    writeFileSync(`${to}.part`, content)
    handler = send(content)
    await download({ url: `${origin}/file`, to, checksum: sha256(content) })
    expect(readFileSync(to).equals(content)).toBe(true)
    const plain = join(folder, 'no-ranges')
    writeFileSync(`${plain}.part`, content.subarray(0, 1000))
    handler = send(content, undefined, false)
    await download({ url: `${origin}/file`, to: plain, checksum: sha256(content) })
    expect(readFileSync(plain).equals(content)).toBe(true)
  })

  test('a part of another file is not gone on with', async () => {
    const to = join(folder, 'other')
    writeFileSync(`${to}.part`, Buffer.alloc(400_000))
    handler = send(content)
    await download({ url: `${origin}/file`, to, checksum: sha256(content), ...quick })
    expect(readFileSync(to).equals(content)).toBe(true)
  })

  test('a wrong checksum is refused, and the file removed', async () => {
    const to = join(folder, 'wrong')
    handler = send(content)
    await expect(
      download({ url: `${origin}/file`, to, checksum: { algorithm: 'md5', digest: '0'.repeat(32) } }),
    ).rejects.toThrow(/its md5 is [0-9a-f]{32}, not 0{32}\. It was removed/)
    expect(existsSync(to) || existsSync(`${to}.part`)).toBe(false)
  })

  test('a server without the file, one that fails for a while, one that falls silent, none at all', async () => {
    const to = join(folder, 'missing')
    handler = (_, response) => response.writeHead(404, 'Not Found').end()
    await expect(download({ url: `${origin}/gone`, to })).rejects.toThrow(
      /has no .*\/gone: it says 404 Not Found/,
    )
    expect(requests).toHaveLength(1)
    let calls = 0
    handler = (request, response) => {
      if (++calls < 3) response.writeHead(503, 'Busy').end()
      else send(content)(request, response)
    }
    await download({ url: `${origin}/file`, to, ...quick })
    expect(calls).toBe(3)
    handler = (_, response) => response.writeHead(200).write('a')
    const silent = { url: `${origin}/silent`, to: join(folder, 'silent'), tries: 1, stallSeconds: 0.1 }
    await expect(download(silent)).rejects.toThrow(
      /interrupted after 1 bytes \(nothing came for 0.1 seconds\)/,
    )
    const closed = { url: `${nobody}/x`, to: join(folder, 'closed'), tries: 1 }
    await expect(download(closed)).rejects.toThrow(/cannot reach http:.*\/x: .*ECONNREFUSED/)
  })

  test('a full disk', async ({ skip }) => {
    const path = join(folder, 'full')
    mkdirSync(path)
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', path], { stdio: 'ignore' })
    } catch {
      skip('no right to mount')
    }
    handler = send(content)
    try {
      await expect(download({ url: `${origin}/file`, to: join(path, 'file') })).rejects.toThrow(
        /cannot write .*the disk is full: free some space/,
      )
    } finally {
      execFileSync('umount', [path])
    }
  })
})

/** A zip archive of deflated files (PKWARE's APPNOTE: local headers, central directory, end record). */
function zip(files: Readonly<Record<string, string>>): Buffer {
  const locals: Buffer[] = []
  const central: Buffer[] = []
  let offset = 0
  for (const [name, text] of Object.entries(files)) {
    const packed = deflateRawSync(text)
    const common = Buffer.alloc(26)
    common.writeUInt16LE(20, 0)
    common.writeUInt16LE(8, 4)
    common.writeUInt32LE(crc32(text), 10)
    common.writeUInt32LE(packed.length, 14)
    common.writeUInt32LE(Buffer.byteLength(text), 18)
    common.writeUInt16LE(name.length, 22)
    const local = Buffer.concat([Buffer.from('PK\u0003\u0004'), common, Buffer.from(name), packed])
    const tail = Buffer.alloc(14)
    tail.writeUInt32LE(offset, 10)
    central.push(Buffer.concat([Buffer.from('PK\u0001\u0002\u0014\u0000'), common, tail, Buffer.from(name)]))
    locals.push(local)
    offset += local.length
  }
  const directory = Buffer.concat(central)
  const end = Buffer.alloc(22)
  end.write('PK\u0005\u0006', 'latin1')
  end.writeUInt16LE(central.length, 8)
  end.writeUInt16LE(central.length, 10)
  end.writeUInt32LE(directory.length, 12)
  end.writeUInt32LE(offset, 16)
  return Buffer.concat([...locals, directory, end])
}

const described = { about: '', bytes: 100, split: '', licence: '' }
const whole = `${'a'.repeat(90)}${'b'.repeat(5)}${'c'.repeat(5)}`
const single = (url: string, archive: Buffer): ArchiveSet => ({
  ...{ kind: 'archive', ...described, url, archiveBytes: archive.length, checksum: sha256(archive) },
  members: {
    name: 'tiny8',
    checksum: sha256(Buffer.from(whole)),
    cut: { train: 90, validation: 5, test: 5 },
  },
})
const partsOf = async (path: string) => {
  const data = await openText(path)
  const text = async (part: typeof data.train) => data.tokenizer.decode(await part.read(0, part.length))
  return [await text(data.train), await text(data.validation), await text(data.test!)]
}

describe('an archive', () => {
  test('is got, checked, cut as the papers do, and read by its parts', async () => {
    const archive = zip({ tiny8: whole })
    handler = send(archive)
    const options = {
      name: 'tiny8',
      set: single(`${origin}/tiny8.zip`, archive),
      cache: join(folder, 'cache'),
    }
    expect(await preparedSet('tiny8', options.cache)).toBeUndefined()
    const prepared = await prepareSet(options)
    expect(prepared).toMatchObject({ before: false, checked: 'sha256 of tiny8.zip, as published' })
    expect(readdirSync(prepared.folder).sort()).toEqual([
      'data.json',
      'test.txt',
      'train.txt',
      'validation.txt',
    ])
    expect(await partsOf(prepared.folder)).toEqual(['a'.repeat(90), 'bbbbb', 'ccccc'])
    expect(existsSync(`${prepared.folder}.partial`)).toBe(false)
    requests = []
    expect(await prepareSet(options)).toMatchObject({ before: true })
    expect(requests).toEqual([])
  })

  test('with a file for each part', async () => {
    const archive = zip({
      'w/wiki.train.tokens': 'one',
      'w/wiki.valid.tokens': 'two',
      'w/wiki.test.tokens': 'three',
    })
    handler = send(archive)
    const set: ArchiveSet = {
      ...{
        kind: 'archive',
        ...described,
        url: `${origin}/w.zip`,
        archiveBytes: 1,
        checksum: sha256(archive),
      },
      members: {
        train: 'w/wiki.train.tokens',
        validation: 'w/wiki.valid.tokens',
        test: 'w/wiki.test.tokens',
      },
    }
    const { folder: path } = await prepareSet({ name: 'w', set, cache: join(folder, 'cache') })
    expect(await partsOf(path)).toEqual(['one', 'two', 'three'])
  })

  test('without the network: what to get, and from a file that somebody has', async () => {
    const archive = zip({ tiny8: whole })
    const set = single(`${nobody}/tiny8.zip`, archive)
    const options = { name: 'tiny8', set, cache: join(folder, 'offline') }
    const message = `get tiny8.zip (${archive.length} bytes) elsewhere, and run: lethe data tiny8 --from tiny8.zip`
    await expect(prepareSet(options)).rejects.toThrow(message)
    const files = { 'have.zip': archive, have: Buffer.from(whole), wrong: Buffer.from(`${whole.slice(1)}x`) }
    for (const [name, bytes] of Object.entries(files)) writeFileSync(join(folder, name), bytes)
    await expect(prepareSet({ ...options, from: join(folder, 'wrong') })).rejects.toThrow(
      /wrong is not what was published: its sha256/,
    )
    for (const from of ['have.zip', 'have']) {
      const cache = join(folder, `from-${from}`)
      const { folder: path } = await prepareSet({ ...options, cache, from: join(folder, from) })
      expect(await partsOf(path)).toEqual(['a'.repeat(90), 'bbbbb', 'ccccc'])
      expect(existsSync(join(folder, from))).toBe(true)
    }
    await expect(prepareSet({ ...options, from: join(folder, 'nothing') })).rejects.toThrow(/no such file/)
  })

  test('a folder put there by hand counts, and is left alone', async () => {
    const cache = join(folder, 'by-hand')
    mkdirSync(join(cache, 'tiny8'), { recursive: true })
    for (const part of ['train', 'valid', 'test']) writeFileSync(join(cache, 'tiny8', `${part}.txt`), part)
    const set = single(`${nobody}/tiny8.zip`, zip({ tiny8: whole }))
    expect(await prepareSet({ name: 'tiny8', set, cache })).toMatchObject({ before: true })
    rmSync(join(cache, 'tiny8/test.txt'))
    await expect(prepareSet({ name: 'tiny8', set, cache })).rejects.toThrow(
      /lacks a part \(it has train, validation\)/,
    )
  })
})

describe('a bucket', () => {
  const books: Record<string, string> = {
    'train/1.txt': 'one',
    'train/2.txt': 'two',
    'train/10.txt': 'ten',
    'validation/3.txt': 'three',
    'test/4.txt': 'four',
  }
  const bucket = (): BucketSet => ({
    ...{ kind: 'bucket', ...described, listing: `${origin}/list`, objects: `${origin}/objects/` },
    files: { train: 3, validation: 1, test: 1 },
  })
  /** Two objects a page, and one whose name leads out of the folder. */
  const serve = (request: IncomingMessage, response: ServerResponse) => {
    const url = new URL(request.url!, origin)
    if (url.pathname.startsWith('/objects/')) {
      send(Buffer.from(books[url.pathname.slice('/objects/'.length)]!))(request, response)
      return
    }
    const prefix = url.searchParams.get('prefix')!
    const names = [...Object.keys(books).filter((name) => name.startsWith(prefix)), `${prefix}../../x.txt`]
    const from = Number(url.searchParams.get('pageToken') ?? 0)
    const items = names.slice(from, from + 2).map((name) => ({
      name,
      size: String((books[name] ?? '').length),
      md5Hash: Buffer.from(hash('md5', Buffer.from(books[name] ?? '')), 'hex').toString('base64'),
    }))
    const next = from + 2 < names.length ? { nextPageToken: String(from + 2) } : {}
    response.end(JSON.stringify({ items, ...next }))
  }

  test('some parts, then all; what is there is not got again', async () => {
    handler = serve
    const options = { name: 'books', set: bucket(), cache: join(folder, 'bucket') }
    const some = await prepareSet({ ...options, parts: ['test', 'validation'] })
    expect(some.parts).toEqual(['validation', 'test'])
    expect(await partsOf(some.folder)).toEqual(['', 'three', 'four'])
    requests = []
    const all = await prepareSet(options)
    expect(all).toMatchObject({ parts: ['train', 'validation', 'test'], before: false })
    expect(await partsOf(all.folder)).toEqual(['onetentwo', 'three', 'four'])
    expect(requests.filter((url) => url.startsWith('/objects/')).sort()).toEqual(
      ['1', '10', '2'].map((name) => `/objects/train/${name}.txt`),
    )
    expect(existsSync(join(folder, 'x.txt'))).toBe(false)
  })

  test('a list that is not as published, a book that is not, and no network', async () => {
    handler = serve
    const options = { name: 'books', cache: join(folder, 'bucket-wrong') }
    const more = { ...bucket(), files: { train: 3, validation: 2, test: 1 } }
    await expect(prepareSet({ ...options, set: more })).rejects.toThrow(
      /lists 1 books in validation instead of 2/,
    )
    handler = (request, response) =>
      request.url!.startsWith('/objects/')
        ? send(Buffer.from('xxx'))(request, response)
        : serve(request, response)
    await expect(prepareSet({ ...options, set: bucket() })).rejects.toThrow(/its md5 is/)
    const offline = { ...bucket(), listing: `${nobody}/list` }
    await expect(prepareSet({ ...options, set: offline })).rejects.toThrow(
      /cannot reach .*put them into .*bucket-wrong\/books/,
    )
    await expect(prepareSet({ ...options, set: bucket(), from: 'mine' })).rejects.toThrow(/--data mine/)
  })
})

test('checksums are of the length that their algorithm has', () => {
  const lengths = { md5: 32, sha1: 40, sha256: 64 }
  for (const set of Object.values(dataSets)) {
    if (set.kind !== 'archive') continue
    const sums = [set.checksum, ...('cut' in set.members ? [set.members.checksum] : [])]
    for (const { algorithm, digest } of sums)
      expect(digest).toMatch(new RegExp(`^[0-9a-f]{${lengths[algorithm]}}$`))
    if ('cut' in set.members)
      expect(Object.values(set.members.cut).reduce((sum, bytes) => sum + bytes)).toBe(set.bytes)
  }
})
