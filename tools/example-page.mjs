/** Uses the page of examples/browser as a visitor would: has its text learnt in a worker, and in the page itself. */
import { inPage } from './chromium.mjs'

/**
 * @param {string} address
 * @param {string} backend as the page's list has it
 * @returns what the page said at the end, in a worker and in the page
 */
export function useExample(address, backend) {
  return inPage(address, 'document', async (tab) => {
    await tab.selectOption('[name=backend]', backend)
    const train = async (inWorker) => {
      await tab.setChecked('[name=worker]', inWorker)
      const worker = inWorker && tab.waitForEvent('worker')
      await tab.click('button')
      await worker
      const ended = await tab
        .waitForFunction('!document.querySelector("button").disabled', undefined, { timeout: 60_000 })
        .then(() => true)
        .catch(() => false)
      const [started, progress, written] = await tab.locator('output').allTextContents()
      const said = { started, progress, written }
      if (!ended)
        throw new Error(`${address} has not come to an end: ${JSON.stringify({ inWorker, ...said })}`)
      return said
    }
    return { inWorker: await train(true), inPage: await train(false) }
  })
}
