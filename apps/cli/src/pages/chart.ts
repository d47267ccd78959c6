/** A line chart that redraws itself to the width it gets. For pages: runs in the browser. */

export interface Point {
  readonly x: number
  readonly y: number
  /** Ends of the bar that shows the spread over seeds. */
  readonly low?: number
  readonly high?: number
  /** What to say of it beside its numbers. */
  readonly label?: string
}

export interface Series {
  readonly name: string
  /** A CSS colour. */
  readonly colour: string
  readonly points: readonly Point[]
  /** Dots at the points; default: only a line. */
  readonly dots?: boolean
  readonly dashed?: boolean
  /** From 0 to 1: default 1. */
  readonly opacity?: number
  /** A broad band behind the lines; give such series first. */
  readonly band?: boolean
}

export interface Axis {
  readonly label: string
  readonly log?: boolean
  readonly format: (value: number) => string
}

export interface ChartOptions {
  readonly x: Axis
  readonly y: Axis
  readonly series: readonly Series[]
}

const height = 280
const margin = { left: 64, right: 12, top: 10, bottom: 40 }

/** Draws into `container`, with a legend whose entries hide and show their series. */
export function drawChart(container: HTMLElement, options: ChartOptions): void {
  const hidden = new Set<string>()
  const legend = document.createElement('div')
  legend.className = 'legend'
  const plot = document.createElement('div')
  plot.className = 'chart'
  const drawn = options.series.filter(({ points }) => points.length > 0)
  const names = [...new Set(drawn.map(({ name }) => name))]
  for (const name of names) {
    const button = document.createElement('button')
    button.type = 'button'
    button.setAttribute('aria-pressed', 'true')
    const dot = document.createElement('i')
    dot.style.background = drawn.find((one) => one.name === name)!.colour
    button.append(dot, name)
    button.onclick = () => {
      if (!hidden.delete(name)) hidden.add(name)
      button.setAttribute('aria-pressed', String(!hidden.has(name)))
      redraw()
    }
    legend.append(button)
  }
  container.append(legend, plot)
  const redraw = () => {
    const shown = drawn.filter(({ name }) => !hidden.has(name))
    plot.replaceChildren()
    if (plot.clientWidth > 0) drawPlot(plot, { ...options, series: shown })
  }
  new ResizeObserver(redraw).observe(container)
}

const create = (name: string, attributes: Readonly<Record<string, string | number>>, text?: string) => {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value))
  if (text !== undefined) element.textContent = text
  return element
}

interface Scale {
  readonly place: (value: number) => number
  readonly ticks: readonly number[]
}

