/** A GPU that is lost in the middle of a run: the built command line on Chromium's software Vulkan, its device destroyed. */
import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { temporaryFolder } from './temporary-folder'

const main = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const driver = '/usr/lib/chromium/vk_swiftshader_icd.json'
const folder = temporaryFolder('lost')

/** Destroys the device once, as soon as there is a certain file (of a run: its second checkpoint) and a device. */
const loss = `
import { existsSync } from 'node:fs'
const timer = setInterval(() => {
  const device = globalThis._tfengine?.backendInstance?.device
  if (device === undefined || !existsSync(process.env.LOSE_AFTER)) return
  clearInterval(timer)
  device.destroy()
}, 5)
timer.unref()
`

function train(out: string, ...more: string[]) {
  const sizes =
    '--layers 1 --width 16 --heads 2 --feed-forward 16 --span 16 --block 8 --batch 2 --valid-batch 2 --warmup 2 --eval-every 0'
  const args = [
    ...sizes.split(' '),
    '--steps',
    '16',
    '--checkpoint-every',
    '3',
    '--backend',
    'webgpu',
    '--keep',
    '9',
  ]
  const line = ['--data', join(folder, 'text.txt'), '--out', out, ...args, ...more]
  return lethe(join(folder, out, 'checkpoints/step-000006'), 'train', ...line)
}

/** @param loseAfter the file with which the device is lost */
function lethe(loseAfter: string, ...args: string[]) {
  const env = {
    ...process.env,
    NO_COLOR: '1',
    NODE_OPTIONS: `--import ${join(folder, 'lose.mjs')}`,
    LOSE_AFTER: loseAfter,
  }
  return new Promise<{ code: number; stdout: string; stderr: string }>((done) => {
    const all = { cwd: folder, env, timeout: 110_000 }
    execFile(process.execPath, [main, ...args], all, (error, stdout, stderr) => {
      done({ code: error ? ((error.code as unknown as number) ?? -1) : 0, stdout, stderr })
    })
  })
}

const checkpointsOf = (out: string) => readdirSync(join(folder, out, 'checkpoints')).sort()
const stepsOf = (out: string): { step: number; loss: number }[] =>
  readFileSync(join(folder, out, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((text) => JSON.parse(text))
    .filter(({ type }) => type === 'step')

test('the error names the loss, the last good checkpoint and the command; on request the run goes on by itself', async ({
  skip,
}) => {
  if (!existsSync(driver)) skip(`no software Vulkan driver at ${driver}`)
  if (!existsSync(main)) throw new Error('apps/cli is not built: npm test builds it')
  writeFileSync(join(folder, 'text.txt'), 'Lethe is the river of forgetting. '.repeat(20))
  writeFileSync(join(folder, 'lose.mjs'), loss)

  const lost = await train('lost')
  expect(lost.code).toBe(1)
  const [last] = checkpointsOf('lost').slice(-1)
  expect(lost.stderr).toContain('The GPU device was lost')
  expect(lost.stderr).toContain(`the last good checkpoint is lost/checkpoints/${last}`)
  expect(lost.stderr).toMatch(/go on with: .*train --resume lost\n/)
  for (const { loss } of stepsOf('lost')) expect(loss).toBeGreaterThan(1) // none that a lost device made

  const retried = await train('retried', '--retry')
  expect(retried.stderr).toContain('trying once more')
  expect(retried.code).toBe(0)
  const steps = stepsOf('retried')
  expect(steps.map(({ step }) => step)).toEqual(Array.from({ length: 16 }, (_, i) => i + 1))
  expect(checkpointsOf('retried').at(-1)).toBe('step-000016')
  const before = stepsOf('lost')
  before.forEach(({ loss }, i) => {
    expect(steps[i]!.loss).toBeCloseTo(loss, 4)
  })

  // Commands that only read a model say the same, without a stack.
  const read = await lethe(main, 'eval', 'retried', '--backend', 'webgpu')
  expect(read.stderr).toMatch(/^lethe: The GPU device was lost \(destroyed\): [^\n]*doctor\n$/)
  expect(read.code).toBe(1)
})
