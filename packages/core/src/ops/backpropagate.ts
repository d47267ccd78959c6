/**
 * The gradients of a loss, as tfjs's `variableGrads` computes them, but for memory: that keeps the gradient of every
 * intermediate result, and whatever was saved for it, until the whole backward pass is over. Here each is freed as soon as
 * it has been used.
 */
import { add, clone, engine, fill, ones, type Scalar, type Tensor, tidy } from '@tensorflow/tfjs-core'
import { scope } from './scope'

/** An operation on tfjs's tape. */
interface TapeNode {
  readonly kernelName: string
  readonly inputs: Readonly<Record<string, Tensor>>
  readonly outputs: readonly Tensor[]
  readonly saved?: readonly Tensor[]
  /** Takes the gradients of the outputs, zeros where there is none. */
  readonly gradient?: (dys: readonly (Tensor | undefined)[]) => Readonly<Record<string, () => Tensor>>
}

/** What tfjs's own `gradients` uses; private there. */
interface Engine {
  readonly state: { activeTape: TapeNode[] | null; gradientDepth: number }
  startTape(): void
  endTape(): void
}

/**
 * Runs `loss`, and returns its value and its gradients.
 * @returns a gradient for each of `xs`, undefined for one that has no influence
 * @throws Error inside of another gradient, and where an operation on the way has none
 */
export function backpropagate(
  loss: () => Scalar,
  xs: readonly Tensor[],
): { value: Scalar; gradients: (Tensor | undefined)[] } {
  const tfjs = engine() as unknown as Engine
  const { state } = tfjs
  if (state.gradientDepth > 0) throw new Error('Gradients of gradients are not to be had here.')
  let value: Scalar | undefined
  try {
    tfjs.startTape()
    try {
      value = tidy(loss)
    } finally {
      tfjs.endTape()
    }
    const total = value
    const way = between(state.activeTape!, xs, total)
    return { value, gradients: scope(() => propagate(way, xs, total)) }
  } catch (error) {
    value?.dispose()
    throw error
  } finally {
    for (const node of state.activeTape ?? []) freeSaved(node)
    state.activeTape = null
  }
}

/** An operation on the way from xs to the loss, and those of its inputs that are on it. */
interface Step {
  readonly node: TapeNode
  readonly inputs: readonly (readonly [name: string, input: Tensor])[]
}

/** The operations on the way, in the order of the forward pass; what others have saved is freed. */
function between(tape: readonly TapeNode[], xs: readonly Tensor[], value: Tensor): Step[] {
  const reached = new Set(xs.map(({ id }) => id))
  return leadingTo(tape, [value]).flatMap((node) => {
    const inputs = Object.entries(node.inputs).filter(([, input]) => reached.has(input.id))
    if (inputs.length === 0) {
      freeSaved(node)
      return []
    }
    for (const { id } of node.outputs) reached.add(id)
    return [{ node, inputs }]
  })
}

/** The operations that `results` were made by, in the order of the forward pass; what others have saved is freed. */
function leadingTo(tape: readonly TapeNode[], results: readonly Tensor[]): TapeNode[] {
  const wanted = new Set(results.map(({ id }) => id))
  const way: TapeNode[] = []
  for (const node of [...tape].reverse()) {
    if (!node.outputs.some(({ id }) => wanted.has(id))) {
      freeSaved(node)
      continue
    }
    for (const { id } of Object.values(node.inputs)) wanted.add(id)
    way.push(node)
  }
  return way.reverse()
}

function freeSaved({ saved }: TapeNode): void {
  for (const tensor of saved ?? []) tensor.dispose()
}

/**
 * Runs `body`, a part of a loss of which only some results will be asked for gradients: what was saved for the others is
 * freed at once, and not at the end of the forward pass.
 */
export function recordFor<T>(resultsOf: (made: T) => readonly Tensor[], body: () => T): T {
  const { state } = engine() as unknown as Engine
  const before = state.activeTape?.length ?? 0
  const made = body()
  if (state.activeTape) state.activeTape.push(...leadingTo(state.activeTape.splice(before), resultsOf(made)))
  return made
}

/** Values of an output nobody used from which its gradient, zeros, is made by the backend: tfjs would send it there. */
const largeOutput = 2 ** 14

function propagate(way: readonly Step[], xs: readonly Tensor[], value: Tensor): (Tensor | undefined)[] {
  /** By the id of what they are the gradients of. */
  const gradients = new Map<number, Tensor>([[value.id, ones(value.shape)]])
  /** Removes a gradient that has been used; one tensor may be the gradient of several. */
  const use = (id: number) => {
    const gradient = gradients.get(id)
    gradients.delete(id)
    if (gradient && ![...gradients.values()].includes(gradient)) gradient.dispose()
  }
  for (const { node, inputs } of [...way].reverse()) {
    if (!node.gradient)
      throw new Error(
        `${node.kernelName} has no gradient: call registerGradients() first, or register one for it`,
      )
    for (const { id, shape, size, dtype } of node.outputs)
      if (size >= largeOutput && !gradients.has(id)) gradients.set(id, fill(shape, 0, dtype as 'float32'))
    const parts = node.gradient(node.outputs.map(({ id }) => gradients.get(id)))
    for (const [name, { id }] of inputs) {
      const part = tidy(parts[name]!)
      const before = gradients.get(id)
      if (!before) gradients.set(id, part)
      else {
        const total = add(before, part)
        use(id)
        gradients.set(id, total)
        if (![...gradients.values()].includes(part)) part.dispose()
      }
    }
    for (const { id } of node.outputs) use(id)
    freeSaved(node)
  }
  const given = xs.map(({ id }) => gradients.get(id))
  return given.map(
    (gradient, index) => gradient && (given.indexOf(gradient) < index ? clone(gradient) : gradient),
  )
}
