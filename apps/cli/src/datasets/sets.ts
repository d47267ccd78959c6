/**
 * The data sets that are known by name: where they are, how they are checked, and the parts that papers report on.
 * Each becomes a folder with train, validation and test (files or folders), which is read like any folder with parts.
 */
import { homedir } from 'node:os'
import { join } from 'node:path'

export interface Checksum {
  readonly algorithm: 'md5' | 'sha1' | 'sha256'
  /** Hexadecimal. */
  readonly digest: string
}

export type Part = 'train' | 'validation' | 'test'
export const parts: readonly Part[] = ['train', 'validation', 'test']

interface Described {
  readonly about: string
  /** Bytes of text. */
  readonly bytes: number
  /** How the parts are cut. */
  readonly split: string
  readonly licence: string
}

/** One zip archive. */
export interface ArchiveSet extends Described {
  readonly kind: 'archive'
  readonly url: string
  readonly archiveBytes: number
  readonly checksum: Checksum
  /** The files in the archive that are wanted, by part; or one that is cut into parts of so many bytes. */
  readonly members:
    | Readonly<Record<Part, string>>
    | { readonly name: string; readonly checksum: Checksum; readonly cut: Readonly<Record<Part, number>> }
}

/** A bucket of Google Cloud Storage with a folder of books for each part; its listing has the checksums. */
export interface BucketSet extends Described {
  readonly kind: 'bucket'
  /** Lists objects by prefix. */
  readonly listing: string
  /** An object's name is put behind it. */
  readonly objects: string
  readonly files: Readonly<Record<Part, number>>
}

export type DataSet = ArchiveSet | BucketSet

const hutter = { train: 90_000_000, validation: 5_000_000, test: 5_000_000 }

export const dataSets: Readonly<Record<string, DataSet>> = {
  // Checksums of the contents: mattmahoney.net/dc/textdata.html (as MD5 and SHA-1); SHA-256 as many projects pin them.
  enwik8: {
    kind: 'archive',
    about: 'the first 100 MB of English Wikipedia of 2006, with its markup',
    bytes: 100_000_000,
    split: '90/5/5 million bytes',
    licence: 'CC BY-SA 3.0, GFDL',
    url: 'https://mattmahoney.net/dc/enwik8.zip',
    archiveBytes: 36_445_475,
    checksum: {
      algorithm: 'sha256',
      digest: '547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc',
    },
    members: {
      name: 'enwik8',
      checksum: {
        algorithm: 'sha256',
        digest: '2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8',
      },
      cut: hutter,
    },
  },
  text8: {
    kind: 'archive',
    about: 'the same as words of a-z alone, numbers spelt out',
    bytes: 100_000_000,
    split: '90/5/5 million bytes',
    licence: 'CC BY-SA 3.0, GFDL',
    url: 'https://mattmahoney.net/dc/text8.zip',
    archiveBytes: 31_344_016,
    checksum: {
      algorithm: 'sha256',
      digest: 'a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232',
    },
    members: {
      name: 'text8',
      checksum: { algorithm: 'md5', digest: '3bea1919949baf155f99411df5fada7e' },
      cut: hutter,
    },
  },
  // MD5 as torchtext has it, SHA-1 as GluonNLP has it.
  'wikitext-103': {
    kind: 'archive',
    about: 'good and featured articles of Wikipedia, as words; rare ones are <unk>',
    bytes: 541_000_000,
    split: 'as distributed',
    licence: 'CC BY-SA 3.0',
    url: 'https://wikitext.smerity.com/wikitext-103-v1.zip',
    archiveBytes: 190_229_076,
    checksum: { algorithm: 'md5', digest: '9ddaacaf6af0710eda8c456decff7832' },
    members: {
      train: 'wikitext-103/wiki.train.tokens',
      validation: 'wikitext-103/wiki.valid.tokens',
      test: 'wikitext-103/wiki.test.tokens',
    },
  },
  'wikitext-103-raw': {
    kind: 'archive',
    about: 'the same with every word, for bytes, characters and BPE',
    bytes: 546_000_000,
    split: 'as distributed',
    licence: 'CC BY-SA 3.0',
    url: 'https://wikitext.smerity.com/wikitext-103-raw-v1.zip',
    archiveBytes: 191_984_949,
    checksum: { algorithm: 'sha1', digest: '86f2375181b9247049d9c9205fad2b71b274b568' },
    members: {
      train: 'wikitext-103-raw/wiki.train.raw',
      validation: 'wikitext-103-raw/wiki.valid.raw',
      test: 'wikitext-103-raw/wiki.test.raw',
    },
  },
  // Numbers of books: Rae et al. 2020, Table 2.
  pg19: {
    kind: 'bucket',
    about: 'books of Project Gutenberg from before 1919, whole',
    bytes: 11_700_000_000,
    split: '28,602/50/100 books',
    licence: 'Apache 2.0; the books are in the public domain in the USA',
    listing: 'https://storage.googleapis.com/storage/v1/b/deepmind-gutenberg/o',
    objects: 'https://storage.googleapis.com/deepmind-gutenberg/',
    files: { train: 28_602, validation: 50, test: 100 },
  },
}

export const isDataSet = (name: string): boolean => Object.hasOwn(dataSets, name)

/** Where data sets are kept: LETHE_DATA, or `lethe/data` in the user's folder for what can be had again. */
export function dataFolder(): string {
  const { LETHE_DATA, LOCALAPPDATA, XDG_CACHE_HOME } = process.env
  if (LETHE_DATA) return LETHE_DATA
  const caches = {
    win32: LOCALAPPDATA || join(homedir(), 'AppData', 'Local'),
    darwin: join(homedir(), 'Library', 'Caches'),
  }[process.platform as string]
  return join(caches ?? (XDG_CACHE_HOME || join(homedir(), '.cache')), 'lethe', 'data')
}
