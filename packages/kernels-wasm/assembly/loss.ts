/** Softmax cross-entropy of rows of logits with whole-number targets, and its gradient. */
import { decay, logarithm } from './exponential'
import { floatBytes, loadSome, storeSome, sumLanes } from './simd'

/** The largest of a row; NaN if there is one. */
function largestOf(at: usize, bytes: usize): f32 {
  const end = at + bytes
  let largest = f32x4.splat(-f32.MAX_VALUE - f32.MAX_VALUE)
  for (; at + 16 <= end; at += 16) largest = f32x4.max(largest, v128.load(at))
  for (; at < end; at += floatBytes) largest = f32x4.max(largest, v128.load32_splat(at))
  largest = f32x4.max(largest, i32x4.shuffle(largest, largest, 2, 3, 0, 1))
  largest = f32x4.max(largest, i32x4.shuffle(largest, largest, 1, 0, 3, 2))
  return f32x4.extract_lane(largest, 0)
}

/** Σ e^(x[i] - largest) */
function totalOf(at: usize, bytes: usize, largest: f32): f32 {
  const end = at + bytes
  const centre = f32x4.splat(largest)
  let sums = f32x4.splat(0)
  let rest = sums
  while (at < end) {
    const four = at + 16 <= end
    const powers = decay(f32x4.sub(loadSome(at, four), centre))
    if (four) sums = f32x4.add(sums, powers)
    else rest = f32x4.add(rest, powers)
    at += four ? 16 : floatBytes
  }
  return sumLanes(sums) + f32x4.extract_lane(rest, 0)
}

/**
 * For the rows [from, to) of logits [rows, classes]: `largest`, the largest logit; `logTotal`, log Σ e^(logit - largest);
 * and loss = largest + logTotal - logit[target], where a target outside the classes has logit 0.
 */
export function crossEntropy(
  logits: usize,
  targets: usize,
  loss: usize,
  largest: usize,
  logTotal: usize,
  classes: i32,
  from: i32,
  to: i32,
): void {
  const bytes = <usize>classes * floatBytes
  for (let row = from; row < to; row++) {
    const at = logits + <usize>row * bytes
    const place = <usize>row * floatBytes
    const most = largestOf(at, bytes)
    const total = logarithm(totalOf(at, bytes, most))
    const target = load<i32>(targets + place)
    const chosen: f32 = target >= 0 && target < classes ? load<f32>(at + <usize>target * floatBytes) : 0
    store<f32>(largest + place, most)
    store<f32>(logTotal + place, total)
    store<f32>(loss + place, most - chosen + total)
  }
}

/** dlogits = scale[row] · (e^(logit - largest - logTotal) - 1 at the target), for the rows [from, to). */
export function crossEntropyGradient(
  logits: usize,
  targets: usize,
  largest: usize,
  logTotal: usize,
  scale: usize,
  dlogits: usize,
  classes: i32,
  from: i32,
  to: i32,
): void {
  const bytes = <usize>classes * floatBytes
  for (let row = from; row < to; row++) {
    const at = logits + <usize>row * bytes
    const out = dlogits + <usize>row * bytes
    const place = <usize>row * floatBytes
    const most = f32x4.splat(load<f32>(largest + place))
    const total = f32x4.splat(load<f32>(logTotal + place))
    const factor = load<f32>(scale + place)
    const factors = f32x4.splat(factor)
    let i: usize = 0
    while (i < bytes) {
      const four = i + 16 <= bytes
      const power = decay(f32x4.sub(f32x4.sub(loadSome(at + i, four), most), total))
      storeSome(out + i, f32x4.mul(power, factors), four)
      i += four ? 16 : floatBytes
    }
    const target = load<i32>(targets + place)
    if (target >= 0 && target < classes) {
      const chosen = <usize>target * floatBytes
      store<f32>(out + chosen, load<f32>(out + chosen) - factor)
    }
  }
}
