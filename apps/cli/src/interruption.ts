/**
 * Being asked to stop: by Ctrl-C, by SIGTERM, or because whoever read the output went away (`lethe train … | head`;
 * Ctrl-C in `lethe train … | tee log` ends tee as well). Asked once, work ends in order and saves what it has;
 * Ctrl-C or SIGTERM again ends it at once, with exit code 130.
 */
export type Interruption = 'SIGINT' | 'SIGTERM' | 'SIGPIPE'

const interruptions = ['SIGINT', 'SIGTERM', 'SIGPIPE'] as const

/**
 * Does work that can be asked to stop.
 * @param work gets a signal that is aborted when it is asked to
 * @param onInterruption called once, with the first reason
 */
export async function interruptible<Result>(
  work: (signal: AbortSignal) => Promise<Result>,
  onInterruption: (reason: Interruption) => void,
): Promise<Result> {
  const stop = new AbortController()
  const interrupt = (reason: NodeJS.Signals) => {
    if (stop.signal.aborted) {
      // A pipe breaks at every line that is still written: that is no second wish.
      if (reason !== 'SIGPIPE') process.exit(130)
      return
    }
    stop.abort()
    onInterruption(reason as Interruption)
  }
  for (const reason of interruptions) process.on(reason, interrupt)
  try {
    return await work(stop.signal)
  } finally {
    for (const reason of interruptions) process.off(reason, interrupt)
  }
}

let closed = false

/** Stdout has no reader any more: stops work that can be stopped, and ends the process where there is none. */
export function outputClosed(): void {
  // What is stopping writes on, and ends with its own exit code.
  if (closed) return
  closed = process.listenerCount('SIGPIPE') > 0
  if (closed) process.emit('SIGPIPE', 'SIGPIPE')
  else process.exit(0)
}
