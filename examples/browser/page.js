/** The page: has the text trained on here or in a worker, and shows what is reported. */
const form = document.forms[0]
const { text, backend, worker: inWorker } = form.elements
const button = form.querySelector('button')
const [started, progress, written] = document.querySelectorAll('output')

const show = {
  backend({ name, device, singleThread }) {
    started.textContent = `${name}: ${device}${singleThread === undefined ? '' : `. One thread: ${singleThread}`}`
  },
  step({ step, of, bitsPerByte, slots }) {
    progress.textContent = `step ${step} of ${of}: ${bitsPerByte.toFixed(2)} bits per byte, ${slots} slots`
  },
  text({ text }) {
    written.textContent += text
  },
  end() {
    button.disabled = false
  },
  error({ message }) {
    progress.textContent = message
    button.disabled = false
  },
}

form.onsubmit = (submitted) => {
  submitted.preventDefault()
  button.disabled = true
  for (const output of [started, progress, written]) output.textContent = ''
  const order = { text: text.value, backend: backend.value }
  if (inWorker.checked) startWorker(order)
  else startHere(order)
}

function startWorker(order) {
  // Bundlers find the worker's file by the form of this expression.
  const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })
  const report = (event) => {
    show[event.type](event)
    if (event.type === 'end' || event.type === 'error') worker.terminate()
  }
  worker.onmessage = ({ data }) => report(data)
  worker.onerror = ({ message }) => report({ type: 'error', message: `The worker failed: ${message}` })
  worker.postMessage(order)
}

async function startHere(order) {
  try {
    const { trainAndWrite } = await import('./training.js')
    for await (const event of trainAndWrite(order)) show[event.type](event)
  } catch (error) {
    show.error(error)
  }
}
