/** Sides that are small scripts: what is sent to them, in which order they work, and what happens when they fail. */
import { describe, expect, test } from 'vitest'
import { Side, takeTurns } from './turns'

/** A side written in JavaScript; `body` sees each message and answers with `say`. */
const script = (body: string) => [
  process.execPath,
  '--input-type=module',
  '--eval',
  `import { createInterface } from 'node:readline'
   const say = (reply) => console.log(JSON.stringify(reply))
   for await (const line of createInterface({ input: process.stdin })) { const message = JSON.parse(line); ${body} }`,
]

/** Takes steps of 5 ms by its own account, and tells at the end what it was sent. */
const obliging = script(`
  globalThis.seen ??= []
  seen.push(message)
  if (message.settings) { console.log('a line for people'); console.log('{not JSON'); say({ ready: 'a script', about: message.settings }) }
  if (message.take) say({ ms: Array(message.take).fill(5) })
  if (message.finish) { say({ figures: { memory_slots: seen.length } }); process.exit() }
`)

describe('a side', () => {
  test('gets settings, takes steps, gives figures', async () => {
    const side = await Side.start('script', obliging, { span: 16 })
    expect(side.ready).toEqual({ ready: 'a script', about: { span: 16 } })
    expect(await side.take(2)).toEqual([5, 5])
    expect(await side.take(1)).toEqual([5])
    expect(side.times).toEqual([5, 5, 5])
    // Settings, two turns, the end.
    expect(await side.finish()).toEqual({ memory_slots: 4 })
  })

  test('one that dies says why, with its command', async () => {
    const dying = script(`
      if (message.settings) say({ ready: '' })
      else { console.error('first\\nout of memory'); process.exit(3) }
    `)
    const side = await Side.start('script', dying)
    await expect(side.take(1)).rejects.toThrow(/script ended before it was done: out of memory \(.*--eval/)
  })

  test('one that cannot be started', async () => {
    await expect(Side.start('script', ['./no-such-program'])).rejects.toThrow(/script.*no-such-program/)
    await expect(Side.start('script', 'exit 1')).rejects.toThrow(/printed nothing/)
    await expect(Side.start('script', 'exec 1>&-; sleep 0.2; echo too late >&2')).rejects.toThrow(/too late/)
  })
})

test('sides take turns, of two steps where nothing else is said, each of them first as often', async () => {
  const log: string[] = []
  const side = (name: string, ms: number) => ({
    take: async (steps: number) => {
      log.push(`${name}${steps}`)
      return new Array<number>(steps).fill(ms)
    },
  })
  const rounds = await takeTurns(side('a', 3), side('b', 2), 5)
  expect(log).toEqual(['a2', 'b2', 'b2', 'a2', 'a1', 'b1'])
  expect(rounds).toEqual([
    { numerator: [3, 3], denominator: [2, 2] },
    { numerator: [3, 3], denominator: [2, 2] },
    { numerator: [3], denominator: [2] },
  ])
  log.length = 0
  await takeTurns(side('a', 3), side('b', 2), 5, 4)
  expect(log).toEqual(['a4', 'b4', 'b1', 'a1'])
})
