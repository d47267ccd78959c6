/**
 * What `npm start` and `npm test` share: from a bare clone to built packages, with nothing but Node and npm.
 *
 * pnpm is used in exactly the version that package.json pins. Where it is not installed, npx fetches it, and its
 * folder goes first on the PATH of everything started from here, since turbo looks for `pnpm` there.
 * Installing and building are skipped or cached when nothing changed, so that a second start costs about a second.
 */
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = dirname(dirname(fileURLToPath(import.meta.url)))
const windows = process.platform === 'win32'
const cacheFolder = join(root, 'node_modules', '.cache', 'lethe')
const rootPackage = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/** A failure that the user can act on: printed without a stack. */
class SetupError extends Error {}

/** Runs a script's main function; what it returns is the exit code. */
export async function main(body) {
  try {
    checkNode()
    process.exitCode = await body()
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    console.error(`\n${error.message}`)
    process.exitCode = 1
  }
}

/** Installs what is missing and builds: everything, or one package with all that it depends on. */
export async function prepare({ only } = {}) {
  const environment = findPnpm()
  await install(environment)
  await build(environment, only)
  return environment
}

function checkNode() {
  const wanted = rootPackage.engines.node.replace('>=', '').split('.').map(Number)
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > wanted[0] || (major === wanted[0] && minor >= wanted[1])) return
  throw new SetupError(
    `Node ${process.versions.node} is too old: Lethe needs ${rootPackage.engines.node}. Install a newer one from https://nodejs.org.`,
  )
}

/** The environment for all later commands: in it, `pnpm` is the pinned version. */
export function findPnpm() {
  const version = rootPackage.packageManager.replace(/^pnpm@/, '').replace(/\+.*$/, '')
  const environment = {
    ...process.env,
    COREPACK_ENABLE_DOWNLOAD_PROMPT: '0',
    TURBO_TELEMETRY_DISABLED: '1',
    TURBO_NO_UPDATE_NOTIFIER: '1',
  }
  const runs = (candidate) => {
    const result = spawnSync('pnpm --version', { cwd: root, env: candidate, shell: true, encoding: 'utf8' })
    return result.status === 0 && result.stdout.trim() === version
  }
  if (runs(environment)) return environment

  const remembered = readJson('pnpm.json')
  if (remembered?.version === version && existsSync(remembered.folder)) {
    const candidate = withFirstOnPath(environment, remembered.folder)
    if (runs(candidate)) return candidate
  }

  return stageSync(`fetch pnpm ${version}`, () => {
    // npx puts the package's binaries first on the PATH of the command it runs; that folder is what is wanted.
    const print = 'console.log(process.env.PATH ?? process.env.Path)'
    const npx = npxCommand(['--yes', `--package=pnpm@${version}`, '--', 'node', '-e', print])
    const result = spawnSync(npx.file, npx.args, { ...npx.options, env: environment, encoding: 'utf8' })
    const path = (result.stdout ?? '').trim().split('\n').at(-1) ?? ''
    const folder = path
      .split(delimiter)
      .find((entry) => existsSync(join(entry, windows ? 'pnpm.cmd' : 'pnpm')))
    const candidate = folder && withFirstOnPath(environment, folder)
    if (result.status !== 0 || !candidate || !runs(candidate)) {
      const output = `${result.stdout ?? ''}${result.stderr ?? ''}${result.error ?? ''}`
      throw failure(`pnpm ${version} could not be fetched with npx.`, output)
    }
    writeJson('pnpm.json', { version, folder })
    return candidate
  })
}

/** How npx is started: npm's own file where npm runs this script, since .cmd files need a shell, which quotes differently. */
function npxCommand(args) {
  const npm = process.env.npm_execpath
  const beside = npm && /npm-cli\.[cm]?js$/.test(npm) && join(dirname(npm), 'npx-cli.js')
  if (beside && existsSync(beside))
    return { file: process.execPath, args: [beside, ...args], options: { cwd: root } }
  if (!windows) return { file: 'npx', args, options: { cwd: root } }
  const quoted = args.map((argument) => (/^[\w@.=/-]+$/.test(argument) ? argument : `"${argument}"`))
  return { file: ['npx', ...quoted].join(' '), args: [], options: { cwd: root, shell: true } }
}

function withFirstOnPath(environment, folder) {
  const key = Object.keys(environment).find((name) => name.toUpperCase() === 'PATH') ?? 'PATH'
  return { ...environment, [key]: [folder, environment[key]].join(delimiter) }
}

