/** The page that shows what a model kept of a text. */
import type { Trace } from '../inspect/trace'
import { escaped, renderPage } from './page'

const explained: Readonly<Record<Trace['layers'][number]['kind'], string>> = {
  window: 'Coloured: within the span.',
  compressed: 'Coloured: as it was; paler: compressed together with its neighbours.',
  life: 'The colour is what is left of each token: full while its predicted life lasts, fading over the ramp, gone after.',
  spans:
    'The colour is how far each head looks back: its span, then a ramp. Choose a head, or see their mean.',
  votes:
    'The colour is e^-F, where F counts the votes of later tokens against this one; pruned tokens are gone.',
}

export function inspectPage(trace: Trace, model: string): string {
  return renderPage({
    title: `Lethe: what ${model} kept`,
    script: 'inspect',
    data: trace,
    body: `<h1>What ${escaped(model)} kept</h1>
<p class="quiet">${escaped(trace.method)}, ${trace.layers.length} layers, ${trace.heads} heads. ${explained[trace.layers[0]!.kind]} Double-click a token to go to its step.</p>
<div class="controls"><select id="layer" aria-label="layer"></select> <select id="head" aria-label="head"></select>
<button type="button" id="play">Play</button> <input type="range" id="step" min="0" aria-label="step"> <span id="at" class="quiet"></span></div>
<div id="text" class="text"></div>
<p id="says" class="says" aria-live="polite"></p>`,
  })
}
