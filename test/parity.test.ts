/** That `pnpm parity` sees what is wrong: a kernel that computes falsely, a leak, a crash; and how machines come together. */
import { readFile } from 'node:fs/promises'
import { useBackend } from '@lethe/backends'
import { getKernel, registerKernel, type TensorInfo, unregisterKernel } from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { Cell, faults, mergeCells } from '../tools/parity/cells.mjs'
import { documentWith } from '../tools/parity/document.mjs'
import { inNode } from '../tools/parity/hosts.mjs'
import { measure } from '../tools/parity/measure.mjs'

const place = { machine: 'this one', date: '2026-01-31', load: 0 }
const row = { id: 'cpu', host: 'node', runtime: 'Node 20', title: 'cpu', backend: 'cpu' }
const request = {
  ...{ backend: 'cpu', options: {}, parts: ['golden', 'training'], steps: 3 },
  ...{ golden: ['xl-fixed-span', 'compressive-conv', 'selective'], methods: ['fixed-span'] },
}
const read = (name: string) => readFile(new URL(`golden/${name}.safetensors`, import.meta.url))

// biome-ignore lint/suspicious/noExplicitAny: events and cells are plain data of tools without types
type Data = any

async function cellOf(reference: Record<string, number[]>, asked: object = {}): Promise<Data> {
  const cell = new Cell(row, place, reference)
  for await (const event of measure({ ...request, ...asked }, read)) cell.take(event)
  return { ...cell.result, seconds: 1 }
}

const documents =
  'By hand.\n<!-- pnpm parity writes what follows, to its end mark -->\nfigures of before\n<!-- the end of what pnpm parity wrote -->\nBy hand, too.\n'

describe('a row', () => {
  const reference: Record<string, number[]> = {}
  beforeAll(async () => {
    for await (const event of measure({ ...request, parts: ['training'] }, read) as AsyncIterable<Data>)
      if (event.type === 'training') reference[event.method] = event.losses
  })

  const own = { current: undefined as Data }
  afterEach(() => {
    if (!own.current) return
    unregisterKernel('BatchMatMul', 'cpu')
    registerKernel(own.current)
    own.current = undefined
  })

  test('is right where everything agrees', async () => {
    expect(reference['fixed-span']).toHaveLength(3)
    const cell = await cellOf(reference)
    expect(faults(cell)).toEqual([])
    // Of the files asked for, one is never replayed and one is another method's.
    expect(Object.keys(cell.parts.golden.cases)).toEqual(['xl-fixed-span'])
    expect(documentWith(documents, [cell])).toMatch(/^\| cpu .*✅ \| 1 of 1 \|/m)
  })

  test('is red where a kernel computes falsely', async () => {
    await useBackend('cpu')
    own.current = getKernel('BatchMatMul', 'cpu')
    unregisterKernel('BatchMatMul', 'cpu')
    registerKernel({
      ...own.current,
      kernelFunc(given: Data) {
        const product = own.current.kernelFunc(given) as TensorInfo
        const { values } = given.backend.data.get(product.dataId)
        for (let i = 0; i < values.length; i++) values[i] *= 1.005
        return product
      },
    })
    const cell = await cellOf(reference)
    expect(faults(cell)).toEqual([
      expect.stringMatching(/^golden xl-fixed-span deviates by/),
      expect.stringMatching(/^training of fixed-span deviates by/),
    ])
    const text = documentWith(documents, [cell])
    expect(text).toMatch(/^\| cpu .*🟥 wrong \| 0 of 1 \|/m)
    expect(text).toContain('- **cpu (Node 20)**: wrong. golden xl-fixed-span deviates by')
    expect(text.startsWith('By hand.\n')).toBe(true)
    expect(text.endsWith('\nBy hand, too.\n')).toBe(true)
    expect(text).not.toContain('figures of before')
  })

  test('measures nothing on another device than was meant', async () => {
    const cell = new Cell({ ...row, expect: /on a GPU/, otherwise: 'no GPU', remedy: 'Buy one.' }, place, {})
    for await (const event of measure({ ...request, expect: 'on a GPU' }, read)) cell.take(event)
    expect(cell.result).toMatchObject({
      status: 'absent',
      problem: 'no GPU (what started is: JavaScript). Buy one.',
      parts: {},
    })
  })
})

