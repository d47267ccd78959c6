/**
 * Loads TensorFlow's addon in Node: from the folder of `lethe setup tensorflow` if it is there, else as the package
 * that is installed beside this one; and says what is wrong where it does not load.
 */
import { existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { homedir } from 'node:os'
import { join } from 'node:path'
import util from 'node:util'
import { BackendError, messageOf, packageError } from './errors'
import { canLink } from './link'

export type TensorflowPackage = '@tensorflow/tfjs-node' | '@tensorflow/tfjs-node-gpu'

/** Where `lethe setup tensorflow` puts TensorFlow: the variable LETHE_TENSORFLOW, else in the user's data folder. */
export function tensorflowFolder(): string {
  const { LETHE_TENSORFLOW, LOCALAPPDATA, XDG_DATA_HOME } = process.env
  if (LETHE_TENSORFLOW) return LETHE_TENSORFLOW
  const data = {
    win32: LOCALAPPDATA || join(homedir(), 'AppData', 'Local'),
    darwin: join(homedir(), 'Library', 'Application Support'),
  }[process.platform as string]
  return join(data ?? (XDG_DATA_HOME || join(homedir(), '.local', 'share')), 'lethe', 'tensorflow')
}

/** @throws BackendError that names the missing package, addon or library, and the command that helps */
export async function loadTensorflow(name: TensorflowPackage): Promise<void> {
  const own = createRequire(import.meta.url)
  const folder = tensorflowFolder()
  // What was set up on purpose goes before what is installed, broken or not.
  const require = existsSync(join(folder, 'node_modules')) ? createRequire(join(folder, 'package.json')) : own
  let entry: string
  try {
    entry = require.resolve(name)
  } catch (cause) {
    throw packageError('tensorflow', name, cause)
  }
  prepareNode()
  linkCuda(join(folder, 'node_modules', name, 'deps', 'lib'))
  try {
    shareModules(own, createRequire(entry))
    require(entry)
  } catch (cause) {
    throw addonError(name, cause)
  }
}

function prepareNode(): void {
  // tfjs-node 4.22 calls a helper that Node 23 removed.
  const helpers = util as { isNullOrUndefined?: (value: unknown) => boolean }
  helpers.isNullOrUndefined ??= (value) => value === null || value === undefined
  // TensorFlow's own log: only errors, unless the user wants more.
  process.env.TF_CPP_MIN_LOG_LEVEL ??= '2'
}

/**
 * Loads the CUDA libraries that were set up beside TensorFlow's: it asks for them by name, without saying where, and
 * the dynamic linker then knows them. They need one another, in an order that is theirs.
 */
function linkCuda(folder: string): void {
  let waiting = existsSync(folder) ? readdirSync(folder).filter((file) => cudaLibrary.test(file)) : []
  for (let before = Number.POSITIVE_INFINITY; waiting.length < before; ) {
    before = waiting.length
    waiting = waiting.filter((file) => !canLink(join(folder, file)))
  }
}

const cudaLibrary = /^lib(cu|nccl|nv).*\.so/

/**
 * Lets TensorFlow's package use the tfjs-core of this program where it brought its own of the same version: a second
 * one would register every kernel and gradient again.
 */
function shareModules(own: NodeJS.Require, theirs: NodeJS.Require): void {
  for (const name of ['@tensorflow/tfjs-core', '@tensorflow/tfjs-backend-cpu']) {
    try {
      const tfjs = createRequire(theirs.resolve('@tensorflow/tfjs/package.json'))
      const [id, other] = [own.resolve(name), tfjs.resolve(name)]
      if (id === other || own(`${name}/package.json`).version !== tfjs(`${name}/package.json`).version)
        continue
      own(id)
      own.cache[other] = own.cache[id]
    } catch {
      // Bundled or laid out in another way: each keeps its own, and they share tfjs's global engine.
    }
  }
}

const setUpFix = 'Run: npx @lethe/cli setup tensorflow'

/** A package that is there and does not load: what is missing, by name. */
function addonError(name: TensorflowPackage, cause: unknown): BackendError {
  const message = messageOf(cause)
  const refuse = (problem: string, fix = setUpFix) =>
    new BackendError('missing-addon', 'tensorflow', problem, fix, { cause })
  if (/can ?not be found at path|Cannot find module '[^']*\.node'/.test(message))
    return refuse(`The addon of ${name} is not built (tfjs_binding.node cannot be found).`)
  const library = /([\w.+-]+\.so(?:\.\d+)*): cannot open shared object file/.exec(message)?.[1]
  if (library !== undefined) {
    const cuda = cudaLibrary.test(library)
    return refuse(
      `The addon of ${name} needs ${library}, which cannot be loaded: ${message.split('\n')[0]}.`,
      cuda ? `${setUpFix} --gpu` : setUpFix,
    )
  }
  return refuse(`The package ${name} is installed, but does not load: ${message.split('\n')[0]}.`)
}