function drawPlot(plot: HTMLElement, { x, y, series }: ChartOptions): void {
  const width = plot.clientWidth
  const svg = create('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'img' })
  svg.append(create('title', {}, `${y.label} against ${x.label}`))
  plot.append(svg)
  const points = series.flatMap(({ points }) => points)
  if (points.length === 0) return
  const across = scaleOf(
    points.map((point) => point.x),
    margin.left,
    width - margin.right,
    x.log,
    width / 90,
  )
  const up = scaleOf(
    points.flatMap(({ y, low = y, high = y }) => [low, high]),
    height - margin.bottom,
    margin.top,
    y.log,
    5,
  )
  for (const tick of up.ticks) {
    const at = up.place(tick)
    svg.append(create('line', { class: 'grid', x1: margin.left, x2: width - margin.right, y1: at, y2: at }))
    svg.append(create('text', { x: margin.left - 6, y: at + 4, 'text-anchor': 'end' }, y.format(tick)))
  }
  const floor = height - margin.bottom
  svg.append(
    create('line', { class: 'frame', x1: margin.left, x2: width - margin.right, y1: floor, y2: floor }),
  )
  for (const tick of across.ticks)
    svg.append(
      create('text', { x: across.place(tick), y: floor + 16, 'text-anchor': 'middle' }, x.format(tick)),
    )
  svg.append(
    create('text', { x: (margin.left + width) / 2, y: height - 6, 'text-anchor': 'middle' }, x.label),
  )
  const middle = (margin.top + floor) / 2
  svg.append(
    create(
      'text',
      { x: 10, y: middle, 'text-anchor': 'middle', transform: `rotate(-90 10 ${middle})` },
      y.label,
    ),
  )
  for (const one of series) {
    const line = one.points.map((point) => `${across.place(point.x)},${up.place(point.y)}`).join(' ')
    const { opacity = 1 } = one
    const group = create('g', { opacity: one.band ? opacity / 4 : opacity })
    svg.append(group)
    group.append(
      create('polyline', {
        points: line,
        fill: 'none',
        stroke: one.colour,
        'stroke-width': one.band ? 14 : 2,
        'stroke-linejoin': 'round',
        'stroke-linecap': 'round',
        ...(one.dashed && { 'stroke-dasharray': '5 4', 'stroke-opacity': 0.6 }),
      }),
    )
    for (const point of one.points) {
      const at = across.place(point.x)
      if (point.low !== undefined && point.high !== undefined)
        group.append(
          create('line', {
            x1: at,
            x2: at,
            y1: up.place(point.low),
            y2: up.place(point.high),
            stroke: one.colour,
            'stroke-width': 2,
          }),
        )
      if (one.dots || one.points.length === 1)
        group.append(
          create('circle', { cx: at, cy: up.place(point.y), r: one.band ? 9 : 4.5, fill: one.colour }),
        )
    }
  }
  pointAt(plot, svg, { x, y, series }, across, up)
}

/** Shows the numbers of the point that is nearest to the pointer. */
function pointAt(
  plot: HTMLElement,
  svg: Element,
  { x, y, series }: ChartOptions,
  across: Scale,
  up: Scale,
): void {
  const tip = document.createElement('div')
  tip.className = 'tip'
  tip.hidden = true
  plot.append(tip)
  svg.addEventListener('pointerleave', () => {
    tip.hidden = true
  })
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect()
    const { clientX, clientY } = event as PointerEvent
    let least = Number.POSITIVE_INFINITY
    for (const { name, points } of series)
      for (const point of points) {
        const [left, top] = [across.place(point.x), up.place(point.y)]
        const distance = Math.hypot(left - (clientX - box.left), top - (clientY - box.top))
        // Of several in one place, the one on top.
        if (distance > least) continue
        least = distance
        tip.textContent = [
          name,
          ...(point.label ? [point.label] : []),
          `${x.label}: ${x.format(point.x)}`,
          `${y.label}: ${y.format(point.y)}`,
        ].join('\n')
        tip.hidden = false
        tip.style.top = `${top + 10}px`
        tip.style.left = `${Math.max(0, Math.min(left + 10, box.width - tip.offsetWidth))}px`
      }
  })
}

function scaleOf(values: readonly number[], from: number, to: number, log = false, most = 6): Scale {
  const forward = log ? Math.log2 : (value: number) => value
  let least = Math.min(...values)
  let greatest = Math.max(...values)
  if (log && greatest < 2 * least) {
    // What is nearly the same shall look so.
    const middle = Math.sqrt(least * greatest)
    least = middle / 2
    greatest = middle * 2
  } else if (least === greatest) {
    const around = Math.abs(least) / 10 || 1
    least -= around
    greatest += around
  }
  const pad = log ? 1 : 0
  const [start, end] = [forward(least), forward(greatest)]
  const [low, high] = [start - (end - start) * 0.04, end + (end - start) * 0.04]
  const place = (value: number) => from + ((forward(value) - low) / (high - low)) * (to - from)
  const inside = (tick: number) => forward(tick) >= low - 1e-9 && forward(tick) <= high + 1e-9
  return {
    place,
    ticks: (log ? powers(least, greatest, most + pad) : steps(least, greatest, most)).filter(inside),
  }
}

/** Round numbers at equal distances. */
function steps(least: number, greatest: number, most: number): number[] {
  const rough = (greatest - least) / Math.max(1, most)
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough)!
  const first = Math.floor(least / step)
  const last = Math.ceil(greatest / step)
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step)
}

/** Powers of two, every one or every few. */
function powers(least: number, greatest: number, most: number): number[] {
  const first = Math.floor(Math.log2(least))
  const last = Math.ceil(Math.log2(greatest))
  const every = Math.ceil((last - first + 1) / Math.max(1, most))
  return Array.from(
    { length: Math.floor((last - first) / every) + 1 },
    (_, index) => 2 ** (first + index * every),
  )
}