describe('what counts as a fault', () => {
  const events = {
    started: { type: 'started', device: 'a device', software: false },
    golden: { type: 'golden', case: 'one', maxAbsError: { logprobs: 1e-6, grad: 1e-5 } },
    law: { type: 'law', kit: 'attention', name: 'a law' },
    training: {
      ...{ type: 'training', method: 'selective', ms: 1, losses: [2, 1] },
      tensors: { middle: 10, end: 10, left: 0 },
    },
    speed: { type: 'speed', ms: 1, steps: 1 },
  }
  const right: Data[] = [
    events.started,
    ...(['golden', 'law', 'training', 'speed'] as const).flatMap((name) => [
      events[name],
      {
        ...{ type: 'part', name: name === 'law' ? 'laws' : name, seconds: 1 },
        attention: { own: true, calls: 5 },
      },
    ]),
  ]
  const faultsOf = (changes: Record<string, object>, fields: object = {}) => {
    const cell = new Cell({ ...row, backend: 'wasm', kernels: true, ...fields }, place, { selective: [2, 1] })
    for (const event of right)
      cell.take({ ...event, ...changes[event.type === 'part' ? `part ${event.name}` : event.type] })
    return faults(cell.result)
  }

  test('nothing, where all is right', () => expect(faultsOf({})).toEqual([]))

  test.each<[string, Record<string, object>, RegExp]>([
    [
      'a gradient off by more than 1e-4',
      { golden: { maxAbsError: { grad: 1.1e-4 } } },
      /^golden one deviates by 1.1e-4/,
    ],
    // JSON has no infinity and no NaN.
    [
      'a value that is no number',
      { golden: { maxAbsError: { logprobs: 1e-6, memory: null, grad: 1e-6 } } },
      /^golden one deviates by no number/,
    ],
    ['a golden case that throws', { golden: { error: 'no memory' } }, /^golden one: no memory/],
    ['a broken law', { law: { error: 'differs by 1' } }, /^law of attention, “a law”: differs by 1/],
    ['another loss', { training: { losses: [2, 1.001] } }, /^training of selective deviates by 1.0e-3/],
    [
      'a loss that is no number',
      { training: { losses: [null, 1] } },
      /^training of selective deviates by no number/,
    ],
    [
      'a training that ends early',
      { training: { losses: [2] } },
      /^training of selective deviates by no number/,
    ],
    ['tensors left over', { training: { tensors: { middle: 9, end: 9, left: 1 } } }, /leaks: .* 1 left over/],
    [
      'tensors that add up',
      { training: { tensors: { middle: 9, end: 10, left: 0 } } },
      /leaks: 9 .* 10 at the end/,
    ],
    ['a step that throws', { speed: { error: 'device lost' } }, /^speed: device lost/],
    [
      'kernels that are not used',
      { 'part training': { attention: { own: true, calls: 0 } } },
      /not computed by our kernel/,
    ],
  ])('%s', (_, changes, expected) => {
    expect(faultsOf(changes)).toEqual([expect.stringMatching(expected)])
  })

  test('kernels that are used though they were to be left out', () => {
    expect(faultsOf({}, { kernels: false })).toEqual(['our kernel computed all the same'])
  })

  test('a process that ends half-way', () => {
    const cell = new Cell({ ...row, backend: 'wasm', kernels: true }, place, {})
    for (const event of right.slice(0, 4)) cell.take(event)
    cell.fail('its process ended with SIGSEGV')
    expect(faults(cell.result)).toEqual(['its process ended with SIGSEGV', 'laws was not done'])
  })

  test('absence is none, an unknown failure is one', () => {
    const refused = (reason: string) => {
      const cell = new Cell(row, place, {})
      cell.take({ type: 'refused', reason, message: `${reason}!` })
      return cell.result
    }
    expect(refused('no-adapter').status).toBe('absent')
    expect(faults(refused('no-adapter'))).toEqual([])
    expect(faults(refused('failed'))).toEqual(['failed!'])
  })
})

test('cells of several machines: parts are replaced, absence gives way', () => {
  const cell = (machine: string, status: string, parts: object = {}, date = '2026-01-01') => ({
    ...{ machine, runtime: 'Node 20', id: 'webgpu', status, parts, date },
  })
  const known = [cell('a', 'absent'), cell('b', 'ran', { golden: { n: 1 }, speed: { n: 1 } })]
  // Measured on b: the absence on a, and a later one on b, say nothing.
  expect(mergeCells(known, [cell('b', 'absent')])).toEqual([known[1]])
  const newer = cell('b', 'ran', { speed: { n: 2 } }, '2026-02-02')
  expect(mergeCells(known, [newer])).toEqual([{ ...newer, parts: { golden: { n: 1 }, speed: { n: 2 } } }])
  // What was measured stands beside, machine by machine.
  expect(mergeCells(known, [cell('c', 'broken')]).map(({ machine }: Data) => machine)).toEqual(['b', 'c'])
  expect(mergeCells([], [cell('a', 'absent'), cell('c', 'absent')])).toHaveLength(1)
})

test('a process of its own says its version, and is ended when its time is over', async () => {
  const events: Data[] = []
  const options = { onEvent: (event: Data) => events.push(event), minutes: 1 }
  await inNode(process.execPath, row, { ...request, backend: 'abacus' }, options)
  expect(events).toEqual([
    { type: 'version', version: `Node ${process.versions.node}` },
    { type: 'refused', reason: 'unknown-backend', message: expect.stringContaining("'abacus'") },
  ])
  const short = { ...options, minutes: 1e-3 }
  await expect(inNode(process.execPath, row, request, short)).rejects.toThrow('not done after')
})

test('docs/backends.md is what its figures give', async () => {
  const [text, { cells }] = await Promise.all([
    readFile(new URL('../docs/backends.md', import.meta.url), 'utf8'),
    readFile(new URL('../docs/results/backends.json', import.meta.url), 'utf8').then(JSON.parse),
  ])
  expect(documentWith(text, cells)).toBe(text)
})
