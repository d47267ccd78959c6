/** Tiny decoders learn in seconds what needs little memory, and not without it. All tasks: tools/tasks-learn.mjs. */
import { useBackend } from '@lethe/backends'
import { Decoder, fixedSpan, presets, registerGradients } from '@lethe/core'
import {
  type Checkpoint,
  type EvalEvent,
  type Evaluation,
  evaluate,
  type TrainEvent,
  type TrainOptions,
  train,
} from '@lethe/trainer'
import { dispose, tensor2d } from '@tensorflow/tfjs-core'
import { beforeAll, expect, test } from 'vitest'
import { actorCriticSource, agentVocabulary, corridor, evaluatePolicy, needle, taskSource } from './index'

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
  const sizes = { steps: 150, batch: 8, block: 32, learningRate: 5e-3, warmup: 0, clip: 1 }
  const validation = taskSource(task, { seed: 1 })
  let last: TrainEvent | undefined
  for await (const event of train({ decoder, train: taskSource(task), validation, ...sizes }))
    if (event.type === 'eval') last = event
  const { accuracy, chance, tokens, bitsPerByte } = last as EvalEvent<Evaluation>
  expect([chance, bitsPerByte]).toEqual([1 / 4, undefined])
  expect(tokens).toBeGreaterThan(500)
  expect(accuracy).toBeGreaterThan(least)
  expect(accuracy).toBeLessThanOrEqual(most)
  decoder.dispose()
})

test('a run on a task goes on exactly from a checkpoint that went through JSON', async () => {
  const task = needle({ haystack: [2, 6], alphabet: 4 })
  const saved: Checkpoint[] = []
  const checkpoints = { save: async (checkpoint: Checkpoint) => `checkpoint ${saved.push(checkpoint)}` }
  const run = async (more: Partial<TrainOptions>) => {
    const decoder = decoderOf(task.vocabulary, 16)
    const losses: number[] = []
    const options = { decoder, train: taskSource(task, { seed: 3 }), steps: 6, batch: 2, block: 8, ...more }
    for await (const event of train(options)) if (event.type === 'step') losses.push(event.loss)
    decoder.dispose()
    return losses
  }
  const whole = await run({ checkpoints, checkpointEvery: 3 })
  const resume: Checkpoint = { ...saved[0]!, state: JSON.parse(JSON.stringify(saved[0]!.state)) }
  expect(resume.step).toBe(3)
  expect(await run({ resume })).toEqual(whole.slice(3))
  const other = run({ resume, train: taskSource(task, { seed: 4 }) })
  await expect(other).rejects.toThrow(/the data "needle .*, seed 3", not "needle .*, seed 4"/)
})

test('accuracy is that of the answers, whatever the blocks; too few tokens to ask anything are refused', async () => {
  const task = needle({ haystack: [2, 6], alphabet: 4 })
  const decoder = decoderOf(task.vocabulary, 64)
  const source = taskSource(task, { tokens: 50 })
  // By hand, on the logits of each whole stream.
  let [right, answers] = [0, 0]
  for (const row of [0, 1]) {
    const stream = task.stream(0, row)
    const steps = Array.from({ length: 50 }, () => stream.next())
    const inputs = tensor2d([steps.map(({ input }) => input)], undefined, 'int32')
    const { logits, memory, penalty } = decoder.forward(inputs, decoder.initialMemory(1))
    const [rows] = (await logits.array()) as number[][][]
    for (const [at, { target, scored }] of steps.entries()) {
      if (!scored) continue
      answers++
      if (rows![at]!.indexOf(Math.max(...rows![at]!)) === target) right++
    }
    memory.dispose()
    dispose([inputs, logits, penalty])
  }
  for (const block of [7, 50]) {
    const { accuracy, tokens } = await evaluate({ decoder, source, batch: 2, block })
    expect([tokens, accuracy]).toEqual([answers, right / answers])
  }
  expect(answers).toBeGreaterThan(5)
  const short = taskSource(needle({ haystack: 100 }), { tokens: 50 })
  expect(() => short.evaluation({ batch: 2, block: 8 })).toThrow(/asks for nothing in the first 50 tokens/)
  decoder.dispose()
})

test('corridor', async () => {
  const task = corridor({ length: [3, 5], limit: 30 })
  const decoder = decoderOf(agentVocabulary(task), 32)
  const source = actorCriticSource(task, { discount: 0.95, entropyCost: 0.02 })
  const sizes = { steps: 100, batch: 16, block: 12, learningRate: 3e-3, warmup: 0, clip: 1 }
  for await (const event of train({ decoder, train: source, ...sizes }))
    if (event.type === 'step') expect(event.episodes).toBeGreaterThanOrEqual(0)
  const { solved, meanReturn, meanSteps } = await evaluatePolicy({ task, decoder, seed: 1, greedy: false })
  expect(solved).toBeGreaterThan(0.9)
  expect(meanReturn).toBe(solved)
  expect(meanSteps).toBeLessThan(10)
  decoder.dispose()
})
