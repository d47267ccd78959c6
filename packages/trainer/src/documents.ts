/**
 * Files with a document per line, as C4 and most collections for pre-training are distributed: JSON objects with a
 * "text", plain or packed by gzip. Such a file is read as the text of its documents, each with an empty line after it.
 *
 * It is read once from end to end when it is opened, to check every line and to know how long its text is; then any
 * part can be read, in constant memory. A reader that goes on where it ended costs nothing beyond the reading; one
 * that begins elsewhere starts at the nearest known line of a plain file, or at the start of a packed one, since
 * nothing inside gzip can be found otherwise. Several readers may be on their way in one file, one per stream.
 */
import { createReadStream } from 'node:fs'
import { createGunzip } from 'node:zlib'
import { DataError } from './errors'
import { unreadable } from './unreadable'

/** What stands after each document. */
const separator = '\n\n'

/** Text between two known lines of a plain file. */
const knownEvery = 2 ** 20
/** Text that a reader keeps behind it, since the pieces of a text are read from their start. */
const keptBehind = 2 ** 18

export const isPacked = (path: string) => path.endsWith('.gz')

/** Whether a file's name says that it has a document per line; '.json' is such a file where its first line is one. */
export function hasDocuments(path: string, head: Uint8Array): boolean {
  if (/\.(jsonl|ndjson)(\.gz)?$|\.json\.gz$/.test(path)) return true
  if (!path.endsWith('.json')) return false
  const end = head.indexOf(10)
  try {
    const line = JSON.parse(new TextDecoder().decode(end < 0 ? head : head.subarray(0, end)))
    return typeof line?.text === 'string'
  } catch {
    return false
  }
}

interface Document {
  /** UTF-8, with the separator. */
  readonly bytes: Uint8Array
  /** Lines, and bytes of the file, unpacked, before its line. */
  readonly lines: number
  readonly line: number
}

/** A line that reading can start at. */
interface KnownLine {
  /** Lines, and bytes of the file and of the text, before it. */
  readonly lines: number
  readonly line: number
  readonly text: number
}

/** @param from the start of the file, where it is packed */
async function* documentsOf(path: string, from: KnownLine): AsyncGenerator<Document> {
  const file = createReadStream(path, { start: from.line, highWaterMark: 2 ** 18 })
  const stream = isPacked(path) ? file.pipe(createGunzip({ chunkSize: 2 ** 18 })) : file
  file.on('error', (error) => stream.destroy(error))
  let rest: Buffer[] = []
  let { lines, line } = from
  const take = (bytes: Buffer): Document | undefined => {
    const before = { lines, line }
    lines++
    line += bytes.length + 1
    const document = textOf(bytes, path, lines)
    return document && { bytes: document, ...before }
  }
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      let at = 0
      for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, at)) {
        const document = take(Buffer.concat([...rest, chunk.subarray(at, end)]))
        rest = []
        at = end + 1
        if (document) yield document
      }
      if (at < chunk.length) rest.push(chunk.subarray(at))
    }
    const document = rest.length > 0 && take(Buffer.concat(rest))
    if (document) yield document
  } catch (error) {
    if (DataError.isInstance(error)) throw error
    if ((error as NodeJS.ErrnoException).code?.startsWith('Z_'))
      throw new DataError(
        `${path} is no whole gzip file (${(error as Error).message}): get it again`,
        { path },
        { cause: error },
      )
    throw unreadable(path, error)
  } finally {
    file.destroy()
    stream.destroy()
  }
}

/** Undefined for an empty line. @throws DataError where the line is no object with a text */
function textOf(bytes: Buffer, path: string, lineNumber: number): Uint8Array | undefined {
  const line = bytes.toString('utf8').trim()
  if (line === '') return undefined
  let text: unknown
  try {
    text = (JSON.parse(line) as { text?: unknown } | null)?.text
  } catch (error) {
    throw new DataError(
      `line ${lineNumber} of ${path} is no JSON (${(error as Error).message}): each line must be an object such as {"text": "…"}`,
      { path, line: lineNumber },
    )
  }
  if (typeof text !== 'string')
    throw new DataError(
      `line ${lineNumber} of ${path} has no "text": each line must be an object such as {"text": "…"}`,
      { path, line: lineNumber },
    )
  return Buffer.from(text + separator, 'utf8')
}

