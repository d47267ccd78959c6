/**
 * How the threads of a workgroup combine what each of them has: those of a subgroup by the device's own operations where it
 * offers these, the rest by way of workgroup memory.
 */
import { backend } from '@tensorflow/tfjs-core'

interface Device {
  readonly features: ReadonlySet<string>
}

let withheld = false

/** Keeps shaders from subgroups where the device has them, to measure and test the other way; `false` lets them again. */
export function withholdSubgroups(withhold = true): void {
  withheld = withhold
}

export const hasSubgroups = (): boolean =>
  !withheld && (backend() as unknown as { device: Device }).device.features.has('subgroups')

interface Reduction {
  readonly name: string
  readonly type: 'f32' | 'vec2<f32>'
  /** What changes nothing. */
  readonly neutral: string
  readonly both: (a: string, b: string) => string
  /** The same over the threads of a subgroup. */
  readonly ofSubgroup: string
}

const reductions: readonly Reduction[] = [
  {
    name: 'sumOfThreads',
    type: 'f32',
    neutral: '0.0',
    both: (a, b) => `${a} + ${b}`,
    ofSubgroup: 'subgroupAdd',
  },
  {
    name: 'sumsOfThreads',
    type: 'vec2<f32>',
    neutral: 'vec2<f32>()',
    both: (a, b) => `${a} + ${b}`,
    ofSubgroup: 'subgroupAdd',
  },
  {
    name: 'largestOfThreads',
    type: 'f32',
    neutral: '-3.4e38',
    both: (a, b) => `max(${a}, ${b})`,
    ofSubgroup: 'subgroupMax',
  },
]

/**
 * `sumOfThreads(f32)`, `sumsOfThreads(vec2<f32>)` and `largestOfThreads(f32)`, for all threads of a workgroup, which call
 * them together.
 */
export const reductionCode = (threads: number, bySubgroups: boolean): string =>
  reductions.map((reduction) => (bySubgroups ? twice : tree)(reduction, threads)).join('\n')

/**
 * Each subgroup combines what its threads have, then what all subgroups had, each of which its first thread left at a
 * place of its own: which threads are in one subgroup, and how many, is up to the device.
 */
const twice = ({ name, type, neutral, both, ofSubgroup }: Reduction, threads: number) => `
var<workgroup> ${name}_: array<${type}, ${threads}>;
fn ${name}(own: ${type}) -> ${type} {
  let ofSubgroup = ${ofSubgroup}(own);
  workgroupBarrier();
  ${name}_[ownIndex] = select(${type}(${neutral}), ofSubgroup, lane == 0u);
  workgroupBarrier();
  var all = ${type}(${neutral});
  for (var k = lane; k < ${threads}u; k += lanes) { all = ${both('all', `${name}_[k]`)}; }
  return ${ofSubgroup}(all);
}`

const tree = ({ name, type, both }: Reduction, threads: number) => `
var<workgroup> ${name}_: array<${type}, ${threads}>;
fn ${name}(own: ${type}) -> ${type} {
  workgroupBarrier();
  ${name}_[ownIndex] = own;
  workgroupBarrier();
  for (var step = ${threads / 2}u; step > 0u; step /= 2u) {
    if (ownIndex < step) { ${name}_[ownIndex] = ${both(`${name}_[ownIndex]`, `${name}_[ownIndex + step]`)}; }
    workgroupBarrier();
  }
  return ${name}_[0];
}`
