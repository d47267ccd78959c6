/** The worker: the page stays responsive while it computes. */
import { trainAndWrite } from './training.js'

self.onmessage = async ({ data }) => {
  try {
    for await (const event of trainAndWrite(data)) self.postMessage(event)
  } catch (error) {
    self.postMessage({ type: 'error', message: error.message })
  }
}
