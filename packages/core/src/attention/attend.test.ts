/** Attention in plain operations and the seam of fused kernels, by the laws of testing/attention-laws.ts. */
import { useBackend } from '@lethe/backends'
import { memory, scalar, tidy } from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { registerGradients } from '../gradients'
import { scope } from '../ops/scope'
import { attentionCases, attentionLaws, compareAttention, compareGradients } from '../testing/attention-laws'
import { attentionCase, attentionOracle, largestDifference, requestOf, toTensor } from '../testing/oracle'
import {
  type AttentionKernel,
  attend,
  attendBy,
  attendByContent,
  attendPlain,
  setAttentionKernel,
} from './attend'
import { plainAttention } from './backward'
import { type AttentionRequest, takeApart } from './request'

describe.each(['cpu', 'wasm'] as const)('attention on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend)
    registerGradients()
  })

  test.each(attentionLaws({ compute: attendPlain }))('$name', ({ check }) => check())

  describe.each([
    ['with the weights kept', {}],
    ['weighing again', { kept: 0 }],
    ['row by row', { atOnce: 1 }],
    ['row by row, weighing again', { atOnce: 1, kept: 0 }],
  ])('the gradient by hand, %s', (_, options) => {
    const kernel = plainAttention(options)
    test.each(attentionLaws({ compute: (request) => attendBy(kernel, request) }))('$name', ({ check }) =>
      check(),
    )
  })

  test('the only head selects', async () => {
    const given = attentionCase({ ...attentionCases.selection!, heads: 1, size: 2 })
    const inputs = ['queries', 'keys', 'values', 'table', 'carried']
    await compareAttention(given, { compute: attendPlain })
    await compareGradients('selection by the only head', given, inputs, { compute: attend })
    await compareGradients('selection by the only head', given, inputs, { compute: attendPlain })
  })

  test('a head-span of the wrong size is refused', () => {
    const given = attentionCase({
      block: 2,
      heads: 2,
      groups: [{ slots: 4, distance: { first: 2 }, nearest: 0 }],
      terms: [{ kind: 'head-span', ramp: 1 }],
      span: [3],
    })
    expect(() => scope(() => attend(requestOf(given)))).toThrow('1 or 2 spans, not 3')
  })

  test('nothing is made that is not asked for', () => {
    const given = attentionCase(attentionCases.selection!)
    const before = memory().numTensors
    const result = scope(() => attendPlain({ ...requestOf(given), wants: {} }))
    expect(Object.keys(result)).toEqual(['context'])
    expect(memory().numTensors).toBe(before + 1)
    result.context.dispose()
  })

  test('attention by content alone sees every slot', async () => {
    const given = attentionCase({
      block: 3,
      groups: [{ slots: 5, distance: { first: 100 }, nearest: 0 }],
    })
    const { queries, keys, values } = given.inputs
    const context = tidy(() =>
      attendByContent(toTensor(queries!), toTensor(keys!), toTensor(values!), 1 / Math.sqrt(given.size)),
    )
    expect(largestDifference(await context.data(), attentionOracle(given).context)).toBeLessThan(1e-5)
    context.dispose()
  })

  describe('the seam of fused kernels', () => {
    afterEach(() => setAttentionKernel(backend, null))
    const given = attentionCase(attentionCases.persistent!)
    /** Computes as plain operations do, and counts. */
    const counting = (covers: boolean) => {
      const calls = { forward: 0, backward: 0 }
      const { forward, backward } = plainAttention()
      const kernel: AttentionKernel = {
        covers: () => covers,
        forward: (request) => {
          calls.forward++
          const result = forward(request)
          return { ...result, kept: [...result.kept!, scalar(7)] }
        },
        backward: (request, result, gradients) => {
          calls.backward++
          const own = [...result.kept!]
          expect(own.pop()!.dataSync()[0]).toBe(7)
          return backward(request, { ...result, kept: own }, gradients)
        },
      }
      return { kernel, calls }
    }

    test.each(attentionLaws({ compute: attend }))('$name', async ({ check }) => {
      const { kernel, calls } = counting(true)
      setAttentionKernel(backend, kernel)
      await check()
      expect(calls.forward).toBeGreaterThan(0)
    })

    test('what it does not cover goes to the plain operations', async () => {
      const { kernel, calls } = counting(false)
      setAttentionKernel(backend, kernel)
      await compareAttention(given, { compute: attend })
      expect(calls).toEqual({ forward: 0, backward: 0 })
    })

    test('whoever puts a kernel there gets the one before it', () => {
      const [first, second] = [counting(true).kernel, counting(true).kernel]
      expect(setAttentionKernel(backend, first)).toBe(null)
      expect(setAttentionKernel(backend, second)).toBe(first)
      expect(setAttentionKernel(backend, null)).toBe(second)
      expect(setAttentionKernel(backend, null)).toBe(null)
    })

    test("a kernel is taken away, and another backend's is not asked", async () => {
      const { kernel, calls } = counting(true)
      setAttentionKernel(backend, kernel)
      setAttentionKernel(backend, null)
      setAttentionKernel('another', kernel)
      await compareAttention(given, { compute: attend })
      setAttentionKernel('another', null)
      expect(calls.forward).toBe(0)
    })

    const takenApart = (request: AttentionRequest) => {
      const parts = takeApart(request)
      return attendPlain(parts.with({ ...parts.learning, ...parts.constant }))
    }
    test.each(attentionLaws({ compute: takenApart }))('taken apart and put together: $name', ({ check }) =>
      check(),
    )
  })
})
