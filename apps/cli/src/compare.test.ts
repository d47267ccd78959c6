/** lethe compare as a user runs it: the whole way, killed and resumed, with a run that fails, with wrong input. */
import { execFile, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { chromiumPath, inPage } from '../../../tools/chromium.mjs'
import type { EqualQuality, RunResult } from './compare/results'
import { temporaryFolder } from './temporary-folder'

const main = fileURLToPath(new URL('../dist/main.js', import.meta.url))
const folder = temporaryFolder('compare')
const env = { ...process.env, NO_COLOR: '1' }
const tiny =
  '--layers 1 --width 16 --heads 2 --feed-forward 16 --block 8 --batch 2 --valid-batch 2 --backend cpu'
const options = ['--data', join(folder, 'text.txt'), ...tiny.split(' '), '--warmup', '2', '--eval-every', '5']

function lethe(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((done) => {
    execFile(process.execPath, [main, 'compare', ...args], { cwd: folder, env }, (error, stdout, stderr) => {
      done({ code: error ? ((error.code as unknown as number) ?? -1) : 0, stdout, stderr })
    })
  })
}

const results = (out: string) => JSON.parse(readFileSync(join(folder, out, 'results.json'), 'utf8'))
/** What does not depend on the clock. */
const quality = (out: string) =>
  (results(out).runs as RunResult[]).map(({ id, figures, validation }) => [
    id,
    figures!.bitsPerByte,
    validation.map(({ step, bitsPerByte }) => [step, bitsPerByte]),
  ])

beforeAll(() => {
  if (!existsSync(main)) throw new Error('apps/cli is not built: npm test builds it')
  writeFileSync(join(folder, 'text.txt'), 'Lethe is the river of forgetting. '.repeat(60))
})

describe('a comparison', () => {
  const all = [...options, '--budgets', '8', '--steps', '10', '--checkpoint-every', '5']

  test('of all methods ends in a table, results and a page', async () => {
    const { code, stdout, stderr } = await lethe(...all, '--out', 'whole')
    expect(stderr).toBe('')
    expect(code).toBe(0)
    for (const method of ['fixed-span', 'expire-span', 'adaptive-span', 'compressive', 'selective'])
      expect(stdout).toMatch(new RegExp(`^${method} +8 `, 'm'))
    const { runs, rows } = results('whole')
    expect(runs).toHaveLength(5)
    expect(rows).toHaveLength(5)
    for (const { figures, budget } of runs) {
      expect(figures.bitsPerByte).toBeGreaterThan(0)
      expect(figures.bitsPerByte).toBeLessThan(9)
      // What was cut off: a block's queue that waits to be compressed.
      expect(figures.slots).toBeLessThanOrEqual(budget + 4)
      expect(figures.byPosition[0]).toMatchObject({ from: 0, to: 8 })
      expect(figures.layers[0].attended).toHaveLength(2)
    }
    const page = readFileSync(join(folder, 'whole', 'report.html'), 'utf8')
    expect(page).toContain('<!doctype html>')
    expect(page).not.toMatch(/(src|href)="http/)
  }, 120_000)

  test('killed in the middle goes on where it was, to the same numbers', async () => {
    const child = spawn(process.execPath, [main, 'compare', ...all, '--out', 'killed', '--jobs', '1'], {
      cwd: folder,
      env,
      stdio: 'ignore',
    })
    const ended = new Promise((done) => child.on('close', done))
    const third = join(folder, 'killed', 'runs', 'expire-span-8-seed0', 'config.json')
    while (!existsSync(third)) await new Promise((later) => setTimeout(later, 20))
    child.kill('SIGKILL')
    await ended
    expect(existsSync(join(folder, 'killed', 'results.json'))).toBe(false)
    const { code, stdout, stderr } = await lethe('--resume', 'killed')
    expect([code, stderr]).toEqual([0, ''])
    // One of the five runs was there.
    expect(Number(/^(\d+) % · ETA/m.exec(stdout)![1])).toBeGreaterThanOrEqual(20)
    expect(quality('killed')).toEqual(quality('whole'))
  }, 120_000)

  test('of tasks is judged by answers and episodes; an unknown task costs its own rows alone', async () => {
    const sizes = [...tiny.split(' '), '--warmup', '2', '--methods', 'fixed-span,selective', '--budgets', '4']
    const tasks = [
      ...['--task', 'parity,corridor,echo', '--valid-tokens', '32', '--discount', '0.9'],
      ...['--task-options', '{"parity":{"length":3},"corridor":{"length":[3,4],"limit":6}}'],
    ]
    const { code, stdout } = await lethe(...sizes, ...tasks, '--steps', '4', '--out', 'tasks')
    expect(code).toBe(1)
    expect(stdout).toContain('echo is left out: unknown task "echo"; known are copy,')
    expect(stdout).toMatch(/^task +method +budget .* accuracy \/ solved +chance +oracle +mean return/m)
    expect(stdout).toMatch(/^parity +fixed-span +4 +4\.0 .* \d+\.\d % +66\.7 % +– +–/m)
    expect(stdout).toMatch(/^corridor +selective +4 .* – +\d+\.\d % +50\.0 % +100\.0 % +\d\.\d{3} /m)
    expect(stdout).toMatch(/^echo +selective +4 +failed: unknown task "echo"/m)
    const { runs, rows } = results('tasks')
    const [{ figures, validation, training }] = runs
    expect(rows[0].accuracy.mean).toBe(figures.accuracy)
    expect(validation.at(-1).accuracy).toBe(figures.accuracy)
    expect([training, figures.bitsPerByte, rows[0].bitsPerByte]).toEqual([[], undefined, undefined])
    const agent = rows.find(({ task }: { task: string }) => task === 'corridor')
    expect([agent.oracle, agent.accuracy, agent.perplexity]).toEqual([1, undefined, undefined])
    const acted = runs.find(({ task }: { task: string }) => task === 'corridor')
    expect(agent.solved.mean).toBe(acted.figures.solved)
    expect(acted.validation.at(-1).solved).toBe(acted.figures.solved)
    const page = readFileSync(join(folder, 'tasks', 'report.html'), 'utf8')
    expect(page.includes('corridor: within 2.0 % of the episodes of the fixed span with 4 slots')).toBe(true)
    expect(page.includes('parity: within 2.0 % of the answers of the fixed span with 4 slots')).toBe(true)
  }, 120_000)

  test('searches for equal quality: trains smaller budgets, prunes what is trained, and goes on exactly', async () => {
    const two = ['--methods', 'fixed-span,selective', '--budgets', '4', '--steps', '2', '--jobs', '2']
    const searched = await lethe(...options, ...two, '--equal-quality', '9', '--out', 'equal')
    expect([searched.code, searched.stderr]).toEqual([0, ''])
    expect(searched.stdout).toContain(
      'to find equal quality: fixed-span-1-seed0, selective-1-seed0, selective-4-seed0-pruned-1',
    )
    expect(searched.stdout).toMatch(/^selective +1 of 4 +1\.0 /m)
    expect(searched.stdout).toMatch(
      /^selective, pruned: within 9 bits per byte of fixed-span 4 with budget 1: 1\.0 slots \(4\.0 times fewer\), \d+ B/m,
    )
    const [{ reference, methods }] = results('equal').equalQuality
    expect(reference.budget).toBe(4)
    expect(methods.map(({ method, row }: EqualQuality) => [method, row!.budget, row!.trainedBudget])).toEqual(
      [
        ['fixed-span', 1, undefined],
        ['selective', 1, undefined],
        ['selective, pruned', 1, 4],
      ],
    )
    const page = readFileSync(join(folder, 'equal', 'report.html'), 'utf8')
    expect(page.includes('<b>selective, pruned</b>: budget 1: 1.0 slots')).toBe(true)
    const before = quality('equal')
    rmSync(join(folder, 'equal', 'runs', 'selective-4-seed0-pruned-1.figures.json'))
    expect(await lethe('--resume', 'equal')).toMatchObject({ code: 0, stderr: '' })
    expect(quality('equal')).toEqual(before)
  }, 120_000)

  test('with a run that fails has the others, and says what failed', async () => {
    const two = [...options, '--methods', 'fixed-span,selective', '--budgets', '8', '--steps', '5']
    expect((await lethe(...two, '--out', 'failing')).code).toBe(0)
    // The folder of one run becomes a file, and its figures go.
    const path = join(folder, 'failing', 'runs', 'selective-8-seed0')
    rmSync(path, { recursive: true })
    rmSync(`${path}.figures.json`)
    writeFileSync(path, '')
    const { code, stdout } = await lethe('--resume', 'failing')
    expect(code).toBe(1)
    expect(stdout).toMatch(/selective-8-seed0 failed: .*selective-8-seed0/)
    expect(stdout).toMatch(/^fixed-span +8 +8\.0/m)
    expect(stdout).toMatch(/^selective +8 +failed: /m)
    expect(readFileSync(join(folder, 'failing', 'report.html'), 'utf8')).toContain('class="failed"')
  }, 60_000)

  test('on a full disk has its table, says what is not kept, and goes on when there is room', async ({
    skip,
  }) => {
    const disk = join(folder, 'disk')
    mkdirSync(disk)
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', disk], { stdio: 'ignore' })
    } catch {
      skip('no right to mount')
    }
    try {
      const out = join('disk', 'full')
      const one = [...options, '--methods', 'fixed-span', '--budgets', '8', '--steps', '5', '--json']
      const whole = await lethe(...one, '--out', out)
      expect([whole.code, whole.stderr]).toEqual([0, ''])
      const { rows, report } = JSON.parse(whole.stdout)
      expect([rows.length, report]).toEqual([1, join(out, 'report.html')])
      for (const name of ['results.json', 'report.html']) rmSync(join(folder, out, name))
      expect(() => writeFileSync(join(disk, 'filler'), Buffer.alloc(2 ** 21))).toThrow('ENOSPC')
      const full = await lethe('--resume', out)
      expect(full.code).toBe(1)
      expect(full.stdout).toMatch(/^fixed-span +8 +8\.0/m)
      const problems = full.stderr.trim().split('\n')
      expect(problems).toHaveLength(2)
      expect(problems[0]).toMatch(
        /^lethe: cannot write to disk\/full\/results\.json: the disk is full.*--resume disk\/full$/,
      )
      rmSync(join(disk, 'filler'))
      expect(await lethe('--resume', out)).toMatchObject({ code: 0, stderr: '' })
      expect(results(out).rows).toEqual(rows)
    } finally {
      execFileSync('umount', [disk])
    }
  }, 120_000)
})

test.skipIf(!chromiumPath)(
  'pages fit phones and desktops, without errors and without the network',
  async () => {
    const pages = ['whole', 'tasks', 'failing'].map((out) => join(folder, out, 'report.html'))
    for (const method of ['compressive', 'selective']) {
      const run = join(folder, 'whole', 'runs', `${method}-8-seed0`)
      execFileSync(process.execPath, [main, 'inspect', run, '--backend', 'cpu'], { env, stdio: 'ignore' })
      pages.push(join(run, 'inspect.html'))
    }
    await inPage('about:blank', 'document', async (_, browser) => {
      for (const path of pages) {
        expect(statSync(path).size).toBeLessThan(3e6)
        for (const width of [390, 1280])
          for (const colorScheme of ['light', 'dark'] as const) {
            const viewport = { width, height: 800 }
            const tab = await browser.newPage({ viewport, colorScheme, offline: true })
            const trouble: string[] = []
            tab.on('console', (message) => trouble.push(message.text()))
            tab.on('pageerror', (error) => trouble.push(String(error)))
            tab.on('request', (request) => {
              if (!/^(file|data):/.test(request.url())) trouble.push(request.url())
            })
            await tab.goto(pathToFileURL(path).href)
            const report = path.endsWith('report.html')
            await tab.waitForSelector(report ? '.chart polyline' : '#text span', { state: 'attached' })
            const cut = await tab.evaluate(() => {
              const page = document.documentElement
              const texts = [...document.querySelectorAll('h1, svg text, .legend, .controls')]
              const outside = texts.filter((text) => {
                const { left, right } = text.getBoundingClientRect()
                return left < 0 || right > page.clientWidth
              })
              return [page.scrollWidth - page.clientWidth, ...outside.map((text) => text.textContent)]
            })
            expect([path, width, colorScheme, trouble, cut]).toEqual([path, width, colorScheme, [], [0]])
            if (report) {
              const charts = await tab.locator('.chart').count()
              expect(await tab.locator('.chart:has(polyline, circle)').count()).toBe(charts)
            } else {
              await tab.locator('#step').fill('3')
              expect(await tab.locator('#at').textContent()).toBe('step 3 of 203; left: 4.0 of 4')
              await tab.locator('#text span').nth(2).hover()
              expect(await tab.locator('#says').textContent()).toMatch(
                /^token 2 "t" · .* bits · 1 steps ago · held/,
              )
            }
            await tab.close()
          }
      }
    })
  },
  120_000,
)

describe('wrong input', () => {
  test.each([
    ['a text that is not there', ['--data', 'nothing.txt'], 'nothing.txt'],
    ['an unknown method', [...options, '--methods', 'fixed-span,selectiv'], 'did you mean selective?'],
    [
      'a stray option',
      [...options, '--methods', 'fixed-span', '--rate', '4'],
      '--rate is an option of none of fixed-span',
    ],
    [
      'budgets above the span',
      [...options, '--budgets', '64', '--span', '32'],
      '--span 32 is less than the budget 64',
    ],
    [
      'a search without what is searched for',
      [...options, '--methods', 'selective', '--equal-quality', '0.1'],
      'add fixed-span to --methods',
    ],
    ['a folder that holds nothing', ['--resume', 'nowhere'], 'there is no comparison in nowhere'],
    ['another option than before', ['--resume', 'whole', '--steps', '11'], 'has --steps 10, not 11'],
    [
      'options of a task that it had not',
      ['--resume', 'whole', '--task-options', '{"length":9}'],
      'has --task-options (none), not {"length":9}',
    ],
    [
      'a text that is too short for the batch',
      [...options, '--batch', '500'],
      'the training text is too short',
    ],
  ])('%s is refused, and nothing is written', async (_, args, message) => {
    const { code, stderr } = await lethe(...args, ...(args.includes('--resume') ? [] : ['--out', 'refused']))
    expect(code).toBeGreaterThan(0)
    expect(stderr).toContain(message)
    expect(existsSync(join(folder, 'refused'))).toBe(false)
  })

  test('a comparison is never overwritten', async () => {
    const { code, stderr } = await lethe(...options, '--out', 'whole')
    expect(code).toBe(2)
    expect(stderr).toContain('already holds a comparison')
  })
})
