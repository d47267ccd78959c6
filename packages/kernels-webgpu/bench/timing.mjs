/** The device's own time of programs, by its timestamps. */
import * as tf from '@tensorflow/tfjs-core'

export const median = (values) => values.sort((one, other) => one - other)[values.length >> 1]

/** Milliseconds of each program that `work` runs, by its name. */
export async function programTimes(work) {
  const backend = tf.backend()
  const { recordAndSubmit } = backend
  const outer = backend.activeTimers
  const timers = []
  backend.activeTimers = timers
  backend.recordAndSubmit = (program, ...rest) => {
    recordAndSubmit.call(backend, program, ...rest)
    const own = /^lethe-([a-z-]+)/.exec(program.shaderKey)?.[1]
    timers.at(-1).name = own ?? 'of tfjs'
  }
  tf.dispose(tf.tidy(work))
  backend.recordAndSubmit = recordAndSubmit
  backend.activeTimers = outer
  const times = {}
  for (const { name, query } of timers) times[name] = (times[name] ?? 0) + (await query)
  return times
}
