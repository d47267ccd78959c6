/**
 * The seam behind which a backend computes a whole operation at once. A fused operation is a kernel of tfjs under a name
 * of ours, which a backend may register:
 *
 *     registerKernel({ kernelName: 'LetheLayerNorm', backendName: 'webgpu', kernelFunc: ({ inputs, attrs, backend }) => … })
 *
 * Core asks for it by name; where there is none, or where it declines by returning no outputs ([]), the plain operations
 * compute. They are the oracle of every kernel. What a kernel must return is written below as a function of inputs and
 * attributes: an array of outputs in this order, float32 unless something else is said, in memory of their own. A gradient is an operation like any
 * other: its inputs are what the forward operation was given or returned, whoever computed that, so that each may be
 * registered without the other. No gradient is registered with tfjs: these kernels run inside operations that have one.
 */
import { engine, getBackend, getKernel, type NamedAttrMap, type Tensor } from '@tensorflow/tfjs-core'

/** All fused operations. Tensors are float32 unless something else is said; width is the last axis of x. */
export interface FusedKernels {
  /**
   * y = (x - mean) · inverse · scale + bias over the last axis, with inverse = 1 / √(variance + epsilon).
   * x, y [..., width]; scale, bias [width]; mean, inverse [..., 1].
   */
  LetheLayerNorm(
    inputs: { x: Tensor; scale: Tensor; bias: Tensor },
    attributes: { epsilon: number },
  ): [y: Tensor, mean: Tensor, inverse: Tensor]
  /** dx [..., width]; dscale, dbias [width]. */
  LetheLayerNormGradient(
    inputs: { dy: Tensor; x: Tensor; scale: Tensor; mean: Tensor; inverse: Tensor },
    attributes: Empty,
  ): [dx: Tensor, dscale: Tensor, dbias: Tensor]
  /** y = x · inverse · scale over the last axis, with inverse = 1 / √(mean of x² + epsilon). Shapes as above. */
  LetheRmsNorm(
    inputs: { x: Tensor; scale: Tensor },
    attributes: { epsilon: number },
  ): [y: Tensor, inverse: Tensor]
  LetheRmsNormGradient(
    inputs: { dy: Tensor; x: Tensor; scale: Tensor; inverse: Tensor },
    attributes: Empty,
  ): [dx: Tensor, dscale: Tensor]

  /** y = x Φ(x), Φ the normal distribution's cumulative function; any shape. */
  LetheGelu(inputs: { x: Tensor }, attributes: Empty): [y: Tensor]
  /** dx = dy · (Φ(x) + x φ(x)), φ the density. */
  LetheGeluGradient(inputs: { dy: Tensor; x: Tensor }, attributes: Empty): [dx: Tensor]
  /** y = gate · sigmoid(gate) · x; all of one shape. */
  LetheSwiglu(inputs: { gate: Tensor; x: Tensor }, attributes: Empty): [y: Tensor]
  LetheSwigluGradient(
    inputs: { dy: Tensor; gate: Tensor; x: Tensor },
    attributes: Empty,
  ): [dgate: Tensor, dx: Tensor]
  /** dx = 0 where y <= 0, else dy; y is what ReLU returned. */
  LetheReluGradient(inputs: { dy: Tensor; y: Tensor }, attributes: Empty): [dx: Tensor]

  /**
   * Softmax cross-entropy of each row. logits [rows, classes]; targets int32 [rows]; all outputs [rows, 1]: the largest
   * logit, logTotal = log Σ e^(logit - largest), and loss = largest + logTotal - logit[target]. A target outside
   * 0..classes-1 has logit 0.
   */
  LetheCrossEntropy(
    inputs: { logits: Tensor; targets: Tensor },
    attributes: Empty,
  ): [loss: Tensor, largest: Tensor, logTotal: Tensor]
  /** dlogits = scale · (e^(logit - largest - logTotal) - [target]); scale [rows, 1] is the gradient of each row's loss. */
  LetheCrossEntropyGradient(
    inputs: { logits: Tensor; targets: Tensor; largest: Tensor; logTotal: Tensor; scale: Tensor },
    attributes: Empty,
  ): [dlogits: Tensor]

  /**
   * y = a b + bias, negative values zero if relu, + residual. a [..., rows, inner] and b [..., inner, columns], each the
   * other way round where it is to be transposed, of one rank, and with leading axes that broadcast; bias [columns];
   * residual of y's shape.
   */
  LetheProduct(
    inputs: { a: Tensor; b: Tensor; bias?: Tensor; residual?: Tensor },
    attributes: { transposeA: boolean; transposeB: boolean; relu: boolean },
  ): [y: Tensor]
  /** y0 = x weight0, y1 = x weight1 and so on: x [rows, in], all weights [in, out]. */
  LetheProducts(inputs: Several<'weight'> & { x: Tensor }, attributes: Empty): Tensor[]

  /**
   * Turns the pairs (n, n + headSize / 2) of features by an angle, or back by it. x, y [batch, heads, headSize, steps];
   * cosine, sine [1 | batch, 1, headSize / 2, 1 | steps].
   */
  LetheRotate(inputs: { x: Tensor; cosine: Tensor; sine: Tensor }, attributes: { back: boolean }): [y: Tensor]
  /** Cosine and sine [batch, 1, half, slots] of the angles -age · ratio^n, n = 0..half-1. age int32 [batch, slots]. */
  LetheRotaryAngles(
    inputs: { age: Tensor },
    attributes: { half: number; ratio: number },
  ): [cosine: Tensor, sine: Tensor]

