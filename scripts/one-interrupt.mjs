/**
 * Loaded before the command that scripts/start.mjs runs. A signal to the whole process group reaches the command
 * directly and once more through its parent, which cannot know that it did. The command takes a second Ctrl-C for
 * "at once, without a checkpoint", so what comes within a second counts as one.
 */
const emit = process.emit
let last = Number.NEGATIVE_INFINITY

process.emit = function (name, ...rest) {
  if (name === 'SIGINT' || name === 'SIGTERM') {
    const now = performance.now()
    if (now - last < 1000) return true
    last = now
  }
  return emit.call(this, name, ...rest)
}
