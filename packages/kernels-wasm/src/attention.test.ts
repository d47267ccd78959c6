/** What JavaScript writes down for the kernels is laid out as they read it; the kernels themselves are tested in @lethe/backends. */
import { expect, test } from 'vitest'
import { type AttentionGroup, type AttentionRequest, structures, writeRequest } from './attention'
import { plain } from './generated/modules'

const group: AttentionGroup = {
  slots: 5,
  scattered: true,
  first: 0.5,
  pace: 2,
  nearest: 1,
  farthest: Number.POSITIVE_INFINITY,
  age: 1,
  ageIsFloat: true,
  valid: 2,
  exempt: 3,
  rows: 4,
  rowSets: 1,
  featureMajor: true,
  distances: 7,
  high: 9,
  oldest: 3,
  rowsGradient: 5,
}

test('every structure has as many fields as the module says', () => {
  const memory = new WebAssembly.Memory({ initial: 1 })
  const bytes = Uint8Array.from(Buffer.from(plain, 'base64'))
  const { requestBytes } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } })
    .exports as { requestBytes(part: number): number }
  expect(structures).toEqual(structures.map((_, part) => requestBytes(part)))
})

test('groups follow the request, each starting where the one before it ends', () => {
  const memory = new WebAssembly.Memory({ initial: 1 })
  const [request, groups] = structures as [number, number]
  const end = writeRequest(memory, 64, {
    heads: 3,
    scale: 0.25,
    groups: [group, group],
    ramps: [],
    biases: [],
  } as Partial<AttentionRequest> as AttentionRequest)
  const words = new Int32Array(memory.buffer)
  const reals = new Float32Array(memory.buffer)
  expect(words[64 / 4 + 1]).toBe(3)
  expect(reals[64 / 4 + 5]).toBe(0.25)
  const [first, second] = [(64 + request) / 4, (64 + request + groups) / 4]
  expect([words[first], words[second]]).toEqual([0, 5])
  expect([words[first + 2], reals[first + 3], reals[first + 6]]).toEqual([1, 0.5, Number.POSITIVE_INFINITY])
  expect(end).toBe(64 + request + 2 * groups)
})