  /**
   * One place of each row is taken by a new slot: newAges = ages + 1 and newValid = valid [batch, places], but 0 and 1 at
   * the place worth least among the first `among`, whose number is place, int32 [batch]; the first of several. An empty
   * place (valid 0) is worth `empty` less than it says. Default of worths: -newAges.
   */
  LetheTakePlace(
    inputs: { ages: Tensor; valid: Tensor; worths?: Tensor },
    attributes: { empty: number; among: number },
  ): [newAges: Tensor, newValid: Tensor, place: Tensor]
  /**
   * y = x [batch, ..., places] with column [batch, ..., 1] at place, int32 [batch], for each of x0 and column0, x1 and
   * column1 and so on. Consumes all x: y may be the same memory, as far as no other tensor has it.
   */
  LetheWriteSlot(inputs: Several<'x' | 'column'> & { place: Tensor }, attributes: Empty): Tensor[]

  /**
   * y[b, s, c] = Σ of x[b, t, c] over t ≤ s; exclusive: t < s; backwards: t ≥ s, or t > s. x, y [batch, steps, columns],
   * all of x finite.
   */
  LetheRunningSum(inputs: { x: Tensor }, attributes: { exclusive: boolean; backwards: boolean }): [y: Tensor]

  /**
   * x [rows, columns], |x| ≤ 65504, rounded to the nearest float16, of two to the even one: int32 [rows, 2 · ⌈columns / 4⌉],
   * two columns in each, the first in the lower bits, and 0 beyond the last.
   */
  LetheToFloat16(inputs: { x: Tensor }, attributes: Empty): [packed: Tensor]
  /**
   * y = x · W, or with transpose x · Wᵀ, added in float32. x [rows, inner], y [rows, columns]; packed: W [inner, columns],
   * or [columns, inner], as LetheToFloat16 returns it.
   */
  LetheFloat16Product(
    inputs: { x: Tensor; packed: Tensor },
    attributes: { columns: number; transpose: boolean },
  ): [y: Tensor]

  /** Numbers [parts], as many as the kernel likes, whose sum is that of the squares in all of x0, x1 and so on. */
  LetheSumSquares(inputs: Several<'x'>, attributes: Empty): [parts: Tensor]
  /**
   * Adam and AdamW. With g = factor · gradient + decay · values: newMean = beta1 · mean + g, newSquare = beta2 · square
   * + g², newValues = shrink · values - rate · newMean / (√newSquare + epsilon). All of one shape; factor is a scalar, 1
   * if absent.
   */
  LetheAdam(
    inputs: { values: Tensor; gradient: Tensor; mean: Tensor; square: Tensor; factor?: Tensor },
    attributes: {
      beta1: number
      beta2: number
      rate: number
      epsilon: number
      decay: number
      shrink: number
    },
  ): [newValues: Tensor, newMean: Tensor, newSquare: Tensor]
  /**
   * The same for several tensors at once: values0 and gradient0 of one shape, values1 and gradient1 of another and so on,
   * with mean and square of all, one after the other, as vectors. Consumes all values, mean and square: the outputs may be
   * the same memory, as far as no other tensor has it.
   * @returns each one's newValues, then newMean and newSquare
   */
  LetheAdamInParts(
    inputs: Several<'values' | 'gradient'> & { mean: Tensor; square: Tensor; factor?: Tensor },
    attributes: Parameters<FusedKernels['LetheAdam']>[1],
  ): Tensor[]
  /** Adagrad. With g as above: newSquare = square + g², newValues = values - rate · g / (√newSquare + epsilon). */
  LetheAdagrad(
    inputs: { values: Tensor; gradient: Tensor; square: Tensor; factor?: Tensor },
    attributes: { rate: number; epsilon: number; decay: number },
  ): [newValues: Tensor, newSquare: Tensor]
}

type Empty = Record<string, never>

/** Tensors by such names with the numbers 0, 1, ... behind them. */
type Several<Name extends string> = Readonly<Record<`${Name}${number}`, Tensor>>

/** Whether the current backend has a kernel of this name, which may still decline. */
export const hasFused = (name: keyof FusedKernels): boolean => getKernel(name, getBackend()) !== undefined

/** Tensors by one name as inputs of a fused kernel that takes several. */
export const several = <Name extends string>(name: Name, tensors: readonly Tensor[]): Several<Name> =>
  Object.fromEntries(tensors.map((tensor, index) => [`${name}${index}`, tensor])) as Several<Name>

/**
 * The outputs of a fused kernel of the current backend; undefined where there is none or where it declines, and the
 * plain operations have to compute. To be called inside an operation with a gradient of its own, or outside of any.
 */
export function fused<Name extends keyof FusedKernels>(
  name: Name,
  inputs: Parameters<FusedKernels[Name]>[0],
  attributes: Parameters<FusedKernels[Name]>[1],
): ReturnType<FusedKernels[Name]> | undefined {
  if (!hasFused(name)) return undefined
  const outputs: Tensor[] = engine().runKernel(
    name,
    inputs as Record<string, Tensor>,
    attributes as NamedAttrMap,
  )
  return outputs.length > 0 ? (outputs as ReturnType<FusedKernels[Name]>) : undefined
}