/** Reads a file from a known line on, and keeps a little of what it has read. */
class Reader {
  /** The text from `start` on that is held. */
  private held: Uint8Array = new Uint8Array(0)
  private start: number
  private readonly documents: AsyncGenerator<Document>

  constructor(
    readonly file: DocumentFile,
    path: string,
    from: KnownLine,
  ) {
    this.start = from.text
    this.documents = documentsOf(path, from)
  }

  get end(): number {
    return this.start + this.held.length
  }

  /** Whether it can give the text from there without much that is read in vain. */
  reaches(position: number): boolean {
    return position >= this.start && position <= this.end + knownEvery
  }

  /** @returns whether there was enough text */
  async read(position: number, target: Uint8Array): Promise<boolean> {
    const parts: Uint8Array[] = [this.held]
    let end = this.end
    while (end < position + target.length) {
      const next = await this.documents.next()
      if (next.done) return false
      parts.push(next.value.bytes)
      end += next.value.bytes.length
      // A reader that has far to go need not hold what is before.
      if (end < position - keptBehind) {
        parts.length = 0
        this.start = end
      }
    }
    const all = parts.length === 1 ? parts[0]! : Buffer.concat(parts)
    target.set(all.subarray(position - this.start, position - this.start + target.length))
    this.held = all
    const drop = position + target.length - keptBehind - this.start
    if (drop > keptBehind) {
      // A copy, so that what is before can be freed.
      this.held = new Uint8Array(all.subarray(drop))
      this.start += drop
    }
    return true
  }

  async close(): Promise<void> {
    await this.documents.return(undefined)
  }
}

/** The readers of all files of a text: the one unused for longest goes where there would be too many. */
export class Readers {
  private readonly list: Reader[] = []

  /** @param most one per stream is needed */
  constructor(private readonly most = 256) {}

  /** Takes the reader of the file that is nearest before a position, if there is one near enough. */
  take(file: DocumentFile, position: number): Reader | undefined {
    let best: Reader | undefined
    for (const reader of this.list)
      if (reader.file === file && reader.reaches(position) && !(best && best.end > reader.end)) best = reader
    if (best) this.list.splice(this.list.indexOf(best), 1)
    return best
  }

  async put(reader: Reader): Promise<void> {
    this.list.push(reader)
    if (this.list.length > this.most) await this.list.shift()!.close()
  }
}

/** One file of documents as text. */
export class DocumentFile {
  private constructor(
    readonly path: string,
    /** Bytes of its text. */
    readonly length: number,
    private readonly known: readonly KnownLine[],
    private readonly readers: Readers,
  ) {}

  /** Reads the whole file once. @throws DataError naming the line that is no document */
  static async open(path: string, readers: Readers): Promise<DocumentFile> {
    const known: KnownLine[] = [{ lines: 0, line: 0, text: 0 }]
    let length = 0
    for await (const { bytes, lines, line } of documentsOf(path, known[0]!)) {
      if (!isPacked(path) && length - known.at(-1)!.text >= knownEvery)
        known.push({ lines, line, text: length })
      length += bytes.length
    }
    return new DocumentFile(path, length, known, readers)
  }

  /** Fills the target with the text from a position on. */
  async read(position: number, target: Uint8Array): Promise<void> {
    const reader =
      this.readers.take(this, position) ??
      new Reader(this, this.path, this.known.findLast(({ text }) => text <= position)!)
    let whole = false
    try {
      whole = await reader.read(position, target)
    } finally {
      if (whole) await this.readers.put(reader)
      else await reader.close()
    }
    if (!whole)
      throw new DataError(
        `${this.path} became shorter while it was read: leave the text unchanged during a run`,
        { path: this.path },
      )
  }
}
