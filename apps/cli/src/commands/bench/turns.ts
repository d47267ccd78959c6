/**
 * Measuring by turns: each side is a process that lives through the whole measurement, is told over its standard input
 * when to take steps, and does nothing meanwhile. Lines of JSON, so that a side can be written in any language:
 *
 *     → {"settings": {…}}        once; what our own side is told by its command line
 *     ← {"ready": "…"}           warmed up; what runs there
 *     → {"take": 2}              ← {"ms": [371.2, 370.8]}
 *     → {"finish": true}         ← {"figures": {"memory_slots": 512, "peak_rss_bytes": …}}, then it ends
 *
 * Other lines that a side prints are ignored.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { LetheError } from '@lethe/core'
import type { Round } from './statistics'

/** What a side says of itself at its end; those figures that it has. */
export interface Figures {
  /** Slots that a layer remembers, mean over layers and steps. */
  readonly memory_slots?: number
  readonly peak_rss_bytes?: number
  /** Between two steps: weights, optimiser, memory. */
  readonly held_tensor_bytes?: number
  readonly peak_tensor_bytes?: number
  /** The wasm heap. It never shrinks. */
  readonly heap_bytes?: number
  readonly gpu_bytes?: number
  /** Where the time of a step went, the largest part first. */
  readonly parts?: readonly Part[]
}

export interface Part {
  readonly name: string
  readonly calls: number
  readonly ms: number
}

interface Ready {
  /** What runs there, for people. */
  readonly ready: string
  /** The same for programs, if it says. */
  readonly about?: object
}

interface Reply extends Partial<Ready> {
  readonly ms?: readonly number[]
  readonly figures?: Figures
}

/** One side of a measurement. */
export class Side {
  /** Every time measured so far. */
  readonly times: number[] = []
  private readonly replies: AsyncIterator<string>
  private stderr = ''
  /** Fulfilled when it ended and all that it printed is here. */
  private readonly closed: Promise<unknown>

  private constructor(
    readonly name: string,
    private readonly child: ChildProcess,
  ) {
    this.replies = createInterface({ input: child.stdout! })[Symbol.asyncIterator]()
    child.stderr!.on('data', (data) => {
      this.stderr = (this.stderr + data).slice(-4000)
    })
    this.closed = new Promise((done) => child.once('close', done))
    // A side that ended is noticed by its missing reply.
    child.stdin!.on('error', () => {})
  }

  /** What runs there. */
  ready: Ready = { ready: '' }

  /**
   * Starts a side and waits until it is warm.
   * @param command a program with its arguments, or one line for the shell
   */
  static async start(
    name: string,
    command: string | readonly string[],
    settings: object = {},
  ): Promise<Side> {
    const stdio = ['pipe', 'pipe', 'pipe'] as const
    const child =
      typeof command === 'string'
        ? spawn(command, { shell: true, stdio: [...stdio] })
        : spawn(command[0]!, command.slice(1), { stdio: [...stdio] })
    const side = new Side(name, child)
    const failed = once(child, 'error').then(([error]) => {
      throw new LetheError(`cannot start ${name} (${side.commandLine}): ${error.message}`)
    })
    failed.catch(() => {})
    try {
      side.send({ settings })
      side.ready = (await Promise.race([side.reply('ready'), failed])) as Ready
      return side
    } catch (error) {
      side.end()
      throw error
    }
  }

  /** Lets it take steps: what each took, in ms. */
  async take(steps: number): Promise<readonly number[]> {
    this.send({ take: steps })
    const ms = (await this.reply('ms')).ms!
    this.times.push(...ms)
    return ms
  }

  /** Its figures; the process ends. */
  async finish(): Promise<Figures> {
    this.send({ finish: true })
    const { figures } = await this.reply('figures')
    this.child.stdin!.end()
    return figures!
  }

  /** Ends the process where it is. */
  end(): void {
    this.child.kill('SIGKILL')
  }

  private get commandLine(): string {
    return this.child.spawnargs.join(' ')
  }

  private send(message: object): void {
    this.child.stdin!.write(`${JSON.stringify(message)}\n`)
  }

  private async reply<K extends keyof Reply>(key: K): Promise<Reply> {
    for (;;) {
      const { value, done } = await this.replies.next()
      if (done) {
        await this.closed
        const lines = this.stderr.trim().split('\n')
        throw new LetheError(
          `${this.name} ended before it was done: ${lines.at(-1) || 'it printed nothing'} (${this.commandLine})`,
          { stderr: this.stderr },
        )
      }
      const reply = parseReply(value)
      if (reply && key in reply) return reply
    }
  }
}

function parseReply(line: string): Reply | null {
  if (!line.startsWith('{')) return null
  try {
    return JSON.parse(line)
  } catch {
    return null
  }
}

/**
 * Lets two sides take steps by turns, the one that begins a round changing. Two at a time: the second runs with warm caches,
 * the first as after a change of sides.
 */
export async function takeTurns(
  numerator: Pick<Side, 'take'>,
  denominator: Pick<Side, 'take'>,
  steps: number,
  stepsPerTurn = 2,
): Promise<Round[]> {
  const rounds: Round[] = []
  for (let left = steps; left > 0; left -= stepsPerTurn) {
    const taken = Math.min(stepsPerTurn, left)
    const order = rounds.length % 2 === 0 ? [numerator, denominator] : [denominator, numerator]
    const times = new Map<unknown, readonly number[]>()
    for (const side of order) times.set(side, await side.take(taken))
    rounds.push({ numerator: times.get(numerator)!, denominator: times.get(denominator)! })
  }
  return rounds
}

/** What a side of ours does for its part of the protocol. */
export interface Work {
  step(): Promise<number>
  finish(): Promise<Figures>
}

/** Serves a measurement over standard input and output; returns when it is finished. */
export async function serveTurns(ready: Ready, work: Work): Promise<void> {
  const say = (reply: Reply) => console.log(JSON.stringify(reply))
  say(ready)
  for await (const line of createInterface({ input: process.stdin })) {
    const { take, finish } = JSON.parse(line) as { take?: number; finish?: true }
    if (take !== undefined) {
      const ms: number[] = []
      for (let step = 0; step < take; step++) ms.push(await work.step())
      say({ ms })
    }
    if (finish) {
      say({ figures: await work.finish() })
      return
    }
  }
}
