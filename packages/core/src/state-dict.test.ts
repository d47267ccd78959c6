/** Names and layouts of the originals, both ways, on the authors' own weights. */
import { readFile } from 'node:fs/promises'
import { useBackend } from '@lethe/backends'
import { beforeAll, expect, test } from 'vitest'
import { optionsOf } from '../../../tools/golden/config.mjs'
import { resolveConfig } from './config'
import { Decoder } from './decoder'
import { decodeSafetensors } from './safetensors'
import { fromStateDict, type StateDictFamily, toStateDict } from './state-dict'

beforeAll(() => useBackend('cpu'))

test.each(['xl-fixed-span', 'transformer-xl', 'persistent-memory'])(
  '%s: weights come back bit for bit',
  async (name) => {
    const path = new URL(`../../../test/golden/${name}.safetensors`, import.meta.url)
    const { tensors, metadata } = decodeSafetensors(await readFile(path), name)
    const theirs = new Map(
      [...tensors].filter(([key]) => key.startsWith('param/')).map(([key, value]) => [key.slice(6), value]),
    )
    const { stateDict, decoder: options } = optionsOf(metadata)
    const family = stateDict as StateDictFamily
    const decoder = new Decoder(options)
    const ours = fromStateDict(family, decoder.config, theirs)
    expect([...ours.keys()].sort()).toEqual([...decoder.parameters.keys()].sort())
    decoder.importParameters(ours)
    const back = toStateDict(family, decoder.config, await decoder.exportParameters())
    expect(new Map([...back].sort())).toEqual(new Map([...theirs].sort()))
    decoder.dispose()
  },
)

test('a missing weight and an unknown family are refused', () => {
  const options = optionsOf({
    family: 'seq',
    config: JSON.stringify({
      ...{
        hid_sz: 8,
        inner_hid_sz: 8,
        nlayers: 1,
        nheads: 2,
        head_dim: 4,
        vocab_sz: 5,
        attn_lim: 3,
        pre_norm: true,
      },
    }),
  }).decoder
  const config = resolveConfig(options)
  expect(() => fromStateDict('transformer-sequential', config, new Map())).toThrow(
    /lacks "in_emb.weight" \(embedding.weight\)/,
  )
  expect(() => fromStateDict('gpt' as never, config, new Map())).toThrow(/unknown family "gpt"; known are/)
})
