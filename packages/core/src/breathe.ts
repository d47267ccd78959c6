/**
 * Lets timers, signals and messages in. On the wasm and cpu backends every awaited value is ready at once, so a loop
 * of awaits alone would never let a Ctrl-C or a click through.
 */
export function breathe(): Promise<void> {
  if (typeof setImmediate === 'function') return new Promise((resolve) => setImmediate(resolve))
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel()
    port1.onmessage = () => {
      port1.close()
      resolve()
    }
    port2.postMessage(undefined)
  })
}
