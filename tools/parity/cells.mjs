/** From the events of a row to its cell of the matrix, what is wrong in it, and cells of several machines together. */
import { tolerance } from './rows.mjs'

/** Reasons of `useBackend` for which nothing is wrong: something is not there. */
const absences = ['missing-package', 'missing-addon', 'unsupported', 'no-adapter']

/** null where one is no number: JSON has neither infinity nor NaN. */
const largest = (values) => (values.every(Number.isFinite) ? Math.max(0, ...values) : null)

/** Takes the events of a row as they come. */
export class Cell {
  /** @param row from rows.mjs; place { machine, date, load }; reference: losses by method of the cpu backend */
  constructor(row, place, reference) {
    this.row = row
    this.reference = reference
    const { id, host, runtime, title, backend } = row
    this.result = {
      id,
      host,
      runtime,
      title,
      backend,
      kernels: row.kernels,
      ...place,
      status: 'broken',
      parts: {},
    }
  }

  take(event) {
    const { result } = this
    switch (event.type) {
      case 'version':
        result.version = event.version
        break
      case 'refused':
        this.fail(this.helped(event.message), absences.includes(event.reason))
        break
      case 'started':
        Object.assign(result, { device: event.device, software: event.software })
        if (this.row.expect && !this.row.expect.test(event.device))
          this.fail(this.helped(`${this.row.otherwise} (what started is: ${event.device}).`), true)
        else result.status = 'ran'
        break
      case 'golden':
        if (event.skipped) break
        this.part('golden').cases[event.case] = event.error ?? largest(Object.values(event.maxAbsError))
        break
      case 'law': {
        const { kits } = this.part('laws')
        kits[event.kit] ??= { held: 0, broken: {} }
        if (event.error) kits[event.kit].broken[event.name] = event.error
        else kits[event.kit].held++
        break
      }
      case 'training':
        this.part('training').methods[event.method] = event.error ?? this.compared(event)
        break
      case 'speed': {
        const { type: _, ...figures } = event
        Object.assign(this.part('speed'), figures)
        break
      }
      case 'part':
        Object.assign(this.part(event.name), {
          done: true,
          seconds: event.seconds,
          attention: event.attention,
        })
        break
    }
  }

  /** It ended before it was done, or, where it is absent, never began. */
  fail(problem, absent = false) {
    Object.assign(this.result, { status: absent ? 'absent' : 'broken', problem })
  }

  helped(problem) {
    return this.row.remedy ? `${problem} ${this.row.remedy}` : problem
  }

  part(name) {
    const empty = { golden: { cases: {} }, laws: { kits: {} }, training: { methods: {} }, speed: {} }
    const { date, load, parts } = this.result
    parts[name] ??= { date, load, done: false, ...empty[name] }
    return parts[name]
  }

  compared({ method, losses, ms, tensors }) {
    const expected = this.reference[method]
    const deviation =
      expected?.length === losses.length
        ? largest(losses.map((loss, step) => (loss === null ? null : Math.abs(loss - expected[step]))))
        : null
    return { deviation, first: losses[0], last: losses.at(-1), ms, tensors }
  }
}

/** A deviation that may pass: not above the tolerance, and a number. */
const within = (deviation) => typeof deviation === 'number' && deviation <= tolerance
const deviates = (what, found) =>
  typeof found === 'string'
    ? `${what}: ${found}`
    : `${what} deviates by ${found?.toExponential(1) ?? 'no number'}`

/** What is wrong in a cell that ran, in words; empty where all is right. Absence is no fault. */
export function faults({ status, problem, backend, kernels, parts }) {
  if (status === 'absent') return []
  const { golden, laws, training, speed } = parts
  const found = status === 'broken' ? [problem ?? 'it ended before it had started'] : []
  for (const [name, { done }] of Object.entries(parts)) if (!done) found.push(`${name} was not done`)
  for (const [name, deviation] of Object.entries(golden?.cases ?? {}))
    if (!within(deviation)) found.push(deviates(`golden ${name}`, deviation))
  for (const [kit, { broken }] of Object.entries(laws?.kits ?? {}))
    for (const [name, error] of Object.entries(broken)) found.push(`law of ${kit}, “${name}”: ${error}`)
  for (const [method, run] of Object.entries(training?.methods ?? {})) {
    if (typeof run === 'string' || !within(run.deviation))
      found.push(deviates(`training of ${method}`, typeof run === 'string' ? run : run.deviation))
    if (run.tensors?.left !== 0 || run.tensors.end > run.tensors.middle) {
      const { middle, end, left } = run.tensors ?? {}
      if (run.tensors)
        found.push(
          `training of ${method} leaks: ${middle} tensors in the middle, ${end} at the end, ${left} left over`,
        )
    }
  }
  if (speed?.error) found.push(`speed: ${speed.error}`)
  // A row with kernels that were not used would show the plain operations' numbers, and the other way round.
  const calls = [golden, laws, training].flatMap((part) => part?.attention?.calls ?? [])
  const fused = backend === 'wasm' || backend === 'webgpu'
  if (kernels && fused && calls.includes(0)) found.push('attention was not computed by our kernel')
  if (kernels === false && calls.some((count) => count > 0)) found.push('our kernel computed all the same')
  return found
}

/** Which measurement a cell holds: the same key again replaces it, part by part. */
const keyOf = ({ machine, runtime, id }) => [machine, runtime, id].join(' | ')

/**
 * Puts newer cells among those that are known. A part measured anew replaces the old one; what is absent here and was
 * measured anywhere is left out.
 */
export function mergeCells(known, newer) {
  const cells = new Map(known.map((cell) => [keyOf(cell), cell]))
  for (const cell of newer) {
    const before = cells.get(keyOf(cell))
    if (before && cell.status === 'absent') continue
    const kept = cell.status === 'ran' && before?.status === 'ran' ? before.parts : {}
    cells.set(keyOf(cell), { ...cell, parts: { ...kept, ...cell.parts } })
  }
  const all = [...cells.values()]
  const measured = new Set(all.filter(({ status }) => status !== 'absent').map(rowOf))
  const seen = new Set()
  return all.filter((cell) => {
    if (cell.status !== 'absent') return true
    // One absence says it all.
    if (measured.has(rowOf(cell)) || seen.has(rowOf(cell))) return false
    return seen.add(rowOf(cell))
  })
}

export const rowOf = ({ runtime, id }) => `${runtime} | ${id}`
