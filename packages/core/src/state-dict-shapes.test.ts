/** State-dicts without files: every family and choice comes back, and each layout is what its name says. */
import { describe, expect, test } from 'vitest'
import { type DecoderConfig, resolveConfig } from './config'
import { ShapeError } from './errors'
import { fixedSpan } from './fixed-span'
import { parameterSpecs } from './parameters'
import { Random } from './random'
import type { HostTensor } from './safetensors'
import { fromStateDict, type StateDictFamily, toStateDict } from './state-dict'

const base: DecoderConfig = {
  vocabulary: 7,
  layers: 2,
  width: 6,
  heads: 2,
  headSize: 4, // heads · headSize differs from width
  feedForward: 5,
  activation: 'relu',
  norm: 'layer',
  normPosition: 'post',
  feedForwardBias: true,
  outputBias: true,
  method: fixedSpan({ span: 3 }),
}
const fair: Partial<DecoderConfig> = { positions: 'learned', attendSelf: false, initialMemory: 'zeros' }

/** Distinct numbers for every parameter of a configuration. */
function parametersOf(config: ReturnType<typeof resolveConfig>): Map<string, HostTensor> {
  const random = new Random(4)
  return new Map(
    [...parameterSpecs(config)].map(([name, { shape }]) => {
      const data = random.normals(shape.reduce((a, b) => a * b, 1))
      return [name, { dtype: 'float32', shape, data }]
    }),
  )
}

const families: [string, StateDictFamily, Partial<DecoderConfig>][] = [
  ['transformer-sequential', 'transformer-sequential', fair],
  ['transformer-sequential, norms first', 'transformer-sequential', { ...fair, normPosition: 'pre' }],
  ['transformer-sequential, tied output', 'transformer-sequential', { ...fair, tiedOutput: true }],
  ['adaptive-span', 'adaptive-span', fair],
  ['adaptive-span, all-attention', 'adaptive-span', { ...fair, persistentSlots: 3, feedForward: 0 }],
  ['transformer-xl', 'transformer-xl', { positions: 'sinusoidal' }],
  ['transformer-xl, tied output', 'transformer-xl', { positions: 'sinusoidal', tiedOutput: true }],
]

test.each(families)('%s: there and back', (_, family, choices) => {
  const config = resolveConfig({ ...base, ...choices })
  const ours = parametersOf(config)
  const theirs = toStateDict(family, config, ours)
  const back = fromStateDict(family, config, theirs)
  expect(new Map([...back].sort())).toEqual(new Map([...ours].sort()))
  expect(toStateDict(family, config, back)).toEqual(theirs)
})

describe('layouts', () => {
  const at = ({ shape, data }: HostTensor, ...index: number[]) =>
    data[index.reduce((offset, place, axis) => offset * shape[axis]! + place, 0)]
  const config = resolveConfig({ ...base, ...fair, persistentSlots: 3 })
  const ours = parametersOf(config)
  const theirs = toStateDict('transformer-sequential', config, ours)

  test('linear weights are (out, in) there', () => {
    const [here, there] = [
      ours.get('layers.1.attention.query')!,
      theirs.get('layers.1.attn.proj_query.weight')!,
    ]
    expect([here.shape, there.shape]).toEqual([
      [6, 8],
      [8, 6],
    ])
    expect(at(there, 7, 2)).toBe(at(here, 2, 7))
  })

  test('distances run from far to near there, under the name of each layer', () => {
    const here = ours.get('positions.table')!
    const there = theirs.get('layers.0.attn.attn.key_pe')!
    expect([here.shape, there.shape]).toEqual([
      [3, 4],
      [1, 4, 3],
    ])
    expect(at(there, 0, 1, 2)).toBe(at(here, 0, 1)) // the last column is distance 1
    expect(at(there, 0, 3, 0)).toBe(at(here, 2, 3))
    expect(theirs.get('layers.1.attn.attn.key_pe')).toEqual(there)
  })

  test('persistent values swap slots and features, keys do not', () => {
    const prefix = 'layers.0.attn.attn.persistent_memory'
    const here = ours.get('layers.0.attention.persistent.values')!
    expect([here.shape, theirs.get(`${prefix}.val`)!.shape]).toEqual([
      [2, 4, 3],
      [2, 3, 4],
    ])
    expect(at(theirs.get(`${prefix}.val`)!, 1, 2, 3)).toBe(at(here, 1, 3, 2))
    expect(theirs.get(`${prefix}.key`)).toEqual(ours.get('layers.0.attention.persistent.keys'))
  })

  test('query, key and value are stacked in that order in transformer-xl', () => {
    const config = resolveConfig({ ...base, positions: 'sinusoidal' })
    const ours = parametersOf(config)
    const stacked = toStateDict('transformer-xl', config, ours).get('layers.0.dec_attn.qkv_net.weight')!
    expect(stacked.shape).toEqual([24, 6])
    for (const [part, name] of ['query', 'key', 'value'].entries())
      expect(at(stacked, part * 8 + 5, 1)).toBe(at(ours.get(`layers.0.attention.${name}`)!, 1, 5))
  })

  test('stacked weights of another size are refused, not filled with NaN', () => {
    const config = resolveConfig({ ...base, positions: 'sinusoidal' })
    const theirs = toStateDict('transformer-xl', config, parametersOf(config))
    const name = 'layers.1.dec_attn.qkv_net.weight'
    const shorter = { dtype: 'float32', shape: [16, 6], data: new Float32Array(96) } as const
    expect(() => fromStateDict('transformer-xl', config, new Map([...theirs, [name, shorter]]))).toThrow(
      ShapeError,
    )
  })

  test('gradients: what is missing is left out on both ways', () => {
    const some = new Map([...ours].filter(([name]) => name.includes('attention.query')))
    const there = toStateDict('adaptive-span', config, some)
    expect([...there.keys()]).toEqual(['layers.0.attn.proj_query.weight', 'layers.1.attn.proj_query.weight'])
    expect(fromStateDict('adaptive-span', config, there, { partial: true })).toEqual(some)
    expect(() => fromStateDict('adaptive-span', config, there)).toThrow(ShapeError)
  })
})
