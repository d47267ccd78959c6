/** The built command line, spawned as a user would: results, Ctrl-C and resuming, and every kind of wrong input. */
import { execFile, execFileSync, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { temporaryFolder } from './temporary-folder'

const main = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const folder = temporaryFolder('cli')
const text = join(folder, 'text.txt')
const tiny =
  '--layers 1 --width 16 --heads 2 --feed-forward 16 --span 16 --block 8 --batch 2 --valid-batch 2'.split(' ')
const training = [...tiny, '--data', text, '--backend', 'cpu', '--warmup', '2', '--eval-every', '5']

interface Result {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

function lethe(...args: string[]): Promise<Result> {
  const env = { ...process.env, NO_COLOR: '1' }
  return new Promise((done) => {
    execFile(process.execPath, [main, ...args], { cwd: folder, env }, (error, stdout, stderr) => {
      done({ code: error ? ((error.code as unknown as number) ?? -1) : 0, stdout, stderr })
    })
  })
}

const jsonLines = (text: string) =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

/** Metrics without the fields that hold times. */
const metricsOf = (run: string) =>
  jsonLines(readFileSync(join(folder, run, 'metrics.jsonl'), 'utf8')).map(
    ({ seconds, tokensPerSecond, ...rest }) => rest,
  )

beforeAll(async () => {
  if (!existsSync(main)) throw new Error('apps/cli is not built: npm test builds it')
  writeFileSync(text, 'Lethe is the river of forgetting. '.repeat(60))
  const { code, stderr } = await lethe(
    'train',
    ...training,
    '--out',
    'run',
    '--steps',
    '10',
    '--checkpoint-every',
    '5',
  )
  expect(stderr).toBe('')
  expect(code).toBe(0)
})

describe('results', () => {
  test('train leaves config, metrics and checkpoints', () => {
    expect(readdirSync(join(folder, 'run')).sort()).toEqual(['checkpoints', 'config.json', 'metrics.jsonl'])
    expect(readdirSync(join(folder, 'run/checkpoints')).sort()).toEqual(['step-000005', 'step-000010'])
    expect(metricsOf('run').filter(({ type }) => type === 'step')).toHaveLength(10)
    expect(metricsOf('run').filter(({ type }) => type === 'eval')).toHaveLength(2)
  })

  test('a resumed run equals an uninterrupted one', async () => {
    const curves = ['--tensorboard', '--steps', '5', '--json']
    const first = await lethe('train', ...training, '--out', 'parts', ...curves)
    expect(first.code).toBe(0)
    const more = await lethe('train', '--resume', 'parts', '--steps', '10')
    expect(more.code).toBe(0)
    expect(more.stdout).toContain('going on after step 5')
    expect(metricsOf('parts')).toEqual(metricsOf('run'))
    // It would now go on to these steps.
    expect(JSON.parse(readFileSync(join(folder, 'parts/config.json'), 'utf8'))).toMatchObject({ steps: 10 })
    // What the run was begun with goes on: a file of curves of each part.
    expect(more.stdout).toContain('curves: tensorboard --logdir parts/tensorboard')
    expect(readdirSync(join(folder, 'parts/tensorboard'))).toHaveLength(2)
  })

  test('measure says what a run remembers, and what that costs', async () => {
    const { code, stdout } = await lethe('measure', 'run', '--backend', 'cpu', '--json')
    expect(code).toBe(0)
    const [figures] = jsonLines(stdout)
    const last = metricsOf('run').findLast(({ type }) => type === 'eval')
    expect(figures.bitsPerByte).toBeCloseTo(last.bitsPerByte, 6)
    expect(figures.layers).toEqual([expect.objectContaining({ slots: 16, attended: [16, 16] })])
    expect((await lethe('measure', 'run', '--backend', 'cpu')).stdout).toContain('slots attended to')
  })

  test('a task is trained on, resumed, evaluated and measured like a text, by its answers', async () => {
    const task = ['--task', 'parity', '--task-options', '{"length":3}', '--valid-tokens', '64']
    const options = [...training.filter((each) => each !== '--data' && each !== text), ...task]
    const whole = await lethe('train', ...options, '--out', 'parity', '--steps', '10')
    expect([whole.code, whole.stderr]).toEqual([0, ''])
    expect(whole.stdout).toMatch(
      /step 10: validation \d+\.\d % of \d+ answers right \(chance 66\.7 %\), loss/,
    )
    expect((await lethe('train', ...options, '--out', 'parts-parity', '--steps', '5')).code).toBe(0)
    expect((await lethe('train', '--resume', 'parts-parity', '--steps', '10')).code).toBe(0)
    expect(metricsOf('parts-parity')).toEqual(metricsOf('parity'))
    const last = metricsOf('parity').findLast(({ type }) => type === 'eval')
    const [figures] = jsonLines((await lethe('measure', 'parity', '--backend', 'cpu', '--json')).stdout)
    expect(figures).toMatchObject({ accuracy: last.accuracy, chance: 1 / 2 + 1 / 6, tokens: last.tokens })
    expect(figures.bitsPerByte).toBe(undefined)
    // `<`, then each bit and its answer: 9 episodes of 7 tokens and one token, 4 of 15 and four tokens.
    const longer = ['eval', 'parity', '--task-options', '{"length":7}', '--backend', 'cpu', '--json']
    const [other] = jsonLines((await lethe(...longer)).stdout)
    expect([last.tokens, other.tokens]).toEqual([2 * 9 * 3, 2 * (4 * 7 + 2)])
    const written = await lethe('generate', 'parity', '--backend', 'cpu')
    expect(written).toMatchObject({ code: 2, stderr: expect.stringContaining('trained on the task parity') })
  })

  test('an agent is trained in a world, resumed, evaluated and measured, by the episodes it solves', async () => {
    const world = ['--task', 'corridor', '--task-options', '{"length":[3,4],"limit":9}', '--discount', '0.9']
    const sizes = [...training.filter((each) => each !== '--data' && each !== text), '--valid-batch', '4']
    const agent = (out: string, steps: string) =>
      lethe('train', ...sizes, ...world, '--out', out, '--steps', steps)
    const [whole, part] = await Promise.all([agent('agent', '10'), agent('part-agent', '5')])
    expect([whole.code, whole.stderr, part.code]).toEqual([0, '', 0])
    expect(whole.stdout).toMatch(/step \d+\/10 · (\d+\.\d % of \d+ episodes solved|no episode ended yet)/)
    expect(whole.stdout).toMatch(
      /step 10: validation \d+\.0 % of 4 episodes solved by drawn actions \(chance 50\.0 %, oracle 100\.0 %\), mean return/,
    )
    const far = ['--task-options', '{"length":60,"limit":50}', '--valid-batch', '3', '--greedy']
    const results = await Promise.all([
      lethe('train', '--resume', 'part-agent', '--steps', '10'),
      lethe('eval', 'agent', '--backend', 'cpu', '--json'),
      lethe('eval', 'agent', '--backend', 'cpu', ...far),
      lethe('measure', 'agent', '--backend', 'cpu', '--json'),
      lethe('inspect', 'agent', '--backend', 'cpu'),
      lethe('bench', 'train', 'agent', '--backend', 'cpu'),
    ])
    expect(results.map(({ code }) => code)).toEqual([0, 0, 0, 0, 2, 2])
    const [, again, farther, measured, inspected, benched] = results as [Result, Result, ...Result[]]
    expect(metricsOf('part-agent')).toEqual(metricsOf('agent'))
    const steps = metricsOf('agent').filter(({ type }) => type === 'step')
    expect(steps.map(({ perplexity }) => perplexity)).toEqual(new Array(10).fill(undefined))
    // Nine actions at most: in rollouts of eight, two rows end at least so often.
    expect(steps.reduce((sum, { episodes }) => sum + episodes, 0)).toBeGreaterThanOrEqual(2 * 5)
    const { type, step, ...last } = metricsOf('agent').at(-1)
    expect([type, step]).toEqual(['eval', 10])
    expect(jsonLines(again.stdout)[0]).toMatchObject(last)
    expect(farther!.stdout).toMatch(
      /^0\.0 % of 3 .* the most probable actions \(chance 50\.0 %, oracle 0\.0 %\).* 50\.0 steps/,
    )
    const [figures] = jsonLines(measured!.stdout)
    expect(figures).toMatchObject({ ...last, byPosition: [], layers: [{ slots: expect.any(Number) }] })
    expect(figures.slotsOverTime[0]).toEqual({ position: 1, slots: 1 })
    expect(inspected!.stderr).toContain('trained on the task corridor')
    expect(benched!.stderr).toContain('see lethe measure agent')
  })

  test('inspect shows what a run kept: a page, the terminal, JSON', async () => {
    const shown = await lethe('inspect', 'run', '--tokens', '40', '--backend', 'cpu')
    expect(shown.code).toBe(0)
    // The span is 16: what came before is dots where it is no space.
    expect(shown.stdout.split('\n')[0]).toMatch(/^[·\s]{10,24}\S/)
    expect(readFileSync(join(folder, 'run/inspect.html'), 'utf8')).toContain('<div id="text"')
    rmSync(join(folder, 'run/inspect.html'))
    const [trace] = jsonLines(
      (await lethe('inspect', 'run', '--tokens', '9', '--backend', 'cpu', '--json')).stdout,
    )
    expect(trace.texts).toHaveLength(9)
    expect(trace.layers).toEqual([{ kind: 'window', span: 16 }])
    const beyond = await lethe('inspect', 'run', '--start', '9999', '--backend', 'cpu')
    expect(beyond.code).toBe(2)
    expect(beyond.stderr).toContain('--start 9999 is beyond the text')
  })

  test('eval and generate read a run, the same seed gives the same text', async () => {
    const evaluated = await lethe('eval', 'run', '--backend', 'cpu', '--json')
    const [result] = jsonLines(evaluated.stdout)
    const last = metricsOf('run').findLast(({ type }) => type === 'eval')
    expect(result.bitsPerByte).toBeCloseTo(last.bitsPerByte, 6)
    const other = jsonLines(
      (await lethe('eval', 'run', '--data', text, '--backend', 'cpu', '--json')).stdout,
    )[0]
    expect(other.tokens).toBe(60 * 34 - 1)
    const sample = (...options: string[]) =>
      lethe('generate', 'run', '--tokens', '30', '--backend', 'cpu', '--prompt', 'Lethe', ...options)
    const [one, two, third] = await Promise.all([
      sample('--seed', '1'),
      sample('--seed', '1'),
      sample('--seed', '2'),
    ])
    expect(one.code).toBe(0)
    expect(one.stdout.startsWith('Lethe')).toBe(true)
    expect(one.stdout).toBe(two.stdout)
    expect(one.stdout).not.toBe(third.stdout)
    const dashes = await sample('--json', '--temperature', '0', '--prompt=-- Lethe')
    expect(jsonLines(dashes.stdout)[0]).toMatchObject({ prompt: '-- Lethe', tokens: 30 })
  })

  test.each([
    ['expire-span', '--ramp 4 --span-penalty 1e-4 --shorten --budget 12'],
    ['expire-span', '--preset fair --layer-drop 0.3 --layers 2'],
    ['adaptive-span', '--ramp 4'],
    ['adaptive-span', '--ramp 4 --dynamic --sinks 2'],
    ['compressive', '--rate 2 --compressed 4 --compression conv --compression-loss auto-encoding --unroll 2'],
    ['compressive', '--preset fair --compression most-used'],
    ['selective', '--budget 6 --memory-loss 0.1 --sinks 2'],
    ['selective', '--preset fair --accumulate 2'],
    ['selective', '--preset transformer-xl --schedule constant --budget 6'],
  ])('%s %s: trains, stops, resumes, evaluates and generates', async (method, options) => {
    const out = `method-${method}-${options.replace(/\W+/g, '-')}`
    const line = [...training, '--method', method, ...options.split(' '), '--out', out]
    const one = await lethe('train', ...line, '--steps', '3')
    expect(one.stderr).toBe('')
    const two = await lethe('train', '--resume', out, '--steps', '6')
    expect(two.stderr).toBe('')
    const whole = await lethe('train', ...line, '--out', `${out}-whole`, '--steps', '6')
    expect(whole.stderr).toBe('')
    const steps = (run: string) => metricsOf(run).filter(({ type }) => type === 'step')
    expect(steps(out)).toEqual(steps(`${out}-whole`))
    const evaluated = await lethe('eval', out, '--backend', 'cpu', '--json')
    expect(jsonLines(evaluated.stdout)[0].bitsPerByte).toBeLessThan(12)
    const sample = await lethe('generate', out, '--tokens', '20', '--backend', 'cpu', '--prompt', 'Lethe')
    expect(sample).toMatchObject({ code: 0, stderr: '' })
  })

  test('help for every command, with examples', async () => {
    for (const command of ['', 'train', 'eval', 'generate', 'bench', 'doctor', 'setup', 'demo']) {
      const { code, stdout } = await lethe(...(command ? [command] : []), '--help')
      expect(code).toBe(0)
      expect(stdout).toContain('Examples:')
    }
  })

  test('doctor names every backend', async () => {
    const [{ backends }] = jsonLines((await lethe('doctor', '--json')).stdout)
    const cpu = backends.find(({ backend }: { backend: string }) => backend === 'cpu')
    expect(cpu).toMatchObject({ works: true })
    expect(backends).toHaveLength(4)
    for (const { works, problem } of backends) if (!works) expect(problem).toMatch(/\w/)
  })
})

describe('interruption', () => {
  test('Ctrl-C saves a checkpoint and says how to go on', async () => {
    const args = [main, 'train', ...training, '--out', 'stopped', '--steps', '100000', '--eval-every', '0']
    const child = spawn(process.execPath, args, { cwd: folder })
    let stdout = ''
    child.stdout.on('data', (data) => {
      if (!stdout.includes('step ') && String(data).includes('step ')) child.kill('SIGINT')
      stdout += data
    })
    const code = await new Promise((done) => child.on('exit', done))
    expect(code).toBe(130)
    expect(stdout).toMatch(/interrupted; go on with: .*train --resume stopped/)
    const [checkpoint] = readdirSync(join(folder, 'stopped/checkpoints'))
    const steps = Number(checkpoint!.slice('step-'.length))
    expect(metricsOf('stopped').filter(({ type }) => type === 'step')).toHaveLength(steps)
    const changed = ['--steps', String(steps + 2), '--eval-every', '7']
    const more = await lethe('train', '--resume', 'stopped', ...changed, '--json')
    expect(more.code).toBe(0)
  })

  test('a reader that goes away stops it like Ctrl-C, and nothing is lost', async () => {
    const args = [main, 'train', ...training, '--out', 'unread', '--steps', '100000', '--eval-every', '0']
    const child = spawn(process.execPath, [...args, '--json'], { cwd: folder })
    let errors = ''
    child.stderr.on('data', (data) => {
      errors += data
    })
    child.stdout.once('data', () => child.stdout.destroy())
    const code = await new Promise((done) => child.on('exit', done))
    expect([code, errors]).toEqual([130, ''])
    const [checkpoint] = readdirSync(join(folder, 'unread/checkpoints'))
    expect(metricsOf('unread').filter(({ type }) => type === 'step')).toHaveLength(
      Number(checkpoint!.slice('step-'.length)),
    )
  })

  test('killed three times at any moment, it goes on to the metrics of a run that was not', async () => {
    const options = [
      ...training.slice(0, -1),
      '10',
      '--steps',
      '30',
      '--checkpoint-every',
      '4',
      '--keep',
      '2',
    ]
    const whole = lethe('train', ...options, '--out', 'unkilled')
    for (let kills = 0; kills < 3; kills++) {
      const resume = existsSync(join(folder, 'killed/config.json'))
      const args = resume ? ['--resume', 'killed'] : [...options, '--out', 'killed']
      const child = spawn(process.execPath, [main, 'train', ...args, '--json'], { cwd: folder })
      // A random moment somewhere after its first few lines.
      let lines = Math.ceil(Math.random() * 8)
      child.stdout.on('data', () => {
        if (--lines === 0) setTimeout(() => child.kill('SIGKILL'), Math.random() * 30)
      })
      expect(await new Promise((done) => child.on('exit', (_, signal) => done(signal)))).toBe('SIGKILL')
    }
    const rest = await lethe('train', '--resume', 'killed')
    expect(rest.stderr).toBe('')
    expect((await whole).code).toBe(0)
    expect(metricsOf('killed')).toEqual(metricsOf('unkilled'))
    expect(readdirSync(join(folder, 'killed/checkpoints')).sort()).toEqual(['step-000028', 'step-000030'])
  })
})

describe('wrong input: one line with the fix, and nothing is overwritten', () => {
  const out = ['--out', 'never']
  const broken = join(folder, 'broken')

  beforeAll(() => {
    writeFileSync(join(folder, 'empty.txt'), '')
    writeFileSync(join(folder, 'short.txt'), 'too short')
    mkdirSync(join(folder, 'nothing'))
    cpSync(join(folder, 'run'), broken, { recursive: true })
    const model = join(broken, 'checkpoints/step-000010/model.safetensors')
    writeFileSync(model, readFileSync(model).subarray(0, 500))
  })

  test.each<[string, string[], number, RegExp]>([
    [
      'an option of a world that it does not have',
      ['train', '--task', 'corridor', '--task-options', '{"rooms":3}', ...out],
      1,
      /corridor has no option "rooms"; it has length, limit, wrongReward/,
    ],
    [
      'tokens of an evaluation of episodes',
      ['train', '--task', 'portal', '--valid-tokens', '64', ...out],
      2,
      /--valid-tokens is for tasks that are read: .*--valid-batch/,
    ],
    [
      'rewards of a text',
      ['train', ...training, '--discount', '0.9', ...out],
      2,
      /--discount is for an agent in a world: --task corridor or portal/,
    ],
    [
      'a discount above 1',
      ['train', '--task', 'corridor', '--discount', '2', ...out],
      2,
      /a number from 0 to 1/,
    ],
    ['actions of a model of text', ['eval', 'run', '--greedy'], 2, /--greedy is for an agent in a world/],
    [
      'the same',
      ['measure', 'run', '--greedy', '--backend', 'cpu'],
      2,
      /--greedy is for an agent in a world/,
    ],
    ['an unknown task', ['train', '--task', 'corridoor', ...out], 1, /portal; did you mean corridor\?/],
    [
      'options of a task that are no JSON',
      ['train', '--task', 'copy', '--task-options', 'length=3'],
      2,
      /must be a JSON object/,
    ],
    ['no command line', ['train'], 2, /needs a text, --data PATH, or a task, --task NAME/],
    ['unknown command', ['trian'], 2, /did you mean lethe train/],
    [
      'an option of another method',
      ['train', '--data', 'text.txt', ...out, '--method', 'adaptive-span', '--budget', '9'],
      2,
      /--budget is no option of --method adaptive-span, which takes --span, --sinks, --ramp/,
    ],
    [
      'an unknown compression',
      ['train', '--method', 'compressive', '--compression', 'sum'],
      2,
      /one of mean, max/,
    ],
    [
      'no ramp',
      ['train', '--method', 'expire-span', '--ramp', '0'],
      2,
      /--ramp must be a whole number of at least 1/,
    ],
    [
      'a loss that the compression cannot learn from',
      [
        'train',
        '--data',
        'text.txt',
        ...out,
        '--method',
        'compressive',
        '--compression',
        'mean',
        '--compression-loss',
        'attention',
      ],
      1,
      /loss/,
    ],
    ['unknown option', ['train', '--spam', '3'], 2, /unknown option --spam .*did you mean --span/],
    [
      'a value that is none',
      ['train', '--layers', 'two'],
      2,
      /--layers must be a whole number of at least 1, not "two"/,
    ],
    [
      'unknown method',
      ['train', '--method', 'fixed'],
      2,
      /--method must be one of fixed-span, .*not "fixed"/,
    ],
    [
      'unknown backend',
      ['train', '--backend', 'cuda'],
      2,
      /--backend must be one of auto, webgpu, tensorflow, wasm, cpu/,
    ],
    ['unknown preset', ['train', '--preset', 'gpt'], 2, /--preset must be one of modern, fair/],
    ['missing data', ['train', '--data', 'absent.txt', ...out], 1, /absent\.txt: there is no such file/],
    ['empty data', ['train', '--data', 'empty.txt', ...out], 1, /empty/],
    ['a folder without text', ['train', '--data', 'nothing', ...out], 1, /nothing/],
    ['text shorter than a block', ['train', '--data', 'short.txt', ...out], 1, /short/],
    [
      'width and heads',
      ['train', ...training, '--width', '10', '--heads', '4', ...out],
      1,
      /width 10 is not divisible by 4 heads/,
    ],
    [
      'a folder that is a run',
      ['train', ...training, '--out', 'run'],
      1,
      /already holds a run: .*--resume run.* --out/,
    ],
    ['a folder that is a file', ['train', ...training, '--out', 'text.txt'], 1, /text\.txt/],
    ['resume without a run', ['train', '--resume', 'nothing'], 1, /no run in nothing/],
    [
      'resume with another model',
      ['train', '--resume', 'run', '--width', '32', '--steps', '12'],
      2,
      /has --width 16, not 32/,
    ],
    ['resume with fewer steps', ['train', '--resume', 'run', '--steps', '3'], 1, /give 10 steps or more/],
    ['truncated checkpoint', ['eval', 'broken'], 1, /model\.safetensors.*step-000005/],
    ['no model', ['generate', 'absent'], 1, /no such folder/],
    ['temperature', ['generate', 'run', '--temperature', '-1'], 2, /--temperature must be a number from 0/],
    ['nothing to measure', ['bench'], 2, /what to measure: train, decode, attention, memory/],
    ['something else to measure', ['bench', 'speed'], 2, /attention, memory, not "speed"/],
    [
      'a method that is none among several',
      ['bench', 'train', '--methods', 'selective,fixed'],
      2,
      /not "fixed"/,
    ],
    [
      'one method and several',
      ['bench', 'train', '--method', 'selective', '--methods', 'all'],
      2,
      /one of the two/,
    ],
    [
      'an option that none of the methods has',
      ['bench', 'memory', '--methods', 'fixed-span,selective', '--ramp', '3'],
      2,
      /--ramp is no option of fixed-span, selective/,
    ],
    ['two rivals', ['bench', 'train', '--stock', '--against', 'true'], 2, /one of the two/],
    ['two ways to print', ['bench', 'decode', '--json', '--markdown'], 2, /one of the two/],
    ['a folder to decode with', ['bench', 'decode', 'run'], 2, /takes options only, not "run"/],
    [
      'a trained model of another method',
      ['bench', 'train', 'run', '--method', 'selective'],
      2,
      /leave out --method/,
    ],
    ['no context', ['bench', 'decode', '--contexts', '0,20'], 2, /--contexts must be whole numbers/],
    [
      'spans that start beyond their end',
      [
        'bench',
        'train',
        '--backend',
        'cpu',
        '--method',
        'expire-span',
        '--span',
        '16',
        '--initial-span',
        '16',
      ],
      2,
      /--initial-span must be more than 0 and less than --span 16, not 16/,
    ],
    [
      'a rival that does not start',
      [
        'bench',
        'train',
        ...tiny.slice(0, -2),
        '--backend',
        'cpu',
        '--against',
        'echo no such rival >&2; false',
      ],
      1,
      /the other side ended before it was done: no such rival/,
    ],
    ['a config that is no JSON', ['train', '--config', 'text.txt'], 2, /cannot read --config text\.txt/],
  ])('%s', async (_, args, code, message) => {
    const before = metricsOf('run')
    const result = await lethe(...args)
    expect(result.stderr).toMatch(message)
    expect(result.stderr.trim().split('\n')).toHaveLength(1)
    expect(result.stderr).toMatch(/^lethe: /)
    expect(result.code).toBe(code)
    expect(existsSync(join(folder, 'never'))).toBe(false)
    expect(metricsOf('run')).toEqual(before)
  })

  test('a checkpoint of another shape', async () => {
    const other = ['--width', '24', '--heads', '2', '--out', 'wider', '--steps', '1']
    expect((await lethe('train', ...training, ...other)).code).toBe(0)
    cpSync(join(folder, 'run'), join(folder, 'mixed'), { recursive: true })
    const config = join(folder, 'mixed/config.json')
    writeFileSync(config, readFileSync(join(folder, 'wider/config.json')))
    const { code, stderr } = await lethe('train', '--resume', 'mixed', '--steps', '12')
    expect(code).toBe(1)
    expect(stderr).toMatch(/^lethe: .*width.*16.*24.*same model/)
  })

  /** A small file system of its own; null where that is not allowed. */
  function mounted(name: string, options: string): string | null {
    const path = join(folder, name)
    mkdirSync(path)
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path], { stdio: 'ignore' })
      return path
    } catch {
      console.log(`no right to mount: the test of a ${name} folder is skipped`)
      return null
    }
  }

  test('read-only output folder', async ({ skip }) => {
    const path = mounted('read-only', 'ro')
    if (path === null) return skip()
    const { code, stderr } = await lethe('train', ...training, '--out', join(path, 'run'))
    execFileSync('umount', [path])
    expect(stderr).toMatch(/^lethe: .*read-only.*\n$/)
    expect(code).toBe(1)
  })

  test('full output folder', async ({ skip }) => {
    const path = mounted('full', 'size=128k')
    if (path === null) return skip()
    const run = join(path, 'run')
    const { code, stderr } = await lethe('train', ...training, '--width', '32', '--out', run, '--steps', '20')
    const checkpoints = readdirSync(join(run, 'checkpoints')).filter((name) => name.startsWith('step-'))
    execFileSync('umount', [path])
    expect(stderr).toMatch(/^lethe: .*(space|full).*\n$/)
    expect(code).toBe(1)
    expect(checkpoints).toEqual([])
  })
})
