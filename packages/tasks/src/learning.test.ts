/** Tiny decoders learn in seconds what needs little memory, and not without it. All tasks: tools/tasks-learn.mjs. */
import { useBackend } from '@lethe/backends'
import { Decoder, fixedSpan, presets, registerGradients } from '@lethe/core'
import { Optimizer } from '@lethe/trainer'
import { dispose, tensor2d } from '@tensorflow/tfjs-core'
import { beforeAll, expect, test } from 'vitest'
import {
  agentVocabulary,
  corridor,
  evaluatePolicy,
  evaluateTask,
  needle,
  TaskStreams,
  trainActorCritic,
} from './index'

beforeAll(async () => {
  await useBackend('wasm')
  registerGradients()
})

const decoderOf = (vocabulary: number, span: number) =>
  new Decoder({
    ...presets.modern.decoder,
    ...{ vocabulary, layers: 1, width: 32, heads: 2, feedForward: 64 },
    method: fixedSpan({ span }),
  })

test.each([
  { span: 16, least: 0.9, most: 1 },
  { span: 1, least: 0, most: 0.6 },
])('needle in a small haystack, with a span of $span', async ({ span, least, most }) => {
  const task = needle({ haystack: [2, 6], alphabet: 4 })
  const decoder = decoderOf(task.vocabulary, span)
  const optimizer = new Optimizer(decoder.parameters, { optimizer: 'adam', clip: 1 })
  const [batch, block] = [8, 32]
  const streams = new TaskStreams({ task, batch, block })
  let memory = decoder.initialMemory(batch)
  for (let step = 0; step < 150; step++) {
    const { inputs, targets, weights } = streams.next()
    const [x, y] = [inputs, targets].map((tokens) => tensor2d(tokens, [batch, block], 'int32'))
    const answers = tensor2d(weights, [batch, block])
    const result = decoder.gradients(x!, y!, memory, { weights: answers })
    memory = await decoder.compact(result.memory)
    const norm = optimizer.update(result.gradients, 5e-3)
    dispose([x!, y!, answers, norm, result.gradients, result.loss, result.penalty])
    await decoder.afterUpdate()
  }
  const { accuracy, answers } = await evaluateTask({ decoder, task, seed: 1 })
  expect(answers).toBeGreaterThan(500)
  expect(accuracy).toBeGreaterThan(least)
  expect(accuracy).toBeLessThanOrEqual(most)
  memory.dispose()
  optimizer.dispose()
  decoder.dispose()
})

test('corridor', async () => {
  const task = corridor({ length: [3, 5], limit: 30 })
  const decoder = decoderOf(agentVocabulary(task), 32)
  const optimizer = new Optimizer(decoder.parameters, { optimizer: 'adam', clip: 1 })
  const learning = { learningRate: 3e-3, updates: 100, batch: 16, rollout: 12, discount: 0.95 }
  const training = trainActorCritic({ task, decoder, optimizer, ...learning, entropyCost: 0.02 })
  for await (const event of training) expect(event.episodes).toBeGreaterThanOrEqual(event.solved)
  const { solved, meanReturn, meanSteps } = await evaluatePolicy({ task, decoder, seed: 1, greedy: false })
  expect(solved).toBeGreaterThan(0.9)
  expect(meanReturn).toBe(solved)
  expect(meanSteps).toBeLessThan(10)
  optimizer.dispose()
  decoder.dispose()
})