/** `pnpm install`, unless manifests, lockfile and platform are those of the last successful one. */
async function install(environment) {
  const folders = workspaceFolders()
  const hash = createHash('sha256').update(`${process.platform} ${process.arch}`)
  for (const file of ['pnpm-lock.yaml', 'pnpm-workspace.yaml', 'package.json'])
    hash.update(readFileSync(join(root, file)))
  for (const folder of folders) hash.update(folder).update(readFileSync(join(root, folder, 'package.json')))
  const fingerprint = hash.digest('hex')
  const complete = ['', ...folders].every((folder) => {
    const manifest = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'))
    const names = Object.keys({ ...manifest.dependencies, ...manifest.devDependencies })
    return names.every((name) => existsSync(join(root, folder, 'node_modules', name)))
  })
  if (complete && readJson('install.json')?.fingerprint === fingerprint) return

  await stage('install', async () => {
    const { code, output } = await capture(
      'pnpm install --frozen-lockfile --config.confirmModulesPurge=false',
      {
        env: environment,
        shell: true,
      },
    )
    if (code !== 0) throw failure('`pnpm install --frozen-lockfile` failed.', output)
  })
  writeJson('install.json', { fingerprint })
}

/** `turbo run build`: only what changed is built. */
async function build(environment, only) {
  const turbo = join(root, 'node_modules', 'turbo', 'bin', 'turbo')
  const args = [turbo, 'run', 'build', '--output-logs=errors-only', ...(only ? [`--filter=${only}`] : [])]
  await stage('build', async () => {
    const { code, output } = await capture(process.execPath, { args, env: environment })
    if (code !== 0) throw failure('`turbo run build` failed.', output)
    const cached = /Cached:\s+(\d+) cached, (\d+) total/.exec(output)
    return cached ? `${cached[2]} packages, ${cached[1]} unchanged` : ''
  })
}

/** Runs a JavaScript file that talks to the user itself, and resolves to its exit code. */
export function run(args, environment) {
  return finished(spawn(process.execPath, args, { cwd: root, env: environment, stdio: 'inherit' }))
}

/** Runs pnpm, and resolves to its exit code. */
export function runPnpm(args, environment) {
  if (!windows) return finished(spawn('pnpm', args, { env: environment, stdio: 'inherit' }))
  const line = ['pnpm', ...args.map((argument) => `"${argument.replaceAll('"', '\\"')}"`)].join(' ')
  return finished(spawn(line, { env: environment, stdio: 'inherit', shell: true }))
}

function finished(child) {
  // Whoever interrupts wants the command to end in its own way: a training run first saves a checkpoint. So nothing
  // here ends before it does. A terminal sends Ctrl-C to all of its processes, hence also to the command; other
  // senders reach this process only, perhaps once directly and once through npm, so one in a second is passed on.
  let last = 0
  const passOn = (signal) => {
    if (signal === 'SIGINT' && process.stdin.isTTY) return
    if (Date.now() - last < 1000) return
    last = Date.now()
    child.kill(signal)
  }
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP']
  for (const signal of signals) process.on(signal, passOn)

  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => {
      for (const name of signals) process.off(name, passOn)
      resolve(code ?? 128 + (constants.signals[signal] ?? 1))
    })
  })
}

/** Runs a command in silence; its output is only shown if it fails. */
function capture(file, { args = [], env, shell = false }) {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { cwd: root, env, shell, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text) => (output += text))
    child.once('error', reject)
    child.once('close', (code, signal) =>
      resolve({ code: code ?? 128 + (constants.signals[signal] ?? 1), output }),
    )
  })
}

function failure(message, output) {
  const unreachable =
    /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET|META_FETCH_FAIL|network request to|fetch failed/
  const hints = []
  if (unreachable.test(output))
    hints.push(
      'The npm registry could not be reached. Check the connection and proxy settings: `npm ping` must work; then try again.',
    )
  if (/OUTDATED_LOCKFILE/.test(output))
    hints.push(
      `pnpm-lock.yaml does not fit the package.json files. Run \`npx ${rootPackage.packageManager} install\` and commit the lockfile.`,
    )
  return new SetupError([output.trim(), message, ...hints].filter(Boolean).join('\n\n'))
}

async function stage(name, work) {
  const start = performance.now()
  const note = await work()
  report(name, start, note)
}

function stageSync(name, work) {
  const start = performance.now()
  const result = work()
  report(name, start)
  return result
}

function report(name, start, note) {
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  console.error(`lethe: ${name}${note ? ` (${note})` : ''}, ${seconds} s`)
}

/** The folders of pnpm-workspace.yaml's `packages`, which are all of the form `name/*`. */
function workspaceFolders() {
  const lines = readFileSync(join(root, 'pnpm-workspace.yaml'), 'utf8').split(/\r?\n/)
  const first = lines.indexOf('packages:') + 1
  const folders = []
  for (let line = first; /^\s+-/.test(lines[line] ?? ''); line++) {
    const parent = lines[line].replace(/^\s+-\s*/, '').replace(/\/\*$/, '')
    for (const entry of existsSync(join(root, parent)) ? readdirSync(join(root, parent)) : [])
      if (existsSync(join(root, parent, entry, 'package.json'))) folders.push(`${parent}/${entry}`)
  }
  return folders.sort()
}

function readJson(name) {
  try {
    return JSON.parse(readFileSync(join(cacheFolder, name), 'utf8'))
  } catch {
    return undefined
  }
}

function writeJson(name, value) {
  mkdirSync(cacheFolder, { recursive: true })
  writeFileSync(join(cacheFolder, name), JSON.stringify(value))
}
