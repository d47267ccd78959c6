/** The script of an inspect page: the text, coloured by what is left of each token at a chosen step. */
import { leftOf } from '../inspect/strength'
import type { Trace } from '../inspect/trace'

const trace = JSON.parse(document.getElementById('data')!.textContent!) as Trace
const element = <T extends HTMLElement>(id: string) => document.getElementById(id) as T
const text = element('text')
const slider = element<HTMLInputElement>('step')
const layerChoice = element<HTMLSelectElement>('layer')
const headChoice = element<HTMLSelectElement>('head')
const says = element('says')
const count = trace.texts.length

const option = (value: string, label: string) => {
  const one = document.createElement('option')
  one.value = value
  one.textContent = label
  return one
}
layerChoice.append(...trace.layers.map((_, layer) => option(String(layer), `layer ${layer}`)))
headChoice.append(
  option('mean', 'all heads'),
  ...Array.from({ length: trace.heads }, (_, head) => option(String(head), `head ${head}`)),
)
slider.max = String(count - 1)
slider.value = slider.max

/** Printed as it is, except where nothing would be seen. */
const shown = (token: string) => (token === '\n' ? '⏎\n' : token)
const spans = trace.texts.map((token, index) => {
  const span = document.createElement('span')
  span.textContent = shown(token)
  span.dataset.token = String(index)
  return span
})
text.append(...spans)

/** Tokens that together make one character share its colour. */
const wholeOf = trace.texts.map((_, index) => {
  let whole = index
  while (whole < count - 1 && trace.texts[whole] === '') whole++
  return whole
})

let pointed: number | undefined

function paint(): void {
  const layer = trace.layers[Number(layerChoice.value)]!
  const head = headChoice.value === 'mean' ? 'mean' : Number(headChoice.value)
  headChoice.disabled = layer.kind !== 'spans' || layer.spans.length === 1
  const step = Number(slider.value)
  let held = 0
  for (const [token, span] of spans.entries()) {
    const { strength, state } = leftOf(trace, layer, head, step, token)
    if (state !== 'ahead') held += strength
    span.className = state === 'ahead' ? 'ahead' : strength === 0 ? 'gone' : ''
    span.style.setProperty('--left', `${Math.round(85 * strength)}%`)
    span.classList.toggle('now', token === step)
  }
  element('at').textContent = `step ${step} of ${count - 1}; left: ${held.toFixed(1)} of ${step + 1}`
  describe()
}

function describe(): void {
  if (pointed === undefined) {
    says.textContent = 'Point at a token for its numbers.'
    return
  }
  const layer = trace.layers[Number(layerChoice.value)]!
  const head = headChoice.value === 'mean' ? 'mean' : Number(headChoice.value)
  const step = Number(slider.value)
  const token = wholeOf[pointed]!
  const { state, strength, detail } = leftOf(trace, layer, head, step, token)
  const bits = trace.bits[token]
  says.textContent = [
    `token ${token} ${JSON.stringify(trace.texts[token])}`,
    ...(bits == null ? [] : [`${bits.toFixed(1)} bits`]),
    ...(state === 'ahead' ? [] : [`${step - token} steps ago`]),
    state + (strength > 0 && strength < 1 ? ` ${(100 * strength).toFixed(0)} %` : ''),
    detail,
  ].join(' · ')
}

const pointAt = (event: Event) => {
  const { token } = (event.target as HTMLElement).dataset
  if (token === undefined) return
  pointed = Number(token)
  describe()
}
text.addEventListener('pointerover', pointAt)
text.addEventListener('click', pointAt)
text.addEventListener('dblclick', (event) => {
  const { token } = (event.target as HTMLElement).dataset
  if (token === undefined) return
  slider.value = token
  paint()
})
for (const control of [slider, layerChoice, headChoice]) control.addEventListener('input', paint)

const play = element<HTMLButtonElement>('play')
let timer: number | undefined
play.addEventListener('click', () => {
  if (timer !== undefined) {
    clearInterval(timer)
    timer = undefined
    play.textContent = 'Play'
    return
  }
  if (slider.value === slider.max) slider.value = '0'
  play.textContent = 'Pause'
  timer = window.setInterval(() => {
    slider.value = String(Number(slider.value) + 1)
    paint()
    if (slider.value === slider.max) play.click()
  }, 60)
})
paint()
