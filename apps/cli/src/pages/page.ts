/** A page in one file: style, data and script inside, nothing from the network. */
import { readFileSync } from 'node:fs'

export interface Page {
  readonly title: string
  /** Markup of the body; whatever comes from data must be escaped. */
  readonly body: string
  /** Read back by the page's script. */
  readonly data: unknown
  /** Name of the bundled script beside this program: 'report' for report.page.js. */
  readonly script: string
}

export function renderPage({ title, body, data, script }: Page): string {
  const code = readFileSync(new URL(`./${script}.page.js`, import.meta.url), 'utf8')
  // "</script" may stand in a text; in JSON and in a script's strings a backslash there changes nothing.
  const inside = (text: string) => text.replaceAll('</', '<\\/')
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>${escaped(title)}</title>
<style>${style}</style>
</head>
<body>
${body}
<script type="application/json" id="data">${inside(JSON.stringify(data))}</script>
<script>${inside(code)}</script>
</body>
</html>
`
}

export const escaped = (text: string) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

/** Colours and type of all pages; series colours are told apart by colour-blind readers, too (Okabe, Ito 2008). */
const style = `
:root {
  --paper: #fff; --ink: #1b1f24; --quiet: #5b6470; --line: #d8dde3; --panel: #f6f8fa;
  --series-0: #0072b2; --series-1: #d55e00; --series-2: #009e73; --series-3: #b0478f; --series-4: #7a6a00; --series-5: #555;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e6e9ed; --quiet: #9aa4b0; --line: #333a42; --panel: #1c2127;
    --series-0: #56b4e9; --series-1: #f08a4b; --series-2: #2fc79b; --series-3: #e08fc4; --series-4: #e6d64a; --series-5: #bbb;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.25rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .25rem; }
.task { font-size: 1.3rem; margin: 3rem 0 .75rem; }
p { margin: .25rem 0 1rem; max-width: 65ch; }
.quiet { color: var(--quiet); font-size: .875rem; }
section { margin: 2rem 0; min-width: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 2rem 2.5rem; }
.charts section { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.words { text-align: left; }
.failed { color: var(--series-1); white-space: normal; text-align: left; }
svg { display: block; width: 100%; overflow: visible; font-size: 12px; }
svg text { fill: var(--quiet); }
.grid { stroke: var(--line); }
.frame { stroke: var(--quiet); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .25rem 0; }
.legend button { font: inherit; font-size: .875rem; color: inherit; background: none; border: 0; padding: .25rem 0; cursor: pointer; }
.legend button[aria-pressed="false"] { opacity: .4; text-decoration: line-through; }
.legend i { display: inline-block; width: .75rem; height: .75rem; border-radius: 50%; margin-right: .4rem; }
.tip { position: absolute; pointer-events: none; background: var(--panel); border: 1px solid var(--line); border-radius: .25rem;
  padding: .25rem .5rem; font-size: .8125rem; white-space: pre; z-index: 1; }
.chart { position: relative; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; position: sticky; top: 0; padding: .5rem 0;
  background: var(--paper); }
.controls input { flex: 1 1 12rem; min-width: 0; }
.controls select, .controls button { font: inherit; padding: .25rem .5rem; color: inherit; background: var(--panel);
  border: 1px solid var(--line); border-radius: .25rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font: 15px/1.7 ui-monospace, monospace; margin: 1rem 0 4rem; cursor: default; }
.text span { background: color-mix(in srgb, var(--series-0) var(--left, 0%), transparent); }
.text .ahead { color: var(--line); }
.text .gone { color: var(--quiet); opacity: .55; }
.text .now { outline: 2px solid var(--series-1); }
.says { position: fixed; inset: auto 0 0 0; margin: 0; padding: .6rem 1.25rem; max-width: none; background: var(--panel);
  border-top: 1px solid var(--line); font-size: .9rem; min-height: 2.6rem; }
.spans td { padding: .2rem .4rem; }
.spans .bar { display: inline-block; height: .7rem; border-radius: 2px; margin-right: .4rem; vertical-align: middle; }
`
