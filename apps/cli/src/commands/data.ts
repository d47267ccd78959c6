/** lethe data: gets data sets that are known by name, and says which are there. */
import { resolve } from 'node:path'
import type { CommandLine } from '../command-line'
import { preparedSet, prepareSet } from '../datasets/prepare'
import { dataFolder, dataSets, isDataSet, type Part } from '../datasets/sets'
import { UsageError } from '../errors'
import { bytes, program, StatusLine } from '../output'
import { suggestion } from '../suggestion'

export async function dataCommand({ given, positionals }: CommandLine): Promise<number> {
  const cache = resolve(given.folder ?? dataFolder())
  const [name, ...rest] = positionals
  if (rest.length > 0) throw new UsageError('lethe data gets one set at a time: lethe data NAME')
  if (name === undefined) {
    const stray = (['from', 'only'] as const).find((option) => given[option] !== undefined)
    if (stray) throw new UsageError(`--${stray} needs the name of a set: lethe data NAME --${stray} …`)
    return listSets(cache, given.json ?? false)
  }
  if (!isDataSet(name))
    throw new UsageError(
      `there is no data set "${name}"; known are ${Object.keys(dataSets).join(', ')}${suggestion(name, Object.keys(dataSets), '')}`,
    )
  const set = dataSets[name]!
  if (given.only && set.kind !== 'bucket')
    throw new UsageError(`${name} comes in one piece: leave out --only`)
  const status = new StatusLine(process.stderr)
  const wanted = given.only as readonly Part[] | undefined
  const prepared = await prepareSet({
    ...{ name, set, cache, from: given.from, parts: wanted },
    onProgress: (text) => {
      if (!given.json) status.update(() => text)
    },
  }).finally(() => status.print())
  if (given.json) console.log(JSON.stringify({ name, ...prepared }))
  else {
    const how = prepared.before ? 'was there already' : `checked: ${prepared.checked}`
    console.log(`${name} (${prepared.parts.join(', ')}) is in ${prepared.folder}; ${how}`)
    const elsewhere = resolve(dataFolder()) === cache ? '' : `LETHE_DATA=${cache} `
    console.log(`train on it: ${elsewhere}${program()} train --data ${name} --out runs/${name}`)
  }
  return 0
}

async function listSets(cache: string, json: boolean): Promise<number> {
  const sets = await Promise.all(
    Object.entries(dataSets).map(async ([name, { about, bytes, split, licence }]) => {
      const there = await preparedSet(name, cache)
      return { name, about, bytes, split, licence, folder: there?.folder ?? null, parts: there?.parts ?? [] }
    }),
  )
  if (json) {
    console.log(JSON.stringify({ cache, sets }))
    return 0
  }
  const width = Math.max(...sets.map(({ name }) => name.length))
  for (const { name, about, bytes: size, split, licence, folder, parts } of sets) {
    console.log(`${name.padEnd(width)}  ${about}`)
    console.log(`${' '.repeat(width)}  ${bytes(size)} of text; ${split}; ${licence}`)
    const where = folder ? `${folder} (${parts.join(', ')})` : `not there: ${program()} data ${name}`
    console.log(`${' '.repeat(width)}  ${where}`)
  }
  console.log(`\nkept in ${cache} (LETHE_DATA); a file or folder of your own works the same: --data PATH`)
  return 0
}
