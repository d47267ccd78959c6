/** tfjs's `tidy` for any result made of plain objects, arrays and tensors. */
import { type TensorContainer, tidy } from '@tensorflow/tfjs-core'

/** Runs `body` and frees every tensor that it made and did not return. */
export const scope = <T>(body: () => T): T => tidy(body as () => TensorContainer) as T
